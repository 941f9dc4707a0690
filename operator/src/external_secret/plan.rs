//! What is to be done with an ExternalSecret now: a pure decision over what was observed.
//!
//! Nothing here knows a client or a clock. [`plan`] answers with one of [`Plan`]'s variants; what a refresh reads is laid
//! out by [`sources`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use lockstep_crds::ExternalSecret;
use lockstep_crds::duration::parse_go;
use lockstep_crds::external_secret::{
    CreationPolicy, DeletionPolicy, Find, GeneratorRef, RefreshPolicy, RemoteRef, Rewrite, SourceRef, StoreRef,
};
use lockstep_crds::generator::GeneratorKind;
use sha2::{Digest, Sha256};

use super::Memo;
use super::target::{self, Seen};
use super::{manifest, template};
use crate::keys::{GeneratorKey, ObjectKey, StoreKey, stable_hash};
use crate::queue::Wake;
use crate::turns::Turn;
use crate::windows::Windows;

/// What is known, from caches alone.
pub struct Observed<'a> {
    /// The object.
    pub object: &'a ExternalSecret,
    /// What this process knows of it beside its status.
    pub memo: &'a Memo,
    /// Its target.
    pub target: Seen,
    /// Another object that has the target, if any.
    pub claimed_by: Option<ObjectKey>,
    /// What speaks against one of its stores, if anything.
    pub stores: StoreVerdict,
    /// Whether a store of it is read as the namespace that uses it.
    pub referent: bool,
    /// Whether this operator serves the default class.
    pub is_default_class: bool,
    /// Whether something that its generators issued holds no longer.
    pub lapsed: bool,
    /// Whether this process looks at it for the first time.
    pub first: bool,
    /// Why it is looked at.
    pub wake: Wake,
    /// The wall clock.
    pub now: Timestamp,
}

/// Whether an object's stores can be used by it, as far as the cache tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreVerdict {
    /// All of them.
    Usable,
    /// All of them are another operator's: so is the object.
    Foreign,
    /// Not all of them, for this reason.
    Unusable(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Another operator's object: nothing is read or written.
    Ignore,
    /// Nothing is due before that time, or before the turn of a refresh that is.
    Skip(Option<Due>),
    /// Only the target was touched: look whether it still holds what was written.
    Inspect(Settings),
    /// Ask the providers.
    Fetch(Settings),
    /// The object can't be synced until it, or what it refers to, changes.
    Reject(String),
}

/// The parts of a spec that need parsing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// When to refresh.
    pub policy: RefreshPolicy,
    /// How often, with [`RefreshPolicy::Periodic`]; none: once.
    pub interval: Option<Duration>,
    /// Hash of what is read: objects with the same one are refreshed together.
    pub group: u64,
    /// Hours at which periodic refreshes may happen; none: any.
    pub windows: Option<Windows>,
}

/// What failed and is refreshed only once is tried again after this time.
const WITHOUT_INTERVAL: Duration = Duration::from_secs(3600);

impl Settings {
    fn turn(&self, interval: Duration) -> Turn {
        Turn { group: self.group, every_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1) }
    }

    /// When the providers are due to be asked again after a refresh at `last`: never later than an interval after it.
    pub fn next_refresh(&self, last: Option<Timestamp>, now: Timestamp) -> Option<Due> {
        let (RefreshPolicy::Periodic, Some(interval), Some(last)) = (self.policy, self.interval, last) else { return None };
        let turn = self.turn(interval);
        // A refresh that is yet to come was told by a clock that has been set back since.
        let at = if last > now { now } else { turn.after(last) };
        let Some(windows) = &self.windows else { return Some(Due { at, turn }) };
        let soonest = at.max(now);
        let opens = windows.next_open(soonest)?;
        Some(Due { at: if opens == soonest { at } else { opens }, turn })
    }

    /// When its turn comes after a wait.
    pub fn in_turn(&self, now: Timestamp, wait: Duration) -> Due {
        let at = now.checked_add(wait).unwrap_or(Timestamp::MAX);
        Due { at, turn: self.turn(self.interval.unwrap_or(WITHOUT_INTERVAL)) }
    }

    /// When what failed for good is tried again, whatever the policy says of refreshes.
    pub fn next_try(&self, now: Timestamp) -> Due {
        let turn = self.turn(self.interval.unwrap_or(WITHOUT_INTERVAL));
        Due { at: turn.after(now), turn }
    }
}

