//! What is to be done with a PushSecret now, and what it pushes where: pure decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gotemplate::regexp::Regexp;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use lockstep_crds::PushSecret;
use lockstep_crds::duration::parse_go;
use lockstep_crds::external_secret::{Rewrite, StoreKind};
use lockstep_crds::push_secret::{
    PushConversionStrategy, PushData, PushDataTo, PushDeletionPolicy, PushMatch, PushRemoteRef, PushStoreRef, SyncedPushSecrets,
};
use lockstep_providers::{Payload, SecretBytes, Source, Target};
use serde_json::Value;

use super::cache::Memo;
use crate::external_secret::plan::{Due, check_engine, synced_version_of};
use crate::external_secret::rewrite;
use crate::keys::{StoreKey, stable_hash};
use crate::queue::Wake;
use crate::resolver::keys_of;
use crate::store::plan::{check_selector, selects};
use crate::turns::Turn;

/// Keeps a PushSecret until what it pushed is deleted.
pub const FINALIZER: &str = "pushsecret.externalsecrets.io/finalizer";

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Nothing before that time, or before the turn of a refresh.
    Skip(Option<Due>),
    /// Push what it says.
    Push(Settings),
    /// Delete what it has pushed, and let it go.
    Finish,
    /// It can't be pushed until it changes.
    Reject(String),
}

/// The parts of a spec that need parsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often it is looked at; none: once.
    pub interval: Option<Duration>,
    group: u64,
}

/// What failed and is pushed only once is tried again after this time.
const WITHOUT_INTERVAL: Duration = Duration::from_secs(3600);

impl Settings {
    fn turn(&self) -> Turn {
        let interval = self.interval.unwrap_or(WITHOUT_INTERVAL);
        Turn { group: self.group, every_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1) }
    }

    /// When it is looked at again after `last`.
    pub fn next_refresh(&self, last: Option<Timestamp>, now: Timestamp) -> Option<Due> {
        let (Some(_), Some(last)) = (self.interval, last) else { return None };
        let turn = self.turn();
        Some(Due { at: if last > now { now } else { turn.after(last) }, turn })
    }

    /// When what failed for good is tried again.
    pub fn next_try(&self, now: Timestamp) -> Due {
        let turn = self.turn();
        Due { at: turn.after(now), turn }
    }
}

/// `<generation>-<hash of labels and annotations>`.
pub fn synced_version(object: &PushSecret) -> String {
    synced_version_of(&object.metadata)
}

/// Every reference to stores, those of `dataTo` too.
pub fn store_refs(object: &PushSecret) -> impl Iterator<Item = &PushStoreRef> {
    object.spec.secret_store_refs.iter().chain(object.spec.data_to.iter().filter_map(|to| to.store_ref.as_ref()))
}

/// Decides.
pub fn plan(object: &PushSecret, memo: &Memo, wake: Wake, lapsed: bool, now: Timestamp) -> Plan {
    if object.metadata.deletion_timestamp.is_some() {
        return if object.finalizers().iter().any(|f| f == FINALIZER) { Plan::Finish } else { Plan::Skip(None) };
    }
    let settings = match settings(object) {
        Ok(settings) => settings,
        Err(why) => return Plan::Reject(why),
    };
    let next = settings.next_refresh(memo.refreshed, now);
    let changed = memo.synced.as_deref() != Some(&synced_version(object));
    let due = wake.turn && next.is_some_and(|due| due.at <= now);
    // A generator's values are not made anew on account of a store.
    let store = wake.store && object.spec.selector.generator_ref.is_none();
    if is_unseen(object, memo) && !wake.turn {
        return Plan::Skip(Some(Due { at: now, turn: settings.turn() }));
    }
    match memo.refreshed.is_none() || changed || due || lapsed || store || wake.source || memo.ready != Some(true) {
        true => Plan::Push(settings),
        false if wake.turn && !memo.met => Plan::Push(settings),
        false => Plan::Skip(next),
    }
}

/// Whether its Secrets were not watched until now and may have changed: one that was well is looked at in its turn.
pub fn is_unseen(object: &PushSecret, memo: &Memo) -> bool {
    let changed = memo.synced.as_deref() != Some(&synced_version(object));
    !memo.met && memo.ready == Some(true) && !changed && object.spec.selector.generator_ref.is_none()
}

