//! An application's certificate, by which it says who it is.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::identity::claims;
use crate::jwt::{Algorithm, Signer};
use crate::{Error, Result, SecretBytes};

/// A certificate with its key.
pub(super) struct ClientCertificate {
    signer: Signer,
    /// SHA-256 of the certificate, as Entra ID finds it by.
    thumbprint: String,
}

impl ClientCertificate {
    /// From PEM; `field` is where it stands. PKCS#12 is not taken: what it costs to open one, its writer decides.
    ///
    /// # Errors
    /// [`Error::Invalid`], without a word of the input.
    pub(super) fn parse(field: &str, bytes: &SecretBytes) -> Result<Self> {
        let wrong = |why: &str| Error::invalid(field, why);
        if !is_pem(bytes.expose()) {
            return Err(wrong(
                "is no PEM; write the certificate and its key, as `openssl pkcs12 -nodes` shows those of a PKCS#12 file",
            ));
        }
        let signer = Signer::from_pem(field, bytes.expose())?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(bytes.expose()).filter_map(std::result::Result::ok).collect();
        if chain.is_empty() {
            return Err(wrong("holds no PEM certificate (-----BEGIN CERTIFICATE-----)"));
        }
        // A chain may stand in any order: the key's own certificate holds its public part.
        let own =
            signer.public_key().and_then(|key| chain.iter().find(|der| der.windows(key.len()).any(|w| w == key.as_slice())));
        let own = own.ok_or_else(|| wrong("holds no certificate of its private key"))?;
        Ok(Self { signer, thumbprint: URL_SAFE_NO_PAD.encode(Sha256::digest(own)) })
    }

    /// A token that says who the application is.
    pub(super) fn assertion(&self, client: &str, audience: &str) -> Result<Zeroizing<String>> {
        let mut id = [0; 16];
        let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
        random.fill(&mut id).map_err(|_| Error::unavailable("this machine gives no random numbers"))?;
        let header = json!({"alg": "PS256", "typ": "JWT", "x5t#S256": self.thumbprint});
        self.signer.sign(Algorithm::Ps256, &header, &claims(client, audience, &URL_SAFE_NO_PAD.encode(id)))
    }
}

pub(super) fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(11).any(|window| window == b"-----BEGIN ")
}