/// When an object is to be refreshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// When.
    pub at: Timestamp,
    /// Together with whom.
    pub turn: Turn,
}

impl Observed<'_> {
    /// Whether nothing that the object names says whose it is: then it is the default class'.
    fn is_nobodys(&self) -> bool {
        let says = |kind: &str| GeneratorKind::of(kind).is_none_or(GeneratorKind::has_class);
        !self.is_default_class && is_storeless(self.object) && !self.object.generator_refs().any(|(_, r)| says(&r.kind))
    }
}

/// Whether an object reads from no store, so that its generators say whose it is.
pub fn is_storeless(object: &ExternalSecret) -> bool {
    object.store_refs().next().is_none()
}

/// Decides.
pub fn plan(observed: &Observed<'_>) -> Plan {
    let Observed { object, memo, target, wake, now, .. } = observed;
    if observed.stores == StoreVerdict::Foreign || observed.is_nobodys() {
        return Plan::Ignore;
    }
    if object.metadata.deletion_timestamp.is_some() {
        return Plan::Skip(None);
    }
    let settings = match settings(object, observed.referent) {
        Ok(settings) => settings,
        Err(why) => return Plan::Reject(why),
    };
    if let Some(other) = &observed.claimed_by {
        let (namespace, target) = (object.metadata.namespace.as_deref().unwrap_or_default(), object.target_name());
        return Plan::Reject(format!(
            "Secret {namespace}/{target} is the target of ExternalSecret {other} already, and not of {namespace}/{}; give one of the \
             two another spec.target.name",
            object.name_any()
        ));
    }
    if let StoreVerdict::Unusable(why) = &observed.stores {
        return Plan::Reject(why.clone());
    }
    let never = memo.refreshed.is_none() || memo.binding.as_ref().is_none_or(|b| b.name != object.target_name());
    let changed = memo.synced.as_deref() != Some(&synced_version(object));
    let failed = memo.ready != Some(true);
    let writes = object.spec.target.creation_policy != CreationPolicy::None && !memo.deleted_by_policy;
    let touched = writes && target.differs(memo.binding.as_ref());
    let next = settings.next_refresh(memo.refreshed, *now);
    // What only time asks for waits for its turn, which comes a little early to those whose group is served; not before a window.
    let early = |due: &Due| if settings.windows.is_some() { Duration::ZERO } else { due.turn.apart() };
    let due = wake.turn && next.is_some_and(|due| super::status::until(*now, due.at) <= early(&due));
    // So does what had failed already when this process came, unless a person changed it meanwhile.
    let old_failure = failed && observed.first && !changed && !wake.turn && !touched;
    // What has ended is worth nothing, whatever the policy says.
    let refresh = never
        || observed.lapsed
        || match settings.policy {
            RefreshPolicy::Periodic => {
                // A generator's values are not made anew on account of a store.
                let store = wake.store && object.generator_refs().next().is_none();
                changed || due || failed && !old_failure || store || wake.source || memo.owed
            }
            RefreshPolicy::OnChange => changed || memo.owed,
            RefreshPolicy::CreatedOnce => false,
        };
    if !refresh && old_failure && settings.policy == RefreshPolicy::Periodic {
        return Plan::Skip(Some(settings.in_turn(*now, Duration::ZERO)));
    }
    if !refresh && !touched && observed.first && is_unseen(object) {
        let due = settings.in_turn(*now, Duration::ZERO);
        let opens = settings.windows.as_ref().map_or(Some(due.at), |windows| windows.next_open(due.at));
        return Plan::Skip(opens.map(|at| Due { at, ..due }));
    }
    // What is synced once, or on changes, is not read again because something failed in between: it is looked at.
    match (refresh, touched || failed && writes, target) {
        (true, ..) | (false, true, Seen::Absent) => Plan::Fetch(settings),
        (false, true, Seen::There { .. }) => Plan::Inspect(settings),
        (false, false, _) if failed => Plan::Fetch(settings),
        (false, false, _) => Plan::Skip(next),
    }
}

