//! The short form of `cargo reliability`: some of the crashes and of the lies, always the same ones.

use lockstep_e2e::reliability::{crash, lies, stories};

fn say(text: &str) {
    eprintln!("{text}");
}

#[tokio::test]
async fn a_crash_before_or_after_any_request_leaves_what_a_run_without_one_leaves() {
    let tally = crash::everywhere(stories::ALL, 3, 19, 2, &say).await;
    assert!(tally.failed.is_empty(), "{:#?}", tally.failed);
    assert!(tally.tried >= 25, "only {} crashes came", tally.tried);
}

#[tokio::test]
async fn when_lies_end_everything_is_as_without_them_and_nobody_writes() {
    let tallies = lies::everywhere(stories::ALL, lies::WAYS, 7, 5, 23, 2, &say).await;
    let failed: Vec<&String> = tallies.iter().flat_map(|(_, tally)| &tally.failed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let tried: usize = tallies.iter().map(|(_, tally)| tally.tried).sum();
    assert!(tried >= 12, "only {tried} cases had a lie in them");
}
