//! The messages of NTLM, version 2, and what proves the password.

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use md4::{Digest, Md4};
use md5::Md5;
use zeroize::Zeroizing;

/// "NTLMSSP" with its end.
const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";
/// Unicode, the target's name, NTLM, a key for signatures, session security of version 2, target information, 128 bits.
const FLAGS: u32 = 0x0000_0001 | 0x0000_0004 | 0x0000_0200 | 0x0000_8000 | 0x0008_0000 | 0x0080_0000 | 0x2000_0000;
const TARGET_INFORMATION: u32 = 0x0080_0000;
const UNICODE: u32 = 0x0000_0001;
/// Kinds of target information (MsvAvEOL, MsvAvFlags, MsvAvTimestamp).
const END: u16 = 0;
const HAS_FLAGS: u16 = 6;
const HAS_TIME: u16 = 7;
/// In MsvAvFlags: the last message carries a code over all three.
const HAS_CODE: u32 = 2;
/// Hundreds of nanoseconds from 1601 to 1970.
const EPOCH: i128 = 116_444_736_000_000_000;

type Key = Zeroizing<[u8; 16]>;

fn hmac_md5(key: &[u8; 16], parts: &[&[u8]]) -> Key {
    let mut block = Zeroizing::new([0; 64]);
    block[..key.len()].copy_from_slice(key);
    let mut mac = Hmac::<Md5>::new((&*block).into());
    parts.iter().for_each(|part| mac.update(part));
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn utf16(text: &str) -> Zeroizing<Vec<u8>> {
    // Room for all of it: what a growing buffer leaves behind is not wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * text.len()));
    bytes.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
    bytes
}

/// Windows changes the case of one character at a time, and only where there is a way back (not ı, ſ or µ).
fn upper(text: &str) -> String {
    let one = |c: char| {
        let mut upper = c.to_uppercase();
        let only = upper.next().filter(|_| upper.next().is_none());
        only.filter(|u| u.to_lowercase().eq([c])).unwrap_or(c)
    };
    text.chars().map(one).collect()
}

/// Who logs in: what the password proves itself with, and not the password.
pub(super) struct User {
    name: String,
    /// None: the one that the server names.
    domain: Option<String>,
    hash: Key,
}

impl User {
    /// `DOMAIN\name`, `name@domain` (which has no other domain), or a name alone.
    pub(super) fn new(name: &str, password: &str) -> Self {
        let (domain, name) = match name.split_once('\\') {
            Some((domain, name)) => (Some(domain), name),
            None => (name.contains('@').then_some(""), name),
        };
        let hash = Zeroizing::new(Md4::digest(&*utf16(password)).into());
        Self { name: name.to_owned(), domain: domain.map(str::to_owned), hash }
    }

    /// NTOWFv2 of the specification, 3.3.2.
    fn response_key(&self, domain: &str) -> Key {
        hmac_md5(&self.hash, &[&utf16(&upper(&self.name)), &utf16(domain)])
    }
}

/// What the server asks (CHALLENGE_MESSAGE, 2.2.1.2).
struct Challenge<'a> {
    whole: &'a [u8],
    flags: u32,
    nonce: [u8; 8],
    target: String,
    information: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// The bytes that a field of a message (length, room, offset) names.
fn field_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let (length, offset) = (u16_at(bytes, at)? as usize, u32_at(bytes, at + 4)? as usize);
    bytes.get(offset..offset.checked_add(length)?)
}

impl<'a> Challenge<'a> {
    fn parse(whole: &'a [u8]) -> Option<Self> {
        if !whole.starts_with(SIGNATURE) || u32_at(whole, 8)? != 2 {
            return None;
        }
        let flags = u32_at(whole, 20)?;
        let target = field_at(whole, 12)?.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let target = char::decode_utf16(target).map(|c| c.unwrap_or('\u{fffd}')).collect();
        let information = if flags & TARGET_INFORMATION == 0 { &[] } else { field_at(whole, 40)? };
        Some(Self { whole, flags, nonce: whole.get(24..32)?.try_into().ok()?, target, information })
    }

