//! PKCS#12 stores: keys with their certificates, and trusted certificates.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, Pkcs12Archive, PrivateKey, PrivateKeyChain};

use super::crypto::SLOW;
use super::pem::{Block, CERTIFICATE, Link, chain, charge, keys};
use super::{made, text, utf8};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::value::Value;

/// Largest store that is read, in bytes.
const LARGEST: usize = 64 << 10;
/// Most parts that are encrypted each with an effort of their own, and what begins one: PBES2 (RFC 8018), and PKCS#12's own schemes.
const PARTS: usize = 20;
const ENCRYPTED: [&[u8]; 2] =
    [&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d], &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01]];
/// DER of the object identifier of scrypt (RFC 7914), whose parameters may ask for a gigabyte.
const SCRYPT: &[u8] = &[0x06, 0x09, 0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x04, 0x0b];
/// What Java's and OpenSSL's stores are made with as well (RFC 8018 asks for at least 1,000).
const ITERATIONS: u32 = 10_000;

fn decoded(meter: &mut Meter, input: &[u8], password: &str) -> Result<Pkcs12Archive, String> {
    meter.steps(2 * SLOW)?;
    meter.memory(4 * input.len())?;
    if input.len() > LARGEST {
        return Err(format!("the PKCS#12 store is larger than {LARGEST} bytes"));
    }
    if memchr::memmem::find(input, SCRYPT).is_some() {
        return Err("the PKCS#12 store is encrypted with scrypt, which is not supported".into());
    }
    let parts: usize = ENCRYPTED.iter().map(|begin| memchr::memmem::find_iter(input, begin).count()).sum();
    if parts > PARTS {
        return Err(format!("the PKCS#12 store has more than {PARTS} encrypted parts"));
    }
    // Its errors say what is wrong with the form; that the password is wrong shows in them as a MAC that does not fit.
    Pkcs12Archive::from_pkcs12(input, password)
        .map_err(|_| "the input is no PKCS#12 store, or the password is another (is it still base64? use b64dec)".to_owned())
}

fn key_of(meter: &mut Meter, input: &Value, password: &str) -> Answer {
    let archive = decoded(meter, text(input), password)?;
    match archive.keys.as_slice() {
        [key] => made(meter, Block::new("PRIVATE KEY", key.key.as_der()).encode()),
        keys => Err(format!("the PKCS#12 store has {} private keys, not one", keys.len())),
    }
}

pub(super) fn key(meter: &mut Meter, arguments: &[Value]) -> Answer {
    key_of(meter, &arguments[0], "")
}

pub(super) fn key_pass(meter: &mut Meter, arguments: &[Value]) -> Answer {
    key_of(meter, &arguments[1], &utf8(&arguments[0]))
}

fn certs_of(meter: &mut Meter, input: &Value, password: &str) -> Answer {
    let archive = decoded(meter, text(input), password)?;
    if archive.certs.is_empty() {
        return Err("the PKCS#12 store has no certificate".into());
    }
    let ders: Vec<&[u8]> = archive.certs.iter().map(|bag| bag.cert.as_der()).collect();
    let links: Result<Vec<Link>, String> = ders.iter().map(|der| Link::parse(der)).collect();
    let pem = |der: &[u8]| Block::new(CERTIFICATE, der).encode();
    // Certificates that are no chain stay as they are.
    let ordered: String = match chain(links?) {
        Ok(links) => links.iter().map(|link| pem(&link.der)).collect(),
        Err(_) => ders.into_iter().map(pem).collect(),
    };
    made(meter, ordered)
}

pub(super) fn cert(meter: &mut Meter, arguments: &[Value]) -> Answer {
    certs_of(meter, &arguments[0], "")
}

pub(super) fn cert_pass(meter: &mut Meter, arguments: &[Value]) -> Answer {
    certs_of(meter, &arguments[1], &utf8(&arguments[0]))
}

fn certificates(meter: &mut Meter, pem: &[u8]) -> Result<Vec<Certificate>, String> {
    charge(meter, pem)?;
    let blocks = Block::all(pem);
    if blocks.is_empty() {
        return Err("the certificate is no PEM".into());
    }
    let one = |block: &Block| {
        Link::parse(&block.bytes)?;
        Certificate::from_der(&block.bytes).map_err(|_| "failed to parse certificate".to_owned())
    };
    blocks.iter().map(one).collect()
}

fn written(meter: &mut Meter, store: &KeyStore, password: &str) -> Answer {
    meter.steps(SLOW)?;
    let writer = store.writer(password).encryption_iterations(ITERATIONS).mac_iterations(ITERATIONS);
    let bytes = zeroize::Zeroizing::new(writer.write().map_err(|_| "the PKCS#12 store can't be written".to_owned())?);
    meter.memory(3 * bytes.len())?;
    made(meter, STANDARD.encode(&*bytes))
}

fn store_of(meter: &mut Meter, arguments: &[Value], all: bool) -> Answer {
    let password = arguments.get(2).map_or("".into(), utf8);
    let mut certificates = certificates(meter, text(&arguments[0]))?;
    if !all {
        certificates.truncate(1);
    }
    charge(meter, text(&arguments[1]))?;
    let block = Block::first(text(&arguments[1])).ok_or("the private key is no PEM")?;
    let der = keys::pkcs8_of(&block.bytes).ok_or("could not parse private key")?;
    let key = PrivateKey::from_der(&der).map_err(|_| "could not parse private key".to_owned())?;
    let mut store = KeyStore::new();
    // Go names no entry; the id joins the key and its certificate.
    let id = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, certificates[0].as_der());
    store.add_entry("1", KeyStoreEntry::PrivateKeyChain(PrivateKeyChain::new(id.as_ref(), key, certificates)));
    written(meter, &store, &password)
}

pub(super) fn pem_to_pkcs12(meter: &mut Meter, arguments: &[Value]) -> Answer {
    store_of(meter, arguments, false)
}

pub(super) fn full_pem_to_pkcs12(meter: &mut Meter, arguments: &[Value]) -> Answer {
    store_of(meter, arguments, true)
}

pub(super) fn pem_truststore(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let password = arguments.get(1).map_or("".into(), utf8);
    let mut store = KeyStore::new();
    for certificate in certificates(meter, text(&arguments[0]))? {
        let name = certificate.subject().to_owned();
        store.add_entry(&name, KeyStoreEntry::Certificate(certificate));
    }
    written(meter, &store, &password)
}
