//! Parameter Store of Systems Manager: keys to calls and answers to values.
//!
//! Values are read ten in a call. A call that is refused as a whole, be it for one of its names, is made again for each alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_ssm::Client;
use aws_sdk_ssm::types::{Parameter, ParameterStringFilter, ParameterTier, ParameterType, ResourceTypeForTagging, Tag};
use serde::Deserialize;
use serde_json::Value;

use super::wire::failure;
use super::{CONCURRENCY, Caller, tags_json};
use crate::push::{Current, Without, Writing, not_ours, settings};
use crate::{Deleted, Error, Fetched, Find, Found, MANAGED_BY, Payload, Push, Pushed, Result, SecretBytes, Target, Want};

/// Names in one GetParameters (API reference: Names, at most 10).
pub(super) const BATCH: usize = 10;
/// Parameters in one page of DescribeParameters (API reference: MaxResults, at most 50), and of GetParametersByPath.
const PAGE: i32 = 50;
const PATH_PAGE: i32 = 10;

/// Reads, searches and writes parameters.
pub(super) struct ParameterStore {
    client: Client,
    caller: Caller,
    prefix: String,
    /// Whether the identity may not read in batches.
    singly: AtomicBool,
    writing: Writing,
}

type Read = Result<Arc<Parameter>>;

