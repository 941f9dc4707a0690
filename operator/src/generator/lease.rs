//! What a generator made outside of the cluster, kept for as long as it holds.
//!
//! A GeneratorState says what it takes to prolong it and to give it back; a Secret beside it, which that object owns, keeps the
//! values, for nobody can be asked for them again. The GeneratorState is written first, where the generator can name what it is about to
//! issue even before it does: after a crash at any moment the lease is given back and another one is made. What the operator does with it from then on is in [`crate::generator_state`].

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::Api;
use lockstep_crds::GeneratorState;
use lockstep_crds::generator::state::{FINALIZER, LABEL_OWNER, SECRET_TYPE};
use lockstep_providers::generator::{Generated, Generator, Held, Lease, Ticket};
use lockstep_providers::{Error, Result, SecretBytes};
use serde_json::json;

use super::Definition;
use crate::context::Context;
use crate::external_secret::kube_error;
use crate::external_secret::target::FIELD_MANAGER;
use crate::generator_state::cache::{Entry, Known, State};
use crate::generator_state::plan;
use crate::hash::PartsHash;
use crate::keys::{ObjectKey, Referrer, stable_hash};
use crate::queue::Wake;
use crate::resolver::ObjectResolver;

type Values = BTreeMap<String, SecretBytes>;

/// Who asks.
pub struct Asker<'a> {
    /// The object.
    pub referrer: &'a Referrer,
    /// Its UID.
    pub uid: &'a str,
    /// What an object that goes with it says.
    pub owner: Option<OwnerReference>,
}

/// The key under which the values are kept: names of values may be none that a Secret can have.
const VALUES: &str = "values";

/// What a generator gives: what it gave before while that holds, where it can be kept; else something new.
///
/// # Errors
/// What the generator answers, and what keeps the result from being kept.
pub async fn make(
    ctx: &Arc<Context>,
    resolver: &ObjectResolver<'_>,
    asker: &Asker<'_>,
    definition: &Definition,
    slot: &str,
) -> Result<Values> {
    let generator = ctx.generators.get(definition, Some(asker.referrer)).await?;
    if !definition.identity.kind.is_leased() {
        let answer = generator.generate().await;
        ctx.generators.called(&definition.identity, "generate", &answer);
        return answer.map(|generated| generated.values);
    }
    if !ctx.states.is_filled(ctx.options.namespaces.len().max(1)) {
        return Err(Error::unavailable("the GeneratorStates have not been read yet (is their CRD installed?)"));
    }
    if let Some((key, entry)) = ctx.states.current(asker.uid, slot)
        && entry.identity.as_ref() == Some(&definition.identity)
        && let Some(values) = still_held(ctx, resolver, &key, &entry, &*generator).await?
    {
        return Ok(values);
    }
    // In a task of its own: whoever waits may give up, and what was issued is written down or given back all the same.
    let (ctx, definition, slot) = (ctx.clone(), definition.clone(), slot.to_owned());
    let (referrer, uid, owner) = (asker.referrer.clone(), asker.uid.to_owned(), asker.owner.clone());
    let issued = tokio::spawn(async move {
        let asker = Asker { referrer: &referrer, uid: &uid, owner };
        issue(&ctx, &*generator, &asker, &definition, &slot).await
    });
    issued.await.unwrap_or_else(|_| Err(Error::unavailable("the call of the generator broke off")))
}

/// Has something issued, and writes it down.
async fn issue(
    ctx: &Arc<Context>,
    generator: &dyn Generator,
    asker: &Asker<'_>,
    definition: &Definition,
    slot: &str,
) -> Result<Values> {
    let reserved = match generator.ticket().await? {
        Some(ticket) => Some(reserve(ctx, asker, definition, slot, ticket).await?),
        None => None,
    };
    let answer = match &reserved {
        Some(reserved) => generator.generate_with(&reserved.ticket).await,
        None => generator.generate().await,
    };
    ctx.generators.called(&definition.identity, "generate", &answer);
    // What was reserved and not used is given back with its GeneratorState, as after a crash.
    let Generated { values, lease } = answer?;
    let Some(lease) = lease else { return Ok(values) };
    let kept = match &reserved {
        Some(reserved) => fill(ctx, asker, reserved, slot, &lease, &values).await,
        None => keep(ctx, asker, definition, slot, &lease, &values).await,
    };
    if let Err(error) = kept {
        // What is not written down would stay until it ends by itself.
        if let Err(why) = generator.revoke(&lease).await {
            tracing::warn!(generator = %definition.name, error = %why, "a lease that could not be kept was not given back");
        }
        return Err(error);
    }
    Ok(values)
}

