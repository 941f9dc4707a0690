//! Specs that the CRD's schema allows, and specs that are broken somewhere: an object walks from one to another and back.
//!
//! What it has then must be what an object has that was made so at once; a spec that can't be served leaves what is there as it
//! was; and in between nobody panics, and nobody writes or reads again and again.

mod external_secret;
mod fan_out;
mod generator;
mod maker;
mod push_secret;
mod store;

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::DynamicObject;
use serde::Serialize;
use serde_json::{Value, json};

use self::maker::Maker;
use super::Tally;
use super::world::{Making, World, counts};
use crate::harness::{self, eventually};
use crate::interposer::{Chance, Sort};

/// What one object came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Seen {
    /// Whether it says that it is ready.
    ready: bool,
    /// What it says.
    told: Value,
    /// What it made.
    has: Value,
}

/// A kind that walks. Where a spec says `NAME` it means the name of its own object.
trait Subject {
    /// For how long after its first answer it may still become what it should be: where another answers for it.
    const SETTLES: Duration = Duration::ZERO;

    /// For reports.
    fn title(&self) -> &'static str;

    /// A spec that the schema allows; a good one names nothing that is not there.
    fn spec(&mut self, good: bool) -> Value;

    /// What its maker left to chance.
    fn maker(&mut self) -> &mut Maker;

    /// What its objects' names begin with.
    fn prefix(&self) -> String {
        String::new()
    }

    /// The object without its spec.
    fn object(&self, world: &World, name: &str) -> Value;

    /// Waits until the last change is answered; a failure is news only where there was none before.
    async fn seen(&mut self, world: &World, name: &str, was_ready: Option<bool>) -> Seen;

    /// What the walker has for `b` against what a new object has.
    fn compare(&self, _b: &Value, _first: &Seen, there: &Seen, made: &Seen) -> Result<&'static str, String> {
        match (there.ready, made.ready) {
            (true, true) | (false, false) if there.has != made.has => differs("what is there", &there.has, &made.has),
            (true, true) => Ok("both are served"),
            (false, false) => Ok("can't be served"),
            _ => differs("the condition", &there.told, &made.told),
        }
    }

    /// What the walker has when it is back, against what it had first.
    fn is_back(&self, _a: &Value, first: &Seen, back: &Seen) -> Result<(), String> {
        if back.has == first.has { Ok(()) } else { differs("back again, what is there", &back.has, &first.has) }
    }
}

fn differs<T>(what: &str, there: &impl Serialize, expected: &impl Serialize) -> Result<T, String> {
    let text =
        |value: String| if value.len() > 3000 { format!("{}…", &value[..value.floor_char_boundary(3000)]) } else { value };
    Err(format!("{what}: {}, and not {}", text(json!(there).to_string()), text(json!(expected).to_string())))
}

/// Without the name that two objects never share.
fn plain(name: &str, value: &Value) -> Value {
    serde_json::from_str(&value.to_string().replace(name, "NAME")).unwrap_or_default()
}

