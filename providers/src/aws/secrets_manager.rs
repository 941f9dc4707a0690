//! Secrets Manager: keys to calls and answers to values.
//!
//! The latest values are read twenty in a call. An identity that may not make that call reads one by one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::operation::describe_secret::DescribeSecretOutput;
use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType, SecretValueEntry, Tag};
use aws_smithy_types::Blob;
use lockstep_crds::store::aws::AwsSecretsManager;
use serde::Deserialize;

use super::wire::{coded, failure};
use super::{CONCURRENCY, Caller, tags_json};
use crate::push::{Current, Without, Writing, not_ours, settings};
use crate::{Deleted, Error, Fetched, Find, Found, MANAGED_BY, Payload, Push, Pushed, Result, SecretBytes, Target, Want};

/// Secrets in one BatchGetSecretValue (API reference: SecretIdList, at most 20).
pub(super) const BATCH: usize = 20;
/// The stage of the latest version.
const CURRENT: &str = "AWSCURRENT";
/// Secrets in one page of ListSecrets (API reference: MaxResults, at most 100).
const PAGE: i32 = 100;

/// Reads, searches and writes secrets.
pub(super) struct SecretsManager {
    client: Client,
    caller: Caller,
    prefix: String,
    deletion: AwsSecretsManager,
    /// Whether the identity may not read in batches.
    singly: AtomicBool,
    writing: Writing,
}

/// What is read of a secret.
struct Version {
    arn: String,
    id: String,
    value: Option<SecretBytes>,
}

impl Version {
    /// An answer without ARN and version, such as an empty body of whatever stands between, says nothing of what is there.
    fn new(arn: Option<&str>, id: Option<&str>, text: Option<String>, binary: Option<Blob>) -> Result<Self> {
        let value = text.map(SecretBytes::from).or_else(|| binary.map(|blob| SecretBytes::new(blob.into_inner())));
        match (arn, id) {
            (Some(arn), Some(id)) if !arn.is_empty() && !id.is_empty() => {
                Ok(Self { arn: arn.to_owned(), id: id.to_owned(), value })
            }
            _ => Err(incomplete("names no version")),
        }
    }

    fn of(entry: &SecretValueEntry) -> Result<Self> {
        let (text, binary) = (entry.secret_string().map(str::to_owned), entry.secret_binary().cloned());
        Self::new(entry.arn(), entry.version_id(), text, binary)
    }

    fn fetched(self, want: &Want) -> Result<Fetched> {
        // The id alone is not enough: a secret that is made anew can get the same, its ARN gets another ending.
        let ending = self.arn.rsplit('-').next().unwrap_or_default();
        let at = format!("{}@{ending}", self.id);
        if want.seen.as_deref() == Some(&at) {
            return Ok(Fetched::Unchanged);
        }
        let value = self.value.ok_or_else(|| Error::NotFound("AWS has this version without a value".into()))?;
        Ok(Fetched::Value { payload: Arc::new(Payload::Bytes(value)), version: Some(at.into()) })
    }
}

fn incomplete(what: &str) -> Error {
    Error::unavailable(format!("the answer {what}, and is not one of AWS Secrets Manager"))
}

impl SecretsManager {
    pub(super) fn new(client: Client, caller: Caller, prefix: String, deletion: AwsSecretsManager) -> Self {
        Self { client, caller, prefix, deletion, singly: AtomicBool::new(false), writing: Writing::default() }
    }

