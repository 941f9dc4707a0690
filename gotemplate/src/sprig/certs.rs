//! Certificates and keys that a template makes.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, RsaKeySize, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use super::crypto::SLOW;
use super::encoding::base64_decoded;
use super::pem::{Block, CERTIFICATE, Link, keys};
use super::{certificate, chance, int, made, text, utf8};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::value::Value;

fn failed(_: rcgen::Error) -> String {
    // Its texts may quote names.
    "error creating certificate: a name or the key has a form that is not supported".into()
}

/// A new key; RSA takes a core for half a second.
fn new_key(meter: &mut Meter, size: RsaKeySize) -> Result<KeyPair, String> {
    meter.steps(4 * SLOW)?;
    KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).map_err(failed)
}

fn key_of(meter: &mut Meter, pem: &[u8]) -> Result<KeyPair, String> {
    meter.steps(SLOW / 10)?;
    super::pem::charge(meter, pem)?;
    let der = keys::from_pem(pem)?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.to_vec()));
    KeyPair::try_from(&der).map_err(|_| "the private key is of a kind or size that is not supported".to_owned())
}

fn key_or_new(meter: &mut Meter, pem: Option<&Value>) -> Result<KeyPair, String> {
    match pem {
        Some(pem) => key_of(meter, text(pem)),
        None => new_key(meter, RsaKeySize::_2048),
    }
}

fn strings<'a>(list: &'a Value, what: &str) -> Result<Vec<std::borrow::Cow<'a, str>>, String> {
    let Value::List(list) = list else { return Ok(Vec::new()) };
    let one = |item: &'a Value| match item {
        Value::Str(_) => Ok(utf8(item)),
        other => Err(format!("error parsing {what}: type {} is not a string", other.type_name())),
    };
    list.items().iter().map(one).collect()
}

fn parameters(
    meter: &mut Meter,
    name: &Value,
    names: Option<(&Value, &Value)>,
    days: &Value,
) -> Result<CertificateParams, String> {
    meter.steps(SLOW / 10)?;
    let mut parameters = CertificateParams::default();
    let is_long = |name: &str| name.len() > NAME;
    if is_long(&utf8(name)) {
        return Err(format!("the certificate's name is longer than {NAME} bytes"));
    }
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, utf8(name).as_ref());
    parameters.distinguished_name = subject;
    let (addresses, dns) = names.map_or(Ok((Vec::new(), Vec::new())), |(addresses, dns)| {
        Ok::<_, String>((strings(addresses, "ip")?, strings(dns, "alternate dns name")?))
    })?;
    if addresses.len() + dns.len() > NAMES || dns.iter().any(|name| is_long(name)) {
        return Err(format!("more than {NAMES} alternate names, or one longer than {NAME} bytes"));
    }
    for name in dns {
        let name = name.as_ref().try_into().map_err(|_| "error processing alternate dns name: it is no ASCII".to_owned())?;
        parameters.subject_alt_names.push(SanType::DnsName(name));
    }
    for address in addresses {
        let address: IpAddr = address.parse().map_err(|_| "error parsing ip".to_owned())?;
        parameters.subject_alt_names.push(SanType::IpAddress(address));
    }
    let mut serial = chance::random(meter, 16)?;
    serial[0] &= 0x7f;
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    parameters.not_before = OffsetDateTime::now_utc();
    let length = Duration::days(int(days).clamp(-1_000_000, 10_000_000));
    let end = parameters.not_before.checked_add(length).filter(|end| (1950..=9999).contains(&end.year()));
    parameters.not_after = end.ok_or("the certificate would end before 1950 or after 9999")?;
    parameters.key_usages = vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    parameters.is_ca = IsCa::ExplicitNoCa;
    Ok(parameters)
}

/// Longest name in bytes, and most alternate names.
const NAME: usize = 253;
const NAMES: usize = 100;

fn pair(certificate_der: &[u8], key: &KeyPair) -> Answer {
    let key = keys::to_pem(key.serialized_der()).ok_or("error pem-encoding key")?;
    Ok(certificate(Block::new(CERTIFICATE, certificate_der).encode(), key))
}

pub(super) fn gen_ca(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let key = key_or_new(meter, arguments.get(2))?;
    let mut parameters = parameters(meter, &arguments[0], None, &arguments[1])?;
    parameters.key_usages.push(KeyUsagePurpose::KeyCertSign);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let made = parameters.self_signed(&key).map_err(failed)?;
    pair(made.der(), &key)
}

pub(super) fn gen_self_signed(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let key = key_or_new(meter, arguments.get(4))?;
    let parameters = parameters(meter, &arguments[0], Some((&arguments[1], &arguments[2])), &arguments[3])?;
    let made = parameters.self_signed(&key).map_err(failed)?;
    pair(made.der(), &key)
}

pub(super) fn gen_signed(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let Value::Certificate(ca) = &arguments[4] else { return Err("unable to decode certificate".into()) };
    let block = Block::first(ca.cert.bytes()).ok_or("unable to decode certificate")?;
    Link::parse(&block.bytes).map_err(|_| "error parsing certificate".to_owned())?;
    let ca_key = key_of(meter, ca.key.bytes()).map_err(|why| format!("error parsing private key: {why}"))?;
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(block.bytes.as_slice()), ca_key).map_err(failed)?;
    let key = key_or_new(meter, arguments.get(5))?;
    let mut parameters = parameters(meter, &arguments[0], Some((&arguments[1], &arguments[2])), &arguments[3])?;
    parameters.use_authority_key_identifier_extension = true;
    let made = parameters.signed_by(&key, &issuer).map_err(failed)?;
    pair(made.der(), &key)
}

pub(super) fn gen_private_key(meter: &mut Meter, arguments: &[Value]) -> Answer {
    meter.steps(SLOW / 10)?;
    let key = match text(&arguments[0]) {
        b"" | b"rsa" => {
            // Four times as many bits as half the size take ten times as long.
            meter.steps(6 * SLOW)?;
            new_key(meter, RsaKeySize::_4096)?
        }
        b"ecdsa" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?,
        b"ed25519" => KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(failed)?,
        b"dsa" => return Err("DSA is not supported; use ecdsa or ed25519".into()),
        _ => return made(meter, format!("Unknown type {}", utf8(&arguments[0]))),
    };
    let pem = keys::to_pem(key.serialized_der()).ok_or("error pem-encoding key")?;
    made(meter, pem)
}

pub(super) fn build_custom_cert(meter: &mut Meter, arguments: &[Value]) -> Answer {
    meter.memory(2 * (text(&arguments[0]).len() + text(&arguments[1]).len()))?;
    let cert = base64_decoded(text(&arguments[0])).map_err(|_| "unable to decode base64 certificate".to_owned())?;
    let key = base64_decoded(text(&arguments[1])).map_err(|_| "unable to decode base64 private key".to_owned())?;
    let block = Block::first(&cert).ok_or("unable to decode certificate")?;
    Link::parse(&block.bytes).map_err(|_| "error parsing certificate".to_owned())?;
    keys::from_pem(&key).map_err(|why| format!("error parsing private key: {why}"))?;
    let pem = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| "a PEM text that is no UTF-8".to_owned());
    Ok(certificate(pem(cert)?, pem(key)?))
}