/// An object's condition Ready.
fn ready(object: &DynamicObject) -> Option<Value> {
    object.data["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "Ready").cloned()
}

/// Whether the last sync was of the object as it is.
fn is_synced(object: &DynamicObject) -> bool {
    let generation = object.metadata.generation.unwrap_or(0);
    let version = object.data["status"]["syncedResourceVersion"].as_str().unwrap_or_default();
    version.starts_with(&format!("{generation}-"))
}

/// Waits until an object's last change is answered: by a sync of it as it is, or by a failure, which is news only where there was
/// none before. Answers the object, and whether it is ready.
async fn answered(world: &World, object: &Value, was_ready: Option<bool>) -> (DynamicObject, bool) {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let api = harness::api_of(&world.case.client, Some(&world.case.name), object);
    eventually(&format!("{name} is answered"), async || {
        let object = api.get(name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let ready = ready(&object)?["status"] == "True";
        (ready && is_synced(&object) || !ready && was_ready != Some(false)).then_some((object, ready))
    })
    .await
}

/// An ExternalSecret without its spec.
fn without_spec(name: &str) -> Value {
    json!({"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": name}})
}

/// Writes an object's whole spec; false: the API server does not take it.
async fn write(world: &World, subject: &impl Subject, name: &str, spec: &Value) -> bool {
    let mut object = subject.object(world, name);
    object["spec"] = serde_json::from_str(&spec.to_string().replace("NAME", name)).expect("JSON");
    let api = harness::api_of(&world.case.client, Some(&world.case.name), &object);
    let new: DynamicObject = serde_json::from_value(object).expect("an object");
    loop {
        let there = api.get_opt(name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let written = match there {
            None => api.create(&Default::default(), &new).await,
            Some(there) => {
                let mut new = new.clone();
                new.metadata.resource_version = there.metadata.resource_version;
                new.metadata.finalizers = there.metadata.finalizers;
                api.replace(name, &Default::default(), &new).await
            }
        };
        match written {
            Ok(_) => return true,
            // The operator wrote its status in between: that says nothing of the spec.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => return false,
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

/// One walk; answers what became of it.
async fn walk<S: Subject>(world: &World, subject: &mut S, n: usize, a: &Value, b: &Value) -> Result<&'static str, String> {
    let prefix = subject.prefix();
    let (walker, fresh) = (format!("{prefix}w{n}"), format!("{prefix}f{n}"));
    if !write(world, subject, &walker, a).await {
        return Ok("the first is refused");
    }
    let first = subject.seen(world, &walker, None).await;
    if !first.ready {
        return Ok("the first can't be served");
    }
    if !write(world, subject, &walker, b).await {
        let now = subject.seen(world, &walker, None).await;
        return if now == first { Ok("refused by the API server") } else { differs("a spec that was refused", &now, &first) };
    }
    let mut there = subject.seen(world, &walker, Some(true)).await;
    if !write(world, subject, &fresh, b).await {
        return Err("taken as a change, and refused as new".into());
    }
    let mut made = subject.seen(world, &fresh, None).await;
    let end = tokio::time::Instant::now() + S::SETTLES;
    let outcome = loop {
        match subject.compare(b, &first, &there, &made) {
            Err(_) if tokio::time::Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                there = subject.seen(world, &walker, None).await;
                made = subject.seen(world, &fresh, None).await;
            }
            settled => break settled?,
        }
    };
    if !write(world, subject, &walker, a).await {
        return Err("the way back is refused".into());
    }
    let mut back = subject.seen(world, &walker, Some(there.ready)).await;
    let end = tokio::time::Instant::now() + S::SETTLES;
    loop {
        match subject.is_back(a, &first, &back) {
            Err(_) if tokio::time::Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                back = subject.seen(world, &walker, None).await;
            }
            settled => break settled.map(|()| outcome),
        }
    }
}

/// So many walks of one kind; `from` is the first one's number.
async fn walks(world: &World, subject: &mut impl Subject, from: usize, count: usize, tally: &mut Tally) {
    let mut outcomes = BTreeMap::<&str, usize>::new();
    for n in from..from + count {
        let a = subject.spec(true);
        let good = subject.maker().chance.one_in(2);
        let mut b = subject.spec(good);
        if subject.maker().chance.one_in(3) {
            b = subject.maker().broken(&b);
        }
        let outcome = walk(world, subject, n, &a, &b).await;
        if let Ok(kind) = outcome {
            *outcomes.entry(kind).or_default() += 1;
        }
        let title = subject.title();
        tally.add(outcome.map(drop).map_err(|why| format!("walk {n} of a {title}: {why}\n  from {a}\n  over {b}")));
    }
    tally.notes.extend(outcomes.iter().map(|(kind, count)| format!("specs of {}: {count} {kind}", subject.title())));
}

/// What failed waits for its interval: once all is settled nobody asks, writes or panics.
async fn is_quiet(world: &World, tally: &mut Tally) {
    let writes = || {
        let counted = world.api.log().into_iter().filter(|e| counts(e) && e.sort == Sort::Write && world.is_own(&e.path));
        counted.map(|e| format!("{} {}", e.method, e.path)).collect::<Vec<_>>()
    };
    let end = tokio::time::Instant::now() + SETTLES_WITHIN;
    let outcome = loop {
        let before = (writes().len(), world.vault.log().len());
        tokio::time::sleep(QUIET).await;
        let (written, asked) = (writes().split_off(before.0), world.vault.log().len() - before.1);
        if written.is_empty() && asked <= ASKED_MEANWHILE {
            break Ok(());
        }
        if tokio::time::Instant::now() > end {
            break Err(format!("{} reads, and {} though nothing changes", asked, written.join(", ")));
        }
    };
    tally.add(outcome);
    tally.add(if world.logs().contains("panicked at") { Err("the operator panicked".into()) } else { Ok(()) });
}

/// How long nothing may be written.
const QUIET: Duration = Duration::from_secs(6);
/// How long the last write may take to come: of what was under way.
const SETTLES_WITHIN: Duration = Duration::from_secs(40);
/// Stores that can't be reached, and pushes that failed for a while, are tried again at their own pace.
const ASKED_MEANWHILE: usize = 20;

/// So many walks of an ExternalSecret, and a third of that of each other kind.
pub async fn everywhere(count: usize, seed: u64, say: &(impl Fn(&str) + Sync)) -> Tally {
    let world = World::new("specs", Making { interval: "1h", seed, ..Making::default() }).await;
    let case = &world.case;
    let text =
        json!({"user": "CANARY-u", "pass": "CANARY-p", "nested": {"deep": "CANARY-d"}, "list": ["CANARY-l", 2]}).to_string();
    let values = json!([{"key": "json", "value": text, "version": "v1"}, {"key": "json", "value": text},
        {"key": "text", "value": "CANARY-t"}, {"key": "encoded", "value": "Q0FOQVJZ"}]);
    case.apply_store("own", json!({"fake": {"data": values}})).await;
    case.vault_store_at(&world.vault.url).await;
    case.put("app", json!({"v": "CANARY-vault"})).await;
    case.apply_secret("source", &[("user", "CANARY-u"), ("pass", "CANARY-p"), ("odd.key", "CANARY-o")]).await;
    world.start().await;
    let mut tally = Tally::default();
    let chance = |n: u64| Chance::new(seed.wrapping_add(n << 32));
    walks(&world, &mut external_secret::Walker::new(Chance::new(seed)), 0, count, &mut tally).await;
    let (third, mut from) = (count / 3, count);
    walks(&world, &mut push_secret::Walker::new(&world, chance(1)), from, third, &mut tally).await;
    from += third;
    walks(&world, &mut store::Walker::new(&world, chance(2)), from, third, &mut tally).await;
    from += third;
    let each = third.div_ceil(generator::KINDS.len());
    for (n, kind) in (3..).zip(generator::KINDS) {
        walks(&world, &mut generator::Walker::new(&world, kind, chance(n)), from, each, &mut tally).await;
        from += each;
    }
    is_quiet(&world, &mut tally).await;
    world.end().await;
    let world = fan_out::world(seed).await;
    for (n, kind) in (10..).zip(fan_out::KINDS) {
        walks(&world, &mut fan_out::Walker::new(&world, kind, chance(n)), from, third / 2, &mut tally).await;
        from += third / 2;
    }
    is_quiet(&world, &mut tally).await;
    fan_out::end(world).await;
    tally.notes.iter().for_each(|note| say(note));
    tally
}
