//! PEM as Go's `encoding/pem` reads and writes it, and chains of certificates.

pub(super) mod keys;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::encoding::base64_decoded;
use super::{list_of, made, text, utf8};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::text::Text;
use crate::value::{Type, Value};

pub(super) const CERTIFICATE: &str = "CERTIFICATE";

/// Most headers of a block that are read.
const HEADERS: usize = 16;
/// Longest text that is searched for blocks.
const LARGEST: usize = 1 << 20;

/// What reading a text for blocks takes.
pub(super) fn charge(meter: &mut Meter, text: &[u8]) -> Result<(), String> {
    if text.len() > LARGEST {
        return Err(format!("a PEM text is longer than {LARGEST} bytes"));
    }
    meter.steps(100 + memchr::memmem::find_iter(text, b"-----BEGIN").count().saturating_mul(200))?;
    meter.memory(4 * text.len())
}

/// One block; its bytes are wiped.
pub(super) struct Block {
    pub(super) kind: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

fn cut_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (line, rest) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[][..]),
    };
    (line.trim_ascii_end(), rest)
}

impl Block {
    pub(super) fn new(kind: &str, bytes: &[u8]) -> Self {
        Self { kind: kind.to_owned(), headers: Vec::new(), bytes: Zeroizing::new(bytes.to_vec()) }
    }

    /// The first block of a text.
    pub(super) fn first(text: &[u8]) -> Option<Self> {
        Self::next(text).0
    }

    /// All blocks of a text.
    pub(super) fn all(mut text: &[u8]) -> Vec<Self> {
        let mut blocks = Vec::new();
        while let (Some(block), rest) = Self::next(text) {
            blocks.push(block);
            text = rest;
        }
        blocks
    }

    /// The next block and what is behind it; with none, all of the text is what is left.
    pub(super) fn next(text: &[u8]) -> (Option<Self>, &[u8]) {
        let mut rest = text;
        loop {
            let at_start = rest.starts_with(b"-----BEGIN ");
            let Some(start) = (if at_start { Some(11) } else { memchr::memmem::find(rest, b"\n-----BEGIN ").map(|at| at + 12) })
            else {
                return (None, text);
            };
            let (line, behind) = cut_line(&rest[start..]);
            rest = behind;
            let Some(kind) = line.strip_suffix(b"-----") else { continue };
            let mut headers = Vec::new();
            let mut body = rest;
            while headers.len() <= HEADERS {
                let (line, behind) = cut_line(body);
                let Some(colon) = line.iter().position(|byte| *byte == b':').filter(|_| !body.is_empty()) else { break };
                let part = |bytes: &[u8]| String::from_utf8_lossy(bytes.trim_ascii()).into_owned();
                headers.push((part(&line[..colon]), part(&line[colon + 1..])));
                body = behind;
            }
            // An empty body may have its end at once.
            let (end, end_length) = match headers.is_empty() && body.starts_with(b"-----END ") {
                true => (0, 9),
                false => match memchr::memmem::find(body, b"\n-----END ") {
                    Some(end) => (end, 10),
                    // Without an end there is no block behind either.
                    None => return (None, text),
                },
            };
            let trailer = &body[end + end_length..];
            let Some(behind_trailer) = trailer.strip_prefix(kind).and_then(|t| t.strip_prefix(b"-----")) else { continue };
            let (tail, behind) = cut_line(behind_trailer);
            if !tail.is_empty() {
                continue;
            }
            let encoded: Vec<u8> = body[..end].iter().copied().filter(|byte| !matches!(byte, b' ' | b'\t')).collect();
            let Ok(bytes) = base64_decoded(&encoded) else { continue };
            let kind = String::from_utf8_lossy(kind).into_owned();
            return (Some(Self { kind, headers, bytes: Zeroizing::new(bytes) }), behind);
        }
    }

    pub(super) fn encode(&self) -> String {
        let mut out = format!("-----BEGIN {}-----\n", self.kind);
        if !self.headers.is_empty() {
            let mut headers: Vec<_> = self.headers.iter().collect();
            headers.sort_by(|a, b| (a.0 != "Proc-Type", &a.0).cmp(&(b.0 != "Proc-Type", &b.0)));
            headers.iter().for_each(|(name, value)| out.push_str(&format!("{name}: {value}\n")));
            out.push('\n');
        }
        let encoded = Zeroizing::new(STANDARD.encode(&*self.bytes));
        for line in encoded.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out + &format!("-----END {}-----\n", self.kind)
    }
}

