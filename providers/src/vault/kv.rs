//! Keys to paths, answers to values: the KV engine's two versions, without IO.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use lockstep_crds::store::vault::KvVersion;
use reqwest::Url;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::FIELD;
use crate::{Error, Fetched, MANAGED_BY, Payload, Result, SecretBytes, Want};

/// A path under `/v1/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// The engine's or method's mount path.
    pub(super) mount: String,
    pub(super) segments: Vec<String>,
    pub(super) query: Vec<(String, String)>,
}

impl Path {
    pub(super) fn new(mount: &str, rest: &[&str]) -> Self {
        Self { mount: mount.to_owned(), segments: rest.iter().map(|s| (*s).to_owned()).collect(), query: Vec::new() }
    }

    /// The URL; every segment is encoded by itself, so that no key can leave its mount.
    pub(super) fn url(&self, server: &Url) -> Url {
        let mut url = server.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("v1").extend(self.mount.split('/')).extend(&self.segments);
        }
        for (name, value) in &self.query {
            url.query_pairs_mut().append_pair(name, value);
        }
        url
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mount)?;
        self.segments.iter().try_for_each(|s| write!(f, "/{s}"))?;
        let parameter = |(i, (name, value)): (usize, &(String, String))| {
            let mark = if i == 0 { '?' } else { '&' };
            write!(f, "{mark}{name}={value}")
        };
        self.query.iter().enumerate().try_for_each(parameter)
    }
}

/// Refuses what would make a path mean another one.
pub(super) fn check_segments(field: &str, path: &str) -> Result<()> {
    for segment in path.split('/') {
        if segment.is_empty() || segment == "." || segment == ".." {
            return Err(Error::invalid(field, "has an empty, `.` or `..` segment"));
        }
        if segment.chars().any(char::is_control) {
            return Err(Error::invalid(field, "holds a control character"));
        }
    }
    Ok(())
}

/// The path of a want. The key may begin with the mount, and after it with `data/` (KV v2), or with neither; a store
/// without `path` takes the key's first segment as the mount.
pub(super) fn path(mount: Option<&str>, version: KvVersion, want: &Want) -> Result<Path> {
    let place = place("remoteRef.key", mount, version, &want.key)?;
    let kind = match (version, want.metadata) {
        (KvVersion::V1, true) => return Err(Error::Unsupported("metadataPolicy Fetch: KV version 1 has no metadata".into())),
        (_, true) => Kind::Metadata,
        (_, false) => Kind::Data,
    };
    let query = match (&want.version, version) {
        (None, _) => None,
        (Some(_), KvVersion::V1) => {
            return Err(Error::invalid("remoteRef.version", "KV version 1 has no versions; leave it out"));
        }
        (Some(v), KvVersion::V2) if v.parse::<u64>().is_ok_and(|v| v > 0) => {
            (!want.metadata).then(|| ("version".to_owned(), v.clone()))
        }
        (Some(_), KvVersion::V2) => return Err(Error::invalid("remoteRef.version", "is no positive number")),
    };
    Ok(Path { query: query.into_iter().collect(), ..place.path(version, kind) })
}

/// What of a remote secret a path means. KV version 1 has data only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Metadata,
}

/// Where a remote secret lies, or a folder of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) mount: String,
    /// Below the mount; empty for the mount itself.
    pub(super) rest: String,
}

/// Takes a key apart.
pub(super) fn place(field: &str, mount: Option<&str>, version: KvVersion, key: &str) -> Result<Place> {
    let key = key.trim_matches('/');
    check_segments(field, key)?;
    let (mount, rest) = match mount {
        Some(mount) => (mount, key.strip_prefix(mount).and_then(|r| r.strip_prefix('/')).unwrap_or(key)),
        None => key
            .split_once('/')
            .ok_or_else(|| Error::invalid(field, format!("has no mount path, and the store's {FIELD}.path is not set")))?,
    };
    let rest = match version {
        KvVersion::V1 => rest,
        KvVersion::V2 => rest.strip_prefix("data/").unwrap_or(rest),
    };
    Ok(Place { mount: mount.to_owned(), rest: rest.to_owned() })
}

impl Place {
    pub(super) fn path(&self, version: KvVersion, kind: Kind) -> Path {
        let prefix = match (version, kind) {
            (KvVersion::V1, _) => None,
            (KvVersion::V2, Kind::Data) => Some("data"),
            (KvVersion::V2, Kind::Metadata) => Some("metadata"),
        };
        let rest = self.rest.split('/').filter(|segment| !segment.is_empty());
        let segments = prefix.into_iter().chain(rest).map(str::to_owned).collect();
        Path { mount: self.mount.clone(), segments, query: Vec::new() }
    }

