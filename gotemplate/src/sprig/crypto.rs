//! Hashes of passwords, AES and RSA.

use aws_lc_rs::cipher::{AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA512_MGF1SHA512, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::encoding::base64_decoded;
use super::pem::{Block, charge, keys};
use super::{chance, made, text, utf8};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::value::Value;

/// Steps that something takes which keeps a core busy for a tenth of a second: twenty of it are the end of a template.
pub(super) const SLOW: usize = 50_000;
/// What Go's bcrypt takes at most, in bytes.
const BCRYPT_LONGEST: usize = 72;
const BCRYPT_COST: u32 = 10;

fn bcrypted(meter: &mut Meter, password: &[u8]) -> Result<String, String> {
    meter.steps(SLOW)?;
    if password.len() > BCRYPT_LONGEST {
        return Ok("failed to encrypt string with bcrypt: bcrypt: password length exceeds 72 bytes".into());
    }
    let salt = chance::random(meter, 16)?;
    let salt = salt[..].try_into().unwrap_or_default();
    let hash = bcrypt::hash_with_salt(password, BCRYPT_COST, salt).map_err(|_| "bcrypt failed".to_owned())?;
    Ok(hash.format_for_version(bcrypt::Version::TwoA))
}

pub(super) fn bcrypt(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let hash = bcrypted(meter, text(&arguments[0]))?;
    made(meter, hash)
}

/// With a third argument `sha` it is `{SHA}…`, as External Secrets' own Sprig has it; else bcrypt.
pub(super) fn htpasswd(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let (user, password) = (utf8(&arguments[0]), text(&arguments[1]));
    if arguments.len() > 3 {
        return Err("htpasswd takes a user, a password and an algorithm".into());
    }
    if user.contains(':') {
        return made(meter, format!("invalid username: {user}"));
    }
    let hash = match arguments.get(2).map(text) {
        Some(b"sha") => format!("{{SHA}}{}", STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, password))),
        _ => bcrypted(meter, password)?,
    };
    made(meter, format!("{user}:{hash}"))
}

fn aes_key(password: &[u8]) -> Result<UnboundCipherKey, String> {
    let mut key = Zeroizing::new([0; 32]);
    let length = password.len().min(32);
    key[..length].copy_from_slice(&password[..length]);
    UnboundCipherKey::new(&AES_256, &*key).map_err(|_| "AES takes no such key".to_owned())
}

pub(super) fn encrypt_aes(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let plain = text(&arguments[1]);
    if plain.is_empty() {
        return made(meter, "");
    }
    meter.memory(3 * plain.len())?;
    let failed = |_| "AES failed".to_owned();
    let padding = 16 - plain.len() % 16;
    let mut content = Zeroizing::new(Vec::with_capacity(plain.len() + padding));
    content.extend_from_slice(plain);
    content.extend(std::iter::repeat_n(padding as u8, padding));
    let iv = chance::random(meter, 16)?;
    let key = EncryptingKey::cbc(aes_key(text(&arguments[0]))?).map_err(failed)?;
    let context = EncryptionContext::Iv128(FixedLength::<16>::try_from(&iv[..]).map_err(failed)?);
    key.less_safe_encrypt(&mut content, context).map_err(failed)?;
    made(meter, STANDARD.encode([&iv[..], &content[..]].concat()))
}

pub(super) fn decrypt_aes(meter: &mut Meter, arguments: &[Value]) -> Answer {
    if text(&arguments[1]).is_empty() {
        return made(meter, "");
    }
    let wrong = || "that is not what encryptAES made".to_owned();
    let bytes = base64_decoded(text(&arguments[1])).map_err(|at| format!("illegal base64 data at input byte {at}"))?;
    meter.memory(2 * bytes.len())?;
    let (iv, content) = bytes.split_at_checked(16).ok_or_else(wrong)?;
    if content.is_empty() || content.len() % 16 != 0 {
        return Err(wrong());
    }
    let mut content = Zeroizing::new(content.to_vec());
    let key = DecryptingKey::cbc(aes_key(text(&arguments[0]))?).map_err(|_| wrong())?;
    let context = DecryptionContext::Iv128(FixedLength::<16>::try_from(iv).map_err(|_| wrong())?);
    let plain = key.decrypt(&mut content, context).map_err(|_| wrong())?;
    let padding = usize::from(plain.last().copied().unwrap_or(0));
    let length = plain.len().checked_sub(padding).ok_or_else(wrong)?;
    made(meter, &plain[..length])
}

