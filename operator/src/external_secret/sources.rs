//! Asks the stores and generators that an object names, and puts the keys of its target together.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::{Resource, ResourceExt};
use lockstep_crds::ExternalSecret;
use lockstep_crds::external_secret::{Find, MetadataPolicy, RemoteRef};
use lockstep_providers::{Error, Fetched, Found, Payload, SecretBytes, Want};

use super::data::{self, Treatment, ValueError};
use super::plan::{self, Ask, Origin, Source};
use super::{rewrite, template};
use crate::context::Context;
use crate::generator::{Definition, Undefined, lease};
use crate::keys::{GeneratorKey, ObjectKey, Referrer, StoreKey};
use crate::reads::{Asking, Listed, Reader, Search};
use crate::resolver::ObjectResolver;
use crate::store::plan::is_class;

/// What a source gave.
pub(super) enum Answer {
    /// One remote secret.
    Read(Fetched),
    /// Those that were found, by name.
    Found(Vec<(String, Result<Arc<Payload>, Error>)>),
    /// What a generator gave.
    Made(BTreeMap<String, SecretBytes>),
    /// The generator is another operator's, and so is the object.
    Foreign,
}

/// On whose behalf a generator is called.
pub(super) struct Asker<'a> {
    pub object: &'a ExternalSecret,
    pub resolver: &'a ObjectResolver<'a>,
}

/// Reads every source, each store's in one go; the answers stand in the order of the sources.
pub(super) async fn fetch(
    ctx: &Arc<Context>,
    key: &ObjectKey,
    sources: &[Source<'_>],
    known: &[Option<Arc<str>>],
    asking: Asking,
    asker: &Asker<'_>,
) -> Vec<Result<Answer, Error>> {
    let mut by_store: BTreeMap<&StoreKey, Vec<usize>> = BTreeMap::new();
    let mut calls = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        match &source.origin {
            Origin::Store(store) => by_store.entry(store).or_default().push(i),
            Origin::Generator(generator) => calls.push((i, generator, source)),
        }
    }
    let generated = calls.into_iter().map(|(i, generator, source)| async move {
        let call = Box::pin(generate(ctx, asker, generator, source));
        let late = |_| Err(Error::unavailable("no answer in time"));
        let answer = tokio::time::timeout(ctx.options.read_deadline, call).await.unwrap_or_else(late);
        (i, answer)
    });
    let reads = by_store.into_iter().map(|(store, indices)| async move {
        let read = async {
            match ctx.connect(store, &key.namespace).await {
                Ok(reader) => {
                    let taker = reader.takes_property().then_some(&key.namespace);
                    let seen = |i: usize| known.get(i).cloned().flatten();
                    let wanted = |i: &usize| sources[*i].remote().map(|remote| want(remote, seen(*i), taker));
                    let wants: Vec<Want> = indices.iter().filter_map(wanted).collect();
                    let searches = indices.iter().filter_map(|i| match sources[*i].ask {
                        Ask::Find(find) => Some(search(&reader, find, taker, asking)),
                        _ => None,
                    });
                    let (read, found) = tokio::join!(reader.read(&wants, asking), futures::future::join_all(searches));
                    let (mut read, mut found) = (read.into_iter(), found.into_iter());
                    let answer = |i: &usize| match sources[*i].remote() {
                        Some(_) => read.next().map(|answer| answer.map(Answer::Read)),
                        None => found.next().map(|answer| answer.map(Answer::Found)),
                    };
                    let lost = || Err(Error::unavailable("the read was given up"));
                    indices.iter().map(answer).map(|answer| answer.unwrap_or_else(lost)).collect()
                }
                Err(error) => indices.iter().map(|_| Err(error.clone())).collect::<Vec<_>>(),
            }
        };
        let late = |_| indices.iter().map(|_| Err(Error::unavailable("no answer in time"))).collect();
        let answers = tokio::time::timeout(ctx.options.read_deadline, read).await.unwrap_or_else(late);
        indices.into_iter().zip(answers).collect::<Vec<_>>()
    });
    let (read, generated) = futures::future::join(futures::future::join_all(reads), futures::future::join_all(generated)).await;
    let mut all: Vec<_> = read.into_iter().flatten().chain(generated).collect();
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, answer)| answer).collect()
}

