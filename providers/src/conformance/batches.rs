use super::{CANARY, Fixture, check, fields, fields_of};
use crate::{Error, Fetched, Provider, Want};

/// Around the sizes of providers' batches, and many of them.
const SIZES: [usize; 4] = [1, 20, 21, 250];

/// Reads batches with failures inside; answers their texts.
pub(super) async fn run(fixture: &dyn Fixture, provider: &dyn Provider) -> Vec<String> {
    let mut all = Vec::new();
    for i in 0..SIZES[3] {
        all.push(Want::latest(fixture.put(&format!("many-{i}"), &fields(&[("user", &i.to_string())])).await));
    }
    let mut gone = Want::latest(fixture.put("gone", &fields(&[("user", CANARY)])).await);
    if !fixture.remove(&gone.key).await {
        gone.key.push_str("-nowhere");
    }
    let denied = fixture.denied_key().await.map(Want::latest);
    let mut errors = Vec::new();
    for size in SIZES {
        let mut wants: Vec<Want> = all.iter().take(size).cloned().collect();
        if size > 1 {
            wants[size / 2] = gone.clone();
            wants[size - 1] = denied.clone().unwrap_or_else(|| gone.clone());
        }
        let answers = provider.get(&wants).await;
        check(answers.len() == size, "there is an answer for every want");
        for (i, (want, answer)) in wants.iter().zip(answers).enumerate() {
            match answer {
                Err(error) if *want == gone => {
                    check(matches!(error, Error::NotFound(_)), "what is gone is not found, and takes no other want along");
                    errors.push(error.to_string());
                }
                Err(error) if Some(want) == denied.as_ref() => {
                    check(matches!(error, Error::Denied(_)), "what may not be read is denied, and takes no other want along");
                    errors.push(error.to_string());
                }
                Ok(Fetched::Value { payload, .. }) => {
                    check(fields_of(&payload)["user"] == i.to_string(), "answers keep the order of wants");
                }
                _ => check(false, "each want of a batch has a fate of its own"),
            }
        }
    }
    errors
}