    /// What lists the folder.
    pub(super) fn listing(&self, version: KvVersion) -> Path {
        Path { query: vec![("list".to_owned(), "true".to_owned())], ..self.path(version, Kind::Metadata) }
    }

    pub(super) fn below(&self, name: &str) -> Self {
        let rest = if self.rest.is_empty() { name.to_owned() } else { format!("{}/{name}", self.rest) };
        Self { mount: self.mount.clone(), rest }
    }

    /// The key that means this remote secret and no other: with the mount, and after it with `data/`.
    pub(super) fn key(&self, version: KvVersion) -> String {
        match version {
            KvVersion::V1 => format!("{}/{}", self.mount, self.rest),
            KvVersion::V2 => format!("{}/data/{}", self.mount, self.rest),
        }
    }
}

#[derive(Deserialize)]
struct Listing {
    data: ListingData,
}

#[derive(Deserialize)]
struct ListingData {
    keys: Vec<String>,
}

/// The names in a folder; those of folders end in `/`.
pub(super) fn listed(body: &[u8]) -> Result<Vec<String>> {
    serde_json::from_slice::<Listing>(body).map(|l| l.data.keys).map_err(|_| not_kv("to a listing has no keys"))
}

/// A remote secret as a push and a deletion see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Current {
    /// Its fields; none: there is no version with data.
    pub(super) data: Option<Map<String, Value>>,
    /// KV version 2: the number of the last version; 0 before the first.
    pub(super) version: u64,
    pub(super) ours: bool,
}

/// KV version 1 has no metadata: the mark lies among the fields.
pub(super) const V1_MARK: &str = "custom_metadata";

/// A value without the mark of a push, which is nobody's data.
fn unmarked(json: &str) -> Cow<'_, str> {
    if !json.contains(V1_MARK) {
        return Cow::Borrowed(json);
    }
    let Ok(mut fields) = serde_json::from_str::<BTreeMap<String, &RawValue>>(json) else { return Cow::Borrowed(json) };
    let mark = fields.get(V1_MARK).and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
    if !is_marked(mark.as_ref()) {
        return Cow::Borrowed(json);
    }
    fields.remove(V1_MARK);
    serde_json::to_string(&fields).map_or(Cow::Borrowed(json), Cow::Owned)
}

fn is_marked(custom: Option<&Value>) -> bool {
    custom.and_then(|c| c.get(MANAGED_BY.0)).and_then(Value::as_str) == Some(MANAGED_BY.1)
}

/// What is there, from an answer with data.
pub(super) fn current(version: KvVersion, body: &[u8]) -> Result<Current> {
    #[derive(Deserialize)]
    struct Whole {
        data: Map<String, Value>,
    }
    let Whole { mut data } = serde_json::from_slice(body).map_err(|_| not_kv("has no data"))?;
    match version {
        KvVersion::V1 => {
            let ours = is_marked(data.remove(V1_MARK).as_ref());
            Ok(Current { data: Some(data), version: 0, ours })
        }
        KvVersion::V2 => {
            let metadata = data.remove("metadata").unwrap_or_default();
            let version = metadata.get("version").and_then(Value::as_u64);
            let version = version.ok_or_else(|| not_kv("is not one of KV version 2"))?;
            let fields = match data.remove("data") {
                Some(Value::Object(fields)) => Some(fields),
                _ => None,
            };
            Ok(Current { data: fields, version, ours: is_marked(metadata.get("custom_metadata")) })
        }
    }
}

/// What is there, from the metadata of a remote secret whose last version has no data.
pub(super) fn current_without_data(body: &[u8]) -> Result<Current> {
    #[derive(Deserialize)]
    struct Whole {
        data: Value,
    }
    let Whole { data } = serde_json::from_slice(body).map_err(|_| not_kv("holds no metadata"))?;
    let version = data.get("current_version").and_then(Value::as_u64).ok_or_else(|| not_kv("holds no current_version"))?;
    Ok(Current { data: None, version, ours: is_marked(data.get("custom_metadata")) })
}

