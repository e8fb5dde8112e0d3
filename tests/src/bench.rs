//! The measuring load: `tools/iobench.c` behind a typed interface.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process::{self, PATIENCE};
use crate::tools;

/// What one run measured (those of its fields that tests use).
#[derive(Debug, Deserialize)]
pub struct Measured {
    /// Commands per second.
    pub iops: f64,
    /// Half of the commands took at most so long.
    pub p50_us: f64,
    /// Commands answered.
    pub ops: u64,
    /// Bytes read or written by them.
    pub bytes: u64,
}

fn run(url: &str, arguments: &[&str], limit: Duration) -> Result<Measured> {
    let mut command = Command::new(tools::own("iobench")?);
    let text = process::run(command.args(["--url", url]).args(arguments), limit)?;
    serde_json::from_str(&text).with_context(|| format!("iobench printed: {text}"))
}

/// Writes the first `span` bytes of a unit once.
pub fn prefill(url: &str, span: u64) -> Result<Measured> {
    run(url, &["--prefill", "--span", &span.to_string()], 4 * PATIENCE)
}

/// Exactly `ops` random writes of 4 KiB within the first `span` bytes.
pub fn random_writes(url: &str, span: u64, depth: u32, ops: u64) -> Result<Measured> {
    let (span, depth, ops) = (span.to_string(), depth.to_string(), ops.to_string());
    run(url, &["--rw", "randwrite", "--span", &span, "--depth", &depth, "--ops", &ops], 4 * PATIENCE)
}
