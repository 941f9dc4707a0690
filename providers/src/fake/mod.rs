//! The fake provider: values that stand in the store's spec, for demos and tests. Pushed values live as long as the connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use lockstep_crds::store::fake::{FakeData, FakeProvider};

use crate::push::{is_there, merged, not_ours};
use crate::registry::Options;
use crate::{
    Access, Capabilities, Deleted, Error, Fetched, Find, Found, Payload, Provider, Push, Pushed, Resolver, Result, SecretBytes,
    Target, Validity, Want,
};

/// Values of a spec, and those that were pushed.
pub(crate) struct Fake {
    data: Vec<FakeData>,
    pushed: Mutex<BTreeMap<String, SecretBytes>>,
    validation: Result<Validity>,
}

pub(crate) async fn connect(spec: FakeProvider, _: Arc<dyn Resolver>, _: &Options) -> Result<Fake> {
    let validation = match spec.validation_result {
        None | Some(0) => Ok(Validity::Valid),
        Some(1) => Ok(Validity::Unknown),
        Some(_) => Err(Error::invalid("spec.provider.fake.validationResult", "says that the store is invalid")),
    };
    Ok(Fake { data: spec.data, pushed: Mutex::default(), validation })
}

impl Fake {
    fn read(&self, want: &Want) -> Result<Fetched> {
        if want.metadata {
            return Err(Error::Unsupported("metadataPolicy Fetch: the fake provider has no metadata".into()));
        }
        let value = self.value(&want.key, want.version.as_deref());
        let value =
            value.ok_or_else(|| Error::NotFound("no entry of spec.provider.fake.data has this key and version".into()))?;
        Ok(Fetched::Value { payload: Arc::new(Payload::Bytes(value)), version: None })
    }

    fn value(&self, key: &str, version: Option<&str>) -> Option<SecretBytes> {
        let matches = |e: &&FakeData| e.key == key && version.is_none_or(|v| Some(v) == e.version.as_deref());
        let given = self.data.iter().rev().find(matches).map(|e| SecretBytes::from(e.value.as_str()));
        given.or_else(|| self.pushed().get(key).filter(|_| version.is_none()).cloned())
    }

    fn is_given(&self, key: &str) -> bool {
        self.data.iter().any(|e| e.key == key)
    }

    fn pushed(&self) -> MutexGuard<'_, BTreeMap<String, SecretBytes>> {
        self.pushed.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[async_trait]
impl Provider for Fake {
    async fn validate(&self) -> Result<Validity> {
        self.validation.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { access: Access::ReadWrite, batch: 100, concurrency: 16, takes_property: false }
    }

    async fn get(&self, wants: &[Want]) -> Vec<Result<Fetched>> {
        wants.iter().map(|want| self.read(want)).collect()
    }

    async fn find(&self, query: &Find) -> Result<Vec<Found>> {
        if !query.tags.is_empty() || query.path.is_some() {
            return Err(Error::Unsupported("dataFrom.find: the fake provider has names only, no tags and no paths".into()));
        }
        let mut keys: Vec<String> = self.data.iter().map(|e| e.key.clone()).chain(self.pushed().keys().cloned()).collect();
        keys.sort();
        keys.dedup();
        keys.retain(|key| query.admits_name(key));
        let found = |key: String| Found { payload: None, name: key.clone(), key };
        Ok(keys.into_iter().map(found).collect())
    }

    async fn push(&self, push: &Push) -> Result<Pushed> {
        let key = &push.target.key;
        let current = self.value(key, None);
        let object = current.as_ref().and_then(|bytes| serde_json::from_slice(bytes.expose()).ok());
        let there = match &push.target.property {
            None => current.is_some(),
            Some(_) => is_there(push, object.as_ref()),
        };
        if push.only_new && there {
            return Ok(Pushed::Unchanged);
        }
        if self.is_given(key) {
            return Err(not_ours(&format!("{key} stands in spec.provider.fake.data, so it"), "its removal from there"));
        }
        let value = match &push.target.property {
            None => push.value.to_bytes()?,
            Some(_) => SecretBytes::from(serde_json::Value::Object(merged(push, object.as_ref())?).to_string()),
        };
        let before = self.pushed().insert(key.clone(), value.clone());
        Ok(match before {
            None => Pushed::Created,
            Some(before) if before == value => Pushed::Unchanged,
            Some(_) => Pushed::Updated,
        })
    }

