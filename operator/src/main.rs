//! The binary `lockstep`.

use std::process::ExitCode;

use clap::Parser;
use lockstep::cli::{Cli, Command};
use lockstep::crds::{self, Installed};
use lockstep::{admission, clients, logging, run};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
            match runtime.block_on(run::run(*args)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failed(&error),
            }
        }
        Command::Webhook(args) => {
            logging::start(args.log_level, args.log_format);
            match runtime.block_on(admission::run(*args)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failed(&error),
            }
        }
        Command::Crds { install: true, .. } => runtime.block_on(install()),
        Command::Crds { install: false, only } => match crds::yaml(only.as_deref()) {
            Ok(yaml) => {
                print!("{yaml}");
                ExitCode::SUCCESS
            }
            Err(error) => failed(&error),
        },
    }
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("lockstep: {error}");
    ExitCode::FAILURE
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
