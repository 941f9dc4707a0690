//! What strangers send, for fuzzing: answers of providers, credentials, URLs. Each entry takes any bytes, and must come back
//! without a panic, in little time, and without an error that repeats a secret (`e2e/fuzz`, and the corpus in the scenarios).

use crate::egress::{Egress, Place, Rule};
use crate::registry::Options;
use crate::{SecretBytes, http};

/// Stands in what is secret in the seeds, and so in no error.
pub const CANARY: &str = "CANARY";

/// Whether an error may be shown: for the entries here and in the operator.
pub fn tells_nothing(error: &dyn std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.contains(CANARY), "{text}");
    assert!(text.len() < 1 << 20, "{} bytes of error", text.len());
}

fn halves(bytes: &[u8]) -> (String, &[u8]) {
    let at = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    let (first, rest) = bytes.split_at(at);
    (String::from_utf8_lossy(first).into_owned(), rest.get(1..).unwrap_or_default())
}

/// What a provider answers: of Vault, Kubernetes, GCP and any API.
pub fn answers(bytes: &[u8]) {
    crate::vault::hostile(bytes);
    crate::kubernetes::hostile_answer(bytes);
    crate::gcp::hostile_answer(bytes);
    crate::webhook::hostile_challenge(bytes);
}

/// A JSONPath in the first line, and the answer that it is to find something in.
pub fn json_path(bytes: &[u8]) {
    let (path, answer) = halves(bytes);
    crate::webhook::hostile_path(&path, answer);
}

/// Keys, certificates and configurations that a Secret holds.
pub fn credentials(bytes: &[u8]) {
    let secret = SecretBytes::new(bytes.to_vec());
    crate::kubernetes::hostile_kubeconfig(&secret);
    crate::gcp::hostile_key(&secret);
    let results = [
        http::certificates("f", bytes).map(drop),
        http::identity("f", &secret, &secret).map(drop),
        http::header_token("f", &secret).map(drop),
        crate::jwt::Signer::from_pem("f", bytes).map(drop),
    ];
    results.iter().filter_map(|result| result.as_ref().err()).for_each(|error| tells_nothing(error));
}

/// URLs of servers and rules of flags: whatever is taken is an address that may be reached.
pub fn urls(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(url) = http::base_url("f", &text, &Options::default()) {
        assert!(matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none());
        let address = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
        assert!(address.is_none_or(|address| Egress::default().check("host", address).is_ok()), "{url}");
    }
    if let Ok(rule) = text.parse::<Rule>() {
        let only = Egress { only: vec![rule], ..Egress::default() };
        let _ = (only.check_name(&text), only.check(&text, std::net::Ipv4Addr::LOCALHOST.into()));
    }
    let _ = text.parse::<Place>();
}
