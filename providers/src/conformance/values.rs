use super::{Fixture, check, fields, fields_of};
use crate::{Error, Fetched, Payload, Provider, Want};

/// The largest value that Secret Manager and Secrets Manager take.
const LARGEST: usize = 65_536;

async fn payload(provider: &dyn Provider, want: &Want) -> Option<Payload> {
    match provider.get(std::slice::from_ref(want)).await.remove(0) {
        Ok(Fetched::Value { payload, .. }) => Some((*payload).clone()),
        _ => None,
    }
}

/// The one value of a payload.
fn bytes(payload: &Payload) -> &[u8] {
    match payload {
        Payload::Bytes(bytes) | Payload::Property(bytes) => bytes.expose(),
        Payload::Fields(fields) => fields.values().next().map(|v| v.expose()).unwrap_or_default(),
    }
}

pub(super) async fn run(fixture: &dyn Fixture, provider: &dyn Provider) {
    let large = "x".repeat(LARGEST);
    let text = "p\u{e4}ss \u{79d8}\u{5bc6} \u{1f511} \"\\\n\t";
    for (name, value) in
        [("binary", &b"\0\xff\x80\r\nz"[..]), ("empty", b""), ("text", text.as_bytes()), ("large", large.as_bytes())]
    {
        if let Some(key) = fixture.put_bytes(&format!("bytes-{name}"), value).await {
            let found = payload(provider, &Want::latest(key)).await;
            check(found.is_some_and(|p| bytes(&p) == value), &format!("a value comes back as it went in: {name}"));
        }
    }
    let odd = fields(&[("text", text), ("empty", ""), ("n.m", "dotted")]);
    let key = fixture.put("odd", &odd).await;
    let found = payload(provider, &Want::latest(key)).await;
    // A field of nothing may be left out, and nothing else.
    let found = found.map(|p| fields_of(&p)).unwrap_or_default();
    check(odd.iter().all(|(name, value)| found.get(name).map_or("", String::as_str) == value), "fields may hold any text");

    if let Some(name) = fixture.unicode_name() {
        let key = fixture.put(&name, &fields(&[("a", "1")])).await;
        let found = payload(provider, &Want::latest(key)).await;
        check(found.is_some_and(|p| fields_of(&p)["a"] == "1"), "a name may hold letters that are not ASCII");
    }
    if let Some((key, first)) = fixture.put_version("versions", &fields(&[("a", "1")])).await {
        let second = fixture.put_version("versions", &fields(&[("a", "2")])).await.map(|(_, version)| version);
        let of = |version: Option<String>| Want { version, ..Want::latest(&key) };
        for (version, expected) in [(Some(first.clone()), "1"), (second, "2"), (None, "2")] {
            let found = payload(provider, &of(version)).await;
            check(found.is_some_and(|p| fields_of(&p)["a"] == expected), "a version is what it was");
        }
        let unknown: String = first.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
        let answer = provider.get(&[of(Some(format!("{unknown}9")))]).await.remove(0);
        check(
            matches!(answer, Err(Error::NotFound(_) | Error::Invalid { .. })),
            "a version that never was is missing, and no other is taken for it",
        );
    }
    if fixture.search().is_some_and(|search| search.tags) {
        let key =
            fixture.put_tagged("described", &fields(&[("a", "CANARY")]), &fields(&[("team", "infra"), ("tier", "db")])).await;
        let want = Want { metadata: true, ..Want::latest(key) };
        let found = payload(provider, &want).await.map(|p| match p {
            Payload::Fields(fields) => {
                fields.into_iter().map(|(k, v)| format!("{k}={}", v.as_text().unwrap_or_default())).collect::<String>()
            }
            Payload::Bytes(bytes) | Payload::Property(bytes) => bytes.as_text().unwrap_or_default().to_owned(),
        });
        let found = found.unwrap_or_default();
        check(["team", "infra", "tier", "db"].iter().all(|word| found.contains(word)), "metadata holds the tags");
        check(!found.contains("CANARY"), "and no value");
    }
}
