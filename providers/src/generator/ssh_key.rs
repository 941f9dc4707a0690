//! A pair of SSH keys, the private one in OpenSSH's own format (PROTOCOL.key of OpenSSH).

use std::collections::BTreeMap;

use async_trait::async_trait;
use aws_lc_rs::encoding::{AsBigEndian, AsDer, EcPrivateKeyBin, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
};
use lockstep_crds::generator::ssh_key::{SshKeySpec, SshKeyType};
use pkcs8::PrivateKeyInfoRef;
use pkcs8::der::Decode;
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey, KeypairData, RsaKeypair, RsaPrivateKey};
use ssh_key::public::{Ed25519PublicKey, RsaPublicKey};
use ssh_key::{Algorithm, EcdsaCurve, LineEnding, Mpint, PrivateKey};
use zeroize::Zeroizing;

use super::{Generated, Generator};
use crate::{Error, Result, SecretBytes};

/// What a key is made by.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Rsa(KeySize),
    Ecdsa(EcdsaCurve, &'static EcdsaSigningAlgorithm),
    Ed25519,
}

/// Makes pairs of keys.
#[derive(Debug)]
pub(super) struct SshKey {
    kind: Kind,
    comment: String,
}

impl SshKey {
    /// Checks that there can be such a key.
    pub(super) fn new(spec: SshKeySpec) -> Result<Self> {
        let wrong = |sizes: &str| Err(Error::invalid("spec.keySize", format!("must be {sizes}")));
        let kind = match (spec.key_type, spec.key_size.unwrap_or(0)) {
            (SshKeyType::Rsa, 0 | 2048) => Kind::Rsa(KeySize::Rsa2048),
            (SshKeyType::Rsa, 3072) => Kind::Rsa(KeySize::Rsa3072),
            (SshKeyType::Rsa, 4096) => Kind::Rsa(KeySize::Rsa4096),
            (SshKeyType::Rsa, 8192) => Kind::Rsa(KeySize::Rsa8192),
            (SshKeyType::Rsa, _) => return wrong("2048, 3072, 4096 or 8192 with keyType rsa"),
            (SshKeyType::Ecdsa, 0 | 256) => Kind::Ecdsa(EcdsaCurve::NistP256, &ECDSA_P256_SHA256_ASN1_SIGNING),
            (SshKeyType::Ecdsa, 384) => Kind::Ecdsa(EcdsaCurve::NistP384, &ECDSA_P384_SHA384_ASN1_SIGNING),
            (SshKeyType::Ecdsa, 521) => Kind::Ecdsa(EcdsaCurve::NistP521, &ECDSA_P521_SHA512_ASN1_SIGNING),
            (SshKeyType::Ecdsa, _) => return wrong("256, 384 or 521 with keyType ecdsa"),
            // It has but one size: one that is given means nothing.
            (SshKeyType::Ed25519, _) => Kind::Ed25519,
        };
        let comment = spec.comment.unwrap_or_default();
        if comment.chars().any(char::is_control) {
            return Err(Error::invalid("spec.comment", "holds a line break or another control character"));
        }
        Ok(Self { kind, comment })
    }
}

impl Kind {
    fn generate(self) -> Option<KeypairData> {
        match self {
            Self::Rsa(size) => rsa(size),
            Self::Ecdsa(curve, algorithm) => ecdsa(curve, algorithm),
            Self::Ed25519 => {
                let seed: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
                let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).ok()?;
                let public = Ed25519PublicKey(pair.public_key().as_ref().try_into().ok()?);
                Some(KeypairData::Ed25519(Ed25519Keypair { public, private: Ed25519PrivateKey::from_bytes(&seed) }))
            }
        }
    }
}

fn rsa(size: KeySize) -> Option<KeypairData> {
    let pair = aws_lc_rs::rsa::KeyPair::generate(size).ok()?;
    let document: Pkcs8V1Der<'static> = pair.as_der().ok()?;
    let info = PrivateKeyInfoRef::from_der(document.as_ref()).ok()?;
    let key = pkcs1::RsaPrivateKey::from_der(info.private_key.as_bytes()).ok()?;
    let number = |n: pkcs1::UintRef<'_>| Mpint::from_positive_bytes(n.as_bytes()).ok();
    Some(KeypairData::Rsa(RsaKeypair {
        public: RsaPublicKey { e: number(key.public_exponent)?, n: number(key.modulus)? },
        private: RsaPrivateKey {
            d: number(key.private_exponent)?,
            iqmp: number(key.coefficient)?,
            p: number(key.prime1)?,
            q: number(key.prime2)?,
        },
    }))
}

