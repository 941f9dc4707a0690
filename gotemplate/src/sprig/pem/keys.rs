//! Private keys: PKCS#8, and the older forms that only RSA (PKCS#1) and elliptic curves (SEC 1) have.

use pkcs8::der::asn1::{AnyRef, OctetStringRef};
use pkcs8::der::{Decode, Encode};
use pkcs8::spki::AlgorithmIdentifierRef;
use pkcs8::{ObjectIdentifier, PrivateKeyInfoRef};
use zeroize::Zeroizing;

use super::Block;

pub(in super::super) type Der = Zeroizing<Vec<u8>>;

/// id-ecPublicKey (RFC 5480).
pub(in super::super) const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

fn wrapped(oid: ObjectIdentifier, parameters: Option<AnyRef<'_>>, inner: &[u8]) -> Option<Der> {
    let algorithm = AlgorithmIdentifierRef { oid, parameters };
    let info = PrivateKeyInfoRef::new(algorithm, OctetStringRef::new(inner).ok()?);
    info.to_der().ok().map(Zeroizing::new)
}

/// PKCS#8 of an RSA key in PKCS#1.
pub(in super::super) fn of_pkcs1(der: &[u8]) -> Option<Der> {
    pkcs1::RsaPrivateKey::<pkcs1::UintRef<'_>>::from_der(der).ok()?;
    wrapped(pkcs1::ALGORITHM_OID, Some(AnyRef::NULL), der)
}

/// PKCS#8 of a key of an elliptic curve in SEC 1; the curve is named outside then, as it is usual.
fn of_sec1(der: &[u8]) -> Option<Der> {
    let key = sec1::EcPrivateKey::from_der(der).ok()?;
    let curve = key.parameters.and_then(|parameters| parameters.named_curve())?;
    let bare = sec1::EcPrivateKey { parameters: None, ..key };
    let inner = Zeroizing::new(bare.to_der().ok()?);
    wrapped(EC, Some((&curve).into()), &inner)
}

/// A private key in any of the three forms as PKCS#8.
pub(in super::super) fn pkcs8_of(der: &[u8]) -> Option<Der> {
    if PrivateKeyInfoRef::from_der(der).is_ok() {
        return Some(Zeroizing::new(der.to_vec()));
    }
    of_pkcs1(der).or_else(|| of_sec1(der))
}

/// The private key of a PEM text, as Sprig reads it: the block's name says its form.
pub(in super::super) fn from_pem(pem: &[u8]) -> Result<Der, String> {
    let block = Block::first(pem).ok_or("no PEM data in input")?;
    let found = match block.kind.as_str() {
        "PRIVATE KEY" => PrivateKeyInfoRef::from_der(&block.bytes).is_ok().then(|| block.bytes.clone()),
        "RSA PRIVATE KEY" => of_pkcs1(&block.bytes),
        "EC PRIVATE KEY" => of_sec1(&block.bytes),
        "DSA PRIVATE KEY" => return Err("DSA is not supported".into()),
        _ => return Err("no private key data in the PEM block".into()),
    };
    found.ok_or_else(|| "the private key can't be read".to_owned())
}

/// The PEM that Sprig writes: `RSA PRIVATE KEY`, `EC PRIVATE KEY`, else PKCS#8.
pub(in super::super) fn to_pem(pkcs8: &[u8]) -> Option<String> {
    let info = PrivateKeyInfoRef::from_der(pkcs8).ok()?;
    let inner = info.private_key.as_bytes();
    Some(match info.algorithm.oid {
        oid if oid == pkcs1::ALGORITHM_OID => Block::new("RSA PRIVATE KEY", inner).encode(),
        oid if oid == EC => {
            let curve = info.algorithm.parameters_oid().ok()?;
            let key = sec1::EcPrivateKey::from_der(inner).ok()?;
            let named = sec1::EcPrivateKey { parameters: Some(sec1::EcParameters::NamedCurve(curve)), ..key };
            Block::new("EC PRIVATE KEY", &Zeroizing::new(named.to_der().ok()?)).encode()
        }
        _ => Block::new("PRIVATE KEY", pkcs8).encode(),
    })
}