/// Calls a generator for an entry.
async fn generate(ctx: &Arc<Context>, asker: &Asker<'_>, key: &GeneratorKey, source: &Source<'_>) -> Result<Answer, Error> {
    let Ask::Generate(entry) = source.ask else { return Err(Error::unavailable("an entry without a generator")) };
    let field = format!("spec.dataFrom[{entry}].sourceRef.generatorRef");
    let object = asker.resolver.generator(&field, key).await?;
    let class = &ctx.options.controller_class;
    let definition = match Definition::new(key, &object, class) {
        Ok(definition) => definition,
        Err(Undefined::Foreign(_)) if plan::is_storeless(asker.object) => return Ok(Answer::Foreign),
        Err(error) => return Err(error.into()),
    };
    if key.kind.is_none() && !definition.identity.kind.has_class() && plan::is_storeless(asker.object) && !is_class(None, class) {
        return Ok(Answer::Foreign);
    }
    let slots = plan::slots(asker.object);
    let slot = slots.into_iter().find(|(i, _)| *i == entry).map(|(_, slot)| slot).unwrap_or_default();
    let uid = asker.object.metadata.uid.as_deref().unwrap_or_default();
    let referrer = Referrer::ExternalSecret(ObjectKey::new(&key.namespace, &asker.object.name_any()));
    let asker_ = lease::Asker { referrer: &referrer, uid, owner: asker.object.controller_owner_ref(&()) };
    lease::make(ctx, asker.resolver, &asker_, &definition, &slot).await.map(Answer::Made)
}

/// Looks for remote secrets, then reads those whose values the search did not give.
async fn search(
    reader: &Arc<Reader>,
    find: &Find,
    taker: Option<&Arc<str>>,
    asking: Asking,
) -> Result<Vec<(String, Result<Arc<Payload>, Error>)>, Error> {
    let pattern = find.name.as_ref().and_then(|name| name.regexp.clone()).filter(|pattern| !pattern.is_empty());
    let path = find.path.clone().filter(|path| !path.is_empty());
    let search = Search { pattern, path, tags: find.tags.clone() };
    let Listed { found, at } = reader.find(search, asking).await?;
    // What was read before the search may be older than it: a secret that was made meanwhile is not missing.
    let asking = Asking { fresh_after: asking.fresh_after.max(at), ..asking };
    let unread = found.iter().filter(|found| found.payload.is_none());
    let wants: Vec<Want> =
        unread.map(|found| want(&RemoteRef { key: found.key.clone(), ..RemoteRef::default() }, None, taker)).collect();
    let mut read = reader.read(&wants, asking).await.into_iter();
    let value = |found: &Found| match &found.payload {
        Some(payload) => Ok(payload.clone()),
        None => match read.next() {
            Some(Ok(Fetched::Value { payload, .. })) => Ok(payload),
            Some(Err(error)) => Err(error),
            _ => Err(Error::unavailable("the read was given up")),
        },
    };
    let values: Vec<_> = found.iter().map(value).collect();
    // One that went between the search and its read is one that is not found.
    let named = found.iter().map(|found| found.name.clone()).zip(values);
    let there: Vec<_> = named.filter(|(_, value)| !matches!(value, Err(Error::NotFound(_)))).collect();
    if there.is_empty() {
        return Err(Error::NotFound("no remote secret matches".into()));
    }
    Ok(there)
}

/// `taker` is the namespace that asks, for a provider that takes property and namespace.
fn want(remote: &RemoteRef, seen: Option<Arc<str>>, taker: Option<&Arc<str>>) -> Want {
    Want {
        key: remote.key.clone(),
        version: remote.version.clone().filter(|v| !v.is_empty()),
        metadata: remote.metadata_policy == Some(MetadataPolicy::Fetch),
        property: taker.and(remote.property.clone()).filter(|p| !p.is_empty()),
        namespace: taker.map(|namespace| namespace.to_string()),
        seen,
    }
}

pub(super) fn version_of(answer: Answer) -> Option<Arc<str>> {
    match answer {
        Answer::Read(Fetched::Value { version, .. }) => version,
        Answer::Read(Fetched::Unchanged) | Answer::Found(_) | Answer::Made(_) | Answer::Foreign => None,
    }
}

