//! Certificates: as an application's credential, and as what is pushed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::identity::claims;
use crate::jwt::{Algorithm, Signer};
use crate::{Error, Result, SecretBytes, pkcs12};

/// An application's certificate with its key.
pub(super) struct ClientCertificate {
    signer: Signer,
    /// SHA-256 of the certificate, as Entra ID finds it by.
    thumbprint: String,
}

impl ClientCertificate {
    /// From PEM, or PKCS#12 without a password; `field` is where it stands.
    ///
    /// # Errors
    /// [`Error::Invalid`], without a word of the input.
    pub(super) fn parse(field: &str, bytes: &SecretBytes) -> Result<Self> {
        let (leaf, signer) = if is_pem(bytes.expose()) {
            let leaf = CertificateDer::pem_slice_iter(bytes.expose()).find_map(std::result::Result::ok);
            let leaf = leaf.ok_or_else(|| Error::invalid(field, "holds no PEM certificate (-----BEGIN CERTIFICATE-----)"))?;
            (leaf.to_vec(), Signer::from_pem(field, bytes.expose())?)
        } else {
            let found = pkcs12::read(field, bytes.expose(), "")?;
            let leaf = found.certificates.into_iter().next().ok_or_else(|| Error::invalid(field, "holds no certificate"))?;
            (leaf, Signer::from_der(field, &PrivateKeyDer::Pkcs8(found.key.as_slice().into()))?)
        };
        Ok(Self { signer, thumbprint: URL_SAFE_NO_PAD.encode(Sha256::digest(&leaf)) })
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

fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(11).any(|window| window == b"-----BEGIN ")
}

/// A certificate to push: its leaf, and whether it is PEM.
pub(super) struct Pushed {
    pub(super) leaf: Vec<u8>,
    pub(super) is_pem: bool,
}

/// Looks at a certificate that is to be pushed: PKCS#12 without a password, PEM or DER.
///
/// # Errors
/// [`Error::Invalid`], without a word of the input.
pub(super) fn pushed(value: &SecretBytes) -> Result<Pushed> {
    let field = "match.secretKey";
    let bytes = value.expose();
    if is_pem(bytes) {
        let leaf = CertificateDer::pem_slice_iter(bytes).find_map(std::result::Result::ok);
        let leaf = leaf.ok_or_else(|| Error::invalid(field, "holds PEM, but no certificate"))?;
        return Ok(Pushed { leaf: leaf.to_vec(), is_pem: true });
    }
    let leaf = match pkcs12::read(field, bytes, "") {
        Ok(found) => found.certificates.into_iter().next(),
        Err(_) => der(bytes),
    };
    let why = "is no certificate: PKCS#12 without a password, or PEM with its key";
    Ok(Pushed { leaf: leaf.ok_or_else(|| Error::invalid(field, why))?, is_pem: false })
}

/// A certificate in DER, as it is.
fn der(bytes: &[u8]) -> Option<Vec<u8>> {
    let der = CertificateDer::from(bytes);
    rustls::server::ParsedCertificate::try_from(&der).is_ok().then(|| bytes.to_vec())
}