/// Whether it is refreshed when its turn comes after a start: what its templates are read from was not watched until then.
pub fn is_unseen(object: &ExternalSecret) -> bool {
    let policy = object.spec.refresh_policy.unwrap_or_default();
    let once = object.spec.refresh_interval.as_deref().is_some_and(|text| parse_go(text).is_ok_and(|d| d.is_zero()));
    policy == RefreshPolicy::Periodic && !once && template::has_sources(object)
}

/// Parses and checks what the API server does not.
///
/// # Errors
/// A sentence that names the field.
pub fn settings(object: &ExternalSecret, referent: bool) -> Result<Settings, String> {
    not_served_yet(object)?;
    let spec = &object.spec;
    let interval = match spec.refresh_interval.as_deref() {
        None => Some(Duration::from_secs(3600)),
        Some(text) => {
            parse_go(text).map(|d| (!d.is_zero()).then_some(d)).map_err(|why| format!("spec.refreshInterval: {why}"))?
        }
    };
    let (creation, deletion) = (spec.target.creation_policy, spec.target.deletion_policy);
    if deletion == DeletionPolicy::Delete && creation != CreationPolicy::Owner {
        return Err("spec.target.deletionPolicy: Delete needs creationPolicy Owner: only an owned target may be deleted".into());
    }
    if deletion == DeletionPolicy::Merge && creation == CreationPolicy::None {
        return Err("spec.target.deletionPolicy: Merge makes no sense with creationPolicy None".into());
    }
    if spec.data.is_empty() && spec.data_from.is_empty() {
        return Err("spec.data and spec.dataFrom are empty; name what is to be synced".into());
    }
    if let Some(type_) = spec.target.template.as_ref().and_then(|t| t.type_.as_deref()) {
        target::check_type(type_)?;
    }
    check_engine("spec.target.template", spec.target.template.as_ref())?;
    let windows = spec.sync_windows.as_ref().map(Windows::new).transpose()?;
    let namespace: Arc<str> = object.metadata.namespace.as_deref().unwrap_or_default().into();
    for (i, generator) in object.generator_refs() {
        GeneratorKey::referred(&namespace, generator)
            .map_err(|why| format!("spec.dataFrom[{i}].sourceRef.generatorRef: {why}"))?;
    }
    Ok(Settings { policy: spec.refresh_policy.unwrap_or_default(), interval, group: group(object, referent), windows })
}

/// Templates of an older engine mean something else.
///
/// # Errors
/// A sentence about `engineVersion`.
pub fn check_engine(field: &str, template: Option<&lockstep_crds::external_secret::Template>) -> Result<(), String> {
    match template.and_then(|t| t.engine_version.as_deref()).filter(|v| !v.is_empty() && *v != "v2") {
        Some(other) => Err(format!("{field}.engineVersion: {other} is not served; templates are of v2")),
        None => Ok(()),
    }
}

/// The least of the hashes of what is read: two objects that share a remote secret are likely to have the same one.
fn group(object: &ExternalSecret, referent: bool) -> u64 {
    let namespace: Arc<str> = object.metadata.namespace.as_deref().unwrap_or_default().into();
    let sources = sources(object, &namespace).unwrap_or_default();
    let hash = |source: &Source<'_>| {
        let key = source.remote().map_or_else(|| source.describe(), |remote| remote.key.clone());
        match &source.origin {
            Origin::Store(store) => {
                let of = if referent { Some(&*namespace) } else { store.namespace.as_deref() };
                stable_hash(&[of.unwrap_or_default(), &store.name, &key])
            }
            // Nobody shares what it gives.
            Origin::Generator(_) => stable_hash(&[&namespace, object.metadata.name.as_deref().unwrap_or_default(), &key]),
        }
    };
    sources.iter().map(hash).min().unwrap_or_default()
}

/// Names the first field that this version does not serve: better no Secret than another one than asked for.
fn not_served_yet(object: &ExternalSecret) -> Result<(), String> {
    let spec = &object.spec;
    let generator = |source: &Option<SourceRef>| source.as_ref().is_some_and(|s| s.generator_ref.is_some());
    for (i, entry) in spec.data_from.iter().enumerate() {
        if entry.extract.is_none() && entry.find.is_none() && !generator(&entry.source_ref) {
            return Err(format!("spec.dataFrom[{i}] names neither extract nor find nor a generator"));
        }
    }
    if let Some(i) = spec.data.iter().position(|d| generator(&d.source_ref)) {
        return Err(format!(
            "spec.data[{i}].sourceRef.generatorRef: a generator gives several keys; call it from spec.dataFrom and rename them with rewrite"
        ));
    }
    if let Some(manifest) = &spec.target.manifest {
        manifest::check(manifest)?;
        if spec.target.immutable == Some(true) {
            return Err("spec.target.immutable is for Secrets, and spec.target.manifest names another kind".into());
        }
    }
    Ok(())
}

