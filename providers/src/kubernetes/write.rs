//! Searching, pushing and deleting Secrets.
//!
//! The mark of those that were pushed is a label. Other operators of this API leave no mark in Kubernetes: a Secret without one
//! is taken over when it holds already what is pushed, and left alone otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Kubernetes, Place, Secret, check_name};
use crate::push::{not_ours, settings};
use crate::{CLUSTER_CREDENTIALS, Deleted, Error, Find, Found, MANAGED_BY, Payload, Push, Pushed, Result, Target};

/// Secrets in one page of a list: their sizes may add up to a page's limit.
const PAGE: usize = 20;
/// Pages of a search at most, and bytes of them all.
const PAGES: usize = 1000;
const MOST_FOUND: usize = 32 << 20;

/// `metadata` of a PushSecret's entry.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    source_merge_policy: MergePolicy,
    #[serde(default)]
    target_merge_policy: TargetPolicy,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    remote_namespace: Option<String>,
}

/// What becomes of the source's labels and annotations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum MergePolicy {
    /// They go along; the entry's own win.
    #[default]
    Merge,
    /// Only the entry's own go along.
    Replace,
}

/// What becomes of the target's labels and annotations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum TargetPolicy {
    /// They stay; those that go along win.
    #[default]
    Merge,
    /// They are replaced.
    Replace,
    /// They stay as they are.
    Ignore,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMetadata,
    items: Vec<Secret>,
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    #[serde(default, rename = "continue")]
    next: String,
}

/// Labels and annotations that mean something to an operator in the cluster where they stand, and nothing to a copy.
fn travels(name: &str) -> bool {
    !name.starts_with("reconcile.external-secrets.io/") && name != "kubectl.kubernetes.io/last-applied-configuration"
}

type Names = BTreeMap<String, String>;

fn sent(policy: MergePolicy, source: &Names, own: &Names) -> Names {
    let mut all: Names = match policy {
        MergePolicy::Merge => source.iter().filter(|(name, _)| travels(name)).map(|(n, v)| (n.clone(), v.clone())).collect(),
        MergePolicy::Replace => Names::new(),
    };
    all.extend(own.iter().map(|(n, v)| (n.clone(), v.clone())));
    all
}

fn received(policy: TargetPolicy, there: Option<&Value>, sent: Names) -> Names {
    let there: Names = there.and_then(|v| Names::deserialize(v).ok()).unwrap_or_default();
    match policy {
        TargetPolicy::Merge => there.into_iter().chain(sent).collect(),
        TargetPolicy::Replace => sent,
        TargetPolicy::Ignore => there,
    }
}

fn is_ours(secret: &Value) -> bool {
    secret.pointer("/metadata/labels").and_then(|l| l.get(MANAGED_BY.0)).and_then(Value::as_str) == Some(MANAGED_BY.1)
}

fn data_of(secret: &Value) -> Map<String, Value> {
    secret.get("data").and_then(Value::as_object).cloned().unwrap_or_default()
}

/// The data that a push makes of the data that is there.
fn wanted_data(push: &Push, there: Option<&Map<String, Value>>) -> Result<Map<String, Value>> {
    let encoded = |bytes: &[u8]| Value::String(STANDARD.encode(bytes));
    match (&push.target.property, &push.value) {
        (None, Payload::Fields(fields)) => Ok(fields.iter().map(|(k, v)| (k.clone(), encoded(v.expose()))).collect()),
        (None, Payload::Bytes(_) | Payload::Property(_)) => {
            let why = "is not set; it names the key of the remote Secret that takes the value of match.secretKey";
            Err(Error::invalid("remoteRef.property", why))
        }
        (Some(property), value) => {
            let mut data = there.cloned().unwrap_or_default();
            data.insert(property.clone(), encoded(value.to_bytes()?.expose()));
            Ok(data)
        }
    }
}