    /// The target information with our flag in it, and the time that it names.
    fn information(&self) -> Option<(Vec<u8>, Option<[u8; 8]>)> {
        let (mut pairs, mut flags, mut time, mut rest) = (Vec::new(), 0, None, self.information);
        while !rest.is_empty() {
            let (kind, length) = (u16_at(rest, 0)?, u16_at(rest, 2)? as usize);
            let value = rest.get(4..4 + length)?;
            match kind {
                END => break,
                HAS_FLAGS => flags = u32_at(value, 0)?,
                _ => pairs.extend_from_slice(&rest[..4 + length]),
            }
            if kind == HAS_TIME {
                time = Some(value.try_into().ok()?);
            }
            rest = &rest[4 + length..];
        }
        if time.is_some() {
            flags |= HAS_CODE;
        }
        if flags != 0 {
            pairs.extend([HAS_FLAGS.to_le_bytes(), 4_u16.to_le_bytes()].as_flattened());
            pairs.extend(flags.to_le_bytes());
        }
        pairs.extend([END.to_le_bytes(), 0_u16.to_le_bytes()].as_flattened());
        Some((pairs, time))
    }
}

/// The first message (NEGOTIATE_MESSAGE, 2.2.1.1): what we can do, and nothing about who we are.
pub(super) fn negotiation() -> Vec<u8> {
    let mut message = SIGNATURE.to_vec();
    message.extend(1_u32.to_le_bytes());
    message.extend(FLAGS.to_le_bytes());
    message.resize(32, 0);
    message
}

