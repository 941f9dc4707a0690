//! `cargo scale`: what the operator costs, beside a bare client that makes only the writes that the job needs.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a bench that can't go on says so and ends")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use lockstep_crds::duration::parse_go;
use lockstep_e2e::harness::root;
use lockstep_e2e::scale::bare::{self, Job};
use lockstep_e2e::scale::report::{Report, note};
use lockstep_e2e::scale::{Layout, Options, plot, scenarios};

/// Measures the operator on a real API server, etcd and Vault of its own, beside a bare client in the same run.
#[derive(Parser)]
#[command(after_help = "Examples:
  cargo scale                                              a burst of 2,000 objects
  cargo scale -- --objects 10000 --json figures.json
  cargo scale -- --scenario steady --interval 10m
  cargo scale -- --scenario replicas --replicas 4
  cargo scale -- --scenario all                            every scenario with its own numbers: about 40 min

Scenarios:
  burst      N new objects at once; then an unchanged refresh of all, and a restart
  steady     N objects refreshed every minute for 5 min with nothing changed; then 1 % changing
  fan-out    one remote secret in N namespaces
  stores     N SecretStores with an object each
  restart    a restart with N synced objects
  store-fix  a store of N objects gets the right token
  outage     Vault is away for a minute under steady load
  delete     N objects are deleted
  replicas   a burst of N objects with several replicas at work (--shards)
  handover   the leader stops, and the next one is killed

Absolute times are those of the machine; the ratio to the bare client in the same run is what counts.
Exit codes: 0 measured, 1 could not be measured, 2 wrong usage.")]
struct Args {
    /// What happens.
    #[arg(long, value_enum, default_value_t = Scenario::Burst)]
    scenario: Scenario,
    /// How many ExternalSecrets. Default: 2000, and what the scenario's question needs.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(10..=100_000))]
    objects: Option<u64>,
    /// How many objects read each remote secret.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    sharing: u64,
    /// The objects' refresh interval, with steady and outage.
    #[arg(long, default_value = "1m", value_name = "DURATION", value_parser = parse_go)]
    interval: Duration,
    /// How long nothing changes, with steady.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=60))]
    minutes: u64,
    /// How many replicas, with replicas.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=8))]
    replicas: u64,
    /// Requests at once of the bare client.
    #[arg(long, default_value_t = 32, value_name = "N")]
    bare_concurrency: usize,
    /// Writes the figures as JSON; of several scenarios, as a list.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the plots go. Default: docs/performance of the checkout.
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
    /// Measures this binary of the operator instead of the checkout's: for figures before and after a change.
    #[arg(long, value_name = "FILE")]
    operator: Option<PathBuf>,
    /// Runs as the bare client (used by the bench itself).
    #[arg(long, hide = true)]
    bare_client: Option<PathBuf>,
    #[arg(long, hide = true, value_enum, default_value_t = Job::Sync)]
    bare_job: Job,
    #[arg(long, hide = true, default_value = "scale-bare")]
    bare_prefix: String,
    #[arg(long, hide = true, default_value_t = 1)]
    bare_namespaces: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    Burst,
    Steady,
    FanOut,
    Stores,
    Restart,
    StoreFix,
    Outage,
    Delete,
    Replicas,
    Handover,
    All,
}

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // The bare client has the threads that the operator has.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if args.bare_client.is_some() {
        runtime.worker_threads(1);
    }
    runtime.enable_all().build().expect("a runtime").block_on(run(args))
}