/// The keys of the Secret, and what stood in the way of others.
pub(super) struct Assembled {
    pub data: BTreeMap<String, SecretBytes>,
    pub problems: Vec<(String, Error)>,
    /// How many entries an authority says are not there.
    pub lacking: usize,
}

impl Assembled {
    fn problem(&mut self, what: String, error: Error) {
        self.lacking += usize::from(matches!(error, Error::NotFound(_)));
        if !self.problems.iter().any(|(w, e)| *w == what && *e == error) {
            self.problems.push((what, error));
        }
    }
}

pub(super) async fn assemble(ctx: &Context, sources: &[Source<'_>], answers: &[Result<Answer, Error>]) -> Assembled {
    let mut all = Assembled { data: BTreeMap::new(), problems: Vec::new(), lacking: 0 };
    for (source, answer) in sources.iter().zip(answers) {
        let values = match answer {
            Ok(Answer::Read(Fetched::Value { payload, .. })) => of_one(source, payload),
            Ok(Answer::Read(Fetched::Unchanged) | Answer::Foreign) => continue,
            Ok(Answer::Made(values)) => Ok(values.clone()),
            Ok(Answer::Found(found)) => {
                let mut fields = BTreeMap::new();
                for (name, payload) in found {
                    let value = payload.clone().and_then(|payload| {
                        data::whole(&payload).map_err(|error| match error {
                            ValueError::Missing(why) | ValueError::Unusable(why) => Error::invalid("value", why),
                        })
                    });
                    match value {
                        Ok(value) => drop(fields.insert(name.clone(), value)),
                        Err(error) => all.problem(format!("{}, found {name}", source.describe()), error),
                    }
                }
                Ok(fields)
            }
            Err(error) => {
                let what = match error {
                    // A store that can't be connected to fails all of its keys alike: it is named once.
                    Error::Invalid { field, .. } if field.starts_with("spec.") => source.origin.to_string(),
                    _ => source.describe(),
                };
                all.problem(what, error.clone());
                continue;
            }
        };
        let values = match values {
            Ok(values) => rewritten(ctx, source, values).await,
            Err(error) => Err(error),
        };
        match values {
            Ok(values) => all.data.extend(values),
            Err(ValueError::Missing(why)) => all.problem(source.describe(), Error::NotFound(why)),
            Err(ValueError::Unusable(why)) => all.problem(source.describe(), Error::invalid("value", why)),
        }
    }
    all
}

/// The keys that one remote secret gives, before they are rewritten.
fn of_one(source: &Source<'_>, payload: &Payload) -> Result<BTreeMap<String, SecretBytes>, ValueError> {
    match source.ask {
        Ask::Key(key, remote) => data::check_key(key)
            .map_err(|why| ValueError::Unusable(format!("secretKey {key:?} {why}")))
            .and_then(|()| data::single(payload, remote))
            .map(|value| BTreeMap::from([(key.to_owned(), value)])),
        Ask::Extract(remote) => data::fields(payload, remote),
        Ask::Find(_) | Ask::Generate(_) => Ok(BTreeMap::new()),
    }
}

/// Rewritten keys, with names that a Secret can have and values that are decoded.
async fn rewritten(
    ctx: &Context,
    source: &Source<'_>,
    values: BTreeMap<String, SecretBytes>,
) -> Result<BTreeMap<String, SecretBytes>, ValueError> {
    let (conversion, decoding, nulls) = match source.ask {
        Ask::Key(..) => return Ok(values),
        Ask::Extract(remote) => (remote.conversion_strategy, remote.decoding_strategy, remote.null_byte_policy),
        Ask::Find(find) => (find.conversion_strategy, find.decoding_strategy, find.null_byte_policy),
        Ask::Generate(_) => (None, None, None),
    };
    if source.rewrite.is_empty() {
        let conversion = Some(conversion.unwrap_or_default());
        return data::treated(values, Treatment { conversion, decoding, nulls });
    }
    let rewrites = source.rewrite.to_vec();
    // Rewrites are templates too: other objects do not wait for them.
    let rewritten = template::apart(ctx, move || rewrite::apply(&rewrites, values)).await;
    let values = rewritten.and_then(|rewritten| rewritten).map_err(ValueError::Unusable)?;
    data::treated(values, Treatment { conversion: None, decoding, nulls })
}