/// The Secret that a push makes of the one that is there; none when that is as it should be.
fn wanted(push: &Push, settings: &Settings, namespace: &str, there: Option<&Value>) -> Result<Option<Value>> {
    let type_ = there.map_or(push.source.type_.as_deref(), |there| there["type"].as_str()).unwrap_or("Opaque");
    if CLUSTER_CREDENTIALS.contains(&type_) {
        let what = format!("Secret {namespace}/{}", push.target.key);
        let why = format!("{what} is refused as type {type_}: such a Secret is a credential of the cluster itself");
        return Err(Error::invalid("spec.template.type", why));
    }
    let data = wanted_data(push, there.map(data_of).as_ref())?;
    let of = |what: &str| there.and_then(|t| t.pointer(&format!("/metadata/{what}")));
    let policy = settings.source_merge_policy;
    let mut labels = sent(policy, &push.source.labels, &settings.labels);
    labels = received(settings.target_merge_policy, of("labels"), labels);
    labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    let annotations = sent(policy, &push.source.annotations, &settings.annotations);
    let annotations = received(settings.target_merge_policy, of("annotations"), annotations);
    let Some(there) = there else {
        return Ok(Some(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": push.target.key, "namespace": namespace, "labels": labels, "annotations": annotations},
            "type": type_,
            "data": data,
        })));
    };
    if !is_ours(there) && data != data_of(there) {
        let what = format!("Secret {namespace}/{}", push.target.key);
        return Err(not_ours(&what, &format!("the label {}={}", MANAGED_BY.0, MANAGED_BY.1)));
    }
    let mut secret = there.clone();
    secret["data"] = Value::Object(data);
    for (what, names) in [("labels", labels), ("annotations", annotations)] {
        if !(names.is_empty() && of(what).is_none()) {
            secret["metadata"][what] = json!(names);
        }
    }
    Ok((secret != *there).then_some(secret))
}

impl Kubernetes {
    /// Secrets with the name and the labels, with their values: a page of them costs what one costs.
    pub(super) async fn search(&self, query: &Find) -> Result<Vec<Found>> {
        if query.path.is_some() {
            return Err(Error::Unsupported("dataFrom.find.path: Secrets lie in no folders; leave it out".into()));
        }
        let selector = selector(&query.tags)?;
        let mut found = Vec::new();
        let mut next = String::new();
        let mut size = 0;
        for _ in 0..PAGES {
            let mut place = Place { namespace: &self.namespace, name: None, query: vec![("limit", PAGE.to_string())] };
            for (name, value) in [("labelSelector", &selector), ("continue", &next)] {
                if !value.is_empty() {
                    place.query.push((name, value.clone()));
                }
            }
            let body = self.call(Method::GET, &place, None).await?;
            size += body.len();
            if size > MOST_FOUND {
                return Err(Error::Unsupported(format!(
                    "dataFrom.find: the Secrets are more than {MOST_FOUND} bytes; narrow it by tags"
                )));
            }
            let page: Page =
                serde_json::from_slice(&body).map_err(|_| Error::unavailable("the answer is no SecretList; check server.url"))?;
            for secret in page.items.into_iter().filter(|s| query.admits_name(&s.metadata.name)) {
                let name = secret.metadata.name.clone();
                let payload = Some(Arc::new(Payload::Fields(secret.fields()?)));
                found.push(Found { key: name.clone(), name, payload });
            }
            if page.metadata.next.is_empty() {
                return Ok(found);
            }
            next = page.metadata.next;
        }
        Err(Error::unavailable("the list of Secrets does not end"))
    }

    fn namespace_of<'a>(&'a self, settings: &'a Settings) -> Result<&'a str> {
        match settings.remote_namespace.as_deref().filter(|n| !n.is_empty()) {
            None => Ok(&self.namespace),
            Some(named) if self.resolver.caller().cluster_store => {
                check_name("metadata.spec.remoteNamespace", named)?;
                Ok(named)
            }
            Some(_) => Err(Error::invalid("metadata.spec.remoteNamespace", "is for a ClusterSecretStore only; leave it out")),
        }
    }

