//! Secrets: keys to calls and answers to values.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crc::{CRC_32_ISCSI, Crc};
use google_cloud_gax::error::Error as SdkError;
use google_cloud_secretmanager_v1::client::SecretManagerService;
use google_cloud_secretmanager_v1::model::replication::user_managed::Replica;
use google_cloud_secretmanager_v1::model::replication::{Automatic, UserManaged};
use google_cloud_secretmanager_v1::model::{CustomerManagedEncryption, Replication, Secret, SecretPayload, Topic};
use google_cloud_wkt::FieldMask;
use serde::Deserialize;
use serde_json::json;

use super::wire::{Failure, Wire};
use crate::push::{Current, Without, Writing, not_ours, settings};
use crate::{Deleted, Error, Fetched, Find, Found, MANAGED_BY, Payload, Push, Pushed, Result, SecretBytes, Target, Want};

/// Castagnoli's polynomial (<https://cloud.google.com/secret-manager/docs/data-integrity>).
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// Secrets in one page of a list; the server takes up to 25,000.
const PAGE: i32 = 1000;
/// A list that has more pages than this goes round in circles.
const PAGES: usize = 1000;
const LATEST: &str = "latest";

/// Reads, searches and writes secrets.
pub(super) struct Secrets {
    client: SecretManagerService,
    reach: Arc<Wire>,
    /// `projects/P`, with `/locations/L` for regional secrets.
    parent: String,
    location: Option<String>,
    /// Whether a key without a version reads the latest that is enabled when the latest is not.
    fetch: bool,
    writing: Writing,
}

/// `metadata` of a PushSecret's entry.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    annotations: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    topics: Vec<String>,
    merge_policy: MergePolicy,
    cmek_key_name: Option<String>,
    replication_location: Option<String>,
    replication_locations: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum MergePolicy {
    #[default]
    Replace,
    Merge,
}

impl Secrets {
    pub(super) fn new(wire: Wire, project: &str, location: Option<&str>, fetch: bool) -> Self {
        let parent = match location {
            Some(location) => format!("projects/{project}/locations/{location}"),
            None => format!("projects/{project}"),
        };
        let location = location.map(str::to_owned);
        let wire = Arc::new(wire);
        Self {
            client: SecretManagerService::from_stub::<Wire>(wire.clone()),
            reach: wire,
            parent,
            location,
            fetch,
            writing: Writing::default(),
        }
    }

    /// The resource of a key.
    fn name(&self, field: &str, key: &str) -> Result<String> {
        let formed = (1..=255).contains(&key.len()) && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if formed {
            return Ok(format!("{}/secrets/{key}", self.parent));
        }
        let key = crate::error::foreign_text(key, &[]);
        Err(Error::invalid(field, format!("{key:?} is no name of a Google secret: letters, digits, - and _, at most 255")))
    }

    /// Makes sure that Secret Manager is where it should be.
    pub(super) async fn reach(&self) -> Result<()> {
        self.reach.reach().await
    }

    pub(super) async fn get(&self, want: &Want) -> Result<Fetched> {
        let name = self.name("remoteRef.key", &want.key)?;
        if want.metadata {
            let secret = self.secret(&name).await?;
            let (annotations, labels) = (sorted(&secret.annotations), sorted(&secret.labels));
            let text = json!({"annotations": annotations, "labels": labels}).to_string();
            let payload = Arc::new(Payload::Bytes(SecretBytes::from(text)));
            return Ok(Fetched::Value { payload, version: None });
        }
        let value = match want.version.as_deref().filter(|v| !v.is_empty()) {
            Some(version) => self.access(&format!("{name}/versions/{}", checked(version)?)).await.map_err(|f| f.error)?,
            None => self.latest(&name).await?,
        };
        Ok(Fetched::Value { payload: Arc::new(Payload::Bytes(value)), version: None })
    }

    async fn latest(&self, name: &str) -> Result<SecretBytes> {
        match self.access(&format!("{name}/versions/{LATEST}")).await {
            Err(failure) if self.fetch && failure.off.is_some() => match self.latest_enabled(name).await? {
                Some(version) => self.access(&version).await.map_err(|f| f.error),
                None => Err(failure.error),
            },
            answered => answered.map_err(|f| f.error),
        }
    }

