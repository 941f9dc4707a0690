//! What a path of Vault issues, such as the credentials of a database, and its lease.
//!
//! A lease ends with the token that it was issued to, so that token is never given back; an earlier process' token is prolonged
//! by its accessor, which is no credential. Where Vault's policies allow it each lease has a token of its own, a child of the login: by
//! its accessor everything that was issued to it can be taken back, also what nobody had the time to write down.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use lockstep_crds::duration::parse_go;
use lockstep_crds::generator::vault::{VaultDynamicSecretSpec, VaultResultType};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::Vault;
use super::kv::{self, Path};
use crate::generator::{Generated, Generator, Held, Lease, Ticket, values_of};
use crate::registry::Options;
use crate::secret_bytes::WipedJson;
use crate::{Error, Provider, Resolver, Result};

/// How long a refusal to make tokens is remembered: policies change.
const REFUSAL_HOLDS: Duration = Duration::from_secs(600);

/// A path of one Vault, asked as one identity.
pub(crate) struct Dynamic {
    vault: Vault,
    method: Method,
    path: Path,
    body: Option<Value>,
    result: VaultResultType,
    allow_empty: bool,
    tries: u32,
    pause: Duration,
    /// When Vault last did not let this identity make a token.
    no_tickets: Mutex<Option<Instant>>,
}

/// What Vault answers (`api.Secret` of its own client).
#[derive(Deserialize, Default)]
struct Answer {
    #[serde(default)]
    lease_id: String,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
    #[serde(default)]
    data: Option<Map<String, Value>>,
    #[serde(default)]
    auth: Option<Map<String, Value>>,
}

