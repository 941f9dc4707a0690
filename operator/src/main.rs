//! The binary `lockstep`.

use std::process::ExitCode;

use clap::Parser;
use lockstep::cli::{Cli, Command, DoctorArgs, Output};
use lockstep::crds::{self, Installed};
use lockstep::doctor::gather::{self, Scope};
use lockstep::doctor::{self, report};
use lockstep::external_secret::kube_error;
use lockstep::{admission, audit, clients, kube_io, logging, private, run};

/// Memory is wiped as it is let go: values pass through buffers of libraries that nobody else would wipe (SECURITY.md).
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<tikv_jemallocator::Jemalloc> =
    zeroizing_alloc::ZeroAlloc(tikv_jemallocator::Jemalloc);

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One TLS provider for all clients; a second installation can only fail, which changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let threads = if let Command::Run(args) = &cli.command { usize::from(args.threads) } else { 1 };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match cli.command {
        Command::Run(args) => {
            logging::start(args.log_level, args.log_format);
            private::close();
            match runtime.block_on(run::run(*args)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failed(&error),
            }
        }
        Command::Webhook(args) => {
            logging::start(args.log_level, args.log_format);
            private::close();
            match runtime.block_on(admission::run(*args)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failed(&error),
            }
        }
        Command::Doctor(args) => runtime.block_on(examine(args)),
        Command::AuditHash { key_file } => match audit_hash(&key_file) {
            Ok(hash) => {
                println!("{hash}");
                ExitCode::SUCCESS
            }
            Err(error) => failed(&*error),
        },
        Command::Crds { install: true, .. } => runtime.block_on(install()),
        Command::Crds { install: false, only } => match crds::yaml(only.as_deref()) {
            Ok(yaml) => match std::io::Write::write_all(&mut std::io::stdout().lock(), yaml.as_bytes()) {
                // Whoever reads may have seen enough.
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => failed(&error),
                _ => ExitCode::SUCCESS,
            },
            Err(error) => failed(&error),
        },
    }
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("lockstep: {error}");
    ExitCode::FAILURE
}

async fn examine(args: DoctorArgs) -> ExitCode {
    let client = match clients::connect().await {
        Ok(cluster) => cluster.client,
        Err(error) => return failed(&error),
    };
    if let Err(error) = kube_io::in_time(|| client.apiserver_version()).await {
        return failed(&format!("the API server does not answer ({})", kube_error(&error)));
    }
    let (namespace, name) = &args.service_account;
    let scope = Scope { namespace: args.namespace.as_deref(), account: (namespace, name) };
    let seen = gather::gather(client, &scope, jiff::Timestamp::now()).await;
    match report::print(&doctor::examine(&seen), args.output == Output::Json) {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(3),
        Err(error) => failed(&error),
    }
}

fn audit_hash(key_file: &std::path::Path) -> Result<String, Box<dyn std::error::Error>> {
    let mut value = zeroize::Zeroizing::new(Vec::new());
    std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut value)?;
    Ok(audit::hash_with(key_file, &value)?)
}

async fn install() -> ExitCode {
    let client = match clients::connect().await {
        Ok(cluster) => cluster.client,
        Err(error) => return failed(&error),
    };
    let done = match crds::install(&client).await {
        Ok(done) => done,
        Err(error) => return failed(&error),
    };
    let mut code = ExitCode::SUCCESS;
    for (name, what) in done {
        match what {
            Installed::Applied => println!("{name}  applied"),
            Installed::LeftInPlace(more) => {
                println!("{name}  left in place: the installed one holds more ({} and {} in all)", more[0], more.len());
                code = ExitCode::from(3);
            }
        }
    }
    code
}