    /// The newest version that is enabled.
    async fn latest_enabled(&self, name: &str) -> Result<Option<String>> {
        let mut newest: Option<(u64, String)> = None;
        let mut token = String::new();
        for _ in 0..PAGES {
            let request = self.client.list_secret_versions().set_parent(name).set_filter("state:ENABLED");
            let answer = request.set_page_size(PAGE).set_page_token(token).send().await.map_err(|e| Failure::of(&e).error)?;
            for version in answer.versions {
                let number = version.name.rsplit('/').next().and_then(|n| n.parse::<u64>().ok());
                if let Some(number) = number
                    && newest.as_ref().is_none_or(|(best, _)| number > *best)
                {
                    newest = Some((number, format!("{name}/versions/{number}")));
                }
            }
            token = answer.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        Ok(newest.map(|(_, version)| version))
    }

    async fn access(&self, version: &str) -> std::result::Result<SecretBytes, Failure> {
        let answer = self.client.access_secret_version().set_name(version).send().await;
        let payload = answer.map_err(|error| Failure::of(&error))?.payload;
        let payload = payload.ok_or_else(|| Error::unavailable(format!("Google answered {version} without a payload")))?;
        if let Some(expected) = payload.data_crc32c
            && i64::from(CRC32C.checksum(&payload.data)) != expected
        {
            return Err(Error::unavailable(format!("the value of {version} came damaged: its CRC32C is another")).into());
        }
        Ok(SecretBytes::new(payload.data.to_vec()))
    }

    async fn secret(&self, name: &str) -> Result<Secret> {
        self.client.get_secret().set_name(name).send().await.map_err(meaning)
    }

    /// Google's filter is for labels; everything is looked at again.
    pub(super) async fn find(&self, query: &Find) -> Result<Vec<Found>> {
        let path = query.path.as_deref().unwrap_or_default();
        let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        let tags = query.tags.iter().filter(|(key, value)| plain(key) && plain(value));
        let filter: Vec<String> = tags.map(|(key, value)| format!("labels.{key}={value}")).collect();
        let mut found = BTreeSet::new();
        let mut token = String::new();
        for _ in 0..PAGES {
            let request = self.client.list_secrets().set_parent(&self.parent).set_filter(filter.join(" AND "));
            let answer = request.set_page_size(PAGE).set_page_token(token).send().await.map_err(meaning)?;
            for secret in answer.secrets {
                let Some((_, name)) = secret.name.rsplit_once("/secrets/") else { continue };
                let tag = |key: &str| secret.labels.get(key).map(String::as_str);
                if name.starts_with(path) && query.admits_name(name) && query.admits_tags(tag) {
                    found.insert(name.to_owned());
                }
            }
            token = answer.next_page_token;
            if token.is_empty() {
                return Ok(found.into_iter().map(|name| Found { key: name.clone(), name, payload: None }).collect());
            }
        }
        Err(Error::unavailable(format!("Google's list of {} does not end", self.parent)))
    }

    pub(super) async fn push(&self, push: &Push) -> Result<Pushed> {
        let given: Settings = settings(push.target.metadata.as_ref())?;
        let _alone = self.writing.alone(&push.target.key).await;
        let name = self.name("remoteRef.remoteKey", &push.target.key)?;
        let secret = match self.secret(&name).await {
            Ok(secret) => Some(secret),
            Err(Error::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        let whole = push.target.property.is_none();
        let current = match &secret {
            Some(_) => match self.current(&name, whole && !push.only_new).await {
                // It is there, though it is switched off.
                Err(Error::Invalid { .. }) if whole && push.only_new => return Ok(Pushed::Unchanged),
                read => read?,
            },
            None => None,
        };
        let now = Current::new(current.as_ref());
        if push.only_new && now.has(push) {
            return Ok(Pushed::Unchanged);
        }
        if secret.as_ref().is_some_and(|secret| !is_ours(secret)) {
            return Err(not_ours(&name, &format!("the label {}={}", MANAGED_BY.0, MANAGED_BY.1)));
        }
        let value = now.next(push, &name)?;
        let changed = match &secret {
            None => {
                self.create(&push.target.key, &given).await?;
                false
            }
            Some(secret) => self.describe(secret, &name, &given).await?,
        };
        if current.as_ref() == Some(&value) {
            return Ok(if changed { Pushed::Updated } else { Pushed::Unchanged });
        }
        self.add(&name, &value).await?;
        Ok(if current.is_some() { Pushed::Updated } else { Pushed::Created })
    }

    /// The latest value, where there is one that can be read: a push over a version that is off makes a new one.
    async fn current(&self, name: &str, whole: bool) -> Result<Option<SecretBytes>> {
        match self.access(&format!("{name}/versions/{LATEST}")).await {
            Ok(value) => Ok(Some(value)),
            Err(Failure { error: Error::NotFound(_), .. }) => Ok(None),
            // What is only switched off may come back: nobody would thank us for a part of it as the latest version.
            Err(failure) if failure.off == Some("DESTROYED") || (failure.off.is_some() && whole) => Ok(None),
            Err(failure) if failure.off.is_some() => Err(Error::invalid(
                "remoteRef.property",
                format!(
                    "the latest version of {name} is disabled, and one property can't be changed without the rest; enable it, or destroy it"
                ),
            )),
            Err(failure) => Err(failure.error),
        }
    }

    async fn create(&self, key: &str, given: &Settings) -> Result<()> {
        let mut secret = Secret::new()
            .set_labels(given.all_labels(&HashMap::new()))
            .set_annotations(given.annotations.clone())
            .set_topics(given.topics.iter().map(|topic| Topic::new().set_name(topic)));
        let encryption = |key: &String| CustomerManagedEncryption::new().set_kms_key_name(key);
        secret = match &self.location {
            // Regional secrets are where they are, and take no replication.
            Some(_) => match &given.cmek_key_name {
                Some(key) => secret.set_customer_managed_encryption(encryption(key)),
                None => secret,
            },
            None => secret.set_replication(given.replication()),
        };
        let request = self.client.create_secret().set_parent(&self.parent).set_secret_id(key).set_secret(secret);
        request.send().await.map(drop).map_err(conflict)
    }

    /// Makes labels, annotations and topics what the metadata says, where it says anything.
    async fn describe(&self, secret: &Secret, name: &str, given: &Settings) -> Result<bool> {
        let labels = given.all_labels(&secret.labels);
        let mut next = Secret::new().set_name(name).set_etag(&secret.etag);
        let mut paths = Vec::new();
        if labels != secret.labels.clone().into_iter().collect() && !given.labels.is_empty() {
            next = next.set_labels(labels);
            paths.push("labels");
        }
        if sorted(&secret.annotations) != given.annotations && !given.annotations.is_empty() {
            next = next.set_annotations(given.annotations.clone());
            paths.push("annotations");
        }
        let topics: Vec<&str> = secret.topics.iter().map(|topic| topic.name.as_str()).collect();
        if topics != given.topics && !given.topics.is_empty() {
            next = next.set_topics(given.topics.iter().map(|topic| Topic::new().set_name(topic)));
            paths.push("topics");
        }
        if paths.is_empty() {
            return Ok(false);
        }
        let request = self.client.update_secret().set_secret(next).set_update_mask(FieldMask::default().set_paths(paths));
        request.send().await.map(|_| true).map_err(conflict)
    }

    async fn add(&self, name: &str, value: &SecretBytes) -> Result<()> {
        let checksum = i64::from(CRC32C.checksum(value.expose()));
        let payload = SecretPayload::new().set_data(value.expose().to_vec()).set_data_crc32c(checksum);
        let request = self.client.add_secret_version().set_parent(name).set_payload(payload);
        request.send().await.map(drop).map_err(meaning)
    }

    pub(super) async fn delete(&self, target: &Target) -> Result<Deleted> {
        let _alone = self.writing.alone(&target.key).await;
        let name = self.name("remoteRef.remoteKey", &target.key)?;
        let secret = match self.secret(&name).await {
            Ok(secret) => secret,
            Err(Error::NotFound(_)) => return Ok(Deleted::Absent),
            Err(error) => return Err(error),
        };
        if !is_ours(&secret) {
            return Ok(Deleted::NotOurs);
        }
        if let Some(property) = &target.property {
            let current = self.current(&name, false).await?;
            match Current::new(current.as_ref()).without(property) {
                Without::Absent => return Ok(Deleted::Absent),
                Without::Rest(rest) => return self.add(&name, &rest).await.map(|()| Deleted::Done),
                Without::Nothing => {}
            }
        }
        match self.client.delete_secret().set_name(&name).set_etag(&secret.etag).send().await.map_err(conflict) {
            Ok(()) => Ok(Deleted::Done),
            Err(Error::NotFound(_)) => Ok(Deleted::Absent),
            Err(error) => Err(error),
        }
    }
}

fn meaning(error: SdkError) -> Error {
    Failure::of(&error).error
}

/// A write that another one overtook is made again.
fn conflict(error: SdkError) -> Error {
    let failure = Failure::of(&error);
    let said = failure.error.to_string();
    match failure.code.as_str() {
        "ALREADY_EXISTS" | "ABORTED" => Error::unavailable(format!("somebody else wrote at the same time ({said})")),
        "FAILED_PRECONDITION" if said.to_ascii_lowercase().contains("etag") => {
            Error::unavailable(format!("somebody else wrote at the same time ({said})"))
        }
        // Such as a policy of the organisation about locations and keys.
        "FAILED_PRECONDITION" => Error::invalid("metadata", said),
        _ => failure.error,
    }
}

/// A number, an alias or `latest`.
fn checked(version: &str) -> Result<&str> {
    let formed = version.len() <= 63 && version.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if formed {
        return Ok(version);
    }
    let version = crate::error::foreign_text(version, &[]);
    Err(Error::invalid(
        "remoteRef.version",
        format!("{version:?} is no version of a Google secret: a number, an alias or latest"),
    ))
}

fn is_ours(secret: &Secret) -> bool {
    secret.labels.get(MANAGED_BY.0).map(String::as_str) == Some(MANAGED_BY.1)
}

fn sorted(map: &HashMap<String, String>) -> BTreeMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Settings {
    /// The labels of a secret that has `there`; with Merge those stay.
    fn all_labels(&self, there: &HashMap<String, String>) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        if self.merge_policy == MergePolicy::Merge {
            labels.extend(there.clone());
        }
        labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
        labels
    }

    fn replication(&self) -> Replication {
        let locations: Vec<&String> = match self.replication_locations.is_empty() {
            true => self.replication_location.iter().collect(),
            false => self.replication_locations.iter().collect(),
        };
        let encryption = |key: &String| CustomerManagedEncryption::new().set_kms_key_name(key);
        let key = self.cmek_key_name.as_ref().map(encryption);
        if locations.is_empty() {
            return Replication::new().set_automatic(Automatic::new().set_or_clear_customer_managed_encryption(key));
        }
        let replica = |location: &&String| {
            Replica::new().set_location(location.as_str()).set_or_clear_customer_managed_encryption(key.clone())
        };
        Replication::new().set_user_managed(UserManaged::new().set_replicas(locations.iter().map(replica)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_googles() {
        // https://cloud.google.com/secret-manager/docs/data-integrity shows this pair: "a\n" and 163439259.
        assert_eq!(CRC32C.checksum(b"a\n"), 163_439_259);
    }

    #[test]
    fn versions_are_parts_of_paths_and_nothing_else() {
        for good in ["latest", "7", "prod_v2"] {
            assert!(checked(good).is_ok(), "{good}");
        }
        for bad in ["1/../2", "1:access", "a b", "é", "%2e"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_are_replaced_or_merged_and_always_ours() {
        let there = HashMap::from([("team".to_owned(), "theirs".to_owned()), ("old".to_owned(), "1".to_owned())]);
        let labels = BTreeMap::from([("team".to_owned(), "ours".to_owned())]);
        let replace = Settings { labels: labels.clone(), ..Settings::default() };
        let merge = Settings { labels, merge_policy: MergePolicy::Merge, ..Settings::default() };
        let of =
            |settings: &Settings| settings.all_labels(&there).into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>();
        assert_eq!(of(&replace), ["managed-by=external-secrets", "team=ours"]);
        assert_eq!(of(&merge), ["managed-by=external-secrets", "old=1", "team=theirs"]);
    }
}