/// Where the values of an entry come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A store.
    Store(StoreKey),
    /// A generator.
    Generator(GeneratorKey),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(key) => key.fmt(f),
            Self::Generator(key) => key.fmt(f),
        }
    }
}

/// One entry of `dataFrom` or `data`, with where it comes from.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    /// The store or the generator.
    pub origin: Origin,
    /// What is read there.
    pub ask: Ask<'a>,
    /// What becomes of the keys.
    pub rewrite: &'a [Rewrite],
}

/// What an entry reads.
#[derive(Clone, Copy, Debug)]
pub enum Ask<'a> {
    /// One key of the target from one remote secret.
    Key(&'a str, &'a RemoteRef),
    /// Every key of the object that a remote secret is.
    Extract(&'a RemoteRef),
    /// Every remote secret that matches.
    Find(&'a Find),
    /// Everything that the generator gives, which stands in this entry of `dataFrom`.
    Generate(usize),
}

impl Source<'_> {
    /// The remote secret that is read; none for those that are looked for.
    pub fn remote(&self) -> Option<&RemoteRef> {
        match self.ask {
            Ask::Key(_, remote) | Ask::Extract(remote) => Some(remote),
            Ask::Find(_) | Ask::Generate(_) => None,
        }
    }

    /// The entry in a message: store, key, property, and version.
    pub fn describe(&self) -> String {
        let mut text = self.origin.to_string();
        let mut add = |what: &str, value: Option<&str>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                text.push_str(&format!(", {what} {value}"));
            }
        };
        match self.ask {
            Ask::Key(_, remote) | Ask::Extract(remote) => {
                add("key", Some(&remote.key));
                add("property", remote.property.as_deref());
                add("version", remote.version.as_deref());
            }
            Ask::Find(find) => {
                let tags: Vec<String> = find.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
                add("find: path", find.path.as_deref());
                add("find: name", find.name.as_ref().and_then(|name| name.regexp.as_deref()));
                add("find: tags", Some(&tags.join(",")));
            }
            Ask::Generate(_) => {}
        }
        text
    }
}

/// Every entry in the order in which a later one wins: `dataFrom`, then `data`.
///
/// # Errors
/// A sentence that names an entry without a store.
pub fn sources<'a>(object: &'a ExternalSecret, namespace: &Arc<str>) -> Result<Vec<Source<'a>>, String> {
    let default = object.spec.secret_store_ref.as_ref();
    let store = |source: &'a Option<SourceRef>, field: &dyn Fn() -> String| -> Result<StoreKey, String> {
        let named = |r: &&StoreRef| r.name.as_deref().is_some_and(|n| !n.is_empty());
        let own = source.as_ref().and_then(|s| s.store_ref.as_ref());
        own.or(default)
            .filter(named)
            .map(|r| StoreKey::referred(namespace, r))
            .ok_or_else(|| format!("{} names no store, and neither does spec.secretStoreRef", field()))
    };
    let mut all = Vec::with_capacity(object.spec.data_from.len() + object.spec.data.len());
    for (i, entry) in object.spec.data_from.iter().enumerate() {
        if let Some(generator) = entry.source_ref.as_ref().and_then(|s| s.generator_ref.as_ref()) {
            let key = GeneratorKey::referred(namespace, generator);
            let key = key.map_err(|why| format!("spec.dataFrom[{i}].sourceRef.generatorRef: {why}"))?;
            all.push(Source { origin: Origin::Generator(key), ask: Ask::Generate(i), rewrite: &entry.rewrite });
            continue;
        }
        let ask = entry.extract.as_ref().map(Ask::Extract).or_else(|| entry.find.as_ref().map(Ask::Find));
        if let Some(ask) = ask {
            let origin = Origin::Store(store(&entry.source_ref, &|| format!("spec.dataFrom[{i}]"))?);
            all.push(Source { origin, ask, rewrite: &entry.rewrite });
        }
    }
    for (i, entry) in object.spec.data.iter().enumerate() {
        let origin = Origin::Store(store(&entry.source_ref, &|| format!("spec.data[{i}]"))?);
        all.push(Source { origin, ask: Ask::Key(&entry.secret_key, &entry.remote_ref), rewrite: &[] });
    }
    Ok(all)
}