/// Parses and checks what the API server does not.
///
/// # Errors
/// A sentence that names the field.
pub fn settings(object: &PushSecret) -> Result<Settings, String> {
    let spec = &object.spec;
    let interval = match spec.refresh_interval.as_deref() {
        None => Some(Duration::from_secs(3600)),
        Some(text) => {
            parse_go(text).map(|d| (!d.is_zero()).then_some(d)).map_err(|why| format!("spec.refreshInterval: {why}"))?
        }
    };
    if spec.data.is_empty() && spec.data_to.is_empty() {
        return Err("spec.data and spec.dataTo are empty; name what is to be pushed".into());
    }
    if spec.secret_store_refs.is_empty() && !spec.data.is_empty() {
        return Err("spec.secretStoreRefs is empty; name the stores of spec.data".into());
    }
    for reference in store_refs(object) {
        if let Some(Err(why)) = reference.label_selector.as_ref().map(check_selector) {
            return Err(format!("labelSelector.{why}"));
        }
    }
    check_engine("spec.template", spec.template.as_ref())?;
    match (&spec.selector.secret, &spec.selector.generator_ref) {
        (Some(secret), None) => match (secret.name.as_deref().filter(|n| !n.is_empty()), &secret.selector) {
            (Some(_), None) | (None, Some(_)) => {}
            (Some(_), Some(_)) => return Err("spec.selector.secret names a name and a selector; keep one".into()),
            (None, None) => return Err("spec.selector.secret names neither a name nor a selector".into()),
        },
        (None, Some(_)) => {}
        _ => return Err("spec.selector must name exactly one of secret and generatorRef".into()),
    }
    for (i, to) in spec.data_to.iter().enumerate() {
        let field = format!("spec.dataTo[{i}]");
        if let Some(pattern) = to.match_.as_ref().and_then(|m| m.regexp.as_deref()) {
            Regexp::new(pattern).map_err(|why| format!("{field}.match.regexp: {why}"))?;
        }
        if to.store_ref.is_none() {
            return Err(format!("{field}.storeRef is not set"));
        }
    }
    let group = stable_hash(&[object.metadata.namespace.as_deref().unwrap_or_default(), &object.name_any()]);
    Ok(Settings { interval, group })
}

/// A Secret, or what a generator gave, as it is pushed.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// What it is called, for messages.
    pub name: String,
    /// Its data.
    pub data: BTreeMap<String, SecretBytes>,
    /// What goes along with it.
    pub source: Source,
    /// Whether chance or the clock has a part in it: then what is there already stays.
    pub volatile: bool,
}

/// One value, and where it goes.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Into which store.
    pub store: StoreKey,
    /// Where there.
    pub target: Target,
    /// What.
    pub value: Payload,
    /// What goes along with it.
    pub source: Source,
    /// See [`Given::volatile`].
    pub volatile: bool,
    /// As the status tells it.
    pub told: PushData,
}

impl Entry {
    /// The entry in a message: store, remote key and property.
    pub fn describe(&self) -> String {
        describe(&self.store.to_string(), &self.told.match_.remote_ref)
    }
}

/// A place in a message.
pub fn describe(store: &str, remote: &PushRemoteRef) -> String {
    let property = remote.property.as_deref().filter(|p| !p.is_empty());
    let property = property.map(|p| format!(", property {p}")).unwrap_or_default();
    format!("{store}, remote key {}{property}", remote.remote_key)
}

/// The key of a place in the status.
pub fn place(remote: &PushRemoteRef) -> String {
    match remote.property.as_deref().filter(|p| !p.is_empty()) {
        Some(property) => format!("{}/{property}", remote.remote_key),
        None => remote.remote_key.clone(),
    }
}

/// A store in the status.
pub fn store_name(store: &StoreKey) -> String {
    match store.kind() {
        StoreKind::SecretStore => format!("SecretStore/{}", store.name),
        StoreKind::ClusterSecretStore => format!("ClusterSecretStore/{}", store.name),
    }
}

/// A store of the status.
pub fn store_of(namespace: &Arc<str>, text: &str) -> Option<StoreKey> {
    let (kind, name) = text.split_once('/')?;
    let namespace = match kind {
        "SecretStore" => Some(namespace.clone()),
        "ClusterSecretStore" => None,
        _ => return None,
    };
    Some(StoreKey { namespace, name: name.into() })
}