/// The values of a lease that holds for a while; none: another one is to be made.
async fn still_held(
    ctx: &Arc<Context>,
    resolver: &ObjectResolver<'_>,
    key: &ObjectKey,
    entry: &Entry,
    generator: &dyn Generator,
) -> Result<Option<Values>> {
    let known = prolong(ctx, key, entry, generator).await;
    match &known {
        Ok(known) if known.ended => return Ok(None),
        Ok(_) => {}
        // What holds is used, whoever does not answer.
        Err(error) if ctx.states.get(key).is_none_or(|entry| entry.known.ended) => return Err(error.clone()),
        Err(_) => {}
    }
    ctx.leases.wake(key.clone(), Wake::timer(tokio::time::Instant::now()));
    let Some(secret) = resolver.kept_values(&key.name, &entry.uid).await? else { return Ok(None) };
    Ok(serde_json::from_slice::<BTreeMap<String, String>>(secret.expose()).ok().and_then(|texts| {
        let decoded = texts.into_iter().map(|(name, text)| Some((name, SecretBytes::new(STANDARD.decode(text).ok()?))));
        decoded.collect()
    }))
}

/// Prolongs a lease, and remembers until when it holds.
///
/// # Errors
/// What keeps it from being known.
pub async fn prolong(ctx: &Context, key: &ObjectKey, entry: &Entry, generator: &dyn Generator) -> Result<Known> {
    let answer = generator.renew(&entry.state.lease).await;
    if let Some(identity) = &entry.identity {
        ctx.generators.called(identity, "renew", &answer);
    }
    let now = (ctx.clock)();
    let (known, answer) = match answer {
        Ok(held) => (plan::held(entry.state.lease.seconds, held, &entry.known, now), Ok(())),
        Err(Error::NotFound(why)) => {
            tracing::info!(state = %key, %why, "a lease has ended");
            (Known { until: Some(now), ended: true, ..Known::default() }, Ok(()))
        }
        Err(error) => (plan::unknown(entry, now), Err(error)),
    };
    ctx.states.remember(key, &entry.uid, known.clone());
    answer.map(|()| known)
}

/// A GeneratorState of what is about to be issued. Without this it would be given back at once.
struct Reserved<'a> {
    ctx: &'a Context,
    key: ObjectKey,
    uid: String,
    ticket: Ticket,
    issued: Timestamp,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.ctx.states.settled(&self.uid);
        self.ctx.leases.wake(self.key.clone(), Wake::timer(tokio::time::Instant::now()));
    }
}

/// Writes down what is about to be issued: by its ticket it can be given back though nobody knows what it is.
async fn reserve<'a>(
    ctx: &'a Context,
    asker: &Asker<'_>,
    definition: &Definition,
    slot: &str,
    ticket: Ticket,
) -> Result<Reserved<'a>> {
    let lease = Lease { ticket: Some(ticket.accessor.clone()), ..Lease::default() };
    let state = State { lease, slot: slot.to_owned(), issued: (ctx.clock)(), pending: true };
    let issued = state.issued;
    let (key, uid) = create(ctx, asker, definition, state).await?;
    Ok(Reserved { ctx, key, uid, ticket, issued })
}

/// What was reserved is issued: from now on it is a lease like any other.
async fn fill(
    ctx: &Context,
    asker: &Asker<'_>,
    reserved: &Reserved<'_>,
    slot: &str,
    lease: &Lease,
    values: &Values,
) -> Result<()> {
    let state = State { lease: lease.clone(), slot: slot.to_owned(), issued: reserved.issued, pending: false };
    let mut told = json!(state);
    told["pending"] = serde_json::Value::Null;
    let patch = json!({"metadata": {"uid": reserved.uid}, "spec": {"state": told}});
    let key = &reserved.key;
    ctx.metrics.api_request("patch", "generatorstates");
    let url = Api::<GeneratorState>::namespaced(ctx.client.clone(), &key.namespace).resource_url().to_owned();
    let sent = ctx.writer(asker.referrer.key()).merge(&url, &key.name, &patch, FIELD_MANAGER).await;
    let made = sent.map_err(|error| unwritten("GeneratorState", key, &error))?;
    ctx.states.filled_in(key, &reserved.uid, state, made.metadata.resource_version.unwrap_or_default(), (ctx.clock)());
    keep_values(ctx, asker, key, &reserved.uid, values).await
}

fn unwritten(what: &str, key: &ObjectKey, error: &kube::Error) -> Error {
    Error::unavailable(format!("{what} {key} could not be written ({}), so nothing is made", kube_error(error)))
}

