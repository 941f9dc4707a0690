//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lockstep_crds::duration::parse_go;
use lockstep_providers::egress::{Place, Rule};

use crate::audit;
use crate::limits::SLOWEST;

/// Keeps Kubernetes Secrets in lockstep with Vault and other secret stores.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Examples:
  lockstep run                                     serve the whole cluster
  lockstep run --namespace team-a --namespace team-b   serve two namespaces, with no rights outside of them
  lockstep run --shards 16                         in each of several replicas: all of them work, each on its share
  lockstep webhook                                 say at apply what is wrong with a manifest
  lockstep doctor                                  what is wrong, left over, or wider open than it need be
  lockstep crds | kubectl apply --server-side -f -    install the API types
  lockstep crds --install                          the same, leaving an installed CRD that holds more in place"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the operator.
    Run(Box<RunArgs>),
    /// Runs the validating admission webhook: says at apply what is wrong with a manifest.
    Webhook(Box<WebhookArgs>),
    /// Looks for what is wrong, left over or wider open than it need be in the cluster of the current kubeconfig.
    Doctor(DoctorArgs),
    /// Prints the keyed hash of the value on standard input, as the audit trail has it.
    #[command(after_help = "Example:
  printf %s \"$PASSWORD\" | lockstep audit-hash --key-file audit.key   which records are of this value?

Exit codes: 0 done, 1 failed, 2 wrong usage.")]
    AuditHash {
        /// File with the key that the operator has as --audit-key-file.
        #[arg(long, value_name = "FILE")]
        key_file: PathBuf,
    },
    /// Prints the CustomResourceDefinitions as YAML, or installs them.
    #[command(after_help = "Exit codes: 0 done, 1 failed, 3 an installed CRD that holds more was left in place.")]
    Crds {
        /// Applies them to the cluster of the current kubeconfig.
        #[arg(long)]
        install: bool,
        /// Prints only the CRD with this kind or name.
        #[arg(value_name = "KIND")]
        only: Option<String>,
    },
}

/// Of `lockstep run`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 stopped by a signal, 1 could not start or lost the lease, 2 wrong usage.")]
pub struct RunArgs {
    /// Serves only this namespace (repeatable), without cluster stores and without rights outside of it.
    #[arg(long = "namespace", value_name = "NAME")]
    pub namespaces: Vec<String>,
    /// Serves only stores whose spec.controller names this class.
    #[arg(long, default_value = "default", value_name = "CLASS")]
    pub controller_class: String,
    /// How many Secrets and statuses of ExternalSecrets are written at once.
    #[arg(long, default_value_t = 24, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: u16,
    /// Threads that reconciles share. One keeps up with what an API server of two cores can write, at the least cost.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: u16,
    /// How often status.refreshTime moves forward while nothing changes.
    #[arg(long, default_value = "5m", value_parser = parse_go, value_name = "DURATION")]
    pub heartbeat: Duration,
    /// How long one request to a provider may take.
    #[arg(long, default_value = "10s", value_parser = parse_go, value_name = "DURATION")]
    pub provider_timeout: Duration,
    /// Calls at once to the provider of one store, unless its annotation lockstep.dev/max-concurrent-calls says otherwise.
    /// Default: what suits the provider. Like --store-rate it holds for each replica at work.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub store_concurrency: Option<u16>,
    /// Calls a second to the provider of one store, unless its annotation lockstep.dev/max-calls-per-second says otherwise.
    /// Default: as many as there are; a provider that throttles gets fewer for a while by itself.
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub store_rate: Option<f64>,
    /// Lets targets be of other kinds than Secret (spec.target.manifest): ConfigMaps and custom resources are not encrypted at rest,
    /// and many may read them. The operator's role must allow each kind.
    #[arg(long)]
    pub unsafe_allow_generic_targets: bool,
    /// Serves PushSecrets and ClusterPushSecrets. Without, no right to them is needed, and no provider's secret is ever written.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub push_secrets: bool,
    /// How long what a generator issued is kept after it was replaced: workloads take up the new one meanwhile.
    #[arg(long, default_value = "2m", value_parser = parse_go, value_name = "DURATION")]
    pub generator_gc_grace_period: Duration,
    /// Lets SecretStores of every namespace that name no identity use the operator's own, as ClusterSecretStores do: whoever may
    /// write one reads all that the operator may.
    #[arg(long)]
    pub share_own_identity: bool,
    /// Lets stores reach a host, *.domain, address or CIDR that is refused by default: link-local and metadata addresses
    /// (repeatable).
    #[arg(long, value_name = "HOST|CIDR")]
    pub egress_allow: Vec<Rule>,
    /// Connects stores to an address for a host or *.domain, instead of to what the resolver says: for private endpoints without
    /// private DNS (repeatable).
    #[arg(long, value_name = "HOST=ADDRESS")]
    pub resolve: Vec<Place>,
    /// PEM file with certificate authorities that providers are trusted by beside the system's, where a store names none.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<std::path::PathBuf>,
    /// Lets stores reach nothing but these hosts, *.domains, addresses and CIDRs (repeatable).
    #[arg(long, value_name = "HOST|CIDR")]
    pub egress_only: Vec<Rule>,
    /// Address of /metrics.
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    pub metrics_addr: SocketAddr,
    /// Address of /livez and /readyz.
    #[arg(long, default_value = "0.0.0.0:8081", value_name = "ADDRESS")]
    pub health_addr: SocketAddr,
    /// Lets one of several replicas work at a time.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub leader_elect: bool,
    /// Lets all replicas work at once, each on its share of so many shards; the same number in every replica. 1: one of them works
    /// at a time. A few times the number of replicas spreads evenly.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub shards: u16,
    /// Namespace of the lease. Default: the pod's.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub lease_namespace: Option<String>,
    /// Name of the lease.
    #[arg(long, default_value = "lockstep", value_name = "NAME")]
    pub lease_name: String,
    /// How long a leader that is not heard of keeps the lease; at least 3s.
    #[arg(long, default_value = "15s", value_parser = parse_go, value_name = "DURATION")]
    pub lease_duration: Duration,
    /// How much is logged. It holds for Lockstep's own code: libraries log warnings only, as they may print what they carry.
    #[arg(long, default_value = "info", value_enum, value_name = "LEVEL")]
    pub log_level: LogLevel,
    /// How it is logged.
    #[arg(long, default_value = "text", value_enum, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Writes an audit trail: a record for each access to a provider and each change of a target. stdout, file=PATH or otlp
    /// (repeatable). Default: none.
    #[arg(long, value_name = "stdout|file=PATH|otlp")]
    pub audit: Vec<audit::Place>,
    /// File with the key of the trail's hashes, at least 32 bytes. Default: one of chance, for as long as the process lives.
    #[arg(long, value_name = "FILE", requires = "audit")]
    pub audit_key_file: Option<PathBuf>,
    /// Where --audit otlp sends records (OTLP over HTTP, JSON). Default: OTEL_EXPORTER_OTLP_LOGS_ENDPOINT, or
    /// OTEL_EXPORTER_OTLP_ENDPOINT with /v1/logs. Headers: OTEL_EXPORTER_OTLP_HEADERS.
    #[arg(long, value_name = "URL", requires = "audit")]
    pub audit_otlp_endpoint: Option<String>,
    /// File with the pod's own token, for stores whose spec asks for it.
    #[arg(long, default_value = "/var/run/secrets/kubernetes.io/serviceaccount/token", value_name = "FILE")]
    pub token_file: PathBuf,
}