/// The third message (AUTHENTICATE_MESSAGE, 2.2.1.3); none when the challenge is none.
///
/// `nonce` is 8 random bytes; `now` is for servers that do not say their own time.
pub(super) fn authentication(user: &User, challenge: &[u8], nonce: [u8; 8], now: Timestamp) -> Option<Vec<u8>> {
    const HEADER: usize = 88;
    let challenge = Challenge::parse(challenge).filter(|c| c.flags & UNICODE != 0)?;
    let domain = user.domain.as_deref().unwrap_or(&challenge.target);
    let key = user.response_key(domain);
    let (information, servers_time) = challenge.information()?;
    let ticks = i64::try_from(now.as_nanosecond() / 100 + EPOCH).ok()?;
    let time = servers_time.unwrap_or(ticks.to_le_bytes());
    let proven = [&[1, 1, 0, 0, 0, 0, 0, 0], &time[..], &nonce, &[0; 4], &information, &[0; 4]].concat();
    let proof = hmac_md5(&key, &[&challenge.nonce, &proven]);
    let response = [&proof[..], &proven].concat();
    // Who knows the server's time does not send the older kind of response.
    let old = match servers_time {
        Some(_) => vec![0; 24],
        None => [&hmac_md5(&key, &[&challenge.nonce, &nonce])[..], &nonce].concat(),
    };
    let (domain, name) = (utf16(domain), utf16(&user.name));
    let mut message = SIGNATURE.to_vec();
    message.extend(3_u32.to_le_bytes());
    let mut offset = HEADER;
    for part in [&old[..], &response, &domain, &name, &[], &[]] {
        let length = u16::try_from(part.len()).ok()?;
        message.extend([length.to_le_bytes(), length.to_le_bytes()].as_flattened());
        message.extend(u32::try_from(offset).ok()?.to_le_bytes());
        offset += part.len();
    }
    message.extend((FLAGS & challenge.flags).to_le_bytes());
    message.resize(HEADER, 0);
    [&old[..], &response, &domain, &name].iter().for_each(|part| message.extend_from_slice(part));
    if servers_time.is_some() {
        let session = hmac_md5(&key, &[&proof[..]]);
        let code = hmac_md5(&session, &[&negotiation(), challenge.whole, &message]);
        message[72..HEADER].copy_from_slice(&code[..]);
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// A challenge of the server of the specification's example: nonce, names of domain and computer.
    fn example(more: &[u8]) -> Vec<u8> {
        let pair = |kind: u16, text: &str| {
            let value = utf16(text);
            [&kind.to_le_bytes()[..], &(value.len() as u16).to_le_bytes(), &value].concat()
        };
        let information = [pair(2, "Domain"), pair(1, "Server"), more.to_vec(), vec![0; 4]].concat();
        let target = utf16("Server");
        let mut message = SIGNATURE.to_vec();
        message.extend(2_u32.to_le_bytes());
        message.extend([(target.len() as u16).to_le_bytes(); 2].as_flattened());
        message.extend(48_u32.to_le_bytes());
        message.extend(0xe28a_8233_u32.to_le_bytes());
        message.extend([0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        message.extend([0; 8]);
        message.extend([(information.len() as u16).to_le_bytes(); 2].as_flattened());
        message.extend((48 + target.len() as u32).to_le_bytes());
        message.extend_from_slice(&target);
        message.extend_from_slice(&information);
        message
    }

    /// The values of MS-NLMP 4.2.4: time 0 (1601), nonce of eight 0xaa.
    #[test]
    fn the_examples_of_the_specification() {
        let user = User::new("Domain\\User", "Password");
        assert_eq!(hex(&user.response_key("Domain")[..]), "0c868a403bfd7a93a3001ef22ef02e3f");
        let start = Timestamp::from_nanosecond(-EPOCH * 100).unwrap();
        let message = authentication(&user, &example(&[]), [0xaa; 8], start).unwrap();
        assert_eq!(hex(field_at(&message, 12).unwrap()), "86c35097ac9cec102554764a57cccc19aaaaaaaaaaaaaaaa");
        assert_eq!(hex(&field_at(&message, 20).unwrap()[..16]), "68cd0ab851e51c96aabc927bebef6a1c");
        assert_eq!((field_at(&message, 28), field_at(&message, 36)), (Some(&utf16("Domain")[..]), Some(&utf16("User")[..])));
        assert_eq!(&message[72..88], [0; 16], "no code without the server's time");
    }

    #[test]
    fn a_server_that_says_its_time_gets_a_code_over_all_messages_and_no_old_response() {
        let user = User::new("user@example.com", "Password");
        let time = [&7_u16.to_le_bytes()[..], &8_u16.to_le_bytes(), &[5; 8]].concat();
        let message = authentication(&user, &example(&time), [0xaa; 8], Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(field_at(&message, 12), Some(&[0; 24][..]));
        assert_eq!(field_at(&message, 28), Some(&[][..]), "a user with a domain after @ has no other");
        let response = field_at(&message, 20).unwrap();
        assert_eq!(&response[24..32], [5; 8]);
        assert!(response.windows(8).any(|w| w == [6, 0, 4, 0, 2, 0, 0, 0]), "the flag that says so");
        assert_ne!(&message[72..88], [0; 16]);
    }

    #[test]
    fn a_user_without_a_domain_has_the_servers() {
        let message = authentication(&User::new("straße", ""), &example(&[]), [0; 8], Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(field_at(&message, 28), Some(&utf16("Server")[..]));
        assert_eq!(upper("straße-é-ı"), "STRAßE-É-ı");
    }

    #[test]
    fn what_is_no_challenge_is_refused() {
        let user = User::new("u", "p");
        let whole = example(&[7, 0, 8, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
        for end in 0..whole.len() {
            // Cut within the last pair, what stands before it is whole.
            let _ = authentication(&user, &whole[..end], [0; 8], Timestamp::UNIX_EPOCH);
        }
        assert_eq!(authentication(&user, &whole[..40], [0; 8], Timestamp::UNIX_EPOCH), None);
        for (at, byte) in [(0, b'X'), (8, 3), (20, 0), (16, 0xff), (44, 0xff), (45, 0xff), (62, 0xff)] {
            let mut wrong = whole.clone();
            wrong[at] = byte;
            assert_eq!(authentication(&user, &wrong, [0; 8], Timestamp::UNIX_EPOCH), None, "byte {at}");
        }
    }
}
