//! NTLM over HTTP, version 2 of its responses, as Microsoft's [MS-NLMP] and [MS-NTHT] describe it: proof of a password without
//! the password, for one TCP connection. Nothing is signed or sealed afterwards, and there are no channel bindings.
//!
//! [MS-NLMP]: https://learn.microsoft.com/openspecs/windows_protocols/ms-nlmp
//! [MS-NTHT]: https://learn.microsoft.com/openspecs/windows_protocols/ms-ntht

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use lockstep_crds::meta::SecretKeySelector;
use lockstep_crds::store::webhook::WebhookNtlm;
use md4::{Digest, Md4};
use md5::Md5;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, Request, Response, StatusCode};
use tokio::sync::{Mutex, MutexGuard};
use zeroize::Zeroizing;

use super::{FIELD, LABEL};
use crate::http::{self, Tls};
use crate::registry::Options;
use crate::{Error, Resolver, Result};

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
/// How long a connection that answered may take to be free again.
const GRACE: Duration = Duration::from_secs(1);
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
    Zeroizing::new(text.encode_utf16().flat_map(u16::to_le_bytes).collect())
}

/// Windows changes the case of one character at a time.
fn upper(text: &str) -> String {
    let one = |c: char| {
        let mut upper = c.to_uppercase();
        upper.next().filter(|_| upper.next().is_none()).unwrap_or(c)
    };
    text.chars().map(one).collect()
}

/// Who logs in: what the password proves itself with, and not the password.
struct User {
    name: String,
    /// None: the one that the server names.
    domain: Option<String>,
    hash: Key,
}

