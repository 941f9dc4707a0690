//! JSON Web Keys (RFC 7517, 7518, 8037) as PEM.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use num_bigint::BigUint;
use pkcs8::der::Encode;
use pkcs8::der::asn1::{AnyRef, BitStringRef};
use pkcs8::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfo};
use pkcs8::{ObjectIdentifier, PrivateKeyInfoRef};
use serde::Deserialize;
use zeroize::{Zeroize, Zeroizing};

use super::pem::Block;
use super::pem::keys::{self, Der, EC};
use super::{made, text};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::value::Value;

/// What of a key is read; all numbers in base64url.
#[derive(Deserialize, Zeroize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    crv: String,
    n: Option<String>,
    e: Option<String>,
    d: Option<String>,
    p: Option<String>,
    q: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Drop for Jwk {
    fn drop(&mut self) {
        self.zeroize();
    }
}

/// Name, object identifier and bytes of a coordinate.
const CURVES: [(&str, ObjectIdentifier, usize); 3] = [
    ("P-256", ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"), 32),
    ("P-384", ObjectIdentifier::new_unwrap("1.3.132.0.34"), 48),
    ("P-521", ObjectIdentifier::new_unwrap("1.3.132.0.35"), 66),
];
/// RFC 8410.
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const X25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.110");
/// Longest number in bytes: a modulus of 16,384 bits.
const LONGEST: usize = 2048;

fn number(name: &str, field: Option<&String>) -> Result<Der, String> {
    let text = field.ok_or_else(|| format!("the JWK has no {name}"))?;
    let decoded = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
    decoded.filter(|bytes| bytes.len() <= LONGEST).map(Zeroizing::new).ok_or_else(|| format!("the JWK's {name} is no base64url"))
}

fn parsed(meter: &mut Meter, argument: &Value) -> Result<Jwk, String> {
    meter.steps(20_000)?;
    meter.memory(4 * text(argument).len())?;
    serde_json::from_slice(text(argument))
        .map_err(|error| format!("the input is no JWK: line {} column {}", error.line(), error.column()))
}

fn bad() -> String {
    "the JWK's numbers are no key".to_owned()
}

fn spki(oid: ObjectIdentifier, parameters: Option<AnyRef<'_>>, key: &[u8]) -> Result<Vec<u8>, String> {
    let subject_public_key = BitStringRef::from_bytes(key).map_err(|_| bad())?;
    SubjectPublicKeyInfo { algorithm: AlgorithmIdentifierRef { oid, parameters }, subject_public_key }.to_der().map_err(|_| bad())
}

impl Jwk {
    /// The object identifier of its curve, the length of a coordinate, and the uncompressed point.
    fn point(&self) -> Result<(ObjectIdentifier, usize, Vec<u8>), String> {
        let (_, oid, length) = CURVES.iter().find(|(name, ..)| *name == self.crv).ok_or("the JWK's curve is not supported")?;
        let padded = |name: &str, field| {
            let bytes = number(name, field)?;
            let missing = length.checked_sub(bytes.len()).ok_or_else(bad)?;
            Ok::<_, String>([&vec![0; missing][..], &bytes].concat())
        };
        let point = [vec![4], padded("x", self.x.as_ref())?, padded("y", self.y.as_ref())?].concat();
        Ok((*oid, *length, point))
    }

    fn edwards(&self) -> Result<ObjectIdentifier, String> {
        match self.crv.as_str() {
            "Ed25519" => Ok(ED25519),
            "X25519" => Ok(X25519),
            _ => Err("the JWK's curve is not supported".into()),
        }
    }

    fn public(&self) -> Result<Vec<u8>, String> {
        if self.d.is_some() {
            return Err("the JWK is a private key".into());
        }
        match self.kty.as_str() {
            "RSA" => {
                let (n, e) = (number("n", self.n.as_ref())?, number("e", self.e.as_ref())?);
                let uint = |bytes| pkcs1::UintRef::new(bytes).map_err(|_| bad());
                let key = pkcs1::RsaPublicKey { modulus: uint(&n)?, public_exponent: uint(&e)? };
                spki(pkcs1::ALGORITHM_OID, Some(AnyRef::NULL), &key.to_der().map_err(|_| bad())?)
            }
            "EC" => {
                let (oid, _, point) = self.point()?;
                spki(EC, Some((&oid).into()), &point)
            }
            "OKP" => spki(self.edwards()?, None, &number("x", self.x.as_ref())?),
            _ => Err("the JWK is neither RSA, EC nor OKP".into()),
        }
    }

    fn private(&self) -> Result<Der, String> {
        match self.kty.as_str() {
            "RSA" => self.rsa(),
            "EC" => {
                let (oid, length, point) = self.point()?;
                let d = number("d", self.d.as_ref())?;
                let missing = length.checked_sub(d.len()).ok_or_else(bad)?;
                let d = Zeroizing::new([&vec![0; missing][..], &d].concat());
                let key = sec1::EcPrivateKey { private_key: &d, parameters: None, public_key: Some(&point) };
                wrapped(EC, Some((&oid).into()), &Zeroizing::new(key.to_der().map_err(|_| bad())?))
            }
            "OKP" => {
                let d = number("d", self.d.as_ref())?;
                if d.len() != 32 {
                    return Err(bad());
                }
                let inner = Zeroizing::new([&[4, d.len() as u8], &d[..]].concat());
                wrapped(self.edwards()?, None, &inner)
            }
            _ => Err("the JWK is neither RSA, EC nor OKP".into()),
        }
    }

    /// The numbers that speed RSA up are computed, whether the key has them or not.
    fn rsa(&self) -> Result<Der, String> {
        let [n, e, d, p, q] = [("n", &self.n), ("e", &self.e), ("d", &self.d), ("p", &self.p), ("q", &self.q)]
            .map(|(name, field)| number(name, field.as_ref()));
        let (n, e, d, p, q) = (n?, e?, d?, p?, q?);
        let big = |bytes: &Der| BigUint::from_bytes_be(bytes);
        let (one, big_p, big_q, big_d) = (BigUint::from(1_u8), big(&p), big(&q), big(&d));
        if big_p <= one || big_q <= one || &big_p * &big_q != big(&n) {
            return Err(bad());
        }
        let bytes = |value: BigUint| Zeroizing::new(value.to_bytes_be());
        let (dp, dq) = (bytes(&big_d % (&big_p - 1_u8)), bytes(&big_d % (&big_q - 1_u8)));
        let qi = bytes(big_q.modinv(&big_p).ok_or_else(bad)?);
        let uint = |bytes| pkcs1::UintRef::new(bytes).map_err(|_| bad());
        let key = pkcs1::RsaPrivateKey {
            modulus: uint(&n)?,
            public_exponent: uint(&e)?,
            private_exponent: uint(&d)?,
            prime1: uint(&p)?,
            prime2: uint(&q)?,
            exponent1: uint(&dp)?,
            exponent2: uint(&dq)?,
            coefficient: uint(&qi)?,
            other_prime_infos: None,
        };
        keys::of_pkcs1(&Zeroizing::new(key.to_der().map_err(|_| bad())?)).ok_or_else(bad)
    }
}

fn wrapped(oid: ObjectIdentifier, parameters: Option<AnyRef<'_>>, inner: &[u8]) -> Result<Der, String> {
    let inner = pkcs8::der::asn1::OctetStringRef::new(inner).map_err(|_| bad())?;
    let info = PrivateKeyInfoRef::new(AlgorithmIdentifierRef { oid, parameters }, inner);
    info.to_der().map(Zeroizing::new).map_err(|_| bad())
}

pub(super) fn public_key_pem(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let der = parsed(meter, &arguments[0])?.public()?;
    made(meter, Block::new("PUBLIC KEY", &der).encode())
}

pub(super) fn private_key_pem(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let der = parsed(meter, &arguments[0])?.private()?;
    made(meter, Block::new("PRIVATE KEY", &der).encode())
}