    async fn current(&self, place: &Place<'_>) -> Result<Option<Value>> {
        match self.call(Method::GET, place, None).await {
            Ok(body) => serde_json::from_slice(&body)
                .map(Some)
                .map_err(|_| Error::unavailable("the answer is no Secret; check server.url")),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The write names the version that was read, so that nothing is overwritten that was written in between.
    pub(super) async fn write(&self, push: &Push) -> Result<Pushed> {
        let settings: Settings = settings(push.target.metadata.as_ref())?;
        let (namespace, name) = (self.namespace_of(&settings)?, push.target.key.as_str());
        check_name("remoteRef.remoteKey", name)?;
        let place = Place::secret(namespace, name);
        let current = self.current(&place).await?;
        let there = |secret: &Value| push.target.property.as_ref().is_none_or(|p| data_of(secret).contains_key(p));
        if push.only_new && current.as_ref().is_some_and(there) {
            return Ok(Pushed::Unchanged);
        }
        let Some(secret) = wanted(push, &settings, namespace, current.as_ref())? else { return Ok(Pushed::Unchanged) };
        match current {
            None => {
                let all = Place { namespace, name: None, query: Vec::new() };
                self.call(Method::POST, &all, Some(&secret)).await.map(|_| Pushed::Created)
            }
            Some(_) => self.call(Method::PUT, &place, Some(&secret)).await.map(|_| Pushed::Updated),
        }
    }

    pub(super) async fn remove(&self, target: &Target) -> Result<Deleted> {
        let settings: Settings = settings(target.metadata.as_ref())?;
        let namespace = self.namespace_of(&settings)?;
        check_name("remoteRef.remoteKey", &target.key)?;
        let place = Place::secret(namespace, &target.key);
        let Some(mut secret) = self.current(&place).await? else { return Ok(Deleted::Absent) };
        if !is_ours(&secret) {
            return Ok(Deleted::NotOurs);
        }
        if let Some(property) = &target.property {
            let mut rest = data_of(&secret);
            if rest.remove(property).is_none() {
                return Ok(Deleted::Absent);
            }
            if !rest.is_empty() {
                secret["data"] = Value::Object(rest);
                return self.call(Method::PUT, &place, Some(&secret)).await.map(|_| Deleted::Done);
            }
        }
        let of = |what: &str| secret.pointer(&format!("/metadata/{what}")).cloned();
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": of("uid"), "resourceVersion": of("resourceVersion")},
        });
        match self.call(Method::DELETE, &place, Some(&options)).await {
            Ok(_) => Ok(Deleted::Done),
            Err(Error::NotFound(_)) => Ok(Deleted::Absent),
            Err(error) => Err(error),
        }
    }
}

