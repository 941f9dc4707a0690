//! The HTTP client under the providers that speak HTTP: one a connection, so that no two tenants share a socket.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine;
use futures::StreamExt;
use futures::future::BoxFuture;
use lockstep_crds::meta::CaProvider;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Url};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls_platform_verifier::BuilderVerifierExt;
use zeroize::Zeroizing;

use crate::egress::{Egress, Refused, refusal};
use crate::registry::Options;
use crate::{Error, Resolver, Result, SecretBytes};

/// What a connection is made with.
#[derive(Clone, Default)]
pub(crate) struct Tls {
    /// Certificate authorities to trust, instead of the system's.
    pub(crate) authorities: Option<Vec<Certificate>>,
    /// Client certificate.
    pub(crate) identity: Option<Identity>,
    /// Whether the policy of what stores may reach is not asked: no tenant gave the URL.
    pub(crate) anywhere: bool,
}

/// Parses and checks a base URL.
pub(crate) fn base_url(field: &str, text: &str, options: &Options) -> Result<Url> {
    let wrong = |why: &str| Error::invalid(field, format!("{why}; write for example https://vault.example.com:8200"));
    let url = Url::parse(text.trim()).map_err(|error| wrong(&format!("is no URL ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("is no http or https URL"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("holds credentials, a query or a fragment"));
    }
    options.egress.check_url(field, &url)?;
    Ok(url)
}

/// Certificate authorities from `caBundle` or `caProvider`; none when neither is given.
pub(crate) async fn authorities(
    field: &str,
    bundle: Option<&str>,
    provider: Option<&CaProvider>,
    resolver: &dyn Resolver,
) -> Result<Option<Vec<Certificate>>> {
    if let Some(bundle) = bundle.filter(|b| !b.is_empty()) {
        let field = format!("{field}.caBundle");
        let compact: String = bundle.split_whitespace().collect();
        let pem = base64::engine::general_purpose::STANDARD
            .decode(compact)
            .map_err(|_| Error::invalid(&field, "is not Base64; write the PEM bundle Base64-encoded"))?;
        return certificates(&field, &pem).map(Some);
    }
    match provider {
        Some(provider) => {
            let field = format!("{field}.caProvider");
            let pem = resolver.document(&field, provider).await?;
            certificates(&field, &pem).map(Some)
        }
        None => Ok(None),
    }
}

pub(crate) fn certificates(field: &str, pem: &[u8]) -> Result<Vec<Certificate>> {
    let found = Certificate::from_pem_bundle(pem).map_err(|_| Error::invalid(field, "holds no readable PEM certificate"))?;
    if found.is_empty() {
        return Err(Error::invalid(field, "holds no PEM certificate (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(found)
}

/// A client certificate from its two PEM texts.
pub(crate) fn identity(field: &str, certificate: &SecretBytes, key: &SecretBytes) -> Result<Identity> {
    let mut pem = Zeroizing::new(Vec::with_capacity(certificate.len() + key.len() + 1));
    pem.extend_from_slice(certificate.expose());
    pem.push(b'\n');
    pem.extend_from_slice(key.expose());
    Identity::from_pem(&pem).map_err(|_| Error::invalid(field, "is no PEM certificate with its PEM private key"))
}

/// Builds the client: bounded in time, at most one redirect and only to the same host and port (tokens travel in headers that the
/// library does not know), and without the proxies of the operator's environment, which no spec asked for.
pub(crate) fn client(field: &str, tls: Tls, options: &Options) -> Result<Client> {
    build(field, builder(field, tls, options)?)
}

/// What [`client`] is built of, for one that needs more.
pub(crate) fn builder(field: &str, tls: Tls, options: &Options) -> Result<ClientBuilder> {
    let redirects = reqwest::redirect::Policy::custom(|attempt| {
        let from = attempt.previous().last();
        let same = from.is_some_and(|from| from.origin() == attempt.url().origin());
        if same && attempt.previous().len() < 2 { attempt.follow() } else { attempt.stop() }
    });
    let mut builder = Client::builder()
        .user_agent(concat!("lockstep/", env!("CARGO_PKG_VERSION")))
        .timeout(options.timeout)
        .connect_timeout(options.timeout.min(Duration::from_secs(5)))
        // What a connection read last is in its buffers for as long as it stands.
        .pool_idle_timeout(Duration::from_secs(30))
        .redirect(redirects)
        .no_proxy();
    if !tls.anywhere {
        builder = builder.dns_resolver(Guard { egress: options.egress.clone(), lookup: system() });
    }
    match tls {
        Tls { authorities: None, identity: None, .. } if options.authorities.is_empty() => {
            let system =
                system_tls().map_err(|why| Error::invalid(field, format!("the system's authorities can't be read: {why}")))?;
            builder = builder.tls_backend_preconfigured(system);
        }
        Tls { authorities, identity, .. } => {
            builder = match authorities {
                Some(authorities) => builder.tls_certs_only(authorities),
                None if options.authorities.is_empty() => builder,
                None => builder.tls_certs_merge(certificates("--ca-file", &options.authorities)?),
            };
            if let Some(identity) = identity {
                builder = builder.identity(identity);
            }
        }
    }
    Ok(builder)
}

pub(crate) fn build(field: &str, builder: ClientBuilder) -> Result<Client> {
    let wrong = |error| Error::invalid(field, format!("the certificates make no TLS client: {}", causes(&error, &[])));
    builder.build().map_err(wrong)
}

/// What asks for a name's addresses.
type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// The system's resolver.
fn system() -> Lookup {
    Arc::new(|name| Box::pin(async move { Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect()) }))
}

/// Why a name has no address to connect to.
#[derive(Debug, thiserror::Error)]
enum NoAddress {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Unknown(#[from] std::io::Error),
}

/// The addresses of a name that may be reached, by one question to the resolver: what is judged is what is connected to.
async fn addresses(egress: &Egress, name: &str, lookup: &Lookup) -> std::result::Result<Vec<SocketAddr>, NoAddress> {
    let found = match egress.place(name) {
        Some(address) => vec![SocketAddr::new(address, 0)],
        None => {
            egress.check_name(name)?;
            lookup(name.to_owned()).await?
        }
    };
    let mut refused = None;
    let mut allowed = Vec::with_capacity(found.len());
    for found in found {
        match egress.check(name, found.ip()) {
            Ok(()) => allowed.push(found),
            Err(why) => refused = Some(why),
        }
    }
    match refused {
        Some(why) if allowed.is_empty() => Err(why.into()),
        _ => Ok(allowed),
    }
}

/// Gives a client only addresses that may be reached.
struct Guard {
    egress: Arc<Egress>,
    lookup: Lookup,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (egress, lookup) = (self.egress.clone(), self.lookup.clone());
        Box::pin(async move {
            let found = addresses(&egress, name.as_str(), &lookup).await.map_err(|why| match why {
                NoAddress::Refused(refused) => Box::<dyn std::error::Error + Send + Sync>::from(refused),
                NoAddress::Unknown(error) => error.into(),
            })?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// TLS with the system's authorities, which are read once: for each connection anew they would take 150 kB and milliseconds.
///
/// Sessions are not resumed: they would be shared by all that share the configuration, and two tenants share none.
fn system_tls() -> std::result::Result<ClientConfig, String> {
    static SYSTEM: LazyLock<std::result::Result<ClientConfig, String>> = LazyLock::new(|| {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let builder = builder.with_platform_verifier().map_err(|e| e.to_string())?;
        let mut config = builder.with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(config)
    });
    SYSTEM.clone()
}

/// Makes sure that a port of a host can be connected to, and may be.
pub(crate) async fn reach(field: &str, host: &str, port: u16, options: &Options) -> Result<()> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let attempt = async {
        let unreachable = |error: std::io::Error| Error::unreachable(format!("{host}:{port} can't be reached ({error})"));
        let found = addresses(&options.egress, bare, &system()).await.map_err(|why| match why {
            NoAddress::Refused(why) => Error::invalid(field, format!("{host} {why}")),
            NoAddress::Unknown(error) => unreachable(error),
        })?;
        let mut failure = Error::unreachable(format!("{host} means no address"));
        // All at once: one address that drops what comes must not use up the others' time.
        let connect = |found: SocketAddr| tokio::net::TcpStream::connect(SocketAddr::new(found.ip(), port));
        let mut attempts: futures::stream::FuturesUnordered<_> = found.into_iter().map(connect).collect();
        while let Some(attempt) = attempts.next().await {
            match attempt {
                Ok(_) => return Ok(()),
                Err(error) => failure = unreachable(error),
            }
        }
        Err(failure)
    };
    let late = |_| Err(Error::unreachable(format!("{host}:{port} did not answer in time")));
    tokio::time::timeout(options.timeout, attempt).await.unwrap_or_else(late)
}

/// A token fit for a header: text, without white space around it.
pub(crate) fn header_token(field: &str, token: &SecretBytes) -> Result<Zeroizing<String>> {
    let text =
        token.as_text().ok_or_else(|| Error::invalid(field, "the token is not text"))?.trim_matches([' ', '\t', '\r', '\n']);
    if text.is_empty() {
        return Err(Error::invalid(field, "the token is empty"));
    }
    if !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Error::invalid(field, "the token holds a line break, a blank or another character that no token has"));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// An error with its causes in one line, without its URL and without our secrets.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static), secrets: &[&str]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !parts.iter().any(|p| p.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    crate::error::foreign_text(&parts.join(": "), secrets)
}

/// What a request that got no answer means.
pub(crate) fn no_answer(server: &str, error: reqwest::Error, secrets: &[&str]) -> Error {
    let error = error.without_url();
    if let Some(refused) = refusal(&error) {
        return Error::invalid(server, refused.to_string());
    }
    let what = if error.is_timeout() { "did not answer in time" } else { "could not be reached" };
    Error::unreachable(format!("{server} {what} ({})", causes(&error, secrets)))
}

/// What a call of a cloud's service that got no answer means; `field` is where a wrong address would stand.
pub(crate) fn no_answer_of(cloud: &str, field: &str, what: &str, error: reqwest::Error, secrets: &[&str]) -> Error {
    let error = error.without_url();
    if let Some(refused) = refusal(&error) {
        return Error::invalid(field, refused.to_string());
    }
    let how = if error.is_timeout() { "did not answer in time" } else { "could not be reached" };
    Error::unreachable(format!("{cloud} {how} for {what} ({})", causes(&error, secrets)))
}

/// A Secret holds at most 1 MiB; the JSON around a value can double it.
const MAX_ANSWER: usize = 8 << 20;

/// What a body may take without asking for room.
const FREE: usize = 256 << 10;
/// What all bodies that take more may take together while they are read: however many servers answer slowly, and with whatever.
const ROOM: usize = 48 << 20;
/// Values of a JSON answer: parsed they take many times the room of their text.
const MOST_VALUES: usize = 400_000;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Room that one body takes of [`ROOM`].
struct Room(usize);

impl Room {
    fn holds(&mut self, bytes: usize) -> bool {
        while bytes > FREE + self.0 {
            let more = FREE.max(bytes - FREE - self.0);
            if TAKEN.fetch_add(more, Ordering::Relaxed) + more > ROOM {
                TAKEN.fetch_sub(more, Ordering::Relaxed);
                return false;
            }
            self.0 += more;
        }
        true
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// How many values a JSON text holds at most.
fn values(text: &[u8]) -> usize {
    let (mut count, mut quoted, mut escaped) = (1, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' | b'[' | b'{' if !quoted => count += 1,
            _ => {}
        }
    }
    count
}

/// The body of an answer, up to a limit.
pub(crate) async fn body(response: reqwest::Response, server: &str, secrets: &[&str]) -> Result<Zeroizing<Vec<u8>>> {
    body_up_to(MAX_ANSWER, response, server, secrets).await
}

/// The body of an answer, up to a limit of its own.
pub(crate) async fn body_up_to(
    limit: usize,
    mut response: reqwest::Response,
    server: &str,
    secrets: &[&str],
) -> Result<Zeroizing<Vec<u8>>> {
    let expected = response.content_length().unwrap_or(512).min(FREE as u64) as usize;
    let mut body = Zeroizing::new(Vec::with_capacity(expected));
    let mut room = Room(0);
    while let Some(chunk) = response.chunk().await.map_err(|error| no_answer(server, error, secrets))? {
        if body.len() + chunk.len() > limit {
            return Err(Error::invalid("remoteRef.key", format!("the answer of {server} is longer than {limit} bytes")));
        }
        if !room.holds(body.len() + chunk.len()) {
            let why = format!("the answer of {server} is large, and too many of those are being read already");
            return Err(Error::unavailable(why));
        }
        body.extend_from_slice(&chunk);
    }
    if body.len() > FREE && values(&body) > MOST_VALUES {
        return Err(Error::invalid("remoteRef.key", format!("the answer of {server} holds more than {MOST_VALUES} values")));
    }
    Ok(body)
}

/// Longest rest that a server can ask for.
const MAX_REST: Duration = Duration::from_secs(300);

/// `Retry-After` in seconds.
pub(crate) fn retry_after(headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.parse().ok().map(|s| Duration::from_secs(s).min(MAX_REST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_text_are_counted_where_they_are_no_text() {
        for (text, count) in [("1", 1), ("[0,0,0]", 4), (r#"{"a":[1,2],"b":"x,[{\\",","}"#, 6), (r#""\",,,""#, 1)] {
            assert_eq!(values(text.as_bytes()), count, "{text}");
        }
    }

    #[test]
    fn large_bodies_share_their_room_and_give_it_back() {
        let mut small = Room(0);
        assert!(small.holds(FREE) && small.0 == 0);
        let mut all: Vec<Room> = (0..200).map(|_| Room(0)).collect();
        let held = all.iter_mut().take_while(|room| room.0 == 0).map(|room| room.holds(8 << 20)).filter(|held| *held).count();
        assert!((3..=6).contains(&held), "{held} bodies of 8 MiB at once");
        assert!(!Room(0).holds(8 << 20) && small.holds(FREE), "small ones are never refused");
        drop(all);
        assert!(Room(0).holds(8 << 20));
    }

    /// Answers every connection, and counts them.
    async fn server(address: &str, port: u16) -> Option<(u16, Arc<AtomicUsize>, tokio::task::JoinHandle<()>)> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind((address, port)).await.ok()?;
        let port = listener.local_addr().unwrap().port();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
            }
        });
        Some((port, count, serving))
    }

    #[tokio::test]
    async fn a_name_that_means_another_address_a_moment_later_gains_nothing() {
        // Both on one port: the name alone decides.
        let (port, allowed, serving) = server("127.0.0.1", 0).await.unwrap();
        let (_, forbidden, _) = server("127.0.0.2", port).await.expect("the same port of another address");
        let of = |texts: &[&str]| -> Vec<SocketAddr> { texts.iter().map(|t| format!("{t}:0").parse().unwrap()).collect() };
        let answers = std::sync::Mutex::new(vec![
            of(&["127.0.0.2", "127.0.0.1"]),
            of(&["127.0.0.2", "127.0.0.1"]),
            of(&["127.0.0.2"]),
            of(&["127.0.0.1"]),
        ]);
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let lookup: Lookup = Arc::new(move |name| {
            assert_eq!(name, "rebound.example");
            counted.fetch_add(1, Ordering::SeqCst);
            let answer = answers.lock().unwrap().pop().unwrap();
            Box::pin(async move { Ok(answer) })
        });
        let egress = Arc::new(Egress { only: vec!["127.0.0.1".parse().unwrap()], ..Egress::default() });
        let client = Client::builder().no_proxy().dns_resolver(Guard { egress, lookup }).build().unwrap();
        let url = format!("http://rebound.example:{port}/");
        let get = async || client.get(&url).send().await;
        assert!(get().await.is_ok());
        let error = get().await.unwrap_err();
        assert!(refusal(&error).is_some_and(|why| why.to_string().contains("127.0.0.2")), "{error:?}");
        assert!(get().await.is_ok(), "the one of both that may be reached");
        serving.abort();
        assert!(serving.await.is_err_and(|ended| ended.is_cancelled()));
        let error = get().await.unwrap_err();
        assert!(error.is_connect(), "not even when the other does not answer: {error:?}");
        assert_eq!((asked.load(Ordering::SeqCst), allowed.load(Ordering::SeqCst)), (4, 2), "one question a connection");
        assert_eq!(forbidden.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn what_a_flag_names_is_not_looked_up_and_what_it_leaves_out_neither() {
        let lookup: Lookup = Arc::new(|name| panic!("{name} was looked up"));
        let placed = Egress { places: vec!["a.example=127.0.0.1".parse().unwrap()], ..Egress::default() };
        assert_eq!(addresses(&placed, "a.example", &lookup).await.unwrap(), ["127.0.0.1:0".parse().unwrap()]);
        let named = Egress { only: vec!["b.example".parse().unwrap()], ..Egress::default() };
        assert!(matches!(addresses(&named, "value.evil.example", &lookup).await, Err(NoAddress::Refused(_))));
        let to_metadata = Egress { places: vec!["a.example=169.254.169.254".parse().unwrap()], ..Egress::default() };
        assert!(matches!(addresses(&to_metadata, "a.example", &lookup).await, Err(NoAddress::Refused(_))));
    }
}
