//! Logs: ours at the level asked for, libraries' only where they can't hold what they carry.

use tracing_subscriber::EnvFilter;

use crate::cli::{LogFormat, LogLevel};

/// The filter of a level. `kube_client` logs whole answers that it can't parse: it is off. Libraries log warnings.
pub fn filter(level: LogLevel) -> String {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    format!("warn,lockstep={level},lockstep_providers={level},kube_client=off")
}

/// Starts logging to standard error.
pub fn start(level: LogLevel, format: LogFormat) {
    let builder = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter(level))).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().init(),
    }
}