async fn run(args: Args) -> ExitCode {
    if let Some(kubeconfig) = &args.bare_client {
        let layout = Layout::new(args.objects.unwrap_or(2000), 1, &args.bare_prefix).over(args.bare_namespaces);
        bare::run(kubeconfig, args.bare_job, &layout, args.bare_concurrency).await;
        return ExitCode::SUCCESS;
    }
    match measure(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            anstream::eprintln!("scale: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &Args) -> Result<(), String> {
    let mut figures = Vec::new();
    if args.scenario == Scenario::All {
        for (scenario, objects, interval, replicas) in ALL {
            figures.extend(one(args, scenario, objects, interval, replicas).await?);
            save(args, &figures)?;
        }
    } else {
        let objects = args.objects.unwrap_or(args.scenario.objects());
        figures.extend(one(args, args.scenario, objects, args.interval, args.replicas).await?);
    }
    save(args, &figures)
}

const MINUTE: Duration = Duration::from_secs(60);

/// What `--scenario all` runs.
const ALL: [(Scenario, u64, Duration, u64); 15] = [
    (Scenario::Burst, 2_000, MINUTE, 1),
    (Scenario::Burst, 10_000, MINUTE, 1),
    (Scenario::Steady, 10_000, MINUTE, 1),
    (Scenario::Steady, 10_000, Duration::from_secs(600), 1),
    (Scenario::FanOut, 1_000, MINUTE, 1),
    (Scenario::Stores, 1_000, MINUTE, 1),
    (Scenario::Restart, 10_000, MINUTE, 1),
    (Scenario::StoreFix, 2_000, MINUTE, 1),
    (Scenario::Outage, 2_000, MINUTE, 1),
    (Scenario::Delete, 2_000, MINUTE, 1),
    (Scenario::Replicas, 4_000, MINUTE, 1),
    (Scenario::Replicas, 4_000, MINUTE, 2),
    (Scenario::Replicas, 4_000, MINUTE, 4),
    (Scenario::Handover, 10_000, MINUTE, 1),
    (Scenario::Restart, 50_000, MINUTE, 1),
];

impl Scenario {
    fn objects(self) -> u64 {
        match self {
            Self::Burst | Self::StoreFix | Self::Outage | Self::Delete | Self::Handover | Self::All => 2_000,
            Self::Steady | Self::Restart => 10_000,
            Self::FanOut | Self::Stores => 1_000,
            Self::Replicas => 4_000,
        }
    }
}

async fn one(
    args: &Args,
    scenario: Scenario,
    objects: u64,
    interval: Duration,
    replicas: u64,
) -> Result<Vec<serde_json::Value>, String> {
    let options = Options { bare_concurrency: args.bare_concurrency, operator: args.operator.clone() };
    let begun = std::time::Instant::now();
    let name = scenario.to_possible_value().expect("a name").get_name().to_owned();
    let operator = match &args.operator {
        Some(binary) => format!("taking the operator {}", binary.display()),
        None => "building the operator with --release".to_owned(),
    };
    note(&format!("{name}: starting a control plane and a Vault; {operator}"));
    let one = |report: Report| vec![report];
    let reports = match scenario {
        Scenario::Burst | Scenario::All => scenarios::burst(&options, objects, args.sharing).await.map(one),
        Scenario::Steady => scenarios::steady(&options, objects, args.sharing, interval, args.minutes).await,
        Scenario::FanOut => scenarios::fan_out(&options, objects).await.map(one),
        Scenario::Stores => scenarios::stores(&options, objects).await.map(one),
        Scenario::Restart => scenarios::restart(&options, objects, args.sharing).await.map(one),
        Scenario::StoreFix => scenarios::store_fix(&options, objects, args.sharing).await.map(one),
        Scenario::Outage => scenarios::outage(&options, objects, args.sharing, interval).await.map(one),
        Scenario::Delete => scenarios::delete(&options, objects, args.sharing).await.map(one),
        Scenario::Handover => scenarios::handover(&options, objects, args.sharing).await.map(one),
        Scenario::Replicas => scenarios::replicas(&options, objects, args.sharing, replicas).await.map(one),
    }?;
    for report in &reports {
        report.print();
        let plot = plot_file(args, report, objects, interval, replicas)?;
        note(&format!("plot in {}", plot.display()));
    }
    note(&format!("{name}: {} s in all", begun.elapsed().as_secs()));
    Ok(reports.iter().map(Report::figures).collect())
}

fn plot_file(args: &Args, report: &Report, objects: u64, interval: Duration, replicas: u64) -> Result<PathBuf, String> {
    let folder = args.plots.clone().unwrap_or_else(|| root().join("docs/performance"));
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let more = match report.scenario {
        "steady" | "changes" => format!("-{}s", interval.as_secs()),
        "replicas" => format!("-by-{replicas}"),
        _ => String::new(),
    };
    let path = folder.join(format!("{}-{objects}{more}.svg", report.scenario));
    plot::draw(report, &path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

fn save(args: &Args, figures: &[serde_json::Value]) -> Result<(), String> {
    let Some(path) = &args.json else { return Ok(()) };
    let all = scenarios::together(figures.to_vec());
    std::fs::write(path, format!("{all:#}\n")).map_err(|e| format!("{}: {e}", path.display()))
}
