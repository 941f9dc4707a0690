//! Stories told while what stands between the operator and its servers lies. When it tells the truth again, everything becomes what
//! it is without lies, and then nobody writes anything any more.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{FutureExt, StreamExt};

use super::Tally;
use super::crash::{Baseline, baseline, outcome};
use super::stories::{Story, namespaces};
use super::watched::Watched;
use super::world::{Making, World, counts};
use crate::interposer::{Chance, Exchange, Lie, Sort};

/// One way to lie.
#[derive(Clone, Copy)]
pub struct Way {
    /// What it is called in the table.
    pub name: &'static str,
    /// Whether the operator is killed meanwhile, again and again.
    pub restarts: bool,
    /// Whether the API server seems to be of a time before streaming lists.
    pub old_api: bool,
    /// What is done with a request: whether it is for Vault comes first.
    pub lie: fn(bool, &Exchange, &mut Chance) -> Lie,
}

const fn way(name: &'static str, lie: fn(bool, &Exchange, &mut Chance) -> Lie) -> Way {
    Way { name, restarts: false, old_api: false, lie }
}

fn of_watch(exchange: &Exchange, lie: Lie) -> Lie {
    if exchange.sort == Sort::Watch { lie } else { Lie::None }
}

fn of_api(vault: bool, exchange: &Exchange, chance: &mut Chance, one_in: usize, lie: Lie) -> Lie {
    if !vault && counts(exchange) && chance.one_in(one_in) { lie } else { Lie::None }
}

fn of_vault(vault: bool, chance: &mut Chance, one_in: usize, lie: Lie) -> Lie {
    if vault && chance.one_in(one_in) { lie } else { Lie::None }
}

fn anything(vault: bool, exchange: &Exchange, chance: &mut Chance) -> Lie {
    let watches = [Lie::DropEvents, Lie::Coalesce, Lie::Gone, Lie::Cut, Lie::Stale, Lie::Answer(500), Lie::Answer(429)];
    let others = [Lie::Lose, Lie::Half, Lie::Answer(429), Lie::Answer(500), Lie::Answer(504), Lie::Silence, Lie::SilenceAfter];
    match exchange.sort {
        Sort::Watch => watches[chance.below(watches.len())],
        _ if (vault || counts(exchange)) && chance.one_in(3) => others[chance.below(others.len())],
        _ => Lie::None,
    }
}

/// All of them.
pub const WAYS: &[Way] = &[
    way("events of watches are dropped", |_, e, _| of_watch(e, Lie::DropEvents)),
    way("events of watches are coalesced", |_, e, _| of_watch(e, Lie::Coalesce)),
    way("watches end with 410 Gone", |_, e, _| of_watch(e, Lie::Gone)),
    way("watches are cut", |_, e, _| of_watch(e, Lie::Cut)),
    Way { restarts: true, ..way("lists are stale after restarts", |_, e, _| of_watch(e, Lie::Stale)) },
    Way { restarts: true, old_api: true, ..way("restarts with paged lists", |_, e, c| anything_but_stale(e, c)) },
    way("writes are done and their answers lost", |v, e, c| match e.sort {
        Sort::Write => of_api(v, e, c, 2, Lie::Lose),
        _ => Lie::None,
    }),
    way("429 of the API server", |v, e, c| of_api(v, e, c, 2, Lie::Answer(429))),
    way("500 of the API server", |v, e, c| of_api(v, e, c, 2, Lie::Answer(500))),
    way("504 of the API server", |v, e, c| of_api(v, e, c, 2, Lie::Answer(504))),
    way("answers of the API server break off", |v, e, c| of_api(v, e, c, 2, Lie::Half)),
    way("silence of the API server", |v, e, c| of_api(v, e, c, 3, Lie::Silence)),
    way("silence of the API server after the deed", |v, e, c| of_api(v, e, c, 3, Lie::SilenceAfter)),
    way("429 of the provider", |v, _, c| of_vault(v, c, 2, Lie::Answer(429))),
    way("500 of the provider", |v, _, c| of_vault(v, c, 2, Lie::Answer(500))),
    way("answers of the provider break off", |v, _, c| of_vault(v, c, 2, Lie::Half)),
    way("answers of the provider are lost", |v, _, c| of_vault(v, c, 2, Lie::Lose)),
    way("silence of the provider", |v, _, c| of_vault(v, c, 3, Lie::Silence)),
    Way { restarts: true, ..way("everything at once, with restarts", anything) },
];

fn anything_but_stale(exchange: &Exchange, chance: &mut Chance) -> Lie {
    let watches = [Lie::DropEvents, Lie::Coalesce, Lie::Gone, Lie::Cut];
    of_watch(exchange, watches[chance.below(watches.len())])
}

/// Lies last so long, and then the truth for a while.
const LIES: Duration = Duration::from_millis(2500);
const TRUTH: Duration = Duration::from_millis(2000);
/// `refreshInterval` of everything that has one.
const INTERVAL: &str = "1s";
/// How long nothing may be written once all is well: several intervals.
const QUIET: Duration = Duration::from_secs(4);
/// How long the last write may take to come: of what was under way.
const SETTLES_WITHIN: Duration = Duration::from_secs(40);

