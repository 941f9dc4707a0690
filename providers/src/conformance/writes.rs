use std::collections::BTreeMap;

use super::{CANARY, Fixture, check, fields, read};
use crate::{Deleted, Error, Payload, Provider, Push, Pushed, SecretBytes, Source, Target};

fn target(key: &str, property: Option<&str>) -> Target {
    Target { key: key.to_owned(), property: property.map(str::to_owned), metadata: None }
}

fn whole(key: &str, pairs: &[(&str, &str)]) -> Push {
    let value = pairs.iter().map(|(name, value)| ((*name).to_owned(), SecretBytes::from(*value))).collect();
    Push { target: target(key, None), value: Payload::Fields(value), only_new: false, source: Source::default() }
}

fn property(key: &str, name: &str, value: &str) -> Push {
    let value = Payload::Bytes(SecretBytes::from(value));
    Push { target: target(key, Some(name)), value, only_new: false, source: Source::default() }
}

pub(super) async fn run(fixture: &dyn Fixture, provider: &dyn Provider, key: &str, new: &str) {
    let there = async |key: &str| -> Option<BTreeMap<String, String>> { read(provider, key).await };
    check(provider.push(&whole(key, &[("a", "1"), ("b", "2")])).await == Ok(Pushed::Created), "a push makes what is not there");
    check(there(key).await == Some(fields(&[("a", "1"), ("b", "2")])), "what is pushed is there");
    check(provider.push(&whole(key, &[("a", "1"), ("b", "2")])).await == Ok(Pushed::Unchanged), "the same again writes nothing");
    check(provider.push(&whole(key, &[("a", "x")])).await == Ok(Pushed::Updated), "another value is written");
    check(there(key).await == Some(fields(&[("a", "x")])), "and replaces the whole");
    check(provider.push(&property(key, "c", "3")).await == Ok(Pushed::Updated), "a property is written");
    check(provider.push(&property(key, "c", "3")).await == Ok(Pushed::Unchanged), "once");
    check(there(key).await == Some(fields(&[("a", "x"), ("c", "3")])), "and leaves the rest alone");

    let only_new = |push: Push| Push { only_new: true, ..push };
    check(provider.push(&only_new(property(key, "c", "4"))).await == Ok(Pushed::Unchanged), "IfNotExists leaves a property");
    check(provider.push(&only_new(whole(key, &[("z", "z")]))).await == Ok(Pushed::Unchanged), "IfNotExists leaves a whole");
    check(there(key).await == Some(fields(&[("a", "x"), ("c", "3")])), "as it was");

    let foreign = &fixture.put("foreign", &fields(&[("a", CANARY)])).await;
    for push in [whole(foreign, &[("a", CANARY), ("b", CANARY)]), property(foreign, "b", CANARY)] {
        let answer = provider.push(&push).await;
        check(matches!(answer, Err(Error::Invalid { .. })), "what is not ours is not overwritten");
        check(!format!("{answer:?}").contains(CANARY), "no error of a push holds a value");
    }
    check(provider.push(&only_new(whole(foreign, &[("a", "1")]))).await == Ok(Pushed::Unchanged), "IfNotExists asks for no mark");
    check(provider.delete(&target(foreign, None)).await == Ok(Deleted::NotOurs), "what is not ours is not deleted");
    check(there(foreign).await == Some(fields(&[("a", CANARY)])), "and keeps its value");

    check(provider.delete(&target(key, Some("c"))).await == Ok(Deleted::Done), "a property is deleted");
    check(there(key).await == Some(fields(&[("a", "x")])), "and the rest stays");
    check(provider.delete(&target(key, Some("c"))).await == Ok(Deleted::Absent), "once");
    check(provider.delete(&target(key, Some("a"))).await == Ok(Deleted::Done), "the last property is deleted");
    check(there(key).await.is_none(), "with the whole");
    check(provider.delete(&target(key, None)).await == Ok(Deleted::Absent), "what is gone is gone");
    check(provider.push(&whole(key, &[("a", "again")])).await == Ok(Pushed::Created), "what was deleted can be pushed again");
    check(provider.delete(&target(key, None)).await == Ok(Deleted::Done), "the whole is deleted");
    check(there(key).await.is_none(), "at once");
    check(provider.push(&property(new, "p", "v")).await == Ok(Pushed::Created), "a property can be the first");
    check(there(new).await == Some(fields(&[("p", "v")])), "and is alone then");
    check(provider.delete(&target(new, None)).await == Ok(Deleted::Done), "a push can be taken back");
}
