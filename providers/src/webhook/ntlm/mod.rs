//! NTLM over HTTP, version 2 of its responses, as Microsoft's [MS-NLMP] and [MS-NTHT] describe it: proof of a password without
//! the password, for one TCP connection. Nothing is signed or sealed afterwards, and there are no channel bindings.
//!
//! [MS-NLMP]: https://learn.microsoft.com/openspecs/windows_protocols/ms-nlmp
//! [MS-NTHT]: https://learn.microsoft.com/openspecs/windows_protocols/ms-ntht

mod gate;
mod messages;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use lockstep_crds::meta::SecretKeySelector;
use lockstep_crds::store::webhook::WebhookNtlm;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Request, Response, StatusCode};
use tokio::sync::{Mutex, MutexGuard};
use url::Origin;
use zeroize::Zeroizing;

use super::{FIELD, LABEL};
use crate::http::{self, Tls};
use crate::registry::Options;
use crate::{Error, Resolver, Result};
use gate::Gate;
use messages::{User, authentication, negotiation};

/// How long a connection that answered may take to be free again.
const GRACE: Duration = Duration::from_secs(1);
/// Less than the client keeps an idle connection.
const IDLE: Duration = Duration::from_secs(80);
/// How long a refused login is the answer for everybody: directories lock users out after a few within some minutes.
const REFUSAL_HOLDS: Duration = Duration::from_secs(600);
/// So many refusals in a row are one of the user; a single one may be of a path that he may not read.
const REFUSALS: u8 = 2;
/// More hosts than a store's template names.
const HOSTS: usize = 100;

/// A client for one API that wants NTLM: its logged-in connection, and how to make another.
pub(super) struct Ntlm {
    user: User,
    tls: Tls,
    options: Options,
    /// Requests wait for each other: they share the connection.
    state: Mutex<State>,
}

/// What is known of the API; whoever holds it has the connection to himself.
#[derive(Default)]
pub(super) struct State {
    kept: Option<Kept>,
    /// Logins that were refused, by host: the URL may be a template of it.
    refusals: BTreeMap<String, Refusals>,
}

/// Refused logins in a row, and the last.
struct Refusals {
    count: u8,
    error: Error,
    at: Instant,
}

/// A client whose only connection is logged in, or needs no login.
struct Kept {
    client: Client,
    origin: Origin,
    used: Instant,
}

