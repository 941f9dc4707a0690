//! Searches of one connection, shared by those who look for the same at the same time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use gotemplate::regexp::Regexp;
use lockstep_providers::{Error, Find, Found, Result};
use tokio::sync::oneshot;
use tokio::time::Instant;

use serde_json::json;

use super::{Asking, FILL, FILLED, Reader};
use crate::audit::Action;

/// What is looked for: the text of a regexp for names, a path, and tags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Search {
    /// RE2 syntax; matches somewhere in the name.
    pub pattern: Option<String>,
    /// Where to look.
    pub path: Option<String>,
    /// Tags that a remote secret must have.
    pub tags: BTreeMap<String, String>,
}

/// What a search found.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What was found.
    pub found: Arc<[Found]>,
    /// When it was begun.
    pub at: Instant,
}

/// How long one search may take.
const SEARCH: Duration = Duration::from_secs(60);

type SearchAnswer = Shared<oneshot::Receiver<Result<Listed>>>;

pub(super) struct Searched {
    id: u64,
    /// None while it waits for those who may share it.
    pub(super) started: Option<Instant>,
    answer: SearchAnswer,
}

impl Reader {
    /// Looks for remote secrets; whoever looks for the same at the same time shares the search.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a regexp that is none; what [`Provider::find`] answers.
    pub async fn find(self: &Arc<Self>, search: Search, asking: Asking) -> Result<Listed> {
        let name = search.pattern.as_deref().map(Regexp::new).transpose();
        let name = name.map_err(|why| Error::invalid("find.name.regexp", why))?;
        if let Some(error) = self.closed(Instant::now()) {
            return Err(error);
        }
        let answer = {
            let mut state = self.lock();
            let young = |searched: &&Searched| searched.started.is_none_or(|started| started >= asking.fresh_after);
            let failed = |searched: &&Searched| matches!(searched.answer.clone().now_or_never(), Some(Ok(Err(_)) | Err(_)));
            match state.searches.get(&search).filter(young).filter(|searched| !failed(searched)) {
                Some(searched) => {
                    self.metrics.calls_saved(&self.labels, "shared", 1);
                    searched.answer.clone()
                }
                None => {
                    let (reply, receiver) = oneshot::channel();
                    let answer = receiver.shared();
                    state.next_id += 1;
                    let id = state.next_id;
                    let searched = Searched { id, started: None, answer: answer.clone() };
                    state.searches.insert(search.clone(), searched);
                    let query = Find { name, path: search.path.clone(), tags: search.tags.clone() };
                    let reader = self.clone();
                    // In a task of its own: whoever goes away while it runs takes nobody's answer along.
                    tokio::spawn(async move { drop(reply.send(reader.look(search, id, &query).await)) });
                    answer
                }
            }
        };
        answer.await.unwrap_or_else(|_| Err(Error::unavailable("the search was given up")))
    }

    /// One search, after a moment for those who may share it, and when the limits allow it.
    async fn look(self: &Arc<Self>, search: Search, id: u64, query: &Find) -> Result<Listed> {
        let gap = if (self.hooks.is_awaited)(Instant::now()) { FILLED } else { FILL };
        tokio::time::sleep(gap).await;
        let begin = |begun| {
            if let Some(searched) = self.lock().searches.get_mut(&search).filter(|searched| searched.id == id) {
                searched.started = Some(begun);
            }
        };
        let answer = self.one_call("find", begin, self.with_retries(SEARCH, || self.provider.find(query))).await;
        let asked = || json!({"path": search.path, "name": search.pattern, "tags": search.tags, "found": answer.as_ref().ok().map(|(f, _)| f.len())});
        self.trail.record(Action::Find, asked, &answer);
        let (found, at) = answer?;
        Ok(Listed { found: found.into(), at })
    }

    /// A call with the retries of the store, each bounded.
    pub(super) async fn with_retries<'a, T>(&self, limit: Duration, call: impl Fn() -> BoxFuture<'a, Result<T>>) -> Result<T> {
        let mut tries = 0;
        loop {
            let late = |_| Err(Error::unavailable(format!("the call took more than {} s", limit.as_secs())));
            let answer = tokio::time::timeout(limit, call()).await.unwrap_or_else(late);
            if !matches!(answer, Err(Error::Unavailable { .. })) || tries == self.retries.max {
                return answer;
            }
            tries += 1;
            tokio::time::sleep(self.retries.interval).await;
        }
    }
}