fn ecdsa(curve: EcdsaCurve, algorithm: &'static EcdsaSigningAlgorithm) -> Option<KeypairData> {
    let pair = EcdsaKeyPair::generate(algorithm).ok()?;
    let secret: EcPrivateKeyBin<'static> = pair.private_key().as_be_bytes().ok()?;
    // The pair as the format has it after its algorithm's name: curve, point and number (RFC 5656, section 3.1).
    let mut wire = Zeroizing::new(Vec::new());
    for part in [curve.as_str().as_bytes(), pair.public_key().as_ref(), secret.as_ref()] {
        wire.extend_from_slice(&u32::try_from(part.len()).ok()?.to_be_bytes());
        wire.extend_from_slice(part);
    }
    KeypairData::decode_as(&mut wire.as_slice(), Algorithm::Ecdsa { curve }).ok()
}

#[async_trait]
impl Generator for SshKey {
    async fn generate(&self) -> Result<Generated> {
        let broken = || Error::unavailable("no SSH key could be made; please report it");
        let kind = self.kind;
        // Large primes take seconds.
        let pair = tokio::task::spawn_blocking(move || kind.generate()).await.ok().flatten().ok_or_else(broken)?;
        let key = PrivateKey::new(pair, self.comment.clone()).map_err(|_| broken())?;
        let private = key.to_openssh(LineEnding::LF).map_err(|_| broken())?;
        let public = key.public_key().to_openssh().map_err(|_| broken())?;
        let values = BTreeMap::from([
            ("privateKey".to_owned(), SecretBytes::from(private.as_str())),
            ("publicKey".to_owned(), SecretBytes::from(public)),
        ]);
        Ok(Generated { values, lease: None })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(spec: serde_json::Value) -> Result<SshKey> {
        SshKey::new(serde_json::from_value(spec).expect("a spec"))
    }

    #[tokio::test]
    async fn keys_of_every_kind_are_read_back_and_their_halves_belong_together() {
        for (spec, begins) in [
            (json!({}), "ssh-rsa "),
            (json!({"keyType": "rsa", "keySize": 3072}), "ssh-rsa "),
            (json!({"keyType": "ecdsa"}), "ecdsa-sha2-nistp256 "),
            (json!({"keyType": "ecdsa", "keySize": 384}), "ecdsa-sha2-nistp384 "),
            (json!({"keyType": "ecdsa", "keySize": 521}), "ecdsa-sha2-nistp521 "),
            (json!({"keyType": "ed25519", "comment": "app@cluster"}), "ssh-ed25519 "),
        ] {
            let values = key(spec.clone()).expect("a kind").generate().await.expect("a pair").values;
            let (private, public) = (values["privateKey"].as_text().expect("text"), values["publicKey"].as_text().expect("text"));
            assert!(public.starts_with(begins), "{spec}: {public}");
            let read = PrivateKey::from_openssh(private).expect("OpenSSH's format");
            assert_eq!(read.public_key().to_openssh().expect("text"), public);
            assert_eq!(public.ends_with(" app@cluster"), spec["comment"].is_string());
        }
    }

    #[test]
    fn sizes_that_are_none_are_named() {
        for (spec, needle) in [
            (json!({"keySize": 1024}), "spec.keySize: must be 2048, 3072, 4096 or 8192 with keyType rsa"),
            (json!({"keyType": "ecdsa", "keySize": 2048}), "256, 384 or 521 with keyType ecdsa"),
            (json!({"comment": "a\nb"}), "spec.comment: holds a line break"),
        ] {
            let error = key(spec).expect_err("no key").to_string();
            assert!(error.contains(needle), "{error}");
        }
        assert!(key(json!({"keyType": "ed25519", "keySize": 256})).is_ok());
    }
}
