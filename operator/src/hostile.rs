//! What people write and what values hold, for fuzzing: each entry takes any bytes, and must come back without a panic, in little
//! time, and without an error that repeats a secret (`e2e/fuzz`, and the corpus in the scenarios).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gotemplate::{Limits, Options, Template, Value};
use jiff::Timestamp;
use lockstep_crds::duration::parse_go;
use lockstep_crds::external_secret::{Rewrite, SyncWindows};
use lockstep_providers::SecretBytes;
use serde_json::json;

use crate::external_secret::{manifest, rewrite};
use crate::windows::Windows;
use crate::{admission, gjson};

/// Stands in what is secret in the seeds, and so in no error.
const CANARY: &str = "CANARY";

/// Values of at most this size are tried: what is longer is more of the same.
const LONGEST: usize = 64 << 10;

fn tells_nothing(error: &dyn std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.contains(CANARY), "{text}");
    assert!(text.len() < 1 << 20, "{} bytes of error", text.len());
}

/// Up to three parts, parted by lines.
fn parts(bytes: &[u8]) -> [String; 3] {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]);
    let mut parts = text.splitn(3, '\n').map(str::to_owned);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// Functions that read what a value holds.
const READERS: &[&str] = &[
    "{{ .v | b64dec }}",
    "{{ .v | fromJson | toJson }}",
    "{{ .v | fromYaml | toYaml }}",
    "{{ .v | filterPEM \"CERTIFICATE\" }}",
    "{{ .v | filterCertChain \"leaf\" }}",
    "{{ .v | jwkPublicKeyPem }}",
    "{{ .v | jwkPrivateKeyPem }}",
    "{{ pemToPkcs12 .v .v | b64enc | len }}",
    "{{ fullPemToPkcs12 .v .v | b64enc | len }}",
    "{{ pemTruststoreToPKCS12 .v | b64enc | len }}",
    "{{ .b | b64dec | pkcs12cert }}",
    "{{ .b | b64dec | pkcs12key }}",
    "{{ .b | b64dec | pkcs12certPass \"changeit\" }}",
    "{{ decryptAES \"k\" .v }}",
    "{{ .v | semver }}{{ semverCompare \"^1\" .v }}",
    "{{ .v | urlParse }}",
    "{{ toDate \"2006-01-02\" .v }}{{ .v | duration }}",
    "{{ mustRegexFind .v .v }}",
];

/// What a value holds, for every function that reads into one: PEM, PKCS#12, JWK, JSON, YAML, dates, versions, URLs.
pub fn values(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    let (text, encoded) = (String::from_utf8_lossy(bytes).into_owned(), STANDARD.encode(bytes));
    let data = Value::map_of_text([("v", text.as_str()), ("b", encoded.as_str())]);
    let limits = Limits { steps: 50_000, output: 1 << 20, memory: 8 << 20, depth: 50 };
    for source in READERS {
        let options = Options { sprig: true, limits, ..Options::default() };
        let template = Template::parse("reader", source, &options);
        assert!(template.is_ok(), "{source}");
        if let Some(Err(error)) = template.ok().map(|template| template.render(&data)) {
            tells_nothing(&error);
        }
    }
}

/// A template.
pub fn template(bytes: &[u8]) {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]).into_owned();
    if text.contains(CANARY) {
        return;
    }
    let limits = Limits { steps: 20_000, output: 1 << 16, memory: 1 << 22, depth: 50 };
    let options = Options { sprig: true, limits, ..Options::default() };
    let Ok(template) = Template::parse("fuzz", &text, &options) else { return };
    let json = format!("{{\"k\": [1, 2.5, null, \"{CANARY}\"]}}");
    let data = Value::map_of_text([("a", CANARY), ("j", json.as_str()), ("e", "")]);
    template.render(&data).err().iter().for_each(|error| tells_nothing(error));
}

/// A gjson path in the first line, and a document in the rest.
pub fn gjson_path(bytes: &[u8]) {
    let [path, first, rest] = parts(bytes);
    if path.contains(CANARY) {
        return;
    }
    gjson::get(&format!("{first}\n{rest}"), &path).err().iter().for_each(|error| tells_nothing(error));
}

/// A pattern, what it is replaced by, and a key; and the three as templates.
pub fn rewrites(bytes: &[u8]) {
    let [source, target, key] = parts(bytes);
    for rewrite in [
        json!({"regexp": {"source": source, "target": target}}),
        json!({"transform": {"template": source}}),
        json!({"merge": {"into": source, "priority": [target]}}),
    ] {
        let Ok(rewrite) = serde_json::from_value::<Rewrite>(rewrite) else { continue };
        let keys = BTreeMap::from([(key.clone(), SecretBytes::from(CANARY)), ("other".into(), SecretBytes::from("{}"))]);
        if ![&source, &target, &key].iter().any(|text| text.contains(CANARY)) {
            rewrite::apply(&[rewrite], keys).err().iter().for_each(|error| tells_nothing(error));
        }
    }
}

/// A cron schedule, a Go duration, and a time from which on a window opens.
pub fn times(bytes: &[u8]) {
    let [schedule, duration, from] = parts(bytes);
    let _ = parse_go(&duration);
    let from = Timestamp::from_second(from.trim().parse().unwrap_or(1_700_000_000)).unwrap_or(Timestamp::UNIX_EPOCH);
    for kind in ["allow", "deny"] {
        let spec = json!({"kind": kind, "windows": [{"schedule": schedule, "duration": duration}]});
        let Ok(spec) = serde_json::from_value::<SyncWindows>(spec) else { continue };
        let Ok(windows) = Windows::new(&spec) else { continue };
        if let Some(open) = windows.next_open(from) {
            assert!(open >= from, "{schedule}: {open} is before {from}");
        }
    }
}

/// A path into a target of another kind, and what is put there.
pub fn target_path(bytes: &[u8]) {
    let [path, value, rest] = parts(bytes);
    let named = path.contains(CANARY) || rest.contains(CANARY);
    let Ok(path) = manifest::Path::parse(&path) else { return };
    let mut object = serde_json::from_str(&rest).unwrap_or_else(|_| json!({"apiVersion": "v1", "kind": "X", "metadata": {}}));
    let mut room = 10_000;
    path.put(&mut object, json!(value), &mut room).err().iter().filter(|_| !named).for_each(|e| tells_nothing(e));
}

/// A manifest in JSON, as the admission webhook and `lockstep` itself take it.
pub fn manifests(bytes: &[u8]) {
    let Ok(object) = serde_json::from_slice::<serde_json::Value>(&bytes[..bytes.len().min(LONGEST)]) else { return };
    for (group, kind) in [
        ("external-secrets.io", "ExternalSecret"),
        ("external-secrets.io", "ClusterExternalSecret"),
        ("external-secrets.io", "PushSecret"),
        ("external-secrets.io", "SecretStore"),
        ("external-secrets.io", "ClusterSecretStore"),
        ("generators.external-secrets.io", "Webhook"),
        ("generators.external-secrets.io", "Password"),
        ("generators.external-secrets.io", "ClusterGenerator"),
    ] {
        let found = admission::checks::check(group, kind, &object);
        assert!(found.problems.iter().chain(&found.warnings).all(|text| text.len() < 1 << 20));
    }
}