pub(crate) async fn connect(spec: VaultDynamicSecretSpec, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Dynamic> {
    let whole = spec.path.trim_matches('/').to_owned();
    kv::check_segments("spec.path", &whole)?;
    let name = spec.method.as_deref().filter(|m| !m.is_empty()).unwrap_or("GET").to_ascii_uppercase();
    let method = match name.as_str() {
        "GET" | "POST" | "PUT" | "LIST" | "DELETE" | "PATCH" => Method::from_bytes(name.as_bytes()),
        _ => return Err(Error::invalid("spec.method", "is none of GET, LIST, POST, PUT, PATCH and DELETE")),
    };
    let method = method.map_err(|_| Error::invalid("spec.method", "is no HTTP method"))?;
    let mut parts = whole.split('/').map(str::to_owned);
    let mut path = Path::new(&parts.next().unwrap_or_default(), &[]);
    path.segments = parts.collect();
    let takes_query = method == Method::GET || name == "LIST";
    if takes_query {
        let each = |(name, values): (&String, &Vec<String>)| values.iter().map(|v| (name.clone(), v.clone())).collect::<Vec<_>>();
        path.query = spec.get_parameters.iter().flat_map(each).collect();
    }
    let body = if takes_query { None } else { Some(spec.parameters.clone().unwrap_or_else(|| json!({}))) };
    if body.as_ref().is_some_and(|body| !body.is_object()) {
        return Err(Error::invalid("spec.parameters", "is no object"));
    }
    let settings = spec.retry_settings.unwrap_or_default();
    let pause = match &settings.retry_interval {
        Some(text) => parse_go(text).map_err(|why| Error::invalid("spec.retrySettings.retryInterval", why))?,
        None => Duration::from_secs(1),
    };
    let tries = u32::try_from(settings.max_retries.unwrap_or(0))
        .map_err(|_| Error::invalid("spec.retrySettings.maxRetries", "is negative"))?;
    Ok(Dynamic {
        vault: super::connect(spec.provider, resolver, options).await?,
        method,
        path,
        body,
        result: spec.result_type,
        allow_empty: spec.allow_empty_response,
        tries: tries.min(10),
        pause: pause.min(Duration::from_secs(10)),
        no_tickets: Mutex::default(),
    })
}

/// Vault says so of a lease that it does not know, or knows no longer.
fn ended(error: Error) -> Error {
    const WORDS: [&str; 4] = ["lease not found", "lease expired", "invalid lease", "lease is expired"];
    match error {
        Error::Denied(why) | Error::Invalid { why, .. } if WORDS.iter().any(|words| why.contains(words)) => Error::NotFound(why),
        other => other,
    }
}

impl Dynamic {
    async fn ask(&self, ticket: Option<&Ticket>) -> Result<zeroize::Zeroizing<Vec<u8>>> {
        let mut tries = 0;
        loop {
            let (method, body) = (self.method.clone(), self.body.as_ref());
            let answer = match ticket.and_then(|ticket| ticket.secret.as_text()) {
                Some(token) => self.vault.client.call(method, &self.path, token, body).await,
                None => self.vault.call(method, &self.path, body).await,
            };
            match answer {
                Err(Error::Unavailable { .. }) if tries < self.tries => {
                    tries += 1;
                    tokio::time::sleep(self.pause).await;
                }
                // Vault names a mount that it does not have by the field of a store.
                Err(Error::Invalid { field, why }) if field.ends_with("vault.path") => {
                    let why = why.split("; name the engine").next().unwrap_or_default().to_owned();
                    return Err(Error::invalid("spec.path", why));
                }
                other => return other,
            }
        }
    }

    async fn of_lease(&self, what: &str, body: Value) -> Result<zeroize::Zeroizing<Vec<u8>>> {
        let path = Path::new("sys", &["leases", what]);
        self.vault.call(Method::POST, &path, Some(&body)).await.map_err(ended)
    }

    /// For how many seconds a lease holds.
    async fn prolonged(&self, lease: &Lease) -> Result<u64> {
        if lease.renewable {
            let body = json!({"lease_id": lease.id, "increment": lease.seconds});
            match self.of_lease("renew", body).await {
                Ok(answer) => {
                    let answer = serde_json::from_slice::<Answer>(&answer);
                    return Ok(answer
                        .map_err(|_| Error::unavailable("Vault's answer about a lease does not parse"))?
                        .lease_duration);
                }
                // As it says at the end of a lease's longest time: how much is left is known by looking.
                Err(Error::Denied(why)) if why.contains("not renewable") => {}
                Err(error) => return Err(error),
            }
        }
        let answer = self.of_lease("lookup", json!({"lease_id": lease.id})).await?;
        let answer = serde_json::from_slice::<Answer>(&answer).unwrap_or_default();
        Ok(answer.data.and_then(|data| data.get("ttl")?.as_u64()).unwrap_or(0))
    }
}

impl Dynamic {
    async fn issue(&self, ticket: Option<&Ticket>) -> Result<Generated> {
        let body = self.ask(ticket).await?;
        let broken = |_| Error::unavailable(format!("Vault's answer at {} does not parse", self.path));
        let whole = match body.is_empty() {
            true => WipedJson(json!({})),
            false => WipedJson(serde_json::from_slice::<Value>(&body).map_err(broken)?),
        };
        let answer = Answer::deserialize(&whole.0).map_err(broken)?;
        let nothing = Map::new();
        let taken = match self.result {
            VaultResultType::Data => answer.data.as_ref(),
            VaultResultType::Auth => answer.auth.as_ref(),
            VaultResultType::Raw => whole.0.as_object(),
        };
        if taken.is_none_or(Map::is_empty) && !self.allow_empty {
            let why = format!(
                "Vault answers {} with nothing under {:?}; allowEmptyResponse: true would take that",
                self.path, self.result
            );
            return Err(Error::invalid("spec.path", why));
        }
        let values = values_of(taken.unwrap_or(&nothing));
        if answer.auth.is_some() {
            // A token is a child of the login that made it, and ends with it.
            self.vault.session.leased().await;
        }
        let lease = match answer.lease_id.is_empty() {
            true => None,
            false => Some(Lease {
                accessor: self.vault.session.leased().await,
                id: answer.lease_id,
                seconds: answer.lease_duration,
                renewable: answer.renewable,
                ticket: ticket.map(|ticket| ticket.accessor.clone()),
            }),
        };
        Ok(Generated { values, lease })
    }

    fn refused(&self) -> MutexGuard<'_, Option<Instant>> {
        self.no_tickets.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whatever was issued to a token goes with it; one that is gone is an answer.
    async fn take_back(&self, accessor: &str) -> Result<()> {
        let path = Path::new("auth", &["token", "revoke-accessor"]);
        match self.vault.call(Method::POST, &path, Some(&json!({"accessor": accessor}))).await {
            Ok(_) => Ok(()),
            Err(Error::Denied(why)) if why.contains("invalid accessor") => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Generator for Dynamic {
    async fn generate(&self) -> Result<Generated> {
        self.issue(None).await
    }

    async fn ticket(&self) -> Result<Option<Ticket>> {
        let refused = *self.refused();
        if refused.is_some_and(|at| at.elapsed() < REFUSAL_HOLDS) {
            return Ok(None);
        }
        let path = Path::new("auth", &["token", "create"]);
        let asked = json!({"display_name": "lockstep-lease", "renewable": true});
        // Not as other calls: most policies refuse this one, which says nothing about the login.
        let login = self.vault.session.token().await?;
        let answer = match self.vault.client.call(Method::POST, &path, &login.text, Some(&asked)).await {
            Ok(answer) => answer,
            Err(Error::Denied(why)) => {
                if refused.is_none() {
                    tracing::info!(%why, "leases have no token of their own: one that a crash cuts off ends by its own time alone");
                }
                *self.refused() = Some(Instant::now());
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let broken = |_| Error::unavailable("Vault's answer about a new token does not parse");
        let made = super::login::made(&answer).map_err(broken)?;
        // The login that it is a child of must outlive it.
        self.vault.session.leased().await;
        Ok(Some(Ticket { accessor: made.0, secret: made.1 }))
    }

    async fn generate_with(&self, ticket: &Ticket) -> Result<Generated> {
        self.issue(Some(ticket)).await
    }

    async fn renew(&self, lease: &Lease) -> Result<Held> {
        // The login first: a lease ends with it, however long it says.
        let login = match &lease.accessor {
            Some(accessor) => self.vault.session.prolong(accessor).await?,
            None => None,
        };
        let own = match &lease.ticket {
            Some(accessor) => self.vault.session.prolong(accessor).await?,
            None => None,
        };
        let login = login.into_iter().chain(own).min();
        Ok(Held { seconds: self.prolonged(lease).await?, within: login })
    }

    async fn revoke(&self, lease: &Lease) -> Result<()> {
        // The lease first: of a token's leases Vault says that they are gone before they are.
        let of_lease = match lease.id.is_empty() {
            true => Ok(()),
            false => match self.of_lease("revoke", json!({"lease_id": lease.id, "sync": true})).await {
                Ok(_) | Err(Error::NotFound(_)) => Ok(()),
                Err(error) => Err(error),
            },
        };
        match &lease.ticket {
            None => of_lease,
            Some(ticket) => match (self.take_back(ticket).await, of_lease) {
                // With the token everything goes.
                (Ok(()), _) => Ok(()),
                // Who may take the lease back and not the token leaves one that is good for nothing to end by itself.
                (Err(Error::Denied(_)), Ok(())) if !lease.id.is_empty() => Ok(()),
                (Err(error), _) => Err(error),
            },
        }
    }

    async fn close(&self) {
        self.vault.close().await;
    }
}