/// Custom metadata, from an answer with metadata.
pub(super) fn custom_metadata(body: &[u8]) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Whole {
        data: Metadata,
    }
    let Whole { data } = serde_json::from_slice(body).map_err(|_| not_kv("holds no metadata"))?;
    Ok(data.custom_metadata.unwrap_or_default())
}

/// Where any holder of a token may ask what a mount is.
pub(super) fn mount_info(mount: &str) -> Path {
    let mut path = Path::new("sys", &["internal", "ui", "mounts"]);
    path.segments.extend(mount.split('/').map(str::to_owned));
    path
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct V2<'a> {
    /// `null` where a version has none.
    #[serde(borrow)]
    data: &'a RawValue,
    metadata: V2Metadata,
}

#[derive(Deserialize)]
struct V2Metadata {
    created_time: String,
    version: u64,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    custom_metadata: Option<BTreeMap<String, String>>,
    created_time: String,
    updated_time: String,
    current_version: u64,
}

#[derive(Deserialize)]
struct MountInfo {
    data: MountInfoData,
}

#[derive(Deserialize)]
struct MountInfoData {
    #[serde(rename = "type")]
    type_: String,
    path: Option<String>,
    options: Option<BTreeMap<String, String>>,
}

/// Turns an answer into what the want asked for.
pub(super) fn fetched(version: KvVersion, want: &Want, body: &[u8]) -> Result<Fetched> {
    let data = serde_json::from_slice::<Answer<'_>>(body).map_err(|_| not_kv("has no data"))?.data.get();
    if want.metadata {
        return metadata(data);
    }
    match version {
        KvVersion::V1 if !data.starts_with('{') => Err(not_kv("holds no fields")),
        KvVersion::V1 => Ok(value(&unmarked(data), None)),
        KvVersion::V2 => {
            let V2 { data, metadata } = serde_json::from_str(data).map_err(|_| not_kv("is not one of KV version 2"))?;
            // A version number alone is not enough: metadata can be deleted, and the count starts again.
            let at = format!("{}@{}", metadata.version, metadata.created_time);
            if want.seen.as_deref() == Some(&*at) {
                return Ok(Fetched::Unchanged);
            }
            match data.get() {
                "null" => Err(Error::NotFound("Vault has this version without data".into())),
                text if text.starts_with('{') => Ok(value(text, Some(at.into()))),
                _ => Err(not_kv("holds no fields")),
            }
        }
    }
}

fn not_kv(what: &str) -> Error {
    Error::invalid(format!("{FIELD}.version"), format!("the answer {what}; check the engine's type and version"))
}

fn value(json: &str, version: Option<Arc<str>>) -> Fetched {
    Fetched::Value { payload: Arc::new(Payload::Bytes(SecretBytes::from(json))), version }
}

/// Custom metadata as one flat object, with the engine's own times beside it; a custom entry of the same name wins.
fn metadata(data: &str) -> Result<Fetched> {
    let metadata: Metadata = serde_json::from_str(data).map_err(|_| not_kv("holds no metadata"))?;
    let mut all = Map::new();
    all.insert("created_time".into(), metadata.created_time.into());
    all.insert("updated_time".into(), metadata.updated_time.into());
    all.insert("current_version".into(), metadata.current_version.into());
    all.extend(metadata.custom_metadata.unwrap_or_default().into_iter().map(|(k, v)| (k, Value::String(v))));
    Ok(value(&Value::Object(all).to_string(), None))
}

