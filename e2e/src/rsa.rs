//! RSA keys of identities that a test makes up.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A key and its id.
pub struct Rsa {
    /// Its id.
    pub id: String,
    pair: KeyPair,
}

impl Rsa {
    /// A new one.
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned(), pair: KeyPair::generate(KeySize::Rsa2048).expect("a key") }
    }

    /// The private key as PKCS#8 in PEM.
    pub fn pem(&self) -> String {
        let der = self.pair.as_der().expect("DER");
        let der: &aws_lc_rs::encoding::Pkcs8V1Der<'_> = &der;
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).expect("Base64")).collect();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
    }

    /// A certificate for it that it signs itself, in PEM.
    pub fn certificate(&self) -> String {
        let key = rcgen::KeyPair::from_pem(&self.pem()).expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.distinguished_name.push(rcgen::DnType::CommonName, &self.id);
        params.self_signed(&key).expect("a certificate").pem()
    }

    /// The public key as a set of one (RFC 7517).
    pub fn jwks(&self) -> Value {
        let PublicKeyComponents { n, e }: PublicKeyComponents<Vec<u8>> = self.pair.public_key().into();
        let text = |number: &[u8]| URL_SAFE_NO_PAD.encode(number);
        json!({"keys": [{"kid": self.id, "kty": "RSA", "alg": "RS256", "use": "sig", "n": text(&n), "e": text(&e)}]})
    }

    /// A token that it signs (RFC 7519, RS256).
    pub fn sign(&self, claims: &str) -> String {
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": self.id}).to_string();
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).expect("a signature");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