    async fn delete(&self, target: &Target) -> Result<Deleted> {
        if self.is_given(&target.key) {
            return Ok(Deleted::NotOurs);
        }
        let mut pushed = self.pushed();
        let Some(current) = pushed.get(&target.key) else { return Ok(Deleted::Absent) };
        let mut rest = serde_json::Map::new();
        if let Some(property) = &target.property {
            rest = serde_json::from_slice(current.expose()).unwrap_or_default();
            if rest.remove(property).is_none() {
                return Ok(Deleted::Absent);
            }
        }
        match rest.is_empty() {
            true => drop(pushed.remove(&target.key)),
            false => {
                let rest = SecretBytes::from(serde_json::Value::Object(rest).to_string());
                pushed.insert(target.key.clone(), rest);
            }
        }
        Ok(Deleted::Done)
    }
}

#[cfg(test)]
mod tests {
    use gotemplate::regexp::Regexp;

    use super::*;
    use crate::Source;
    use crate::resolver::Fixed;

    async fn fake() -> Fake {
        let data = ["a-1", "a-2", "b-1"].map(|key| FakeData { key: key.into(), value: "{}".into(), version: None });
        let spec = FakeProvider { data: data.into(), validation_result: None };
        connect(spec, Arc::new(Fixed(String::new())), &Options::default()).await.expect("a connection")
    }

    fn push(key: &str, property: Option<&str>, value: &str) -> Push {
        let target = Target { key: key.into(), property: property.map(Into::into), metadata: None };
        Push { target, value: Payload::Bytes(value.into()), only_new: false, source: Source::default() }
    }

    #[tokio::test]
    async fn names_are_found_and_tags_are_refused() {
        let fake = fake().await;
        let named = Find { name: Regexp::new("^a").ok(), ..Find::default() };
        let found: Vec<String> = fake.find(&named).await.expect("names").into_iter().map(|f| f.key).collect();
        assert_eq!(found, ["a-1", "a-2"]);
        let tagged = Find { tags: BTreeMap::from([("a".into(), "b".into())]), ..Find::default() };
        assert!(matches!(fake.find(&tagged).await, Err(Error::Unsupported(_))));
    }

    #[tokio::test]
    async fn what_was_pushed_is_read_and_what_stands_in_the_spec_is_left_alone() {
        let fake = fake().await;
        assert_eq!(fake.push(&push("new", Some("p"), "1")).await, Ok(Pushed::Created));
        assert_eq!(fake.push(&push("new", Some("p"), "1")).await, Ok(Pushed::Unchanged));
        assert_eq!(fake.push(&push("new", Some("q"), "2")).await, Ok(Pushed::Updated));
        assert_eq!(fake.value("new", None), Some(r#"{"p":"1","q":"2"}"#.into()));
        let kept = Push { only_new: true, ..push("new", Some("p"), "3") };
        assert_eq!(fake.push(&kept).await, Ok(Pushed::Unchanged));
        assert!(matches!(fake.push(&push("a-1", None, "x")).await, Err(Error::Invalid { .. })));
        assert_eq!(fake.delete(&push("a-1", None, "").target).await, Ok(Deleted::NotOurs));
        assert_eq!(fake.delete(&push("new", Some("p"), "").target).await, Ok(Deleted::Done));
        assert_eq!(fake.value("new", None), Some(r#"{"q":"2"}"#.into()));
        assert_eq!(fake.delete(&push("new", None, "").target).await, Ok(Deleted::Done));
        assert_eq!(fake.delete(&push("new", None, "").target).await, Ok(Deleted::Absent));
    }
}
