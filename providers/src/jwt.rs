//! Tokens that we sign ourselves, with the RSA key of a service account or an application (RFC 7515).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use std::sync::Arc;
use zeroize::Zeroizing;

use crate::{Error, Result};

/// How a token is signed (RFC 7518).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// As Google has it.
    #[cfg_attr(not(feature = "gcp"), allow(dead_code, reason = "this build may lack who signs so"))]
    Rs256,
    /// As Entra ID has it.
    #[cfg_attr(not(feature = "azure"), allow(dead_code, reason = "this build may lack who signs so"))]
    Ps256,
}

/// A private key that signs.
#[derive(Clone)]
pub(crate) struct Signer {
    field: String,
    key: Arc<dyn SigningKey>,
}

impl Signer {
    /// From PEM, PKCS#8 or PKCS#1; `field` is where it stands, for messages.
    ///
    /// # Errors
    /// [`Error::Invalid`], without a word of the input.
    pub(crate) fn from_pem(field: &str, pem: &[u8]) -> Result<Self> {
        let key = PrivateKeyDer::from_pem_slice(pem)
            .map_err(|_| Error::invalid(field, "holds no PEM private key (-----BEGIN PRIVATE KEY-----)"))?;
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|_| Error::invalid(field, "is no private key that can sign; an RSA key of 2048 bits or more is needed"))?;
        let signer = Self { field: field.to_owned(), key };
        signer.signature(Algorithm::Rs256, b"").map(|_| signer)
    }

    /// Its public part, as certificates hold it (SubjectPublicKeyInfo in DER).
    #[cfg(feature = "azure")]
    pub(crate) fn public_key(&self) -> Option<Vec<u8>> {
        self.key.public_key().map(|key| key.to_vec())
    }

    fn signature(&self, algorithm: Algorithm, message: &[u8]) -> Result<Vec<u8>> {
        let wrong = || Error::invalid(&self.field, "is no RSA key, which tokens are signed with");
        let scheme = match algorithm {
            Algorithm::Rs256 => SignatureScheme::RSA_PKCS1_SHA256,
            Algorithm::Ps256 => SignatureScheme::RSA_PSS_SHA256,
        };
        let scheme = self.key.choose_scheme(&[scheme]).ok_or_else(wrong)?;
        scheme.sign(message).map_err(|_| wrong())
    }

    /// A token of these parts; the header must name the same algorithm.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key of another kind than RSA.
    pub(crate) fn sign(&self, algorithm: Algorithm, header: &Value, claims: &Value) -> Result<Zeroizing<String>> {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.signature(algorithm, message.as_bytes())?;
        Ok(Zeroizing::new(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_rsa_key_is_refused_and_not_shown() {
        for pem in ["", "CANARY", "-----BEGIN PRIVATE KEY-----\nQ0FOQVJZ\n-----END PRIVATE KEY-----\n", EC] {
            let error = Signer::from_pem("auth.key", pem.as_bytes()).err().expect("no key").to_string();
            assert!(error.starts_with("auth.key: ") && !error.contains("CANARY") && !error.contains("Q0FOQVJZ"), "{error}");
        }
    }

    /// A key of another kind, made for this test.
    const EC: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgevZzL1gdAFr88hb2
OF/2NxApJCzGCEDdfSp6VQO30hyhRANCAAQRWz+jn65BtOMvdyHKcvjBeBSDZH2r
1RTwjmYSi9R/zpBnuQ4EiMnCqfMPWiZqB4QdbAd0E7oH50VpuZ1P087G
-----END PRIVATE KEY-----
";
}
