//! Logs: to standard error, by `tracing`. `--log-level` or `RUST_LOG` chooses what is said.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people, fields as `key=value`.
    Text,
    /// A JSON object.
    Json,
}

/// The filter cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("'{filter}' is not a log filter ({source}): use error, warn, info, or for example 'warn,ballast=info'")]
pub(crate) struct LogError {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Starts the log. `level` wins over `RUST_LOG`, which wins over `default`.
pub(crate) fn start(level: Option<&str>, format: LogFormat, default: &str) -> Result<(), LogError> {
    let from_env = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|filter| !filter.trim().is_empty());
    let filter = level.map(str::to_owned).or(from_env).unwrap_or_else(|| default.to_owned());
    let env_filter = EnvFilter::try_new(&filter).map_err(|source| LogError { filter, source })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(env_filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // A log that cannot be written (disk full) must not write about that.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
