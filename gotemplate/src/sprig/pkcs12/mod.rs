//! PKCS#12 stores: keys with their certificates, and trusted certificates.

mod read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};

use super::crypto::SLOW;
use super::pem::{Block, CERTIFICATE, Link, chain, charge, keys};
use super::{made, text, utf8};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::value::Value;

/// What Java's and OpenSSL's stores are made with as well (RFC 8018 asks for at least 1,000).
const ITERATIONS: u32 = 10_000;

fn key_of(meter: &mut Meter, input: &Value, password: &str) -> Answer {
    match read::read(meter, text(input), password)?.keys.as_slice() {
        [key] => made(meter, Block::new("PRIVATE KEY", key).encode()),
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
    let ders = read::read(meter, text(input), password)?.certificates;
    if ders.is_empty() {
        return Err("the PKCS#12 store has no certificate".into());
    }
    let links: Result<Vec<Link>, String> = ders.iter().map(|der| Link::parse(der)).collect();
    let pem = |der: &[u8]| Block::new(CERTIFICATE, der).encode();
    // Certificates that are no chain stay as they are.
    let ordered: String = match chain(links?) {
        Ok(links) => links.iter().map(|link| pem(&link.der)).collect(),
        Err(_) => ders.iter().map(|der| pem(der)).collect(),
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
