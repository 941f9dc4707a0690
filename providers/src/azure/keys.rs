//! Keys to push: a PEM private key as a JSON Web Key (RFC 7518).

use azure_security_keyvault_keys::models::{CurveName, JsonWebKey, KeyType};
use pkcs8::der::Decode;
use pkcs8::{ObjectIdentifier, PrivateKeyInfoRef};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use crate::{Error, Result, SecretBytes};

const FIELD: &str = "match.secretKey";
/// id-ecPublicKey (RFC 5480).
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// Curves that Key Vault has, with the length of a coordinate.
const CURVES: [(ObjectIdentifier, CurveName, usize); 4] = [
    (ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"), CurveName::P256, 32),
    (ObjectIdentifier::new_unwrap("1.3.132.0.10"), CurveName::P256K, 32),
    (ObjectIdentifier::new_unwrap("1.3.132.0.34"), CurveName::P384, 48),
    (ObjectIdentifier::new_unwrap("1.3.132.0.35"), CurveName::P521, 66),
];

/// A private key as Key Vault takes it: PKCS#8, PKCS#1 or SEC 1 in PEM; other bytes are a symmetric key.
///
/// # Errors
/// [`Error::Invalid`], without a word of the input.
pub(super) fn jwk(value: &SecretBytes) -> Result<JsonWebKey> {
    let wrong = |why: &str| Error::invalid(FIELD, format!("is no private key that Key Vault takes: {why}"));
    let bytes = value.expose();
    if !super::certificates::is_pem(bytes) {
        return Ok(JsonWebKey { kty: Some(KeyType::Oct), k: Some(bytes.to_vec()), ..JsonWebKey::default() });
    }
    let key = PrivateKeyDer::from_pem_slice(bytes).map_err(|_| wrong("its PEM holds none"))?;
    match &key {
        PrivateKeyDer::Pkcs1(key) => rsa(key.secret_pkcs1_der()).ok_or_else(|| wrong("its RSA key can't be read")),
        PrivateKeyDer::Sec1(key) => ec(key.secret_sec1_der(), None).ok_or_else(|| wrong("its EC key can't be read")),
        PrivateKeyDer::Pkcs8(key) => {
            let info = PrivateKeyInfoRef::from_der(key.secret_pkcs8_der()).map_err(|_| wrong("its PKCS#8 can't be read"))?;
            let inner = info.private_key.as_bytes();
            match info.algorithm.oid {
                oid if oid == pkcs1::ALGORITHM_OID => rsa(inner).ok_or_else(|| wrong("its RSA key can't be read")),
                oid if oid == EC => {
                    let curve = info.algorithm.parameters_oid().ok();
                    ec(inner, curve).ok_or_else(|| wrong("its EC key has no curve or no public part that Key Vault has"))
                }
                _ => Err(wrong("it is neither RSA nor EC")),
            }
        }
        _ => Err(wrong("its kind is unknown")),
    }
}

fn rsa(der: &[u8]) -> Option<JsonWebKey> {
    let key = pkcs1::RsaPrivateKey::from_der(der).ok()?;
    let number = |number: pkcs1::UintRef<'_>| Some(number.as_bytes().to_vec());
    Some(JsonWebKey {
        kty: Some(KeyType::Rsa),
        n: number(key.modulus),
        e: number(key.public_exponent),
        d: number(key.private_exponent),
        p: number(key.prime1),
        q: number(key.prime2),
        dp: number(key.exponent1),
        dq: number(key.exponent2),
        qi: number(key.coefficient),
        ..JsonWebKey::default()
    })
}

fn ec(der: &[u8], curve: Option<ObjectIdentifier>) -> Option<JsonWebKey> {
    let key = sec1::EcPrivateKey::from_der(der).ok()?;
    let curve = curve.or_else(|| key.parameters.and_then(|p| p.named_curve()))?;
    let (_, name, length) = CURVES.iter().find(|(oid, ..)| *oid == curve)?;
    let (x, y) = match key.public_key?.split_first()? {
        (4, point) if point.len() == 2 * length => point.split_at(*length),
        _ => return None,
    };
    Some(JsonWebKey {
        kty: Some(KeyType::Ec),
        crv: Some(name.clone()),
        d: Some(key.private_key.to_vec()),
        x: Some(x.to_vec()),
        y: Some(y.to_vec()),
        ..JsonWebKey::default()
    })
}

/// Whether two keys have the same public part.
pub(super) fn same(a: &JsonWebKey, b: &JsonWebKey) -> bool {
    let kind = |key: &JsonWebKey| key.kty.as_ref().map(|k| k.as_ref().trim_end_matches("-HSM").to_owned());
    let rsa = a.n.is_some() && a.n == b.n && a.e == b.e;
    let ec = a.x.is_some() && a.crv == b.crv && a.x == b.x && a.y == b.y;
    kind(a) == kind(b) && (rsa || ec)
}