/// Spectre's (Master Password's) templates of passwords: <https://spectre.app/spectre-algorithm.pdf>.
const PASSWORDS: &[(&str, &[&str])] = &[
    ("maximum", &["anoxxxxxxxxxxxxxxxxx", "axxxxxxxxxxxxxxxxxno"]),
    (
        "long",
        &[
            "CvcvnoCvcvCvcv",
            "CvcvCvcvnoCvcv",
            "CvcvCvcvCvcvno",
            "CvccnoCvcvCvcv",
            "CvccCvcvnoCvcv",
            "CvccCvcvCvcvno",
            "CvcvnoCvccCvcv",
            "CvcvCvccnoCvcv",
            "CvcvCvccCvcvno",
            "CvcvnoCvcvCvcc",
            "CvcvCvcvnoCvcc",
            "CvcvCvcvCvccno",
            "CvccnoCvccCvcv",
            "CvccCvccnoCvcv",
            "CvccCvccCvcvno",
            "CvcvnoCvccCvcc",
            "CvcvCvccnoCvcc",
            "CvcvCvccCvccno",
            "CvccnoCvcvCvcc",
            "CvccCvcvnoCvcc",
            "CvccCvcvCvccno",
        ],
    ),
    ("medium", &["CvcnoCvc", "CvcCvcno"]),
    ("short", &["Cvcn"]),
    ("basic", &["aaanaaan", "aannaaan", "aaannaaa"]),
    ("pin", &["nnnn"]),
];

fn characters(class: u8) -> &'static [u8] {
    match class {
        b'V' => b"AEIOU",
        b'C' => b"BCDFGHJKLMNPQRSTVWXYZ",
        b'v' => b"aeiou",
        b'c' => b"bcdfghjklmnpqrstvwxyz",
        b'a' => b"AEIOUaeiouBCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz",
        b'n' => b"0123456789",
        b'o' => b"@&%?,=[]_:-+*$#!'^~;()/.",
        _ => b"AEIOUaeiouBCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz0123456789!@#$%^&*()",
    }
}

pub(super) fn derive_password(meter: &mut Meter, arguments: &[Value]) -> Answer {
    const SCOPE: &[u8] = b"com.lyndir.masterpassword";
    let counter = if let Value::Uint(counter, _) = arguments[0] { counter as u32 } else { 0 };
    let kind = utf8(&arguments[1]);
    let Some((_, templates)) = PASSWORDS.iter().find(|(name, _)| *name == kind) else {
        return made(meter, [b"cannot find password template ", text(&arguments[1])].concat());
    };
    let [password, user, site] = [2, 3, 4].map(|i| text(&arguments[i]));
    meter.steps(SLOW)?;
    let sized = |part: &[u8]| [SCOPE, &(part.len() as u32).to_be_bytes()[..], part].concat();
    let parameters = scrypt::Params::new(15, 8, 2).map_err(|_| "scrypt takes no such parameters".to_owned())?;
    let mut key = Zeroizing::new([0; 64]);
    scrypt::scrypt(password, &sized(user), &parameters, &mut *key).map_err(|_| "scrypt failed".to_owned())?;
    let message = [&sized(site)[..], &counter.to_be_bytes()].concat();
    let seed = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &*key), &message);
    let seed = seed.as_ref();
    let template = templates[usize::from(seed[0]) % templates.len()];
    let letter = |(i, class): (usize, u8)| {
        let set = characters(class);
        set[usize::from(seed[i + 1]) % set.len()]
    };
    let derived: Vec<u8> = template.bytes().enumerate().map(letter).collect();
    made(meter, derived)
}

pub(super) fn rsa_decrypt(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let (scheme, hash, content) = (utf8(&arguments[0]), utf8(&arguments[1]), text(&arguments[2]));
    match &*scheme {
        "None" => return made(meter, content),
        "RSA-OAEP" => {}
        _ => return Err("the scheme is neither None nor RSA-OAEP".into()),
    }
    meter.steps(SLOW / 10)?;
    charge(meter, text(&arguments[3]))?;
    let block = Block::first(text(&arguments[3])).ok_or("the private key is no PEM")?;
    let key = keys::pkcs8_of(&block.bytes).ok_or("could not parse private key")?;
    let key = PrivateDecryptingKey::from_pkcs8(&key).map_err(|_| "could not parse RSA private key".to_owned())?;
    let key = OaepPrivateDecryptingKey::new(key).map_err(|_| "could not parse RSA private key".to_owned())?;
    let algorithm = match &*hash {
        "SHA1" => &OAEP_SHA1_MGF1SHA1,
        "SHA512" => &OAEP_SHA512_MGF1SHA512,
        _ => &OAEP_SHA256_MGF1SHA256,
    };
    let mut plain = Zeroizing::new(vec![0; key.min_output_size()]);
    let plain = key.decrypt(algorithm, content, &mut plain, None).map_err(|_| "error decrypting data with RSA".to_owned())?;
    made(meter, &*plain)
}