/// Tells a story while somebody lies.
///
/// # Errors
/// What is different from the run without lies, in words. None: chance had it that nobody lied, which says nothing.
pub async fn survive(story: &Story, way: &Way, seed: u64, baseline: &Baseline) -> Result<Option<()>, String> {
    let making = Making { cluster: story.cluster, interval: INTERVAL, old_api: way.old_api, seed, ..Making::default() };
    let world = World::new("lies", making).await;
    (story.before)(&world).await;
    let watched = Watched::begin(&world, &namespaces(&world, story));
    let chance = Arc::new(Mutex::new(Chance::new(seed)));
    let lie = async || {
        loop {
            let (chance, lie) = (chance.clone(), way.lie);
            world.script(move |vault, exchange| {
                lie(vault, exchange, &mut chance.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
            });
            if way.restarts {
                tokio::time::sleep(LIES / 2).await;
                world.kill();
            }
            tokio::time::sleep(LIES).await;
            world.honest();
            tokio::time::sleep(TRUTH).await;
        }
    };
    let told = {
        // The first lies come with the first requests.
        let mut lying = std::pin::pin!(lie());
        let _ = (&mut lying).now_or_never();
        world.start().await;
        tokio::select! { told = outcome(&world, story, baseline, &watched) => told, () = lying => Ok(()) }
    };
    let told = match told {
        Ok(()) => quiet(&world).await,
        failed => failed,
    };
    if told.is_err()
        && let Some(folder) = std::env::var_os("RELIABILITY_KEEP")
    {
        keep(&world, std::path::Path::new(&folder));
    }
    let (lies, starts, name) = (world.api.lies() + world.vault.lies(), world.starts(), world.case.name.clone());
    world.end().await;
    let place = format!("{}: {}, seed {seed} ({name}, {lies} lies)", way.name, story.name);
    told.map_err(|why| format!("{place}: {why}")).map(|()| (lies > 0 || starts > 1).then_some(()))
}

/// Writes down what passed, and what the operator said, for whoever looks for the reason.
pub(super) fn keep(world: &World, folder: &std::path::Path) {
    let mut lines = Vec::new();
    for (server, proxy) in [("api", &world.api), ("vault", &world.vault)] {
        lines.extend(
            proxy.log().into_iter().map(|e| (e.at, format!("{server} {} {}?{} {:?}", e.method, e.path, e.query, e.status))),
        );
    }
    lines.sort();
    let begun = lines.first().map(|(at, _)| *at);
    let text: Vec<String> =
        lines.into_iter().map(|(at, line)| format!("{:>8} ms {line}", begun.map_or(0, |b| (at - b).as_millis()))).collect();
    let _ = std::fs::create_dir_all(folder);
    let _ = std::fs::write(folder.join(format!("{}.requests", world.case.name)), text.join("\n"));
    let _ = std::fs::write(folder.join(format!("{}.log", world.case.name)), world.logs());
}

/// Waits until nothing was written for a while.
///
/// # Errors
/// What is written again and again.
async fn quiet(world: &World) -> Result<(), String> {
    let writes = || {
        let of_cluster =
            |e: &Exchange| e.sort == Sort::Write && counts(e) && !e.path.ends_with("/token") && world.is_own(&e.path);
        let of_provider = |e: &Exchange| e.sort == Sort::Write && e.path.contains("/data/");
        let told = |e: Exchange| format!("{} {}", e.method, e.path);
        let mut all: Vec<String> = world.api.log().into_iter().filter(of_cluster).map(told).collect();
        all.extend(world.vault.log().into_iter().filter(of_provider).map(told));
        all
    };
    let end = tokio::time::Instant::now() + SETTLES_WITHIN;
    loop {
        let before = writes().len();
        tokio::time::sleep(QUIET).await;
        let after = writes();
        if after.len() == before {
            return Ok(());
        }
        if tokio::time::Instant::now() > end {
            return Err(format!("it writes still: {}", after[before..].join(", ")));
        }
    }
}

/// Every story with every way to lie, or each `step`-th of them from `from` on.
pub async fn everywhere(
    stories: &[Story],
    ways: &[Way],
    seed: u64,
    from: usize,
    step: usize,
    at_once: usize,
    say: &(dyn Fn(&str) + Sync),
) -> Vec<(&'static str, Tally)> {
    let making = Making { interval: INTERVAL, ..Making::default() };
    let baselines: Vec<(Story, Arc<Baseline>)> = futures::stream::iter(stories.iter().copied())
        .map(|story| async move { (story, Arc::new(baseline(&story, making).await)) })
        .buffered(at_once)
        .collect()
        .await;
    let all = ways.iter().flat_map(|way| baselines.iter().map(move |(story, base)| (way, *story, base.clone())));
    let chosen: Vec<_> = all.enumerate().skip(from).step_by(step.max(1)).collect();
    say(&format!("lies: {} cases of {} stories and {} ways", chosen.len(), stories.len(), ways.len()));
    let mut tallies: Vec<(&'static str, Tally)> = ways.iter().map(|way| (way.name, Tally::default())).collect();
    let mut done = futures::stream::iter(chosen)
        .map(|(number, (way, story, base))| async move {
            let seed = seed.wrapping_add(number as u64);
            (way.name, survive(&story, way, seed, &base).await)
        })
        .buffer_unordered(at_once);
    let mut count = 0;
    while let Some((name, outcome)) = done.next().await {
        if let Err(why) = &outcome {
            say(why);
        }
        count += 1;
        let Some(outcome) = outcome.transpose() else { continue };
        if let Some((_, tally)) = tallies.iter_mut().find(|(way, _)| *way == name) {
            tally.add(outcome);
        }
        if count % 25 == 0 {
            say(&format!("lies: {count} cases"));
        }
    }
    tallies
}