async fn keep(
    ctx: &Context,
    asker: &Asker<'_>,
    definition: &Definition,
    slot: &str,
    lease: &Lease,
    values: &Values,
) -> Result<()> {
    let state = State { lease: lease.clone(), slot: slot.to_owned(), issued: (ctx.clock)(), pending: false };
    let (key, uid) = create(ctx, asker, definition, state).await?;
    keep_values(ctx, asker, &key, &uid, values).await
}

/// Writes a GeneratorState; answers its name and UID.
async fn create(ctx: &Context, asker: &Asker<'_>, definition: &Definition, state: State) -> Result<(ObjectKey, String)> {
    let object = asker.referrer.key();
    let mut hash = PartsHash::default();
    let named = state.lease.ticket.as_deref().unwrap_or(&state.lease.id);
    [asker.uid, &state.slot, named].iter().for_each(|part| hash.add(part.as_bytes()));
    let short: String = object.name.chars().take(200).collect();
    let key = ObjectKey::new(&object.namespace, &format!("{}-{}", short.trim_end_matches(['.', '-']), &hash.hex()[..10]));
    let now = (ctx.clock)();
    let (lease, pending) = (state.lease.clone(), state.pending);
    let manifest = json!({
        "apiVersion": "generators.external-secrets.io/v1alpha1",
        "kind": "GeneratorState",
        "metadata": {
            "name": *key.name, "namespace": *key.namespace, "finalizers": [FINALIZER],
            "labels": {(LABEL_OWNER): format!("{:016x}", stable_hash(&[asker.uid]))},
            "ownerReferences": asker.owner.iter().collect::<Vec<_>>(),
        },
        "spec": {"resource": definition.resource, "state": state},
    });
    ctx.metrics.api_request("create", "generatorstates");
    let url = Api::<GeneratorState>::namespaced(ctx.client.clone(), &key.namespace).resource_url().to_owned();
    // The watch may show it before the answer is here: what is on its way is nobody's to take back.
    let expected = pending.then(|| ctx.states.expect(&key));
    let sent = ctx.writer(object).create(&url, &manifest, FIELD_MANAGER).await;
    let made = sent.map_err(|error| unwritten("GeneratorState", &key, &error))?;
    let uid = made.metadata.uid.clone().unwrap_or_default();
    if pending {
        ctx.states.begun(&uid);
    }
    drop(expected);
    let entry: Option<GeneratorState> = serde_json::from_value(manifest).ok();
    if let Some(mut entry) = entry.and_then(|object| {
        let object = GeneratorState { metadata: made.metadata, ..object };
        Entry::of(&object, &ctx.options.controller_class)
    }) {
        entry.known = plan::held(lease.seconds, Held { seconds: lease.seconds, within: None }, &Known::default(), now);
        ctx.states.applied(&key, entry);
    }
    ctx.leases.wake(key.clone(), Wake::timer(tokio::time::Instant::now()));
    Ok((key, uid))
}

/// Writes the Secret with the values, which goes with the GeneratorState.
async fn keep_values(ctx: &Context, asker: &Asker<'_>, key: &ObjectKey, uid: &str, values: &Values) -> Result<()> {
    let texts: BTreeMap<&String, String> = values.iter().map(|(name, value)| (name, STANDARD.encode(value.expose()))).collect();
    let json = zeroize::Zeroizing::new(serde_json::to_vec(&texts).unwrap_or_default());
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": *key.name, "namespace": *key.namespace,
            "ownerReferences": [{
                "apiVersion": "generators.external-secrets.io/v1alpha1", "kind": "GeneratorState", "name": *key.name, "uid": uid,
                "controller": true,
            }],
        },
        "type": SECRET_TYPE,
        "immutable": true,
        "data": {(VALUES): STANDARD.encode(&*json)},
    });
    ctx.metrics.api_request("create", "secrets");
    let url = Api::<Secret>::namespaced(ctx.client.clone(), &key.namespace).resource_url().to_owned();
    let sent = ctx.writer(asker.referrer.key()).create(&url, &secret, FIELD_MANAGER).await;
    sent.map(drop).map_err(|error| unwritten("the Secret of GeneratorState", key, &error))
}

/// The values that are kept in a Secret, if it is the very one of that GeneratorState.
pub fn values_in(secret: Secret, state_uid: &str) -> Option<SecretBytes> {
    let owned = secret.metadata.owner_references.iter().flatten().any(|owner| owner.uid == state_uid);
    let ours = owned && secret.type_.as_deref() == Some(SECRET_TYPE);
    secret.data.filter(|_| ours)?.remove(VALUES).map(|bytes| SecretBytes::new(bytes.0))
}
