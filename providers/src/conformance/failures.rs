use std::sync::LazyLock;
use std::time::Duration;

use super::{CANARY, Failure, Fixture, check, fields, fields_of, read};
use crate::{Error, Fetched, Provider, Want};

/// Longer than an impatient connection waits.
const LONG: Duration = Duration::from_secs(5);

/// Bodies that no provider sends, each with what it is.
pub(super) static GARBAGE: LazyLock<Vec<(&'static str, &'static [u8])>> = LazyLock::new(|| {
    let kept = |bytes: Vec<u8>| -> &'static [u8] { bytes.leak() };
    vec![
        ("an empty body", b""),
        ("a page", b"<html><body>CANARY-conformance</body></html>"),
        ("no UTF-8", b"{\"data\": \"\xff\xfe\"}"),
        ("null", b"null"),
        ("a list", b"[]"),
        ("a text", b"\"CANARY-conformance\""),
        ("an empty object", b"{}"),
        (
            "other types",
            br#"{"data": 7, "Parameters": "x", "Parameter": [], "SecretString": {}, "SecretValues": 7, "payload": {"data": {}}, "value": {}, "name": 1}"#,
        ),
        (
            "no Base64",
            br#"{"payload": {"data": "%%"}, "name": "projects/1/secrets/x/versions/1", "SecretBinary": "%%", "data": {"user": "%%"}, "kind": "Secret"}"#,
        ),
        ("a deep list", kept(vec![b'['; 300_000])),
        ("a deep object", kept(br#"{"data":"#.repeat(40_000))),
        ("a million values", kept([&b"{\"data\": ["[..], &b"0,".repeat(1_000_000), b"0]}"].concat())),
        ("nine megabytes", kept([&b"{\"data\": \""[..], &b"x".repeat(9 << 20), b"\"}"].concat())),
    ]
});

/// Lets reads fail in every way; answers the errors' texts.
pub(super) async fn run(fixture: &dyn Fixture, provider: &dyn Provider) -> Vec<String> {
    let value = fields(&[("user", CANARY)]);
    let key = fixture.put("failing", &value).await;
    let failed = async |provider: &dyn Provider| provider.get(&[Want::latest(&key)]).await.remove(0).err();
    let mut errors = Vec::new();
    for (failure, fits) in [
        (
            Failure::Throttled(Some(7)),
            (|e| matches!(e, Error::Throttled { retry_after: Some(d), .. } if d.as_secs() == 7)) as fn(&Error) -> bool,
        ),
        (Failure::Throttled(None), |e| matches!(e, Error::Throttled { retry_after: None, .. })),
        (Failure::Unavailable, |e| matches!(e, Error::Unavailable { .. })),
        (Failure::Cut, |e| matches!(e, Error::Unavailable { .. })),
    ] {
        if fixture.fail(failure).await {
            let error = failed(provider).await;
            check(error.as_ref().is_some_and(fits), &format!("{failure:?} is told as what it is: {error:?}"));
            errors.extend(error.map(|e| e.to_string()));
            check(read(provider, &key).await.as_ref() == Some(&value), "and passes");
        }
    }
    let garbage = GARBAGE.iter().map(|(what, body)| (*what, Failure::Body(body))).chain([("half of it", Failure::Half)]);
    for (what, failure) in garbage {
        if fixture.fail(failure).await {
            // An answer that can't be understood never means that there is nothing: that would delete what others live on.
            match provider.get(&[Want::latest(&key)]).await.remove(0) {
                Err(error) => {
                    let text = error.to_string();
                    check(text.len() < 1500, &format!("{what}: an error is for people: {} bytes", text.len()));
                    check(!matches!(error, Error::NotFound(_)), &format!("{what} is not what a server says of nothing: {error}"));
                    errors.push(text);
                }
                Ok(answer) => {
                    let asked_again = matches!(&answer, Fetched::Value { payload, .. } if fields_of(payload) == value);
                    check(asked_again, &format!("{what} is taken for an answer: {answer:?}"));
                }
            }
            check(read(provider, &key).await.as_ref() == Some(&value), &format!("{what} passes"));
        }
    }
    if let Some(impatient) = fixture.impatient(Duration::from_millis(700)).await {
        check(read(&*impatient, &key).await.as_ref() == Some(&value), "an impatient connection reads what comes in time");
        for failure in [Failure::Late(LONG), Failure::Slow(Duration::from_millis(400))] {
            if fixture.fail(failure).await {
                let error = failed(&*impatient).await;
                let fits = matches!(&error, Some(Error::Unavailable { .. }));
                check(fits, &format!("what takes longer than its time ends with it: {failure:?}: {error:?}"));
                errors.extend(error.map(|e| e.to_string()));
                check(read(&*impatient, &key).await.as_ref() == Some(&value), "and the next is read");
            }
        }
    }
    if fixture.expire().await {
        check(read(provider, &key).await.as_ref() == Some(&value), "credentials that have ended are renewed, and nobody notices");
    }
    if let Some((neighbour, theirs)) = fixture.neighbour().await {
        let of = async |provider: &dyn Provider, key: &str| provider.get(&[Want::latest(key)]).await.remove(0);
        for _ in 0..2 {
            check(matches!(of(&*neighbour, &theirs).await, Ok(Fetched::Value { .. })), "another identity reads what is its own");
            check(matches!(of(provider, &theirs).await, Err(Error::Denied(_))), "which this one may not, read before or not");
            check(matches!(of(&*neighbour, &key).await, Err(Error::Denied(_))), "nor that one what is of this");
            check(matches!(of(provider, &key).await, Ok(Fetched::Value { .. })), "each as itself, in any order");
        }
        neighbour.close().await;
    }
    errors
}
