//! The operator is killed before and after the k-th request to the API server or to Vault, for every k of every story; it is started
//! again, and what is left in the end must be what a run without a crash leaves.
//!
//! The kill is a SIGKILL of the built binary by the proxy that has the request in hand: nothing in the operator knows of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use serde_json::Value;
use tokio::time::Instant;

use super::Tally;
use super::state::{capture, differences};
use super::stories::{Story, namespaces};
use super::watched::{Watched, deletes};
use super::world::{Making, World, counts};
use crate::interposer::Lie;

/// When the operator is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// At which request, from 0 on.
    pub request: usize,
    /// Whether the server has done it by then.
    pub after: bool,
}

/// A run without a crash.
pub struct Baseline {
    /// What it leaves.
    pub state: Value,
    /// How many requests it takes.
    pub requests: usize,
    /// What it deletes.
    pub deletes: BTreeSet<String>,
    /// The keys that each Secret ever has.
    pub shapes: BTreeSet<String>,
}

/// How long the end state may take once the story is told.
const CONVERGES_WITHIN: Duration = Duration::from_secs(30);

/// Tells a story once, undisturbed.
pub async fn baseline(story: &Story, making: Making) -> Baseline {
    let world = World::new("base", Making { cluster: story.cluster, ..making }).await;
    (story.before)(&world).await;
    let watched = Watched::begin(&world, &namespaces(&world, story));
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    world.script(move |_, exchange| {
        if counts(exchange) {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        Lie::None
    });
    world.start().await;
    (story.run)(&world).await;
    let mut state = capture(&world, &namespaces(&world, story)).await;
    // What is collected by others takes a moment: the end is when nothing changes any more.
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let later = capture(&world, &namespaces(&world, story)).await;
        if later == state {
            break;
        }
        state = later;
    }
    let requests = asked.load(Ordering::SeqCst);
    let (deletes, shapes) = (deletes(&world.api, &world.case.name), watched.shapes());
    world.end().await;
    Baseline { state, requests, deletes, shapes }
}

/// Tells it with a crash. None: it had ended before the point came.
///
/// # Errors
/// What is different from the run without a crash, in words.
pub async fn survive(story: &Story, point: Point, baseline: &Baseline) -> Result<Option<()>, String> {
    let world = World::new("crash", Making { cluster: story.cluster, ..Making::default() }).await;
    (story.before)(&world).await;
    let watched = Watched::begin(&world, &namespaces(&world, story));
    let asked = Arc::new(AtomicUsize::new(0));
    world.script({
        let asked = asked.clone();
        move |_, exchange| match counts(exchange) && asked.fetch_add(1, Ordering::SeqCst) == point.request {
            true if point.after => Lie::KillAfter,
            true => Lie::KillBefore,
            false => Lie::None,
        }
    });
    world.start().await;
    let problem = outcome(&world, story, baseline, &watched).await;
    let killed = world.starts() > 1;
    let name = world.case.name.clone();
    world.end().await;
    let place =
        format!("{}: killed {} request {} ({name})", story.name, if point.after { "after" } else { "before" }, point.request);
    problem.map_err(|why| format!("{place}: {why}")).map(|()| killed.then_some(()))
}

/// Tells a story, and compares what is left with what an undisturbed run leaves.
///
/// # Errors
/// What is different, in words.
pub async fn outcome(world: &World, story: &Story, baseline: &Baseline, watched: &Watched) -> Result<(), String> {
    let told = std::panic::AssertUnwindSafe((story.run)(world)).catch_unwind().await;
    told.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        text.unwrap_or_else(|| "it panicked".into())
    })?;
    world.honest();
    converges(world, story, &baseline.state).await.map_err(|lines| lines.join("; "))?;
    let more = |what: &str, now: BTreeSet<String>, before: &BTreeSet<String>| match now.difference(before).next() {
        Some(first) => Err(format!("{what}: {first}")),
        None => Ok(()),
    };
    more("it deleted", deletes(&world.api, &world.case.name), &baseline.deletes)?;
    more("a Secret was", watched.shapes(), &baseline.shapes)?;
    if world.logs().contains("panicked") { Err("the operator panicked".into()) } else { Ok(()) }
}

/// Waits until the state is the expected one.
///
/// # Errors
/// Where it differs still.
pub async fn converges(world: &World, story: &Story, expected: &Value) -> Result<(), Vec<String>> {
    let end = Instant::now() + CONVERGES_WITHIN;
    loop {
        let found = capture(world, &namespaces(world, story)).await;
        if found == *expected {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(differences(expected, &found));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Crashes at every point, or at each `step`-th from `from` on.
pub async fn everywhere(stories: &[Story], from: usize, step: usize, at_once: usize, say: &(dyn Fn(&str) + Sync)) -> Tally {
    let mut tally = Tally::default();
    let baselines: Vec<(Story, Arc<Baseline>)> = futures::stream::iter(stories.iter().copied())
        .map(|story| async move { (story, Arc::new(baseline(&story, Making::default()).await)) })
        .buffered(at_once)
        .collect()
        .await;
    let mut points = Vec::new();
    for (story, base) in &baselines {
        tally.notes.push(format!("{}: {} requests", story.name, base.requests));
        let all = (0..base.requests).flat_map(|request| [false, true].map(|after| Point { request, after }));
        points.extend(all.map(|point| (*story, base.clone(), point)));
    }
    let chosen: Vec<_> = points.into_iter().skip(from).step_by(step.max(1)).collect();
    say(&format!("crashes: {} cases of {} stories", chosen.len(), stories.len()));
    let mut done = futures::stream::iter(chosen)
        .map(|(story, base, point)| async move { survive(&story, point, &base).await })
        .buffer_unordered(at_once);
    while let Some(outcome) = done.next().await {
        match outcome {
            // The story was over before: that says nothing.
            Ok(None) => continue,
            Ok(Some(())) => tally.add(Ok(())),
            Err(why) => {
                say(&why);
                tally.add(Err(why));
            }
        }
        if tally.tried % 25 == 0 {
            say(&format!("crashes: {} survived of {}", tally.tried - tally.failed.len(), tally.tried));
        }
    }
    tally
}