/// Which of an object's generators an entry of `dataFrom` calls: the same one keeps its name when entries are put before it.
pub fn slots(object: &ExternalSecret) -> Vec<(usize, String)> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let slot = |(i, reference): (usize, &GeneratorRef)| (i, format!("{}/{}", reference.kind, reference.name));
    let of = object.generator_refs().map(|(i, reference)| {
        let count = counts.entry((&reference.kind, &reference.name)).or_insert(0);
        *count += 1;
        let (i, name) = slot((i, reference));
        (i, format!("{name}#{count}"))
    });
    of.collect()
}

/// `<generation>-<hash of labels and annotations>`: changes whenever a person changes the object.
pub fn synced_version(object: &ExternalSecret) -> String {
    synced_version_of(&object.metadata)
}

/// The same of any object.
pub fn synced_version_of(meta: &ObjectMeta) -> String {
    let mut hash = Sha256::new();
    for (mark, map) in [(b'l', &meta.labels), (b'a', &meta.annotations)] {
        for (k, v) in map.iter().flatten() {
            for part in [k, v] {
                hash.update([mark]);
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
    }
    let digest = hash.finalize();
    let hex: String = digest[..14].iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{hex}", meta.generation.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use lockstep_crds::external_secret::Binding;
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;

    fn object(spec: serde_json::Value) -> ExternalSecret {
        let mut all = json!({
            "secretStoreRef": {"name": "vault"},
            "data": [{"secretKey": "k", "remoteRef": {"key": "app"}}],
        });
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret",
            "metadata": {"name": "es", "namespace": "ns", "uid": "u", "generation": 1},
            "spec": all,
        }))
        .unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn seen(version: &str) -> Seen {
        Seen::There { uid: "t".into(), version: version.into() }
    }

    /// Synced at 0 s, ready, its target untouched.
    fn synced(object: &ExternalSecret) -> Memo {
        Memo {
            synced: Some(synced_version(object).into()),
            refreshed: Some(at(0)),
            ready: Some(true),
            binding: Some(Binding {
                name: "es".into(),
                uid: Some("t".into()),
                resource_version: Some("7".into()),
                data_hash: Some("h".into()),
            }),
            ..Memo::default()
        }
    }

    fn decide(object: &ExternalSecret, memo: &Memo, target: Seen, wake: Wake, now: Timestamp) -> &'static str {
        let observed = Observed {
            object,
            memo,
            target,
            claimed_by: None,
            stores: StoreVerdict::Usable,
            referent: false,
            is_default_class: true,
            lapsed: false,
            first: false,
            wake,
            now,
        };
        match plan(&observed) {
            Plan::Ignore => "ignore",
            Plan::Skip(_) => "skip",
            Plan::Inspect(_) => "inspect",
            Plan::Fetch(_) => "fetch",
            Plan::Reject(_) => "reject",
        }
    }

    #[test]
    fn each_refresh_policy_refreshes_when_it_says_and_no_more() {
        let i = Instant::now();
        let (timer, store, turn) = (Wake::timer(i), Wake::store(i), Wake::turn(i));
        for (policy, interval, changed, wake, seconds, expected) in [
            ("Periodic", "1h", false, timer, 10, "skip"),
            ("Periodic", "1h", false, turn, 3601, "fetch"),
            ("Periodic", "1h", false, turn, 10, "skip"),
            ("Periodic", "1h", false, timer, 3601, "skip"),
            ("Periodic", "1h", false, turn, -10, "fetch"),
            ("Periodic", "1h", true, timer, 10, "fetch"),
            ("Periodic", "1h", false, store, 10, "fetch"),
            ("Periodic", "0", false, turn, 1 << 30, "skip"),
            ("Periodic", "0", true, timer, 10, "fetch"),
            ("OnChange", "1h", false, turn, 3601, "skip"),
            ("OnChange", "1h", false, store, 10, "skip"),
            ("OnChange", "1h", true, timer, 10, "fetch"),
            ("CreatedOnce", "1h", false, turn, 3601, "skip"),
            ("CreatedOnce", "1h", true, timer, 10, "skip"),
        ] {
            let es = object(json!({"refreshPolicy": policy, "refreshInterval": interval}));
            let mut memo = synced(&es);
            if changed {
                memo.synced = Some("0-other".into());
            }
            let got = decide(&es, &memo, seen("7"), wake, at(seconds));
            assert_eq!(got, expected, "{policy} {interval} changed={changed} at {seconds}");
        }
    }

    #[test]
    fn a_turn_may_come_a_sixth_of_the_interval_early_and_never_before_a_window() {
        let turn = Wake::turn(Instant::now());
        let window = json!({"kind": "allow", "windows": [{"schedule": "0 0 1 1 *", "duration": "1h"}]});
        for (windows, minutes, expected) in [(json!(null), 9, "fetch"), (json!(null), 11, "skip"), (window, 9, "skip")] {
            let es = object(json!({"refreshInterval": "1h", "syncWindows": windows}));
            let due = settings(&es, false).unwrap().next_refresh(Some(at(0)), at(0)).unwrap().at;
            let now = due.checked_sub(Duration::from_secs(60 * minutes)).unwrap();
            assert_eq!(decide(&es, &synced(&es), seen("7"), turn, now), expected, "{minutes} {windows}");
        }
    }

    #[test]
    fn a_touched_target_is_inspected_a_missing_one_is_made_again_and_a_failed_sync_is_tried_again() {
        for policy in ["Periodic", "OnChange", "CreatedOnce"] {
            let es = object(json!({"refreshPolicy": policy}));
            let timer = Wake::timer(Instant::now());
            let memo = synced(&es);
            assert_eq!(decide(&es, &memo, seen("8"), timer, at(1)), "inspect");
            assert_eq!(decide(&es, &memo, Seen::Absent, timer, at(1)), "fetch");
            let failed = Memo { ready: Some(false), ..synced(&es) };
            let again = if policy == "Periodic" { "fetch" } else { "inspect" };
            assert_eq!(decide(&es, &failed, seen("7"), timer, at(1)), again);
            let owed = Memo { owed: true, ..synced(&es) };
            let again = if policy == "CreatedOnce" { "skip" } else { "fetch" };
            assert_eq!(decide(&es, &owed, seen("7"), timer, at(1)), again);
            assert_eq!(decide(&es, &Memo::default(), Seen::Absent, timer, at(1)), "fetch");
            let gone = Memo { deleted_by_policy: true, ..synced(&es) };
            assert_eq!(decide(&es, &gone, Seen::Absent, timer, at(1)), "skip");
            let renamed = object(json!({"refreshPolicy": policy, "target": {"name": "other"}}));
            assert_eq!(decide(&renamed, &synced(&renamed), Seen::Absent, timer, at(1)), "fetch");
        }
        let es = object(json!({"target": {"creationPolicy": "None"}}));
        assert_eq!(decide(&es, &synced(&es), Seen::Absent, Wake::timer(Instant::now()), at(1)), "skip");
    }

    #[test]
    fn fields_that_come_later_and_contradictions_are_named() {
        for (spec, needle) in [
            (json!({"refreshInterval": "banana"}), "spec.refreshInterval: \"banana\" is no duration"),
            (json!({"target": {"template": {"type": "kubernetes.io/service-account-token"}}}), "service-account-token"),
            (json!({"target": {"template": {"engineVersion": "v1"}}}), "spec.target.template.engineVersion: v1 is not served"),
            (json!({"target": {"manifest": {"apiVersion": "v1", "kind": "Secret"}}}), "spec.target.manifest is for other kinds"),
            (
                json!({"data": [{"secretKey": "k", "remoteRef": {"key": "k"}, "sourceRef": {"generatorRef": {"kind": "UUID", "name": "u"}}}]}),
                "spec.data[0].sourceRef.generatorRef: a generator gives several keys",
            ),
            (
                json!({"dataFrom": [{"sourceRef": {"generatorRef": {"kind": "MFA", "name": "u"}}}]}),
                "spec.dataFrom[0].sourceRef.generatorRef: kind MFA is not served; there are ACRAccessToken,",
            ),
            (
                json!({"syncWindows": {"kind": "allow", "windows": [{"schedule": "61 * * * *", "duration": "1h"}]}}),
                "spec.syncWindows.windows[0].schedule: \"61\" is no minute",
            ),
            (
                json!({"syncWindows": {"kind": "allow", "windows": [{"schedule": "@daily", "duration": "long"}]}}),
                "spec.syncWindows.windows[0].duration: ",
            ),
            (json!({"target": {"creationPolicy": "Merge", "deletionPolicy": "Delete"}}), "needs creationPolicy Owner"),
            (json!({"target": {"creationPolicy": "None", "deletionPolicy": "Merge"}}), "makes no sense"),
            (json!({"data": []}), "spec.data and spec.dataFrom are empty"),
        ] {
            let error = settings(&object(spec), false).unwrap_err();
            assert!(error.contains(needle), "{error}");
        }
        let tls = object(json!({"target": {"template": {"type": "kubernetes.io/tls", "engineVersion": "v2"}}}));
        assert!(settings(&tls, false).is_ok());
    }

    #[test]
    fn several_stores_feed_one_object_and_data_comes_after_data_from() {
        let es = object(json!({
            "dataFrom": [{"extract": {"key": "all"}, "sourceRef": {"storeRef": {"name": "shared", "kind": "ClusterSecretStore"}}}],
        }));
        let namespace = "ns".into();
        let described: Vec<_> = sources(&es, &namespace).unwrap().iter().map(Source::describe).collect();
        assert_eq!(described, ["ClusterSecretStore shared, key all", "SecretStore ns/vault, key app"]);
        let mut homeless = es.clone();
        homeless.spec.secret_store_ref = None;
        assert!(sources(&homeless, &namespace).unwrap_err().contains("spec.data[0] names no store"));
        assert_eq!(homeless.store_refs().count(), 1);
    }

    #[test]
    fn what_failed_before_a_restart_waits_for_its_turn_and_what_was_never_synced_does_not() {
        let es = object(json!({}));
        let first = |memo: &Memo| {
            let wake = Wake::changed(Instant::now());
            plan(&Observed {
                object: &es,
                memo,
                target: seen("7"),
                claimed_by: None,
                stores: StoreVerdict::Usable,
                referent: false,
                is_default_class: true,
                lapsed: false,
                first: true,
                wake,
                now: at(10),
            })
        };
        let failed = Memo { ready: Some(false), ..synced(&es) };
        assert!(matches!(first(&failed), Plan::Skip(Some(due)) if due.at == at(10)));
        assert!(matches!(first(&synced(&es)), Plan::Skip(Some(due)) if due.at > at(10)));
        let never = Memo { refreshed: None, ..failed.clone() };
        assert!(matches!(first(&never), Plan::Fetch(_)));
        let changed = Memo { synced: Some("0-other".into()), ..failed };
        assert!(matches!(first(&changed), Plan::Fetch(_)));
    }

    #[test]
    fn objects_that_read_the_same_remote_secret_are_refreshed_together() {
        let group = |spec: serde_json::Value, namespace: &str, referent: bool| {
            let mut es = object(spec);
            es.metadata.namespace = Some(namespace.into());
            settings(&es, referent).unwrap().group
        };
        let shared = json!({"secretStoreRef": {"name": "vault", "kind": "ClusterSecretStore"}});
        assert_eq!(group(shared.clone(), "a", false), group(shared.clone(), "b", false));
        assert_ne!(group(shared.clone(), "a", true), group(shared, "b", true), "each with its own identity");
        assert_ne!(group(json!({}), "a", false), group(json!({}), "b", false), "each namespace has its own store");
        let other = json!({"data": [{"secretKey": "k", "remoteRef": {"key": "app", "property": "p"}}]});
        assert_eq!(group(json!({}), "a", false), group(other, "a", false), "whatever they take of it");
    }

    #[test]
    fn the_synced_version_changes_with_generation_labels_and_annotations() {
        let base = object(json!({}));
        let mut label = base.clone();
        label.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        let mut annotation = base.clone();
        annotation.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
        let mut split = base.clone();
        split.metadata.annotations = Some([("ab".to_owned(), String::new())].into());
        let mut generation = base.clone();
        generation.metadata.generation = Some(2);
        let all: std::collections::HashSet<_> =
            [&base, &label, &annotation, &split, &generation].map(synced_version).into_iter().collect();
        assert_eq!(all.len(), 5);
        assert!(synced_version(&base).starts_with("1-"));
    }
}