impl User {
    /// `DOMAIN\name`, `name@domain` (which has no other domain), or a name alone.
    fn new(name: &str, password: &str) -> Self {
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
fn negotiation() -> Vec<u8> {
    let mut message = SIGNATURE.to_vec();
    message.extend(1_u32.to_le_bytes());
    message.extend(FLAGS.to_le_bytes());
    message.resize(32, 0);
    message
}

/// The third message (AUTHENTICATE_MESSAGE, 2.2.1.3); none when the challenge is none.
///
/// `nonce` is 8 random bytes; `now` is for servers that do not say their own time.
fn authentication(user: &User, challenge: &[u8], nonce: [u8; 8], now: Timestamp) -> Option<Vec<u8>> {
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

/// A client for one API that wants NTLM: its logged-in connection, and how to make another.
pub(super) struct Ntlm {
    user: User,
    tls: Tls,
    options: Options,
    /// The client whose only connection is logged in. Requests wait for each other: they share that connection.
    client: Mutex<Option<Client>>,
}

impl Ntlm {
    /// Reads the user and the password.
    pub(super) async fn new(spec: &WebhookNtlm, tls: Tls, options: &Options, resolver: &dyn Resolver) -> Result<Self> {
        let read = async |part: &str, selector: &SecretKeySelector| {
            let field = format!("{FIELD}.auth.ntlm.{part}");
            let key = selector.key.as_deref().ok_or_else(|| Error::invalid(format!("{field}.key"), "is not set"))?;
            let found = resolver.secret_data(&field, selector, Some(LABEL)).await?;
            let value = found.get(key).ok_or_else(|| Error::invalid(&field, format!("the Secret has no key {key}")))?;
            let text = value.as_text().ok_or_else(|| Error::invalid(&field, "is not text"))?;
            Ok::<_, Error>(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
        };
        let name = read("usernameSecret", &spec.username_secret).await?;
        let password = read("passwordSecret", &spec.password_secret).await?;
        Ok(Self { user: User::new(&name, &password), tls, options: options.clone(), client: Mutex::default() })
    }

    /// Sends a request on the connection that is logged in, and logs in when there is none or the server asks for it again.
    ///
    /// The guard frees the connection: it must live until the body is read.
    pub(super) async fn send(
        &self,
        request: impl Fn() -> Result<Request>,
        server: &str,
        secrets: &[&str],
    ) -> Result<(Response, MutexGuard<'_, Option<Client>>)> {
        let lost = |error| http::no_answer(server, error, secrets);
        let mut kept = self.client.lock().await;
        let mut refusal = None;
        if let Some(client) = kept.take() {
            match client.execute(request()?).await {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED => refusal = Some(response),
                Ok(response) => {
                    *kept = Some(client);
                    return Ok((response, kept));
                }
                // The connection ended since.
                Err(error) if error.is_connect() => {}
                Err(error) => return Err(lost(error)),
            }
        }
        let refusal = match refusal {
            Some(refusal) => refusal,
            None => {
                let client = self.client(Gate::default())?;
                let response = client.execute(request()?).await.map_err(lost)?;
                if response.status() != StatusCode::UNAUTHORIZED {
                    *kept = Some(client);
                    return Ok((response, kept));
                }
                response
            }
        };
        let scheme = scheme(refusal.headers()).ok_or_else(|| {
            Error::Denied(format!(
                "{server} refuses the request (code 401) and does not offer NTLM; check {FIELD}.url and headers"
            ))
        })?;
        // A client of its own has no second connection that a message could take by mistake.
        let gate = Gate::default();
        let client = self.client(gate.clone())?;
        let mut first = request()?;
        *first.body_mut() = None;
        first.headers_mut().insert(AUTHORIZATION, credentials(scheme, &negotiation())?);
        let response = client.execute(first).await.map_err(lost)?;
        gate.0.store(true, Ordering::Release);
        let challenge = challenge(response.headers(), scheme);
        http::body(response, server, secrets).await?;
        let nonce = random().ok_or_else(|| Error::unavailable("the system gives no random numbers"))?;
        let answer = challenge.and_then(|challenge| authentication(&self.user, &challenge, nonce, Timestamp::now()));
        let answer = answer.ok_or_else(|| {
            Error::unavailable(format!("{server} offers {scheme}, but its challenge is none of NTLM version 2 with Unicode"))
        })?;
        let mut last = request()?;
        last.headers_mut().insert(AUTHORIZATION, credentials(scheme, &answer)?);
        let response = client.execute(last).await.map_err(lost)?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(Error::Denied(format!(
                "{server} refuses the NTLM login (code 401); check the user (DOMAIN\\name) and the password that \
                 {FIELD}.auth.ntlm names"
            )));
        }
        *kept = Some(client);
        Ok((response, kept))
    }

    fn client(&self, gate: Gate) -> Result<Client> {
        let builder = http::builder(FIELD, self.tls.clone(), &self.options)?.http1_only().connector_layer(gate);
        http::build(FIELD, builder)
    }
}

fn credentials(scheme: &str, message: &[u8]) -> Result<HeaderValue> {
    let value = HeaderValue::try_from(format!("{scheme} {}", STANDARD.encode(message)));
    let mut value = value.map_err(|_| Error::invalid(format!("{FIELD}.auth.ntlm"), "makes no header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What the server offers of what we can: NTLM, or Negotiate, which takes NTLM's messages too.
fn scheme(headers: &HeaderMap) -> Option<&'static str> {
    let offered = |name: &str| {
        let words = headers.get_all(WWW_AUTHENTICATE).into_iter().filter_map(|value| value.to_str().ok());
        words
            .flat_map(|value| value.split(','))
            .any(|offer| offer.split_whitespace().next().is_some_and(|o| o.eq_ignore_ascii_case(name)))
    };
    ["NTLM", "Negotiate"].into_iter().find(|name| offered(name))
}

fn challenge(headers: &HeaderMap, scheme: &str) -> Option<Vec<u8>> {
    headers.get_all(WWW_AUTHENTICATE).into_iter().find_map(|value| {
        let (name, message) = value.to_str().ok()?.split_once(' ')?;
        name.eq_ignore_ascii_case(scheme).then(|| STANDARD.decode(message.trim()).ok())?
    })
}

fn random() -> Option<[u8; 8]> {
    let mut bytes = [0; 8];
    rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut bytes).ok()?;
    Some(bytes)
}

/// Once closed, keeps a client to the connection that it has: that one is logged in, or about to be.
#[derive(Clone, Default)]
struct Gate(Arc<AtomicBool>);

impl<S> tower::Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: self.clone() }
    }
}

#[derive(Clone)]
struct Gated<S> {
    inner: S,
    gate: Gate,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<S, R> tower::Service<R> for Gated<S>
where
    S: tower::Service<R, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        if self.gate.0.load(Ordering::Acquire) {
            return Box::pin(async {
                tokio::time::sleep(GRACE).await;
                Err("the server closed the connection that was logged in, or about to be".into())
            });
        }
        Box::pin(self.inner.call(request))
    }
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
        assert_eq!(upper("straße-é"), "STRAßE-É");
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

    #[test]
    fn offers_are_found_in_every_form() {
        for (offers, expected) in [
            (&["Negotiate", "NTLM"][..], Some("NTLM")),
            (&["Basic realm=\"ntlm\", Negotiate"], Some("Negotiate")),
            (&["ntlm"], Some("NTLM")),
            (&["Basic realm=\"NTLM\""], None),
            (&[], None),
        ] {
            let mut all = HeaderMap::new();
            for offer in offers {
                all.append(WWW_AUTHENTICATE, HeaderValue::from_str(offer).unwrap());
            }
            assert_eq!(scheme(&all), expected, "{offers:?}");
        }
    }
}
