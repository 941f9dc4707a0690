//! A kubeconfig out of a Secret: what it says inline, and nothing that would reach into the operator's own machine.

use base64::Engine;
use reqwest::{Certificate, Identity, Url};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::http;
use crate::registry::Options;
use crate::{Error, Result, SecretBytes};

/// The current context of a kubeconfig.
pub(super) struct Config {
    pub(super) server: Url,
    pub(super) authorities: Option<Vec<Certificate>>,
    pub(super) identity: Option<Identity>,
    pub(super) token: Option<Zeroizing<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    #[serde(default)]
    current_context: String,
    contexts: Vec<Named<Context>>,
    clusters: Vec<Named<Cluster>>,
    users: Vec<Named<User>>,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "context", alias = "cluster", alias = "user")]
    value: T,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: Option<String>,
    certificate_authority: Option<serde_json::Value>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    proxy_url: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    token: Option<Zeroizing<String>>,
    client_certificate_data: Option<String>,
    client_key_data: Option<Zeroizing<String>>,
    #[serde(rename = "tokenFile")]
    token_file: Option<serde_json::Value>,
    client_certificate: Option<serde_json::Value>,
    client_key: Option<serde_json::Value>,
    exec: Option<serde_json::Value>,
    auth_provider: Option<serde_json::Value>,
    username: Option<serde_json::Value>,
}

/// Parses a kubeconfig that somebody else wrote.
///
/// # Errors
/// [`Error::Invalid`] when it is none, or names a program, a file or a proxy: they would run, or be read, as the operator.
pub(super) fn parse(field: &str, text: &SecretBytes, options: &Options) -> Result<Config> {
    let invalid = |why: &str| Error::invalid(field, why);
    let text = text.as_text().ok_or_else(|| invalid("is no kubeconfig: not text"))?;
    // The parser's own message would quote the file.
    let config: Kubeconfig =
        serde_saphyr::from_str(text).map_err(|_| invalid("is no kubeconfig with contexts, clusters and users"))?;
    let context = pick(config.contexts, &config.current_context).ok_or_else(|| invalid("its current-context is not there"))?;
    let cluster = pick(config.clusters, &context.cluster).ok_or_else(|| invalid("its context names no cluster of it"))?;
    let user = pick(config.users, &context.user).ok_or_else(|| invalid("its context names no user of it"))?;
    for (name, set) in [
        ("exec", user.exec.is_some()),
        ("auth-provider", user.auth_provider.is_some()),
        ("tokenFile", user.token_file.is_some()),
        ("client-certificate", user.client_certificate.is_some()),
        ("client-key", user.client_key.is_some()),
        ("username", user.username.is_some()),
        ("certificate-authority", cluster.certificate_authority.is_some()),
        ("proxy-url", cluster.proxy_url.is_some()),
        ("insecure-skip-tls-verify", cluster.insecure_skip_tls_verify),
    ] {
        if set {
            return Err(invalid(&format!(
                "{name} is refused: a kubeconfig in a Secret must hold everything inline (…-data, token)"
            )));
        }
    }
    let decode = |name: &str, text: &str| {
        let compact: String = text.split_whitespace().collect();
        let bytes = base64::engine::general_purpose::STANDARD.decode(compact);
        bytes.map(SecretBytes::new).map_err(|_| invalid(&format!("its {name} is not Base64")))
    };
    let authorities = match &cluster.certificate_authority_data {
        Some(data) => Some(http::certificates(field, decode("certificate-authority-data", data)?.expose())?),
        None => None,
    };
    let identity = match (&user.client_certificate_data, &user.client_key_data) {
        (Some(certificate), Some(key)) => {
            Some(http::identity(field, &decode("client-certificate-data", certificate)?, &decode("client-key-data", key)?)?)
        }
        (None, None) => None,
        _ => return Err(invalid("it has only one of client-certificate-data and client-key-data")),
    };
    let token = match user.token {
        Some(token) => Some(http::header_token(field, &SecretBytes::from(token.as_str()))?),
        None => None,
    };
    if identity.is_none() && token.is_none() {
        return Err(invalid("its user has neither a token nor a client certificate"));
    }
    Ok(Config { server: http::base_url(field, &cluster.server, options)?, authorities, identity, token })
}

fn pick<T>(all: Vec<Named<T>>, name: &str) -> Option<T> {
    all.into_iter().find(|n| n.name == name).map(|n| n.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(cluster: &str, user: &str) -> SecretBytes {
        SecretBytes::from(format!(
            "current-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: 'https://127.0.0.1:1'{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
        ))
    }

    #[test]
    fn a_token_inline_is_taken() {
        let config = parse("f", &kubeconfig("", "token: abc"), &Options::default()).expect("a config");
        assert_eq!(config.token.expect("a token").as_str(), "abc");
    }

    #[test]
    fn programs_files_and_proxies_are_refused() {
        for (cluster, user, needle) in [
            ("", "exec: {command: sh}", "exec"),
            ("", "auth-provider: {name: x}", "auth-provider"),
            ("", "tokenFile: /etc/passwd", "tokenFile"),
            ("", "client-key: /k, client-certificate: /c", "client-certificate"),
            (", certificate-authority: /ca", "token: a", "certificate-authority"),
            (", proxy-url: 'http://x'", "token: a", "proxy-url"),
            (", insecure-skip-tls-verify: true", "token: a", "insecure-skip-tls-verify"),
            ("", "{}", "no kubeconfig"),
        ] {
            let error = parse("f", &kubeconfig(cluster, user), &Options::default()).err().expect(needle).to_string();
            assert!(error.contains(needle), "{error}");
        }
        let error = parse("f", &SecretBytes::from("canary: ["), &Options::default()).err().expect("no YAML").to_string();
        assert!(!error.contains("canary"), "{error}");
    }
}