impl ParameterStore {
    pub(super) fn new(client: Client, caller: Caller, prefix: String) -> Self {
        Self { client, caller, prefix, singly: AtomicBool::new(false), writing: Writing::default() }
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Name and version as the API takes them: a number, or a label.
    fn selected(&self, want: &Want) -> String {
        let name = self.name(&want.key);
        match want.version.as_deref().filter(|v| !v.is_empty()) {
            Some(version) => format!("{name}:{version}"),
            None => name,
        }
    }

    fn region(&self) -> &str {
        &self.caller.region
    }

    pub(super) async fn get(&self, wants: &[Want]) -> Vec<Result<Fetched>> {
        let rounds = self.rounds(wants);
        let batches = rounds.iter().flat_map(|names| names.chunks(BATCH)).map(|names| self.batch(names)).collect();
        let mut found: HashMap<String, Read> = HashMap::new();
        for answers in crate::in_order(batches, CONCURRENCY).await {
            found.extend(answers);
        }
        let reads = wants.iter().map(async |want| {
            if want.metadata {
                let tags = self.tags(&self.name(&want.key)).await?;
                return Ok(tags_json(tags.iter().map(|(key, value)| (key.as_str(), value.as_str()))));
            }
            match found.get(&self.selected(want)) {
                Some(Ok(parameter)) => Ok(fetched(parameter, want)),
                Some(Err(error)) => Err(error.clone()),
                None => Err(Error::unavailable(format!("AWS left {} out of its answer", self.selected(want)))),
            }
        });
        crate::in_order(reads.collect(), CONCURRENCY).await
    }

    /// What is read together: each parameter once, so that no version of it can be taken for another.
    fn rounds(&self, wants: &[Want]) -> Vec<Vec<String>> {
        let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for want in wants.iter().filter(|w| !w.metadata) {
            versions.entry(self.name(&want.key)).or_default().insert(self.selected(want));
        }
        let mut rounds: Vec<Vec<String>> = Vec::new();
        for selected in versions.into_values() {
            for (round, name) in selected.into_iter().enumerate() {
                if rounds.len() == round {
                    rounds.push(Vec::new());
                }
                rounds[round].push(name);
            }
        }
        rounds
    }

    async fn batch(&self, names: &[String]) -> Vec<(String, Read)> {
        if !self.singly.load(Ordering::Relaxed) && names.len() > 1 {
            match self.caller.call(|| self.read(names)).await {
                Ok(answers) => return answers,
                Err(Error::Denied(_) | Error::Invalid { .. } | Error::NotFound(_)) => {}
                Err(error) => return names.iter().map(|name| (name.clone(), Err(error.clone()))).collect(),
            }
        }
        let reads = names.iter().map(async |name| {
            let alone = std::slice::from_ref(name);
            let read = match self.caller.call(|| self.read(alone)).await {
                Ok(mut answers) => answers.pop().map_or_else(|| Err(left_out(name)), |(_, read)| read),
                Err(error) => Err(error),
            };
            (name.clone(), read)
        });
        let answers = crate::in_order(reads.collect(), CONCURRENCY).await;
        // If each alone is refused too, it was not for being together.
        if answers.iter().all(|(_, read)| read.is_ok()) && names.len() > 1 {
            self.singly.store(true, Ordering::Relaxed);
        }
        answers
    }

    async fn read(&self, names: &[String]) -> Result<Vec<(String, Read)>> {
        let what = match names {
            [one] => format!("GetParameters of {one}"),
            _ => "GetParameters".to_owned(),
        };
        let request = self.client.get_parameters().set_names(Some(names.to_vec())).with_decryption(true);
        let answer = request.send().await.map_err(|error| failure(&what, self.region(), &error))?;
        let all = answer.parameters();
        let one = |name: &String| {
            let found = all.iter().find(|parameter| means(name, parameter));
            let read = match found {
                Some(parameter) => Ok(Arc::new(parameter.clone())),
                None if answer.invalid_parameters().contains(name) => {
                    let region = self.region();
                    Err(Error::NotFound(format!("AWS has no parameter {name} in {region} (GetParameters: InvalidParameters)")))
                }
                None => Err(left_out(name)),
            };
            (name.clone(), read)
        };
        Ok(names.iter().map(one).collect())
    }

    async fn tags(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let what = format!("ListTagsForResource of {name}");
        let list = || async {
            let request = self.client.list_tags_for_resource().resource_type(ResourceTypeForTagging::Parameter).resource_id(name);
            request.send().await.map_err(|error| failure(&what, self.region(), &error))
        };
        let answer = self.caller.call(list).await?;
        Ok(answer.tag_list().iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned())).collect())
    }

    /// Parameters by path, name and tags. With tags they are listed and then read; without, the listing holds the values.
    pub(super) async fn find(&self, query: &Find) -> Result<Vec<Found>> {
        let path = query.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let mut found = match query.tags.is_empty() {
            true => match self.by_path(&path, query).await {
                // The right to read a path is one of its own.
                Err(Error::Denied(_)) => self.by_description(&path, query).await?,
                other => other?,
            },
            false => self.by_description(&path, query).await?,
        };
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    async fn by_path(&self, path: &str, query: &Find) -> Result<Vec<Found>> {
        let what = format!("GetParametersByPath of {path}");
        let mut found = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let list = || async {
                let request = self.client.get_parameters_by_path().path(path).recursive(true).with_decryption(true);
                let request = request.max_results(PATH_PAGE).set_next_token(next.clone());
                request.send().await.map_err(|error| failure(&what, self.region(), &error))
            };
            let answer = self.caller.call(list).await?;
            for parameter in answer.parameters.as_deref().ok_or_else(no_list)? {
                let Some(name) = parameter.name().filter(|name| query.admits_name(name)) else { continue };
                let value = SecretBytes::from(parameter.value().unwrap_or_default());
                found.extend(self.found(name, Some(Arc::new(Payload::Bytes(value)))));
            }
            match answer.next_token {
                Some(token) if !token.is_empty() => next = Some(token),
                _ => return Ok(found),
            }
        }
    }

    async fn by_description(&self, path: &str, query: &Find) -> Result<Vec<Found>> {
        let mut filters = vec![filter("Path", "Recursive", path)?];
        for (key, value) in &query.tags {
            filters.push(filter(&format!("tag:{key}"), "Equals", value)?);
        }
        let mut found = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let list = || async {
                let request = self.client.describe_parameters().set_parameter_filters(Some(filters.clone()));
                let request = request.max_results(PAGE).set_next_token(next.clone());
                request.send().await.map_err(|error| failure("DescribeParameters", self.region(), &error))
            };
            let answer = self.caller.call(list).await?;
            let all = answer.parameters.as_deref().ok_or_else(no_list)?;
            let names = all.iter().filter_map(|parameter| parameter.name());
            found.extend(names.filter(|name| query.admits_name(name)).filter_map(|name| self.found(name, None)));
            match answer.next_token {
                Some(token) if !token.is_empty() => next = Some(token),
                _ => return Ok(found),
            }
        }
    }

    /// A key is read with the prefix before it: a parameter outside of it has none.
    fn found(&self, name: &str, payload: Option<Arc<Payload>>) -> Option<Found> {
        let key = name.strip_prefix(&self.prefix)?.to_owned();
        Some(Found { name: name.to_owned(), key, payload })
    }

    async fn current(&self, name: &str) -> Result<Option<Arc<Parameter>>> {
        let alone = [name.to_owned()];
        let read = self.caller.call(|| self.read(&alone)).await?.pop();
        match read {
            Some((_, Ok(parameter))) => Ok(Some(parameter)),
            Some((_, Err(Error::NotFound(_)))) => Ok(None),
            Some((_, Err(error))) => Err(error),
            None => Err(left_out(name)),
        }
    }

    pub(super) async fn push(&self, push: &Push) -> Result<Pushed> {
        let given: Settings = settings(push.target.metadata.as_ref())?;
        let name = self.name(&push.target.key);
        let _alone = self.writing.alone(&name).await;
        let current = self.current(&name).await?;
        let text = current.as_ref().map(|parameter| SecretBytes::from(parameter.value().unwrap_or_default()));
        let now = Current::new(text.as_ref());
        if push.only_new && now.has(push) {
            return Ok(Pushed::Unchanged);
        }
        if current.is_some() && !is_ours(&self.tags(&name).await?) {
            return Err(not_ours(&name, &format!("the tag {}={}", MANAGED_BY.0, MANAGED_BY.1)));
        }
        let value = Payload::Bytes(now.next(push, &name)?).to_text()?;
        if text == Some(SecretBytes::from(value.as_str())) {
            return Ok(Pushed::Unchanged);
        }
        self.put(&name, value, &given, current.as_deref()).await?;
        Ok(if current.is_some() { Pushed::Updated } else { Pushed::Created })
    }

    /// AWS takes tags only with a new parameter.
    async fn put(&self, name: &str, value: String, given: &Settings, current: Option<&Parameter>) -> Result<()> {
        let what = format!("PutParameter of {name}");
        let secure = given.kind() == ParameterType::SecureString;
        let kind = current.and_then(Parameter::r#type).cloned().filter(|_| given.secret_type.is_none()).unwrap_or(given.kind());
        let tags: Result<Vec<Tag>> = given.all_tags().into_iter().map(|(key, value)| tag(key, value)).collect();
        let tags = Some(tags?).filter(|_| current.is_none());
        let advanced = given.tier.as_ref().filter(|tier| tier.kind.as_deref() == Some("Advanced"));
        let put = || async {
            let request = self.client.put_parameter().name(name).value(&value).r#type(kind.clone()).overwrite(current.is_some());
            let request = request.description(given.description.as_deref().unwrap_or("secret 'managed-by:external-secrets'"));
            let request = request.set_key_id(given.kms_key_id.clone().filter(|_| secure)).set_tags(tags.clone());
            let request = request.set_tier(advanced.map(|_| ParameterTier::Advanced));
            let request = request.set_policies(advanced.and_then(|tier| tier.policies.as_ref()).map(Value::to_string));
            request.send().await.map(drop).map_err(|error| failure(&what, self.region(), &error))
        };
        self.caller.call(put).await
    }

    pub(super) async fn delete(&self, target: &Target) -> Result<Deleted> {
        let name = self.name(&target.key);
        let _alone = self.writing.alone(&name).await;
        let Some(current) = self.current(&name).await? else { return Ok(Deleted::Absent) };
        if !is_ours(&self.tags(&name).await?) {
            return Ok(Deleted::NotOurs);
        }
        if let Some(property) = &target.property {
            let text = SecretBytes::from(current.value().unwrap_or_default());
            match Current::new(Some(&text)).without(property) {
                Without::Absent => return Ok(Deleted::Absent),
                Without::Rest(rest) => {
                    let rest = Payload::Bytes(rest).to_text()?;
                    return self.put(&name, rest, &Settings::default(), Some(&current)).await.map(|()| Deleted::Done);
                }
                Without::Nothing => {}
            }
        }
        let what = format!("DeleteParameter of {name}");
        let delete = || async {
            let request = self.client.delete_parameter().name(&name);
            request.send().await.map(drop).map_err(|error| failure(&what, self.region(), &error))
        };
        self.caller.call(delete).await.map(|()| Deleted::Done)
    }
}