/// How a login ended that went to its end.
enum Login {
    Taken(Client, Response),
    Refused,
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
        Ok(Self { user: User::new(&name, &password), tls, options: options.clone(), state: Mutex::default() })
    }

    /// Sends a request on the connection that is logged in, and logs in when there is none or the server asks for it again.
    ///
    /// The guard frees the connection: it must live until the body is read.
    pub(super) async fn send(
        &self,
        request: impl Fn() -> Result<Request>,
        server: &str,
        secrets: &[&str],
    ) -> Result<(Response, MutexGuard<'_, State>)> {
        let mut state = self.state.lock().await;
        if let Some(refusals) = state.refusals.get(server)
            && refusals.count >= REFUSALS
            && refusals.at.elapsed() < REFUSAL_HOLDS
        {
            return Err(refusals.error.clone());
        }
        let lost = |error| http::no_answer(server, error, secrets);
        let origin = request()?.url().origin();
        let kept = state.kept.take().filter(|kept| kept.origin == origin && kept.used.elapsed() < IDLE);
        let answer = match kept {
            None => None,
            Some(kept) => match kept.client.execute(request()?).await {
                Ok(response) => Some((kept.client, response)),
                // The connection ended since.
                Err(error) if error.is_connect() => None,
                Err(error) => return Err(lost(error)),
            },
        };
        let (client, response, was_kept) = match answer {
            Some((client, response)) => (client, response, true),
            None => {
                let client = self.client(self.gate())?;
                let response = client.execute(request()?).await.map_err(lost)?;
                (client, response, false)
            }
        };
        let keep = |client| Some(Kept { client, origin: origin.clone(), used: Instant::now() });
        if response.status() != StatusCode::UNAUTHORIZED {
            state.kept = keep(client);
            return Ok((response, state));
        }
        let offers = response.headers().clone();
        http::body(response, server, secrets).await?;
        match self.log_in(&offers, &request, server, secrets).await? {
            Login::Taken(client, response) => {
                state.refusals.remove(server);
                state.kept = keep(client);
                Ok((response, state))
            }
            Login::Refused => {
                let error = Error::Denied(format!(
                    "{server} refuses the NTLM login (code 401); check the user (DOMAIN\\name) and the password that \
                     {FIELD}.auth.ntlm names, and that the user may read this"
                ));
                if state.refusals.len() >= HOSTS {
                    state.refusals.clear();
                }
                let count = state.refusals.get(server).map_or(0, |refusals| refusals.count).saturating_add(1);
                state.refusals.insert(server.to_owned(), Refusals { count, error: error.clone(), at: Instant::now() });
                // Refused for this path only, it is as good as before for others.
                state.kept = if was_kept { keep(client) } else { None };
                Err(error)
            }
        }
    }

    /// Logs in on a connection of its own, with the request behind the login; answers what the request got.
    async fn log_in(
        &self,
        offers: &HeaderMap,
        request: &impl Fn() -> Result<Request>,
        server: &str,
        secrets: &[&str],
    ) -> Result<Login> {
        let lost = |error| http::no_answer(server, error, secrets);
        let scheme = scheme(offers).ok_or_else(|| {
            Error::Denied(format!(
                "{server} refuses the request (code 401) and does not offer NTLM; check {FIELD}.url and headers"
            ))
        })?;
        // A client of its own has no second connection that a message could take by mistake.
        let gate = self.gate();
        let client = self.client(gate.clone())?;
        let mut first = request()?;
        *first.body_mut() = None;
        // IIS wants a length wherever there could be a body, and asks for it before anything else.
        if !matches!(*first.method(), Method::GET | Method::HEAD) {
            first.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        first.headers_mut().insert(AUTHORIZATION, credentials(scheme, &negotiation())?);
        let response = client.execute(first).await.map_err(lost)?;
        gate.close();
        let code = response.status().as_u16();
        let challenge = challenge(response.headers(), scheme);
        http::body(response, server, secrets).await?;
        let nonce = random().ok_or_else(|| Error::unavailable("the system gives no random numbers"))?;
        let answer = challenge.and_then(|challenge| authentication(&self.user, &challenge, nonce, Timestamp::now()));
        let answer = answer.ok_or_else(|| {
            Error::unavailable(format!(
                "{server} offers {scheme}, but answers its first message with code {code} and no challenge of NTLM version 2"
            ))
        })?;
        let mut last = request()?;
        last.headers_mut().insert(AUTHORIZATION, credentials(scheme, &answer)?);
        let response = client.execute(last).await.map_err(lost)?;
        Ok(match response.status() {
            StatusCode::UNAUTHORIZED => Login::Refused,
            _ => Login::Taken(client, response),
        })
    }

    fn gate(&self) -> Gate {
        Gate::new(GRACE.min(self.options.timeout / 4))
    }

    fn client(&self, gate: Gate) -> Result<Client> {
        let builder = http::builder(FIELD, self.tls.clone(), &self.options)?;
        // A login is for one request: what it leads to would get it a second time.
        let builder = builder.redirect(Policy::none()).http1_only().pool_max_idle_per_host(1).connector_layer(gate);
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

/// See [`crate::hostile`].
#[cfg(feature = "conformance")]
pub(super) fn hostile(challenge: &[u8]) {
    for name in ["app", "DOMAIN\\app", "app@example.com"] {
        let _ = authentication(&User::new(name, "CANARY-pass"), challenge, [7; 8], Timestamp::UNIX_EPOCH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
