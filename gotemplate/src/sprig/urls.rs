//! `urlParse` and `urlJoin`, as Go's `net/url` takes URLs apart.

use super::{dict, dict_of, made, text};
use crate::exec::Meter;
use crate::functions::Answer;
use crate::text::Text;
use crate::value::{Map, Type, Value};

/// Where a byte may stand as it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Path,
    Host,
    Zone,
    User,
    Fragment,
}

fn must_escape(byte: u8, place: Place) -> bool {
    if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
        return false;
    }
    let allowed: &[u8] = match place {
        Place::Host | Place::Zone => b"!$&'()*+,;=:[]<>\"",
        Place::Path => b"$&+,/:;=@",
        Place::User => b"$&+,;=",
        Place::Fragment => b"$&+,/:;=?@!()*",
    };
    !allowed.contains(&byte)
}

fn escaped(bytes: &[u8], place: Place) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        match must_escape(byte, place) {
            true => out.extend(format!("%{byte:02X}").bytes()),
            false => out.push(byte),
        }
    }
    out
}

fn unescaped(bytes: &[u8], place: Place) -> Result<Vec<u8>, String> {
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16)).map(|digit| digit as u8);
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte == b'%' {
            let Some((high, low)) = digit(at + 1).zip(digit(at + 2)) else { return Err("invalid URL escape".into()) };
            // In hosts only bytes that are no ASCII may be escaped, and in zones what is safe there.
            let is_25 = &bytes[at..at + 3] == b"%25";
            if place == Place::Host && high < 8 && !is_25 {
                return Err("invalid URL escape in the host".into());
            }
            let code = high << 4 | low;
            if place == Place::Zone && !is_25 && code != b' ' && must_escape(code, Place::Host) {
                return Err("invalid URL escape in the zone".into());
            }
            out.push(code);
            at += 3;
            continue;
        }
        if matches!(place, Place::Host | Place::Zone) && byte.is_ascii() && must_escape(byte, place) {
            return Err("invalid character in host name".into());
        }
        out.push(byte);
        at += 1;
    }
    Ok(out)
}

#[derive(Default)]
struct Url {
    scheme: Vec<u8>,
    opaque: Vec<u8>,
    user: Option<(Vec<u8>, Option<Vec<u8>>)>,
    host: Vec<u8>,
    path: Vec<u8>,
    /// The path as it was written, where that is another form.
    raw_path: Vec<u8>,
    force_query: bool,
    query: Vec<u8>,
    fragment: Vec<u8>,
    raw_fragment: Vec<u8>,
}

fn cut(bytes: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    match bytes.iter().position(|byte| *byte == at) {
        Some(position) => (&bytes[..position], Some(&bytes[position + 1..])),
        None => (bytes, None),
    }
}

/// A path or fragment, and its written form if the usual one is another.
fn decoded(written: &[u8], place: Place) -> Result<(Vec<u8>, Vec<u8>), String> {
    let plain = unescaped(written, place)?;
    let raw = if escaped(&plain, place) == written { Vec::new() } else { written.to_vec() };
    Ok((plain, raw))
}

