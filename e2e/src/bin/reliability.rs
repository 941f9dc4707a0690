//! `cargo reliability`: crashes, lies and spec walks in their long form; writes the table of `docs/reliability.md`.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a harness fails by panicking")]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use lockstep_e2e::reliability::{Tally, crash, lies, soak, specs, stories};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Tries out what Lockstep promises about faults.
#[derive(Parser)]
#[command(
    name = "reliability",
    version,
    after_help = "Examples:
  cargo reliability                       everything, about half an hour on two cores
  cargo reliability -- --only crash       only the crashes
  cargo reliability -- --story lease      only stories whose name has this part
  cargo soak 30                           half an hour of everything at once; ten minutes without a number

Exit codes: 0 everything was survived, 1 something was not, 2 wrong usage."
)]
struct Args {
    /// A walk of so many minutes instead: everything changes at random while both servers lie now and then, and memory and
    /// descriptors must stay what they are.
    #[arg(long, value_name = "MINUTES", num_args = 0..=1, default_missing_value = "10")]
    soak: Option<u64>,
    /// Only this class.
    #[arg(long, value_name = "CLASS", value_parser = ["crash", "lies", "specs"])]
    only: Option<String>,
    /// Decides what is left to chance.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Only ways to lie whose name has this part.
    #[arg(long, default_value = "", value_name = "TEXT")]
    way: String,
    /// Only stories whose name has this part.
    #[arg(long, default_value = "", value_name = "TEXT")]
    story: String,
    /// Only each n-th case.
    #[arg(long, default_value_t = 1, value_name = "N")]
    step: usize,
    /// The first case.
    #[arg(long, default_value_t = 0, value_name = "N")]
    from: usize,
    /// Cases at once.
    #[arg(long, default_value_t = 4, value_name = "N")]
    at_once: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let begun = std::time::Instant::now();
    let say = |text: &str| anstream::println!("{:>5} s  {text}", begun.elapsed().as_secs());
    if let Some(minutes) = args.soak {
        let (wrongs, samples) = soak::walk(Duration::from_secs(minutes * 60), args.seed, &say).await;
        for wrong in &wrongs {
            anstream::println!("{wrong}");
        }
        say(&format!("{} measurements, {} things are wrong", samples.len(), wrongs.len()));
        return if wrongs.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let chosen: Vec<_> = stories::ALL.iter().copied().filter(|s| s.name.contains(&args.story)).collect();
    let wants = |class: &str| args.only.as_deref().is_none_or(|only| only == class);
    let mut all = Tally::default();
    let mut rows = Vec::new();
    if wants("crash") {
        let tally = crash::everywhere(&chosen, args.from, args.step, args.at_once, &say).await;
        rows.push(row("the operator is killed before or after a request", &tally, "every request"));
        all.join(tally);
    }
    if wants("lies") {
        let ways: Vec<_> = lies::WAYS.iter().copied().filter(|w| w.name.contains(&args.way)).collect();
        for (way, tally) in lies::everywhere(&chosen, &ways, args.seed, args.from, args.step, args.at_once, &say).await {
            say(&format!("{way}: {} of {}", tally.tried - tally.failed.len(), tally.tried));
            rows.push(row(way, &tally, &format!("from {}", args.seed)));
            all.join(tally);
        }
    }
    if wants("specs") {
        let tally = specs::everywhere(300, args.seed, &say).await;
        rows.push(row("a spec changes to any other and back, broken ones among them", &tally, &format!("from {}", args.seed)));
        all.join(tally);
    }
    say(&format!("{} cases, {} survived", all.tried, all.tried - all.failed.len()));
    for line in all.notes.iter().chain(&all.failed) {
        anstream::println!("{line}");
    }
    let whole = args.story.is_empty() && args.way.is_empty() && args.step == 1 && args.from == 0;
    if whole && let Err(why) = write_table(&rows) {
        say(&why);
        return ExitCode::FAILURE;
    }
    if all.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn row(class: &str, tally: &Tally, seeds: &str) -> String {
    format!("| {class} | {} | {} | {seeds} |", tally.tried, tally.tried - tally.failed.len())
}

/// Writes rows into the table where people read it, each in the place of the one of its class.
fn write_table(rows: &[String]) -> Result<(), String> {
    const BEGIN: &str = "<!-- written by cargo reliability -->\n";
    const END: &str = "<!-- end of what it writes -->";
    let path = lockstep_e2e::harness::root().join("docs/reliability.md");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or_else(|| format!("{} has no place for the table", path.display()))?;
    let class = |row: &str| row.split(" | ").next().unwrap_or_default().to_owned();
    let there = &text[before.len() + BEGIN.len()..text.len() - after.len() - END.len()];
    let mut all: Vec<String> = there.lines().skip(2).map(str::to_owned).collect();
    for row in rows {
        match all.iter_mut().find(|old| class(old) == class(row)) {
            Some(old) => old.clone_from(row),
            None => all.push(row.clone()),
        }
    }
    let table = format!("| class of fault | cases | survived | seeds |\n|---|---|---|---|\n{}\n", all.join("\n"));
    std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).map_err(|e| e.to_string())
}