/// An empty list is one; an answer without any, such as an empty body of whatever stands between, is none.
fn no_list() -> Error {
    Error::unavailable("the answer holds no list, and is not one of AWS Parameter Store")
}

fn left_out(name: &str) -> Error {
    Error::unavailable(format!("AWS left {name} out of its answer"))
}

/// The latest value has a number of its own, and a parameter that is made anew counts from the start: so the time is in it.
fn fetched(parameter: &Parameter, want: &Want) -> Fetched {
    let made = parameter.last_modified_date().map_or(0, |date| date.secs());
    let at = format!("{}@{made}", parameter.version());
    if want.seen.as_deref() == Some(&at) {
        return Fetched::Unchanged;
    }
    let payload = Arc::new(Payload::Bytes(SecretBytes::from(parameter.value().unwrap_or_default())));
    Fetched::Value { payload, version: Some(at.into()) }
}

/// Whether a parameter is the one that was asked for: by name or ARN, and by the version's number or label.
fn means(asked: &str, parameter: &Parameter) -> bool {
    let selector = parameter.selector().map(|s| s.trim_start_matches(':')).filter(|s| !s.is_empty());
    let is = |name: Option<&str>| match (name, selector) {
        (None, _) => false,
        // Where an answer does not repeat the version that was asked for, its number tells. Each parameter stands in a request
        // once, so a label is the one that was asked for.
        (Some(name), None) => match asked.strip_prefix(name).map(|rest| rest.strip_prefix(':')) {
            Some(None) => name == asked,
            Some(Some(version)) => version.parse().map_or(true, |number: i64| number == parameter.version()),
            None => false,
        },
        (Some(name), Some(selector)) => {
            asked.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')).is_some_and(|rest| rest == selector)
        }
    };
    is(parameter.name()) || is(parameter.arn())
}