impl Url {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.iter().any(|byte| *byte < b' ' || *byte == 0x7f) {
            return Err("invalid control character in URL".into());
        }
        let (rest, fragment) = cut(bytes, b'#');
        let mut url = Self::default();
        url.parse_body(rest)?;
        if let Some(fragment) = fragment {
            (url.fragment, url.raw_fragment) = decoded(fragment, Place::Fragment)?;
        }
        Ok(url)
    }

    fn parse_body(&mut self, bytes: &[u8]) -> Result<(), String> {
        if bytes == b"*" {
            self.path = b"*".to_vec();
            return Ok(());
        }
        let (scheme, mut rest) = scheme(bytes)?;
        self.scheme = scheme.to_ascii_lowercase();
        if rest.ends_with(b"?") && rest.iter().filter(|byte| **byte == b'?').count() == 1 {
            self.force_query = true;
            rest = &rest[..rest.len() - 1];
        } else {
            let (body, query) = cut(rest, b'?');
            rest = body;
            self.query = query.unwrap_or_default().to_vec();
        }
        if !rest.starts_with(b"/") {
            if !self.scheme.is_empty() {
                self.opaque = rest.to_vec();
                return Ok(());
            }
            // A first segment with a colon would be a scheme.
            if cut(rest, b'/').0.contains(&b':') {
                return Err("first path segment in URL cannot contain colon".into());
            }
        }
        if (!self.scheme.is_empty() || !rest.starts_with(b"///")) && rest.starts_with(b"//") {
            let authority = &rest[2..];
            let end = authority.iter().position(|byte| *byte == b'/').unwrap_or(authority.len());
            self.parse_authority(&authority[..end])?;
            rest = &authority[end..];
        }
        (self.path, self.raw_path) = decoded(rest, Place::Path)?;
        Ok(())
    }

    fn parse_authority(&mut self, authority: &[u8]) -> Result<(), String> {
        let at = authority.iter().rposition(|byte| *byte == b'@');
        self.host = host(&self.scheme, at.map_or(authority, |at| &authority[at + 1..]))?;
        let Some(at) = at else { return Ok(()) };
        let info = &authority[..at];
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(byte);
        if !info.iter().all(allowed) {
            return Err("net/url: invalid userinfo".into());
        }
        let (name, password) = cut(info, b':');
        let password = password.map(|password| unescaped(password, Place::User)).transpose()?;
        self.user = Some((unescaped(name, Place::User)?, password));
        Ok(())
    }

    fn userinfo(&self) -> Vec<u8> {
        let Some((name, password)) = &self.user else { return Vec::new() };
        let mut out = escaped(name, Place::User);
        if let Some(password) = password {
            out.push(b':');
            out.extend(escaped(password, Place::User));
        }
        out
    }

    fn hostname(&self) -> &[u8] {
        let without_port = match self.host.iter().rposition(|byte| *byte == b':') {
            Some(colon) if valid_port(&self.host[colon..]) => &self.host[..colon],
            _ => &self.host,
        };
        match without_port {
            [b'[', inner @ .., b']'] => inner,
            other => other,
        }
    }

    /// The written form if it is still one of the path, else the usual one.
    fn written(raw: &[u8], plain: &[u8], place: Place) -> Vec<u8> {
        let is_sound = |byte: &u8| b"!$&'()*+,;=:@[]%".contains(byte) || !must_escape(*byte, place);
        if !raw.is_empty() && raw.iter().all(is_sound) && unescaped(raw, place).is_ok_and(|meant| meant == plain) {
            return raw.to_vec();
        }
        if place == Place::Path && plain == b"*" { b"*".to_vec() } else { escaped(plain, place) }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.scheme.clone();
        if !self.scheme.is_empty() {
            out.push(b':');
        }
        if !self.opaque.is_empty() {
            out.extend_from_slice(&self.opaque);
        } else {
            if !self.scheme.is_empty() || !self.host.is_empty() || self.user.is_some() {
                if !self.host.is_empty() || !self.path.is_empty() || self.user.is_some() {
                    out.extend(b"//");
                }
                if self.user.is_some() {
                    out.extend(self.userinfo());
                    out.push(b'@');
                }
                out.extend(escaped(&self.host, Place::Host));
            }
            let path = Self::written(&self.raw_path, &self.path, Place::Path);
            if !path.is_empty() && !path.starts_with(b"/") && !self.host.is_empty() {
                out.push(b'/');
            }
            if out.is_empty() && cut(&path, b'/').0.contains(&b':') {
                out.extend(b"./");
            }
            out.extend(path);
        }
        if self.force_query || !self.query.is_empty() {
            out.push(b'?');
            out.extend_from_slice(&self.query);
        }
        if !self.fragment.is_empty() {
            out.push(b'#');
            out.extend(Self::written(&self.raw_fragment, &self.fragment, Place::Fragment));
        }
        out
    }
}

