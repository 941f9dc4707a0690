//! Keys to paths, answers to values: the KV engine's two versions, without IO.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use lockstep_crds::store::vault::KvVersion;
use reqwest::Url;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::FIELD;
use crate::{Error, Fetched, Payload, Result, SecretBytes, Want};

/// A path under `/v1/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// The engine's or method's mount path.
    pub(super) mount: String,
    pub(super) segments: Vec<String>,
    pub(super) query: Option<(&'static str, String)>,
}

impl Path {
    pub(super) fn new(mount: &str, rest: &[&str]) -> Self {
        Self { mount: mount.to_owned(), segments: rest.iter().map(|s| (*s).to_owned()).collect(), query: None }
    }

    /// The URL; every segment is encoded by itself, so that no key can leave its mount.
    pub(super) fn url(&self, server: &Url) -> Url {
        let mut url = server.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("v1").extend(self.mount.split('/')).extend(&self.segments);
        }
        if let Some((name, value)) = &self.query {
            url.query_pairs_mut().append_pair(name, value);
        }
        url
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mount)?;
        self.segments.iter().try_for_each(|s| write!(f, "/{s}"))?;
        self.query.iter().try_for_each(|(name, value)| write!(f, "?{name}={value}"))
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
    let key = want.key.trim_matches('/');
    check_segments("remoteRef.key", key)?;
    let (mount, rest) = match mount {
        Some(mount) => (mount, key.strip_prefix(mount).and_then(|r| r.strip_prefix('/')).unwrap_or(key)),
        None => key.split_once('/').ok_or_else(|| {
            Error::invalid("remoteRef.key", format!("has no mount path, and the store's {FIELD}.path is not set"))
        })?,
    };
    let (prefix, rest) = match (version, want.metadata) {
        (KvVersion::V1, true) => return Err(Error::Unsupported("metadataPolicy Fetch: KV version 1 has no metadata".into())),
        (KvVersion::V1, false) => (None, rest),
        (KvVersion::V2, metadata) => {
            (Some(if metadata { "metadata" } else { "data" }), rest.strip_prefix("data/").unwrap_or(rest))
        }
    };
    let query = match (&want.version, version) {
        (None, _) => None,
        (Some(_), KvVersion::V1) => {
            return Err(Error::invalid("remoteRef.version", "KV version 1 has no versions; leave it out"));
        }
        (Some(v), KvVersion::V2) if v.parse::<u64>().is_ok_and(|v| v > 0) => (!want.metadata).then(|| ("version", v.clone())),
        (Some(_), KvVersion::V2) => return Err(Error::invalid("remoteRef.version", "is no positive number")),
    };
    let segments = prefix.into_iter().chain(rest.split('/')).map(str::to_owned).collect();
    Ok(Path { mount: mount.to_owned(), segments, query })
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
    #[serde(borrow)]
    data: Option<&'a RawValue>,
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
        KvVersion::V1 => Ok(value(data, None)),
        KvVersion::V2 => {
            let V2 { data, metadata } = serde_json::from_str(data).map_err(|_| not_kv("is not one of KV version 2"))?;
            // A version number alone is not enough: metadata can be deleted, and the count starts again.
            let at = format!("{}@{}", metadata.version, metadata.created_time);
            if want.seen.as_deref() == Some(&*at) {
                return Ok(Fetched::Unchanged);
            }
            match data.map(RawValue::get).filter(|text| *text != "null") {
                Some(text) => Ok(value(text, Some(at.into()))),
                None => Err(Error::NotFound("Vault has this version without data".into())),
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
