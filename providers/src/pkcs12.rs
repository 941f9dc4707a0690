//! PKCS#12 files (RFC 7292), read with a bound on what they may cost.

use p12_keystore::Pkcs12Archive;

use crate::{Error, Result};

/// Rounds of key derivation that a file may ask for; tools write at most 600,000.
const ROUNDS: u64 = 1_000_000;
/// How deep a file may nest.
const DEPTH: usize = 64;

/// What a file holds: a private key (PKCS#8 DER) and its certificates (DER), the leaf first.
pub(crate) struct Contents {
    pub(crate) key: zeroize::Zeroizing<Vec<u8>>,
    pub(crate) certificates: Vec<Vec<u8>>,
}

/// Reads a file; `field` is where it stands, for messages.
///
/// # Errors
/// [`Error::Invalid`], without a word of the input.
pub(crate) fn read(field: &str, file: &[u8], password: &str) -> Result<Contents> {
    let wrong = |why: &str| Error::invalid(field, format!("is no PKCS#12 file {why}"));
    if !cheap(file, 0) {
        return Err(wrong("that can be read: it asks for too much work, or is malformed"));
    }
    let archive = Pkcs12Archive::from_pkcs12(file, password)
        .map_err(|_| wrong(if password.is_empty() { "without a password" } else { "with this password" }))?;
    let key = archive.keys.into_iter().next().ok_or_else(|| wrong("with a private key"))?;
    let mut certificates = archive.certs;
    // The key's own certificate has its id, where they have ids; the others keep their order.
    let own = |id: &[u8]| key.local_key_id.as_ref().is_some_and(|of_key| AsRef::<[u8]>::as_ref(of_key) == id);
    certificates.sort_by_key(|c| !c.local_key_id.as_deref().is_some_and(own));
    Ok(Contents {
        key: zeroize::Zeroizing::new(key.key.as_der().to_vec()),
        certificates: certificates.into_iter().map(|c| c.cert.as_der().to_vec()).collect(),
    })
}

/// Whether no number that follows a salt asks for too many rounds: they stand as SEQUENCE { OCTET STRING, INTEGER … } in all
/// of the file's parameters, and after the salt in its MAC.
fn cheap(mut der: &[u8], depth: usize) -> bool {
    if depth > DEPTH {
        return false;
    }
    let mut salted = false;
    while !der.is_empty() {
        let Some((tag, content, rest)) = element(der) else { return depth > 0 && !looks_like_der(der) };
        match tag {
            0x02 if salted => {
                let number = content.iter().try_fold(0_u64, |n, byte| n.checked_mul(256)?.checked_add(u64::from(*byte)));
                if number.is_none_or(|rounds| rounds > ROUNDS) {
                    return false;
                }
            }
            0x04 | 0x24 if looks_like_der(content) && !cheap(content, depth + 1) => return false,
            _ if tag & 0x20 != 0 && tag != 0x24 && !cheap(content, depth + 1) => return false,
            _ => {}
        }
        salted = tag == 0x04;
        der = rest;
    }
    true
}

/// Whether octets may be an encoding themselves: a whole SEQUENCE.
fn looks_like_der(octets: &[u8]) -> bool {
    octets.first() == Some(&0x30) && element(octets).is_some_and(|(_, _, rest)| rest.is_empty())
}

/// Tag, content and what follows of the first element.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_take_for_ever_is_refused_before_it_begins() {
        // SEQUENCE { OCTET STRING salt, INTEGER rounds }, alone and inside of an OCTET STRING.
        let params = |rounds: &[u8]| {
            let mut inner = vec![0x04, 2, 1, 2, 0x02, u8::try_from(rounds.len()).unwrap()];
            inner.extend(rounds);
            let mut out = vec![0x30, u8::try_from(inner.len()).unwrap()];
            out.extend(inner);
            out
        };
        let nested = |der: Vec<u8>| [vec![0x04, u8::try_from(der.len()).unwrap()], der].concat();
        assert!(cheap(&params(&[0x08, 0x00]), 0));
        assert!(!cheap(&params(&[0x7f, 0xff, 0xff, 0xff]), 0));
        assert!(!cheap(&nested(params(&[0x7f, 0xff, 0xff, 0xff])), 0));
        assert!(!cheap(&[0x30; 4000], 0), "nor does its depth end the process");
        for file in [&b""[..], b"CANARY", &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 0x80, 0, 0]] {
            let error = read("f", file, "").err().expect("no file").to_string();
            assert!(error.starts_with("f: is no PKCS#12 file") && !error.contains("CANARY"), "{error}");
        }
    }
}