    fn id(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn region(&self) -> &str {
        &self.caller.region
    }

    pub(super) async fn get(&self, wants: &[Want]) -> Vec<Result<Fetched>> {
        let latest = |want: &Want| !want.metadata && want.version.as_deref().is_none_or(|v| v.is_empty() || v == CURRENT);
        let mut ids: Vec<String> = wants.iter().filter(|w| latest(w)).map(|w| self.id(&w.key)).collect();
        ids.sort_unstable();
        ids.dedup();
        let batches = ids.chunks(BATCH).map(|ids| self.batch(ids)).collect();
        let mut found: HashMap<String, Result<Arc<Version>>> = HashMap::new();
        for answers in crate::in_order(batches, CONCURRENCY).await {
            found.extend(answers);
        }
        let reads = wants.iter().map(async |want| {
            if !latest(want) {
                return if want.metadata { self.tags(want).await } else { self.single(want).await?.fetched(want) };
            }
            match found.get(&self.id(&want.key)) {
                Some(Ok(version)) => {
                    let Version { arn, id, value } = &**version;
                    Version { arn: arn.clone(), id: id.clone(), value: value.clone() }.fetched(want)
                }
                Some(Err(error)) => Err(error.clone()),
                None => Err(Error::unavailable(format!("AWS left {} out of its answer", self.id(&want.key)))),
            }
        });
        crate::in_order(reads.collect(), CONCURRENCY).await
    }

    /// Reads up to twenty; each has a fate of its own.
    async fn batch(&self, ids: &[String]) -> Vec<(String, Result<Arc<Version>>)> {
        let mut refused = false;
        if !self.singly.load(Ordering::Relaxed) && ids.len() > 1 {
            match self.caller.call(|| self.read_batch(ids)).await {
                Ok(answers) => return answers,
                // Whoever may read each of them may still lack the right to read several at once.
                Err(Error::Denied(_)) => refused = true,
                Err(Error::Invalid { .. } | Error::NotFound(_)) => {}
                Err(error) => return ids.iter().map(|id| (id.clone(), Err(error.clone()))).collect(),
            }
        }
        let reads = ids.iter().map(async |id| {
            let read = self.caller.call(|| self.read_one(id, None, Some(CURRENT.into()))).await;
            (id.clone(), read.map(Arc::new))
        });
        let answers = crate::in_order(reads.collect(), CONCURRENCY).await;
        // If each alone is refused too, it was not for being together, and may pass.
        if refused && answers.iter().any(|(_, read)| read.is_ok()) {
            self.singly.store(true, Ordering::Relaxed);
        }
        answers
    }

    async fn read_batch(&self, ids: &[String]) -> Result<Vec<(String, Result<Arc<Version>>)>> {
        let mut found: Vec<(String, Result<Arc<Version>>)> = Vec::with_capacity(ids.len());
        let mut next = None;
        loop {
            let request = self.client.batch_get_secret_value().set_secret_id_list(Some(ids.to_vec())).set_next_token(next);
            let answer = request.send().await.map_err(|error| failure("BatchGetSecretValue", self.region(), &error))?;
            for id in ids {
                let mut values = answer.secret_values().iter();
                let mut errors = answer.errors().iter();
                if let Some(entry) = values.find(|e| means(id, e.name(), e.arn())) {
                    found.push((id.clone(), Version::of(entry).map(Arc::new)));
                } else if let Some(error) = errors.find(|e| means(id, e.secret_id(), e.secret_id())) {
                    let what = format!("GetSecretValue of {id}");
                    let (code, message) = (error.error_code().unwrap_or_default(), error.message().unwrap_or_default());
                    found.push((id.clone(), Err(coded(&what, self.region(), code, message, 400, None))));
                }
            }
            match answer.next_token {
                Some(token) if !token.is_empty() => next = Some(token),
                _ => return Ok(found),
            }
        }
    }

    /// A version that is not the latest: by its id, or by a stage.
    async fn single(&self, want: &Want) -> Result<Version> {
        let id = self.id(&want.key);
        let (version, stage) = match want.version.as_deref().filter(|v| !v.is_empty()) {
            Some(version) => match version.strip_prefix("uuid/") {
                Some(id) => (Some(id.to_owned()), None),
                None => (None, Some(version.to_owned())),
            },
            None => (None, Some(CURRENT.to_owned())),
        };
        self.caller.call(|| self.read_one(&id, version.clone(), stage.clone())).await
    }

    async fn read_one(&self, id: &str, version: Option<String>, stage: Option<String>) -> Result<Version> {
        let request = self.client.get_secret_value().secret_id(id).set_version_id(version).set_version_stage(stage);
        let answer = request.send().await.map_err(|error| failure(&format!("GetSecretValue of {id}"), self.region(), &error))?;
        Version::new(answer.arn.as_deref(), answer.version_id.as_deref(), answer.secret_string, answer.secret_binary)
    }

    async fn tags(&self, want: &Want) -> Result<Fetched> {
        let described = self.described(&self.id(&want.key)).await?;
        Ok(tags_json(described.tags().iter().filter_map(pair)))
    }

    async fn described(&self, id: &str) -> Result<DescribeSecretOutput> {
        let what = format!("DescribeSecret of {id}");
        let describe = || async {
            let request = self.client.describe_secret().secret_id(id);
            request.send().await.map_err(|error| failure(&what, self.region(), &error))
        };
        self.caller.call(describe).await
    }

    /// Secrets by name and tags. AWS's own filters match beginnings, and keys apart from values: what they let through is
    /// looked at again.
    pub(super) async fn find(&self, query: &Find) -> Result<Vec<Found>> {
        let mut filters = Vec::new();
        let mut filter = |key: FilterNameStringType, value: &str| {
            // A leading `!` would mean everything else.
            if !value.is_empty() && !value.starts_with('!') {
                filters.push(Filter::builder().key(key).values(value).build());
            }
        };
        let path = query.path.as_deref().unwrap_or_default();
        filter(FilterNameStringType::Name, path);
        for (key, value) in query.tags.iter().take(4) {
            filter(FilterNameStringType::TagKey, key);
            filter(FilterNameStringType::TagValue, value);
        }
        let mut found = BTreeMap::new();
        let mut next: Option<String> = None;
        loop {
            let list = || async {
                let request = self.client.list_secrets().max_results(PAGE).set_next_token(next.clone());
                let request = request.set_filters(Some(filters.clone()).filter(|f| !f.is_empty()));
                request.send().await.map_err(|error| failure("ListSecrets", self.region(), &error))
            };
            let answer = self.caller.call(list).await?;
            for secret in answer.secret_list.as_deref().ok_or_else(|| incomplete("holds no list"))? {
                let Some(name) = secret.name().filter(|name| name.starts_with(path) && query.admits_name(name)) else { continue };
                let tag = |key: &str| secret.tags().iter().filter_map(pair).find(|(k, _)| *k == key).map(|(_, value)| value);
                if secret.deleted_date().is_none() && query.admits_tags(tag) {
                    found.insert(name.to_owned(), secret.arn().unwrap_or(name).to_owned());
                }
            }
            match answer.next_token {
                Some(token) if !token.is_empty() => next = Some(token),
                _ => break,
            }
        }
        Ok(found.into_keys().filter_map(|name| self.found(name)).collect())
    }

    /// A key is read with the prefix before it: a secret outside of it has none.
    fn found(&self, name: String) -> Option<Found> {
        let key = name.strip_prefix(&self.prefix)?.to_owned();
        Some(Found { name, key, payload: None })
    }

    pub(super) async fn push(&self, push: &Push) -> Result<Pushed> {
        let given: Settings = settings(push.target.metadata.as_ref())?;
        let id = self.id(&push.target.key);
        let _alone = self.writing.alone(&id).await;
        let described = match self.described(&id).await {
            Ok(described) => Some(described),
            Err(Error::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        if described.as_ref().is_some_and(|d| d.deleted_date().is_some()) {
            let why = format!("{id} is scheduled for deletion; restore it, or wait until it is gone");
            return Err(Error::invalid("remoteRef.remoteKey", why));
        }
        let current = match &described {
            Some(_) => match self.caller.call(|| self.read_one(&id, None, Some(CURRENT.into()))).await {
                Ok(version) => version.value,
                Err(Error::NotFound(_)) => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        let now = Current::new(current.as_ref());
        if push.only_new && now.has(push) {
            return Ok(Pushed::Unchanged);
        }
        if let Some(described) = &described
            && !described.tags().iter().filter_map(pair).any(|tag| tag == MANAGED_BY)
        {
            return Err(not_ours(&id, &format!("the tag {}={}", MANAGED_BY.0, MANAGED_BY.1)));
        }
        let value = now.next(push, &id)?;
        let tags: BTreeMap<&str, &str> = given.all_tags();
        match (&described, &current) {
            (None, _) => self.create(&id, &value, &given, &tags).await.map(|()| Pushed::Created),
            (Some(described), Some(current)) if *current == value => self.retag(&id, described, &given, &tags).await,
            (Some(described), current) => {
                self.retag(&id, described, &given, &tags).await?;
                self.put(&id, &value, &given).await?;
                Ok(if current.is_some() { Pushed::Updated } else { Pushed::Created })
            }
        }
    }

    async fn create(&self, id: &str, value: &SecretBytes, given: &Settings, tags: &BTreeMap<&str, &str>) -> Result<()> {
        let what = format!("CreateSecret of {id}");
        let (text, binary) = given.format(value)?;
        let create = || async {
            let request = self.client.create_secret().name(id).set_kms_key_id(given.kms_key_id.clone());
            let request = request.description(given.description.as_deref().unwrap_or("secret 'managed-by:external-secrets'"));
            let request = request.set_tags(Some(tags.iter().map(|(k, v)| tag(k, v)).collect()));
            let request = request.set_secret_string(text.clone()).set_secret_binary(binary.clone());
            request.send().await.map(drop).map_err(|error| failure(&what, self.region(), &error))
        };
        self.caller.call(create).await
    }

    async fn put(&self, id: &str, value: &SecretBytes, given: &Settings) -> Result<()> {
        let what = format!("PutSecretValue of {id}");
        let (text, binary) = given.format(value)?;
        let put = || async {
            let request = self.client.put_secret_value().secret_id(id);
            let request = request.set_secret_string(text.clone()).set_secret_binary(binary.clone());
            request.send().await.map(drop).map_err(|error| failure(&what, self.region(), &error))
        };
        self.caller.call(put).await
    }

    /// Makes the tags what the metadata says, where it says anything.
    async fn retag(
        &self,
        id: &str,
        described: &DescribeSecretOutput,
        given: &Settings,
        tags: &BTreeMap<&str, &str>,
    ) -> Result<Pushed> {
        let there: BTreeMap<&str, &str> = described.tags().iter().filter_map(pair).collect();
        if given.tags.is_empty() || there == *tags {
            return Ok(Pushed::Unchanged);
        }
        let gone: Vec<String> = there.keys().filter(|key| !tags.contains_key(*key)).map(|key| (*key).to_owned()).collect();
        let what = format!("TagResource of {id}");
        let change = || async {
            if !gone.is_empty() {
                let request = self.client.untag_resource().secret_id(id).set_tag_keys(Some(gone.clone()));
                request.send().await.map_err(|error| failure(&what, self.region(), &error))?;
            }
            let request = self.client.tag_resource().secret_id(id).set_tags(Some(tags.iter().map(|(k, v)| tag(k, v)).collect()));
            request.send().await.map(drop).map_err(|error| failure(&what, self.region(), &error))
        };
        self.caller.call(change).await.map(|()| Pushed::Updated)
    }

    pub(super) async fn delete(&self, target: &Target) -> Result<Deleted> {
        let id = self.id(&target.key);
        let _alone = self.writing.alone(&id).await;
        let described = match self.described(&id).await {
            Ok(described) if described.deleted_date().is_none() => described,
            Ok(_) | Err(Error::NotFound(_)) => return Ok(Deleted::Absent),
            Err(error) => return Err(error),
        };
        if !described.tags().iter().filter_map(pair).any(|tag| tag == MANAGED_BY) {
            return Ok(Deleted::NotOurs);
        }
        if let Some(property) = &target.property {
            let current = self.caller.call(|| self.read_one(&id, None, Some(CURRENT.into()))).await?.value;
            match Current::new(current.as_ref()).without(property) {
                Without::Absent => return Ok(Deleted::Absent),
                Without::Rest(rest) => return self.put(&id, &rest, &Settings::default()).await.map(|()| Deleted::Done),
                Without::Nothing => {}
            }
        }
        let what = format!("DeleteSecret of {id}");
        let delete = || async {
            let force = self.deletion.force_delete_without_recovery.filter(|force| *force);
            let window = self.deletion.recovery_window_in_days.filter(|days| *days > 0);
            let request = self.client.delete_secret().secret_id(described.arn().unwrap_or(&id));
            let request = request.set_force_delete_without_recovery(force).set_recovery_window_in_days(window);
            request.send().await.map(drop).map_err(|error| failure(&what, self.region(), &error))
        };
        self.caller.call(delete).await.map(|()| Deleted::Done)
    }
}

/// Whether what AWS names in an answer is what was asked for: a name, an ARN, or an ARN without its random ending.
fn means(id: &str, name: Option<&str>, arn: Option<&str>) -> bool {
    let partial = |arn: &str| arn.strip_prefix(id).is_some_and(|rest| rest.len() == 7 && rest.starts_with('-'));
    name == Some(id) || arn == Some(id) || (id.starts_with("arn:") && arn.is_some_and(partial))
}

fn pair(tag: &Tag) -> Option<(&str, &str)> {
    Some((tag.key()?, tag.value().unwrap_or_default()))
}

fn tag(key: &str, value: &str) -> Tag {
    Tag::builder().key(key).value(value).build()
}

/// `metadata` of a PushSecret's entry.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    tags: BTreeMap<String, String>,
    description: Option<String>,
    #[serde(default)]
    secret_push_format: Format,
    #[serde(alias = "kmsKeyID")]
    kms_key_id: Option<String>,
}

/// How Secrets Manager keeps a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Binary,
    String,
}

impl Settings {
    fn all_tags(&self) -> BTreeMap<&str, &str> {
        let own = self.tags.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        own.chain([MANAGED_BY]).collect()
    }

    fn format(&self, value: &SecretBytes) -> Result<(Option<String>, Option<Blob>)> {
        match self.secret_push_format {
            Format::Binary => Ok((None, Some(Blob::new(value.expose().to_vec())))),
            Format::String => match value.as_text() {
                Some(text) => Ok((Some(text.to_owned()), None)),
                None => Err(Error::invalid("metadata.spec.secretPushFormat", "is string, but the value is not text")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_matched_by_name_or_arn_and_never_by_an_ending() {
        let arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:team/app-AbCdEf";
        for (id, expected) in [
            ("team/app", true),
            (arn, true),
            ("arn:aws:secretsmanager:eu-central-1:123456789012:secret:team/app", true),
            ("app", false),
            ("arn:aws:secretsmanager:eu-central-1:123456789012:secret:team", false),
            ("team/app-AbCdEf", false),
        ] {
            assert_eq!(means(id, Some("team/app"), Some(arn)), expected, "{id}");
        }
    }
}