fn selector(tags: &Names) -> Result<String> {
    let fits = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    if let Some((name, _)) = tags.iter().find(|(name, value)| name.is_empty() || !fits(name) || !fits(value)) {
        let name = crate::error::foreign_text(name, &[]);
        return Err(Error::invalid("find.tags", format!("{name} and its value are no label that an object can have")));
    }
    let all: Vec<String> = tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(all.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SecretBytes, Source};

    fn push(property: Option<&str>, value: Payload) -> Push {
        let target = Target { key: "t".into(), property: property.map(Into::into), metadata: None };
        let names = |name: &str| Names::from([(name.to_owned(), "1".to_owned())]);
        let source = Source {
            type_: Some("kubernetes.io/tls".into()),
            labels: names("reconcile.external-secrets.io/managed"),
            annotations: names("team"),
        };
        Push { target, value, only_new: false, source }
    }

    fn fields(pairs: &[(&str, &str)]) -> Payload {
        Payload::Fields(pairs.iter().map(|(k, v)| ((*k).to_owned(), SecretBytes::from(*v))).collect())
    }

    #[test]
    fn a_new_secret_is_marked_and_carries_what_travels() {
        let made = wanted(&push(None, fields(&[("a", "x")])), &Settings::default(), "n", None).unwrap().expect("a Secret");
        assert_eq!(made["metadata"]["labels"], json!({"managed-by": "external-secrets"}));
        assert_eq!(made["metadata"]["annotations"], json!({"team": "1"}));
        assert_eq!((&made["type"], &made["data"]["a"]), (&json!("kubernetes.io/tls"), &json!("eA==")));
    }

    #[test]
    fn credentials_of_the_cluster_are_neither_made_nor_changed() {
        for type_ in CLUSTER_CREDENTIALS {
            let mut asked = push(Some("a"), Payload::Bytes("x".into()));
            asked.source.type_ = Some(type_.into());
            let error = wanted(&asked, &Settings::default(), "n", None).expect_err("refused").to_string();
            assert!(error.contains(type_) && error.contains("n/t"), "{error}");
            let there =
                json!({"metadata": {"name": "t", "labels": {"managed-by": "external-secrets"}}, "type": type_, "data": {}});
            let plain = push(Some("a"), Payload::Bytes("x".into()));
            assert!(wanted(&plain, &Settings::default(), "n", Some(&there)).is_err(), "{type_}");
        }
    }

    #[test]
    fn a_foreign_secret_is_left_alone_unless_it_holds_already_what_is_pushed() {
        let foreign = json!({"metadata": {"name": "t"}, "data": {"a": "eA==", "b": "eQ=="}});
        let other = push(Some("a"), Payload::Bytes("z".into()));
        let error = wanted(&other, &Settings::default(), "n", Some(&foreign)).expect_err("refused").to_string();
        assert!(error.contains("n/t") && error.contains("managed-by=external-secrets"), "{error}");
        let same = push(Some("a"), Payload::Bytes("x".into()));
        let taken = wanted(&same, &Settings::default(), "n", Some(&foreign)).unwrap().expect("a mark");
        assert!(is_ours(&taken));
        assert_eq!(wanted(&same, &Settings::default(), "n", Some(&taken)).unwrap(), None, "then nothing is to do");
        let changed = wanted(&other, &Settings::default(), "n", Some(&taken)).unwrap().expect("a change");
        assert_eq!(changed["data"], json!({"a": "eg==", "b": "eQ=="}));
    }

    #[test]
    fn metadata_says_what_goes_along_and_what_stays() {
        let there = json!({"metadata": {"name": "t", "labels": {"managed-by": "external-secrets", "old": "1"}}, "data": {}});
        for (source, target, expected) in [
            ("Merge", "Merge", json!({"managed-by": "external-secrets", "old": "1", "mine": "2", "own": "3"})),
            ("Replace", "Merge", json!({"managed-by": "external-secrets", "old": "1", "own": "3"})),
            ("Merge", "Replace", json!({"managed-by": "external-secrets", "mine": "2", "own": "3"})),
            ("Merge", "Ignore", json!({"managed-by": "external-secrets", "old": "1"})),
        ] {
            let metadata = json!({
                "apiVersion": "kubernetes.external-secrets.io/v1alpha1",
                "kind": "PushSecretMetadata",
                "spec": {"sourceMergePolicy": source, "targetMergePolicy": target, "labels": {"own": "3"}},
            });
            let mut push = push(None, fields(&[("a", "x")]));
            push.source.labels.insert("mine".into(), "2".into());
            let made = wanted(&push, &settings(Some(&metadata)).unwrap(), "n", Some(&there)).unwrap().expect("a change");
            assert_eq!(made["metadata"]["labels"], expected, "{source} {target}");
        }
        for wrong in [json!({"kind": "x"}), json!({"apiVersion": "v1", "kind": "PushSecretMetadata"}), json!(["CANARY"])] {
            let error = settings::<Settings>(Some(&wrong)).expect_err("wrong").to_string();
            assert!(error.starts_with("metadata:") && !error.contains("CANARY"), "{error}");
        }
    }

    #[test]
    fn labels_of_a_search_can_not_say_more_than_they_are() {
        let one = |name: &str, value: &str| selector(&Names::from([(name.to_owned(), value.to_owned())]));
        assert_eq!(one("app", "web").unwrap(), "app=web");
        for (name, value) in [("", "x"), ("a,b", "x"), ("a", "x,b=y"), ("a", "x y"), ("!a", "")] {
            assert!(one(name, value).is_err(), "{name} {value}");
        }
    }
}
