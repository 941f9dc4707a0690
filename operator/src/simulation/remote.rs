//! A provider in memory that remembers what it ever held and what it answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use lockstep_providers::{Access, Capabilities, Error, Fetched, Payload, Provider, Result, Validity, Want};
use tokio::time::Instant;

use super::Chance;

/// What it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Well,
    Away,
    Denies,
    /// Everybody is to wait so long.
    Throttles(Duration),
}

struct Inner {
    values: BTreeMap<String, u64>,
    ever: BTreeSet<String>,
    /// When a key was last answered to be nowhere.
    lacked: BTreeMap<String, Instant>,
    mood: Mood,
    closed: Option<Instant>,
    wrongs: Vec<String>,
    chance: Chance,
    next: u64,
}

pub struct Remote(Mutex<Inner>);

impl Remote {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner {
            values: BTreeMap::new(),
            ever: BTreeSet::new(),
            lacked: BTreeMap::new(),
            mood: Mood::Well,
            closed: None,
            wrongs: Vec::new(),
            chance: Chance(seed),
            next: 1,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn put(&self, key: &str) {
        let mut inner = self.lock();
        let version = inner.next;
        inner.next += 1;
        inner.values.insert(key.into(), version);
        inner.ever.insert(text(key, version));
    }

    pub fn remove(&self, key: &str) {
        self.lock().values.remove(key);
    }

    pub fn set_mood(&self, mood: Mood) {
        self.lock().mood = mood;
    }

    /// Who asks from now on was told nothing yet.
    pub fn forgets_who_asked(&self) {
        self.lock().closed = None;
    }

    pub fn value(&self, key: &str) -> Option<String> {
        self.lock().values.get(key).map(|version| text(key, *version))
    }

    /// Whether it ever held this under that key.
    pub fn held(&self, key: &str, value: &str) -> bool {
        value.starts_with(&format!("CANARY-{key}-")) && self.lock().ever.contains(value)
    }

    /// Whether it said lately that a key is nowhere.
    pub fn was_lacking(&self, key: &str) -> bool {
        self.lock().lacked.get(key).is_some_and(|at| at.elapsed() < Duration::from_secs(60))
    }

    pub fn wrongs(&self) -> Vec<String> {
        self.lock().wrongs.clone()
    }
}

fn text(key: &str, version: u64) -> String {
    format!("CANARY-{key}-{version}")
}

#[async_trait]
impl Provider for Remote {
    async fn validate(&self) -> Result<Validity> {
        match self.lock().mood {
            Mood::Away => Err(Error::unreachable("the provider is away".to_owned())),
            Mood::Denies => Err(Error::Denied("the provider refuses (code 403)".into())),
            Mood::Well | Mood::Throttles(_) => Ok(Validity::Valid),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { access: Access::ReadOnly, batch: 1, concurrency: 8, takes_property: false }
    }

    async fn get(&self, wants: &[Want]) -> Vec<Result<Fetched>> {
        let wait = {
            let mut inner = self.lock();
            let now = Instant::now();
            if let Some(closed) = inner.closed.filter(|until| now < *until) {
                let early = closed - now;
                inner.wrongs.push(format!("asked {early:?} before the time that it said to wait"));
            }
            inner.chance.below(200)
        };
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let mut inner = self.lock();
        let mood = inner.mood;
        let now = Instant::now();
        if let Mood::Throttles(wait) = mood {
            inner.closed = Some(inner.closed.map_or(now + wait, |until| until.max(now + wait)));
        }
        let answer = |want: &Want| match mood {
            Mood::Away => Err(Error::unreachable("the provider is away".to_owned())),
            Mood::Denies => Err(Error::Denied("the provider refuses (code 403)".into())),
            Mood::Throttles(wait) => Err(Error::Throttled { retry_after: Some(wait), message: "too many calls".into() }),
            Mood::Well => match inner.values.get(&want.key) {
                None => Err(Error::NotFound(format!("{} is nowhere", want.key))),
                Some(version) if want.seen.as_deref() == Some(&version.to_string()) => Ok(Fetched::Unchanged),
                Some(version) => Ok(Fetched::Value {
                    payload: Arc::new(Payload::Bytes(text(&want.key, *version).as_str().into())),
                    version: Some(version.to_string().into()),
                }),
            },
        };
        let answers: Vec<Result<Fetched>> = wants.iter().map(answer).collect();
        for (want, answer) in wants.iter().zip(&answers) {
            if matches!(answer, Err(Error::NotFound(_))) {
                inner.lacked.insert(want.key.clone(), now);
            }
        }
        answers
    }
}