fn filter(key: &str, option: &str, value: &str) -> Result<ParameterStringFilter> {
    let built = ParameterStringFilter::builder().key(key).option(option).values(value).build();
    built.map_err(|_| Error::invalid("find", "makes no filter of Parameter Store"))
}

fn is_ours(tags: &BTreeMap<String, String>) -> bool {
    tags.get(MANAGED_BY.0).map(String::as_str) == Some(MANAGED_BY.1)
}

fn tag(key: &str, value: &str) -> Result<Tag> {
    let built = Tag::builder().key(key).value(value).build();
    built.map_err(|_| Error::invalid("metadata.spec.tags", "a tag needs a key and a value"))
}

/// `metadata` of a PushSecret's entry.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    #[serde(alias = "parameterStoreType")]
    secret_type: Option<Kind>,
    #[serde(alias = "kmsKeyID", alias = "parameterStoreKeyID")]
    kms_key_id: Option<String>,
    tier: Option<Tier>,
    /// Values always go as they are.
    #[serde(default, rename = "encodeAsDecoded")]
    _encode_as_decoded: bool,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    description: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Kind {
    String,
    StringList,
    SecureString,
}

#[derive(Debug, Deserialize)]
struct Tier {
    #[serde(rename = "type")]
    kind: Option<String>,
    policies: Option<Value>,
}

impl Settings {
    fn kind(&self) -> ParameterType {
        match self.secret_type {
            Some(Kind::SecureString) => ParameterType::SecureString,
            Some(Kind::StringList) => ParameterType::StringList,
            Some(Kind::String) | None => ParameterType::String,
        }
    }

    fn all_tags(&self) -> BTreeMap<&str, &str> {
        let own = self.tags.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        own.chain([MANAGED_BY]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_matched_by_its_name_and_version() {
        let parameter = |name: &str, selector: Option<&str>| {
            let arn = format!("arn:aws:ssm:eu-central-1:123456789012:parameter{name}");
            Parameter::builder().name(name).arn(arn).version(3).set_selector(selector.map(Into::into)).build()
        };
        for (asked, name, selector, expected) in [
            ("/a/b", "/a/b", None, true),
            ("/a/b:3", "/a/b", Some(":3"), true),
            ("/a/b:3", "/a/b", Some("3"), true),
            ("/a/b:prod", "/a/b", Some(":dev"), false),
            ("/a/b:3", "/a/b", None, true),
            ("/a/b:2", "/a/b", None, false),
            ("/a/b:prod", "/a/b", None, true),
            ("/a/b:prod", "/a/c", None, false),
            ("/a/b", "/a/b/c", None, false),
            ("arn:aws:ssm:eu-central-1:123456789012:parameter/a/b:2", "/a/b", Some(":2"), true),
        ] {
            assert_eq!(means(asked, &parameter(name, selector)), expected, "{asked} {name} {selector:?}");
        }
    }
}
