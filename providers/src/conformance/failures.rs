use std::time::Duration;

use super::{CANARY, Failure, Fixture, check, fields, read};
use crate::{Error, Fetched, Provider, Want};

/// Longer than an impatient connection waits.
const LONG: Duration = Duration::from_secs(5);

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