/// Compares what a mount is with what the spec says.
pub(super) fn check_mount(mount: &str, version: KvVersion, body: &[u8]) -> Result<()> {
    let MountInfo { data } = serde_json::from_slice(body)
        .map_err(|_| Error::unavailable(format!("what Vault says of the mount {mount} does not parse")))?;
    if let Some(path) = data.path.as_deref().map(|p| p.trim_matches('/')).filter(|p| *p != mount) {
        let path = crate::error::foreign_text(path, &[]);
        let why = format!("{mount} lies inside of the mount {path}; write path: {path}, and begin the keys with the rest");
        return Err(Error::invalid(format!("{FIELD}.path"), why));
    }
    if data.type_ != "kv" && data.type_ != "generic" {
        let why = format!("{mount} is a mount of type {}, not kv", crate::error::foreign_text(&data.type_, &[]));
        return Err(Error::invalid(format!("{FIELD}.path"), why));
    }
    let found = data.options.as_ref().and_then(|o| o.get("version")).map_or("1", String::as_str);
    let (wanted, other) = match version {
        KvVersion::V1 => ("1", "v2"),
        KvVersion::V2 => ("2", "v1"),
    };
    if found != wanted {
        let why = format!("{mount} is a KV engine of version {found}; write version: {other}");
        return Err(Error::invalid(format!("{FIELD}.version"), why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(key: &str) -> Want {
        Want::latest(key)
    }

    #[test]
    fn a_key_may_begin_with_the_mount_and_with_data() {
        use KvVersion::{V1, V2};
        for (mount, version, key, expected) in [
            (Some("secret"), V2, "app/db", "secret/data/app/db"),
            (Some("secret"), V2, "secret/app/db", "secret/data/app/db"),
            (Some("secret"), V2, "secret/data/app/db", "secret/data/app/db"),
            (Some("secret"), V2, "data/app", "secret/data/app"),
            (Some("team/a/kv"), V2, "/app/", "team/a/kv/data/app"),
            (Some("team/a/kv"), V2, "team/a/kv/app", "team/a/kv/data/app"),
            (Some("secret"), V2, "secrets", "secret/data/secrets"),
            (None, V2, "secret/app", "secret/data/app"),
            (None, V2, "secret/data/app", "secret/data/app"),
            (Some("secret"), V1, "app/db", "secret/app/db"),
            (None, V1, "secret/app", "secret/app"),
        ] {
            assert_eq!(path(mount, version, &want(key)).expect(key).to_string(), expected);
        }
    }

    #[test]
    fn a_key_can_not_leave_its_mount() {
        for key in ["", "../sys/mounts", "a//b", "a/./b", "a\nb", ".."] {
            assert!(matches!(path(Some("secret"), KvVersion::V2, &want(key)), Err(Error::Invalid { .. })), "{key:?}");
        }
        let server = Url::parse("https://vault.example.com/prefix/").expect("a URL");
        let sneaky = path(Some("secret"), KvVersion::V2, &want("a?list=true#x/%2e%2e/ü")).expect("a path");
        assert_eq!(
            sneaky.url(&server).as_str(),
            "https://vault.example.com/prefix/v1/secret/data/a%3Flist=true%23x/%252e%252e/%C3%BC"
        );
    }

    #[test]
    fn versions_are_numbers_of_kv_version_2() {
        let mut want = want("app");
        want.version = Some("3".into());
        assert_eq!(path(Some("kv"), KvVersion::V2, &want).expect("a path").to_string(), "kv/data/app?version=3");
        assert!(path(Some("kv"), KvVersion::V1, &want).is_err());
        for version in ["0", "latest", "-1", "1.5", ""] {
            want.version = Some(version.into());
            assert!(path(Some("kv"), KvVersion::V2, &want).is_err(), "{version}");
        }
    }

    #[test]
    fn an_unchanged_version_is_answered_as_unchanged_and_a_recreated_one_is_not() {
        let body = br#"{"data":{"data":{"a":"b"},"metadata":{"version":1,"created_time":"t1"}}}"#;
        let Ok(Fetched::Value { version: Some(version), .. }) = fetched(KvVersion::V2, &want("a"), body) else { panic!() };
        let seen = |seen: &str| Want { seen: Some(seen.into()), ..want("a") };
        assert!(matches!(fetched(KvVersion::V2, &seen(&version), body), Ok(Fetched::Unchanged)));
        assert!(matches!(fetched(KvVersion::V2, &seen("1@t0"), body), Ok(Fetched::Value { .. })));
    }

    #[test]
    fn a_mount_of_another_version_is_named() {
        let v1 = br#"{"data":{"type":"kv","options":{"version":"1"}}}"#;
        let none = br#"{"data":{"type":"kv","options":null}}"#;
        let pki = br#"{"data":{"type":"pki"}}"#;
        let inside = br#"{"data":{"type":"kv","path":"kv/","options":{"version":"2"}}}"#;
        assert!(check_mount("kv", KvVersion::V2, inside).is_ok());
        assert!(
            matches!(check_mount("kv/team", KvVersion::V2, inside), Err(Error::Invalid { why, .. }) if why.contains("path: kv,"))
        );
        assert!(check_mount("kv", KvVersion::V1, b"{}").is_err());
        assert!(check_mount("kv", KvVersion::V1, v1).is_ok());
        assert!(check_mount("kv", KvVersion::V1, none).is_ok());
        for body in [&v1[..], none, pki] {
            assert!(matches!(check_mount("kv", KvVersion::V2, body), Err(Error::Invalid { .. })));
        }
    }
}