/// The stores that a reference means; `with` finds them by their labels.
pub fn stores(
    namespace: &Arc<str>,
    reference: &PushStoreRef,
    with: &dyn Fn(Option<&str>, &LabelSelector) -> Vec<StoreKey>,
) -> Vec<StoreKey> {
    let of = match reference.kind {
        StoreKind::SecretStore => Some(namespace.clone()),
        StoreKind::ClusterSecretStore => None,
    };
    match (reference.name.as_deref().filter(|n| !n.is_empty()), &reference.label_selector) {
        (Some(name), _) => vec![StoreKey { namespace: of, name: name.into() }],
        (None, Some(selector)) => with(of.as_deref(), selector),
        (None, None) => Vec::new(),
    }
}

/// Whether a reference of somebody who may use it is to this store, which has these labels.
pub fn refers_to(reference: &PushStoreRef, store: &StoreKey, labels: &BTreeMap<String, String>) -> bool {
    let own = store.namespace.clone().unwrap_or_else(|| "".into());
    let with = |_: Option<&str>, selector: &LabelSelector| match selects(selector, labels) {
        true => vec![store.clone()],
        false => Vec::new(),
    };
    stores(&own, reference, &with).contains(store)
}

/// `_U0020_` in a key becomes the character that it stands for.
fn unicode_reversed(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    let mut rest = key;
    while let Some(at) = rest.find("_U") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let code = from.get(2..6).filter(|_| from.get(6..7) == Some("_"));
        let character = code.and_then(|code| u32::from_str_radix(code, 16).ok()).and_then(char::from_u32);
        match character {
            Some(character) => {
                out.push(character);
                rest = &from[7..];
            }
            None => {
                out.push_str("_U");
                rest = &from[2..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn converted(data: &BTreeMap<String, SecretBytes>, strategy: PushConversionStrategy) -> BTreeMap<String, SecretBytes> {
    match strategy {
        PushConversionStrategy::None => data.clone(),
        PushConversionStrategy::ReverseUnicode => data.iter().map(|(k, v)| (unicode_reversed(k), v.clone())).collect(),
    }
}

/// Everything that is to be pushed. `with` finds stores by their labels.
///
/// # Errors
/// Sentences about each entry that can't be: a key that is not there, two values for one place.
pub fn entries(
    object: &PushSecret,
    namespace: &Arc<str>,
    given: &[Given],
    with: &dyn Fn(Option<&str>, &LabelSelector) -> Vec<StoreKey>,
) -> (Vec<Entry>, Vec<String>) {
    let mut all = Collected::default();
    let stores_of = |reference: &PushStoreRef| stores(namespace, reference, with);
    let of_data: Vec<StoreKey> = object.spec.secret_store_refs.iter().flat_map(&stores_of).collect();
    // A key that `data` names for a store goes there as it says, and by no rule of `dataTo` beside it.
    let is_named = |entry: &PushData| {
        let key = entry.match_.secret_key.as_deref();
        key.is_some() && object.spec.data.iter().any(|named| named.match_.secret_key.as_deref() == key)
    };
    for given in given {
        for (i, entry) in object.spec.data.iter().enumerate() {
            let data = converted(&given.data, entry.conversion_strategy);
            let value = match entry.match_.secret_key.as_deref().filter(|k| !k.is_empty()) {
                None => Some(Payload::Fields(data.clone())),
                Some(key) => data.get(key).map(|value| Payload::Bytes(value.clone())),
            };
            let Some(value) = value else {
                let key = entry.match_.secret_key.as_deref().unwrap_or_default();
                all.problems.push(format!("spec.data[{i}]: {} has no key {key}; it has {}", given.name, keys_of(data.keys())));
                continue;
            };
            for store in &of_data {
                all.add(store, given, entry.clone(), value.clone(), true);
            }
        }
        for (i, to) in object.spec.data_to.iter().enumerate() {
            match many(&format!("spec.dataTo[{i}]"), to, given) {
                Ok(entries) => {
                    for store in to.store_ref.iter().flat_map(&stores_of) {
                        let named_there = of_data.contains(&store);
                        for (entry, value) in entries.iter().filter(|(entry, _)| !(named_there && is_named(entry))) {
                            all.add(&store, given, entry.clone(), value.clone(), false);
                        }
                    }
                }
                Err(why) => all.problems.push(why),
            }
        }
    }
    (all.entries.into_values().map(|(entry, _)| entry).collect(), all.problems)
}

#[derive(Default)]
struct Collected {
    /// By store and place; whether it stands in `data`, which wins over `dataTo`.
    entries: BTreeMap<(StoreKey, String), (Entry, bool)>,
    problems: Vec<String>,
}

impl Collected {
    fn add(&mut self, store: &StoreKey, given: &Given, told: PushData, value: Payload, single: bool) {
        let remote = &told.match_.remote_ref;
        let place = place(remote);
        let target = Target {
            key: remote.remote_key.clone(),
            property: remote.property.clone().filter(|p| !p.is_empty()),
            metadata: told.metadata.clone(),
        };
        let entry = Entry { store: store.clone(), target, value, source: given.source.clone(), volatile: given.volatile, told };
        match self.entries.get(&(store.clone(), place.clone())) {
            Some((_, of_data)) if *of_data != single => {
                if single {
                    self.entries.insert((store.clone(), place), (entry, single));
                }
            }
            Some(_) => {
                let why = format!("{}: two values go there; name other keys", entry.describe());
                if !self.problems.contains(&why) {
                    self.problems.push(why);
                }
            }
            None => drop(self.entries.insert((store.clone(), place), (entry, single))),
        }
    }
}

/// How keys become names.
pub fn rewrites(to: &PushDataTo) -> Vec<Rewrite> {
    to.rewrite.iter().map(|r| Rewrite { merge: None, regexp: r.regexp.clone(), transform: r.transform.clone() }).collect()
}

/// The entries of one `dataTo`.
fn many(field: &str, to: &PushDataTo, given: &Given) -> Result<Vec<(PushData, Payload)>, String> {
    let mut data = converted(&given.data, to.conversion_strategy);
    if let Some(pattern) = to.match_.as_ref().and_then(|m| m.regexp.as_deref()).filter(|p| !p.is_empty()) {
        let regexp = Regexp::new(pattern).map_err(|why| format!("{field}.match.regexp: {why}"))?;
        data.retain(|key, _| regexp.is_match(key.as_bytes()));
    }
    let entry = |secret_key: Option<&str>, remote_key: &str| PushData {
        match_: PushMatch {
            secret_key: secret_key.map(str::to_owned),
            remote_ref: PushRemoteRef { remote_key: remote_key.to_owned(), property: None },
        },
        metadata: to.metadata.clone(),
        conversion_strategy: to.conversion_strategy,
    };
    if let Some(remote) = to.remote_key.as_deref().filter(|k| !k.is_empty()) {
        return Ok(vec![(entry(None, remote), Payload::Fields(data))]);
    }
    let rewrites = rewrites(to);
    // Each name goes through with itself as its value: what it was is what becomes of it.
    let names = data.keys().map(|key| (key.clone(), SecretBytes::from(key.as_str()))).collect();
    let renamed = rewrite::apply(&rewrites, names).map_err(|why| format!("{field}.{why}"))?;
    let of = |(remote, key): (String, SecretBytes)| {
        let key = key.as_text()?;
        Some((entry(Some(key), &remote), Payload::Bytes(data.get(key)?.clone())))
    };
    Ok(renamed.into_iter().filter_map(of).collect())
}

/// What was pushed and is to be deleted: nothing under another policy than Delete.
pub fn leftovers(object: &PushSecret, pushed: &SyncedPushSecrets, entries: &[Entry]) -> Vec<(String, String, PushData)> {
    if object.spec.deletion_policy != PushDeletionPolicy::Delete {
        return Vec::new();
    }
    let wanted: BTreeSet<(String, String)> =
        entries.iter().map(|e| (store_name(&e.store), place(&e.told.match_.remote_ref))).collect();
    let all = pushed.iter().flat_map(|(store, places)| places.iter().map(move |(place, data)| (store, place, data)));
    let unwanted = all.filter(|(store, place, _)| !wanted.contains(&((*store).clone(), (*place).clone())));
    unwanted.map(|(store, place, data)| (store.clone(), place.clone(), data.clone())).collect()
}

/// What the status says when these are in place too.
pub fn with_entries(pushed: &SyncedPushSecrets, entries: &[Entry]) -> SyncedPushSecrets {
    let mut all = pushed.clone();
    for entry in entries {
        let places = all.entry(store_name(&entry.store)).or_default();
        places.insert(place(&entry.told.match_.remote_ref), entry.told.clone());
    }
    all
}

/// The metadata that a deletion is told with.
pub fn target_of(data: &PushData) -> Target {
    let remote = &data.match_.remote_ref;
    Target {
        key: remote.remote_key.clone(),
        property: remote.property.clone().filter(|p| !p.is_empty()),
        metadata: data.metadata.clone().filter(|m| !matches!(m, Value::Null)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;

    fn object(spec: Value) -> PushSecret {
        let mut all = json!({
            "secretStoreRefs": [{"name": "vault"}], "selector": {"secret": {"name": "app"}},
            "data": [{"match": {"secretKey": "k", "remoteRef": {"remoteKey": "r"}}}],
        });
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "external-secrets.io/v1alpha1", "kind": "PushSecret",
            "metadata": {"name": "push", "namespace": "ns", "uid": "u", "generation": 1}, "spec": all,
        }))
        .unwrap()
    }

    fn given(pairs: &[(&str, &str)]) -> Given {
        let data = pairs.iter().map(|(k, v)| ((*k).to_owned(), SecretBytes::from(*v))).collect();
        Given { name: "Secret ns/app".into(), data, ..Given::default() }
    }

    fn shown(object: &PushSecret, given: &[Given]) -> (Vec<String>, Vec<String>) {
        let with = |namespace: Option<&str>, _: &LabelSelector| {
            ["one", "two"].map(|name| StoreKey { namespace: namespace.map(Into::into), name: name.into() }).to_vec()
        };
        let (entries, problems) = entries(object, &"ns".into(), given, &with);
        let text = |entry: &Entry| {
            let value = match &entry.value {
                Payload::Bytes(bytes) | Payload::Property(bytes) => bytes.as_text().unwrap().to_owned(),
                Payload::Fields(fields) => format!("{:?}", fields.keys().collect::<Vec<_>>()),
            };
            format!("{}/{} = {value}", entry.store.name, place(&entry.told.match_.remote_ref))
        };
        (entries.iter().map(text).collect(), problems)
    }

    fn push(secret_key: Option<&str>, remote: &str, property: Option<&str>) -> Value {
        json!({"match": {"secretKey": secret_key, "remoteRef": {"remoteKey": remote, "property": property}}})
    }

    #[test]
    fn keys_go_to_every_store_and_the_whole_goes_without_a_key() {
        let spec = json!({
            "secretStoreRefs": [{"name": "vault"}, {"labelSelector": {}, "kind": "ClusterSecretStore"}],
            "data": [push(Some("k"), "r", Some("p")), push(None, "whole", None)],
        });
        let (entries, problems) = shown(&object(spec), &[given(&[("k", "1"), ("l", "2")])]);
        let of = |store: &str| [format!("{store}/r/p = 1"), format!("{store}/whole = [\"k\", \"l\"]")];
        assert_eq!(entries, [of("one"), of("two"), of("vault")].concat());
        assert!(problems.is_empty());
    }

    #[test]
    fn many_keys_are_matched_renamed_or_bundled_and_single_ones_win() {
        let store = json!({"name": "vault"});
        let spec = json!({
            "data": [push(Some("db-user"), "app/user", None), push(Some("db-PASS"), "elsewhere", None)],
            "dataTo": [
                {"storeRef": store, "match": {"regexp": "^db-"}, "rewrite": [{"regexp": {"source": "^db-(.*)", "target": "app/$1"}},
                    {"transform": {"template": "{{ .value | lower }}"}}]},
                {"storeRef": store, "remoteKey": "bundle", "match": {"regexp": "^x"}},
                {"storeRef": {"name": "other"}, "conversionStrategy": "ReverseUnicode", "match": {"regexp": " |PASS"}},
            ],
        });
        let secret = given(&[("db-user", "u"), ("db-PASS", "p"), ("db-PORT", "1"), ("x1", "1"), ("x2", "2"), ("a_U0020_b", "s")]);
        let (entries, problems) = shown(&object(spec), &[secret]);
        // What is named for one store still goes by rule to another.
        let expected = [
            "other/a b = s",
            "other/db-PASS = p",
            "vault/app/port = 1",
            "vault/app/user = u",
            "vault/bundle = [\"x1\", \"x2\"]",
            "vault/elsewhere = p",
        ];
        assert_eq!((entries, problems), (expected.map(str::to_owned).to_vec(), vec![]));
    }

    #[test]
    fn what_can_not_be_pushed_is_named_and_no_value() {
        let two = json!({"data": [push(Some("k"), "r", None), push(Some("l"), "r", None)]});
        let (_, problems) = shown(&object(two), &[given(&[("k", "CANARY"), ("l", "CANARY")])]);
        assert_eq!(problems, ["SecretStore ns/vault, remote key r: two values go there; name other keys"]);
        let (entries, problems) = shown(&object(json!({})), &[given(&[("other", "CANARY")])]);
        assert_eq!(problems, ["spec.data[0]: Secret ns/app has no key k; it has other"]);
        assert!(entries.is_empty());
        let (_, problems) = shown(&object(json!({})), &[given(&[("k", "a")]), given(&[("k", "b")])]);
        assert!(problems[0].contains("two values go there"));
        let same =
            json!({"data": [], "dataTo": [{"storeRef": {"name": "vault"}, "rewrite": [{"transform": {"template": "x"}}]}]});
        let (_, problems) = shown(&object(same), &[given(&[("k", "a"), ("l", "b")])]);
        assert!(
            problems[0].starts_with("spec.dataTo[0].rewrite[0].transform.template: keys \"k\" and \"l\" both become"),
            "{problems:?}"
        );
        for (spec, needle) in [
            (json!({"refreshInterval": "x"}), "spec.refreshInterval"),
            (json!({"data": []}), "spec.data and spec.dataTo are empty"),
            (json!({"secretStoreRefs": []}), "spec.secretStoreRefs is empty"),
            (json!({"selector": {"secret": {}}}), "neither a name nor a selector"),
            (json!({"dataTo": [{"storeRef": {"name": "a"}, "match": {"regexp": "("}}]}), "spec.dataTo[0].match.regexp"),
        ] {
            let error = settings(&object(spec)).unwrap_err();
            assert!(error.contains(needle), "{error}");
        }
    }

    #[test]
    fn only_what_was_pushed_and_is_wanted_no_more_is_deleted_and_only_under_that_policy() {
        let o = object(json!({"deletionPolicy": "Delete"}));
        let with = |_: Option<&str>, _: &LabelSelector| vec![];
        let (entries, _) = entries(&o, &"ns".into(), &[given(&[("k", "1")])], &with);
        let pushed = with_entries(&SyncedPushSecrets::new(), &entries);
        assert_eq!(leftovers(&o, &pushed, &entries), []);
        let gone = leftovers(&o, &pushed, &[]);
        assert_eq!((gone[0].0.as_str(), gone[0].1.as_str()), ("SecretStore/vault", "r"));
        assert_eq!(store_of(&"ns".into(), &gone[0].0), Some(StoreKey { namespace: Some("ns".into()), name: "vault".into() }));
        assert_eq!(leftovers(&object(json!({})), &pushed, &[]), []);
    }

    #[test]
    fn it_is_pushed_when_it_or_its_source_changes_and_in_its_turn() {
        let o = object(json!({}));
        let at = |s: i64| Timestamp::from_second(1_700_000_000 + s).unwrap();
        let memo =
            Memo { synced: Some(synced_version(&o)), refreshed: Some(at(0)), ready: Some(true), met: true, ..Memo::default() };
        let i = Instant::now();
        let word = |memo: &Memo, wake: Wake, s: i64| match plan(&o, memo, wake, false, at(s)) {
            Plan::Skip(_) => "skip",
            Plan::Push(_) => "push",
            Plan::Finish => "finish",
            Plan::Reject(_) => "reject",
        };
        assert_eq!(word(&memo, Wake::timer(i), 10), "skip");
        assert_eq!(word(&memo, Wake::source(i), 10), "push");
        assert_eq!(word(&memo, Wake::store(i), 10), "push");
        assert_eq!(word(&memo, Wake::turn(i), 3601), "push");
        assert_eq!(word(&memo, Wake::turn(i), 10), "skip");
        assert_eq!(word(&Memo { synced: None, ..memo.clone() }, Wake::changed(i), 10), "push");
        assert_eq!(word(&Memo { ready: Some(false), ..memo.clone() }, Wake::timer(i), 10), "push");
        assert_eq!(word(&Memo { met: false, ..memo }, Wake::changed(i), 10), "skip", "a start looks at them in turns");
    }

    #[test]
    fn unicode_is_reversed_where_it_is_one() {
        for (key, expected) in [
            ("a_U0020_b", "a b"),
            ("_U002f__U002f_", "//"),
            ("a_U00", "a_U00"),
            ("_Uzzzz_", "_Uzzzz_"),
            ("_Ud800_", "_Ud800_"),
            ("é_U", "é_U"),
        ] {
            assert_eq!(unicode_reversed(key), expected);
        }
    }
}