fn scheme(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    for (i, byte) in bytes.iter().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if i > 0 => {}
            b':' if i == 0 => return Err("missing protocol scheme".into()),
            b':' => return Ok((&bytes[..i], &bytes[i + 1..])),
            _ => break,
        }
    }
    Ok((&[], bytes))
}

fn valid_port(port: &[u8]) -> bool {
    match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// A host with its port; brackets are for addresses of IPv6.
fn host(scheme: &[u8], host: &[u8]) -> Result<Vec<u8>, String> {
    let port_is_wrong = || "invalid port after host".to_owned();
    let Some(inner) = host.strip_prefix(b"[") else {
        if host.contains(&b'[') {
            return Err("invalid IP-literal".into());
        }
        // Some databases have lists of hosts here, each with its port; HTTP has not.
        let is_colon = |byte: &u8| *byte == b':';
        let is_http = matches!(scheme, b"http" | b"https");
        let colon = if is_http { host.iter().position(is_colon) } else { host.iter().rposition(is_colon) };
        if colon.is_some_and(|colon| !valid_port(&host[colon..])) {
            return Err(port_is_wrong());
        }
        return unescaped(host, Place::Host);
    };
    if inner.contains(&b'[') {
        return Err("invalid IP-literal".into());
    }
    let Some(end) = inner.iter().rposition(|byte| *byte == b']') else { return Err("missing ']' in host".into()) };
    let (name, port) = (&inner[..end], &inner[end + 1..]);
    if !valid_port(port) {
        return Err(port_is_wrong());
    }
    let name = match memchr::memmem::find(name, b"%25") {
        Some(zone) => [unescaped(&name[..zone], Place::Host)?, unescaped(&name[zone..], Place::Zone)?].concat(),
        None => unescaped(name, Place::Host)?,
    };
    let (address, zone) = cut(&name, b'%');
    let address = std::str::from_utf8(address).ok().and_then(|address| address.parse::<std::net::Ipv6Addr>().ok());
    if address.is_none() || zone.is_some_and(<[u8]>::is_empty) {
        return Err("invalid IP-literal".into());
    }
    Ok([b"[", &name[..], b"]", port].concat())
}

pub(super) fn url_parse(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let bytes = text(&arguments[0]);
    meter.memory(12 * bytes.len())?;
    let url = Url::parse(bytes)?;
    let parts: [(&str, &[u8]); 8] = [
        ("scheme", &url.scheme),
        ("host", &url.host),
        ("hostname", url.hostname()),
        ("path", &url.path),
        ("query", &url.query),
        ("opaque", &url.opaque),
        ("fragment", &url.fragment),
        ("userinfo", &url.userinfo()),
    ];
    let entries = parts.map(|(name, part)| (Text::from(name), Value::Str(Text::new(part.to_vec()))));
    dict_of(meter, entries, Type::Any)
}

fn part(map: &Map, name: &str) -> Result<Vec<u8>, String> {
    match map.get(name.as_bytes()) {
        None => Ok(Vec::new()),
        Some(Value::Str(text)) => Ok(text.bytes().to_vec()),
        Some(other) => Err(format!("unable to parse {name} key, must be of type string, but {} found", other.type_name())),
    }
}

pub(super) fn url_join(meter: &mut Meter, arguments: &[Value]) -> Answer {
    let map = dict(&arguments[0]);
    let mut url = Url {
        scheme: part(&map, "scheme")?,
        host: part(&map, "host")?,
        path: part(&map, "path")?,
        query: part(&map, "query")?,
        opaque: part(&map, "opaque")?,
        fragment: part(&map, "fragment")?,
        ..Url::default()
    };
    let user = part(&map, "userinfo")?;
    if !user.is_empty() {
        url.user = Url::parse(&[b"proto://", &user[..], b"@host"].concat())?.user;
    }
    let bytes = url.to_bytes();
    meter.memory(3 * bytes.len())?;
    made(meter, bytes)
}
