//! What commands print: tables for people, JSON for scripts.

pub(crate) mod stats;
pub(crate) mod table;

use std::io::{self, Write as _};

use clap::ValueEnum;
use serde::Serialize;

/// `--output`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For scripts: stable, see `report`.
    Json,
}

/// Prints text. A reader that has gone away (`| head`) is not an error, and `println!` would panic on it.
pub(crate) fn print(text: &str) -> io::Result<()> {
    match try_print(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Prints text; a reader that has gone away is an error, for what would go on printing.
pub(crate) fn try_print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Prints one line of progress; whether somebody reads it does not matter to the work.
pub(crate) fn progress(line: &str) {
    if let Err(error) = print(&format!("{line}\n")) {
        tracing::debug!(%error, "nobody reads the progress");
    }
}

/// Prints `value` in the format asked for.
pub(crate) fn show<T: Serialize>(value: &T, format: Format, table: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(value)? + "\n",
        Format::Table => table(value),
    };
    Ok(print(&text)?)
}
