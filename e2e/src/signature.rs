//! AWS's Signature Version 4, checked as its reference describes it: an independent look at what a client signs.

use aws_lc_rs::{digest, hmac};
use axum::http::{HeaderMap, Method, Uri};

/// What the Authorization header of a signed request says.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The access key id.
    pub key: String,
    /// Date, region, service and `aws4_request`.
    scope: Vec<String>,
    headers: Vec<String>,
    signature: String,
}

impl Signed {
    /// Takes the header apart.
    pub fn parse(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get("authorization")?.to_str().ok()?.strip_prefix("AWS4-HMAC-SHA256 ")?;
        let part = |name: &str| text.split(',').find_map(|p| p.trim().strip_prefix(name)?.strip_prefix('='));
        let mut credential = part("Credential")?.split('/');
        Some(Self {
            key: credential.next()?.to_owned(),
            scope: credential.map(str::to_owned).collect(),
            headers: part("SignedHeaders")?.split(';').map(str::to_owned).collect(),
            signature: part("Signature")?.to_owned(),
        })
    }

    /// Whether the signature is that of the request with the secret key.
    pub fn is_good(&self, secret: &str, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> bool {
        let value = |name: &String| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().trim().to_owned();
        let lines: String = self.headers.iter().map(|name| format!("{name}:{}\n", value(name))).collect();
        let canonical = format!(
            "{method}\n{}\n{}\n{lines}\n{}\n{}",
            normal(uri.path()),
            uri.query().unwrap_or_default(),
            self.headers.join(";"),
            hex(digest::digest(&digest::SHA256, body).as_ref())
        );
        let date = value(&"x-amz-date".to_owned());
        let scope = self.scope.join("/");
        let text =
            format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref()));
        let mut key = format!("AWS4{secret}").into_bytes();
        for part in &self.scope {
            key = sign(&key, part.as_bytes());
        }
        hex(&sign(&key, text.as_bytes())) == self.signature && self.scope.len() == 4
    }
}

/// The path without empty segments, as all services but S3 sign it.
fn normal(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    format!("/{}{}", segments.join("/"), if path.ends_with('/') && !segments.is_empty() { "/" } else { "" })
}

fn sign(key: &[u8], data: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