/// Of `lockstep doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lockstep doctor                              the whole cluster
  lockstep doctor --namespace team-a           what concerns one namespace
  lockstep doctor --output json | jq '.findings[] | select(.level == \"warning\")'

Exit codes: 0 nothing to mend, 1 could not look, 2 wrong usage, 3 something to mend was found.")]
pub struct DoctorArgs {
    /// Only this namespace.
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// The operator's service account, whose rights are looked at.
    #[arg(long, default_value = "lockstep-system/lockstep", value_parser = parse_account, value_name = "NAMESPACE/NAME")]
    pub service_account: (String, String),
    /// How it is told.
    #[arg(long, short, default_value = "table", value_enum, value_name = "FORMAT")]
    pub output: Output,
}

/// How a report is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

fn parse_account(text: &str) -> Result<(String, String), String> {
    let (namespace, name) = text.split_once('/').ok_or("must be NAMESPACE/NAME")?;
    Ok((namespace.to_owned(), name.to_owned()))
}

/// Of `lockstep webhook`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lockstep webhook                                 with a certificate that it makes and renews itself
  lockstep webhook --cert-dir /tls                 with one that cert-manager keeps in a mounted Secret

Exit codes: 0 stopped by a signal, 1 could not start, 2 wrong usage.")]
pub struct WebhookArgs {
    /// Address that the API server asks.
    #[arg(long, default_value = "0.0.0.0:9443", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Folder with tls.crt and tls.key, read again when they change. Default: the webhook makes its own, keeps it in --secret and
    /// writes its authority into --configuration.
    #[arg(long, value_name = "FOLDER")]
    pub cert_dir: Option<PathBuf>,
    /// Name of the Service that the API server asks: a name in the certificate.
    #[arg(long, default_value = "lockstep-webhook", value_name = "NAME")]
    pub service: String,
    /// Namespace of the Service and of the Secret. Default: the pod's.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// Name of the Secret with the certificate. It must exist, and may be empty.
    #[arg(long, default_value = "lockstep-webhook", value_name = "NAME")]
    pub secret: String,
    /// Name of the ValidatingWebhookConfiguration.
    #[arg(long, default_value = "lockstep", value_name = "NAME")]
    pub configuration: String,
    /// Another name or address in the certificate (repeatable).
    #[arg(long = "tls-name", value_name = "NAME")]
    pub tls_names: Vec<String>,
    /// How long a certificate holds; the next one is made when a third of it is left.
    #[arg(long, default_value = "2160h", value_parser = parse_validity, value_name = "DURATION")]
    pub certificate_validity: Duration,
    /// Address of /metrics.
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    pub metrics_addr: SocketAddr,
    /// Address of /livez and /readyz.
    #[arg(long, default_value = "0.0.0.0:8081", value_name = "ADDRESS")]
    pub health_addr: SocketAddr,
    /// How much is logged.
    #[arg(long, default_value = "info", value_enum, value_name = "LEVEL")]
    pub log_level: LogLevel,
    /// How it is logged.
    #[arg(long, default_value = "text", value_enum, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

fn parse_validity(text: &str) -> Result<Duration, String> {
    let validity = parse_go(text)?;
    let allowed = Duration::from_secs(10)..=Duration::from_secs(10 * 365 * 86_400);
    if allowed.contains(&validity) { Ok(validity) } else { Err("must be from 10s to 10 years".into()) }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "is no number".to_owned())?;
    if rate.is_finite() && rate >= SLOWEST { Ok(rate) } else { Err(format!("must be at least {SLOWEST}")) }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What failed for good.
    Error,
    /// What failed and is tried again.
    Warn,
    /// Starts, stops, stores.
    Info,
    /// Every reconcile.
    Debug,
    /// Everything.
    Trace,
}

/// How it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
