use std::collections::BTreeMap;

use gotemplate::regexp::Regexp;

use super::failures::GARBAGE;
use super::{Failure, Fixture, Search, check, fields, fields_of, read};
use crate::{Find, Found, Provider};

/// More than a page of any provider's list.
const MANY: usize = 300;

pub(super) async fn run(fixture: &dyn Fixture, provider: &dyn Provider, search: &Search) {
    for i in 0..MANY {
        fixture.put(&format!("found-{i:03}"), &fields(&[("user", &i.to_string())])).await;
    }
    let find = |name: &str| Find { name: Regexp::new(name).ok(), path: search.path.clone(), tags: BTreeMap::new() };
    let all = provider.find(&find("found-")).await.unwrap_or_default();
    check(all.len() == MANY, "a search sees everything, over all of its pages");
    check(all.windows(2).all(|w| w[0].name < w[1].name), "what is found comes in order, each once");
    let some = provider.find(&find("found-.*7$")).await.unwrap_or_default();
    check(some.len() == MANY / 10, "a regular expression matches anywhere in the name, unless it is anchored");
    for found in some.iter().take(3) {
        let value = match &found.payload {
            Some(payload) => Some(fields_of(payload)),
            None => read(provider, &found.key).await,
        };
        let value = value.and_then(|v| v.get("user")?.parse::<usize>().ok());
        let named = found.name.rsplit("found-").next().and_then(|n| n.parse::<usize>().ok());
        check(value.is_some() && value == named, "what is found is what its key reads");
    }
    check(provider.find(&find("no-such-thing")).await.is_ok_and(|f| f.is_empty()), "nothing found is no error");
    let names = |found: &[Found]| found.iter().map(|found| found.name.clone()).collect::<Vec<_>>();
    let garbage = GARBAGE.iter().map(|(what, body)| (*what, Failure::Body(body)));
    for (what, failure) in
        garbage.chain([("half of it", Failure::Half), ("a cut", Failure::Cut), ("an outage", Failure::Unavailable)])
    {
        if fixture.fail_search(failure).await {
            // What can't be understood never means that nothing is there.
            let answer = provider.find(&find("found-")).await;
            let fits = answer.as_ref().map_or(true, |found| names(found) == names(&all));
            check(fits, &format!("{what} is taken for a list of {:?} of {}", answer.map(|found| found.len()), all.len()));
            let again = provider.find(&find("found-")).await.unwrap_or_default();
            check(names(&again) == names(&all), &format!("{what} passes"));
        }
    }
    if !search.tags {
        return;
    }
    fixture.put_tagged("tagged-both", &fields(&[("a", "1")]), &fields(&[("team", "x"), ("tier", "db")])).await;
    fixture.put_tagged("tagged-one", &fields(&[("a", "1")]), &fields(&[("team", "x"), ("tier", "web")])).await;
    fixture.put_tagged("tagged-swapped", &fields(&[("a", "1")]), &fields(&[("team", "db"), ("tier", "x")])).await;
    let tagged = |tags: &[(&str, &str)]| Find { name: None, path: search.path.clone(), tags: fields(tags) };
    for (tags, expected) in [
        (&[("team", "x")][..], &["tagged-both", "tagged-one"][..]),
        (&[("team", "x"), ("tier", "db")], &["tagged-both"]),
        (&[("team", "y")], &[]),
        (&[("tea", "x")], &[]),
    ] {
        let found = provider.find(&tagged(tags)).await.unwrap_or_default();
        let same = found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.name.ends_with(e));
        check(same, "a remote secret is found by all of the tags that are asked for, keys with their values");
    }
    let both = Find { name: Regexp::new("one").ok(), ..tagged(&[("team", "x")]) };
    check(provider.find(&both).await.is_ok_and(|f| f.len() == 1), "name and tags must both match");
}