/// From the first block on: what is before it does not count.
fn without_junk(input: &[u8]) -> &[u8] {
    memchr::memmem::find(input, b"-----BEGIN").map_or(input, |at| &input[at..])
}

pub(super) fn filter_pem(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let (kind, input) = (utf8(&arguments[0]), without_junk(text(&arguments[1])));
    charge(meter, input)?;
    let mut found = String::new();
    let mut rest = input;
    while let (Some(block), behind) = Block::next(rest) {
        rest = behind;
        if block.kind.eq_ignore_ascii_case(&kind) {
            found.push_str(&block.encode());
        }
    }
    if found.is_empty() && !rest.is_empty() {
        return Err("error filtering pem: found junk".into());
    }
    made(meter, found)
}

/// A certificate with what chains are made by.
pub(super) struct Link {
    pub(super) der: Vec<u8>,
    subject_key: Vec<u8>,
    authority_key: Vec<u8>,
}

impl Link {
    pub(super) fn parse(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) =
            X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).ok_or("failed to parse certificate")?;
        let (mut subject_key, mut authority_key) = (Vec::new(), Vec::new());
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => subject_key = id.0.to_vec(),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    authority_key = id.key_identifier.as_ref().map(|id| id.0.to_vec()).unwrap_or_default();
                }
                _ => {}
            }
        }
        Ok(Self { der: der.to_vec(), subject_key, authority_key })
    }

    fn is_root(&self) -> bool {
        self.authority_key.is_empty() || self.authority_key == self.subject_key
    }

    fn pem(&self) -> String {
        Block::new(CERTIFICATE, &self.der).encode()
    }
}

/// Most certificates in a chain.
const LONGEST: usize = 100;

/// Certificates from the leaf on, each with the one that signed it behind it.
pub(super) fn chain(links: Vec<Link>) -> Result<Vec<Link>, String> {
    if links.len() > LONGEST {
        return Err(format!("more than {LONGEST} certificates"));
    }
    let parent = |i: usize| (0..links.len()).find(|j| i != *j && links[i].authority_key == links[*j].subject_key);
    let parents: Vec<Option<usize>> = (0..links.len()).map(parent).collect();
    let mut leaves = (0..links.len()).filter(|i| !parents.contains(&Some(*i)));
    let leaf = leaves.next().ok_or("no leaf certificate found")?;
    if leaves.next().is_some() {
        return Err("found multiple leaf or disjunct certificates".into());
    }
    let mut order = vec![leaf];
    while let Some(parent) = parents[order[order.len() - 1]] {
        if order.len() == links.len() {
            return Err("constructing chain resulted in cycle".into());
        }
        order.push(parent);
    }
    let mut links: Vec<Option<Link>> = links.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|i| links[i].take()).collect())
}

pub(super) fn filter_cert_chain(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let input = text(&arguments[1]);
    charge(meter, input)?;
    let links: Result<Vec<Link>, String> = Block::all(input).iter().map(|block| Link::parse(&block.bytes)).collect();
    let ordered = chain(links?)?;
    let (Some(first), Some(last)) = (ordered.first(), ordered.last()) else { return made(meter, "") };
    let found = match text(&arguments[0]) {
        b"leaf" if !first.is_root() => first.pem(),
        b"intermediate" => ordered[1..].iter().take_while(|link| !link.is_root()).map(Link::pem).collect(),
        b"root" if last.is_root() => last.pem(),
        _ => String::new(),
    };
    made(meter, found)
}

pub(super) fn cert_sans(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let input = without_junk(text(&arguments[0]));
    charge(meter, input)?;
    let block = Block::first(input).ok_or("failed to decode PEM block")?;
    let parsed = X509Certificate::from_der(&block.bytes).ok().filter(|(rest, _)| rest.is_empty());
    let (_, certificate) = parsed.ok_or("failed to parse certificate")?;
    let (mut dns, mut addresses, mut mails, mut uris) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => mails.push((*name).to_owned()),
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
                    let v6 = || <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
                    addresses.push(
                        v4.or_else(|_| v6()).map_err(|_| "failed to parse certificate".to_owned())?.to_canonical().to_string(),
                    );
                }
                _ => {}
            }
        }
    }
    let names = [dns, addresses, mails, uris].concat();
    list_of(meter, names.into_iter().map(|name| Value::Str(Text::from(name))).collect(), Type::Str)
}
