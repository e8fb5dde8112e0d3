//! `ballast pool inspect`: a read-only look at the devices of a pool that does not run. Fails when something is wrong.
//!
//! The JSON is stable, like that of `report`:
//! ```text
//! {"pool":"pool-0 (uuid)","devices":[{"name":"/path","index":0,"bytes":1,"journal_bytes":1,"extent_bytes":1,
//!   "prepared_bytes":1,"clean":true,"incarnation":1,"owner":".."}],"checkpoint_batch":1,"last_batch":1,
//!  "replicas":[{"volume":"uuid","kind":"replica","blocks":1,"mapped_blocks":1,"log_only_blocks":0,"first_index":1,
//!   "last_index":1,"applied_index":1,"committed_index":1}],"used_blocks":1,"verified_blocks":1,"problems":[]}
//! ```

use anyhow::bail;
use ballast_pool::InspectReport;
use serde::Serialize;

use crate::cli::PoolInspectArgs;
use crate::output::{Format, print};

#[derive(Serialize)]
struct Report<'a> {
    pool: &'a str,
    devices: Vec<Device<'a>>,
    checkpoint_batch: u64,
    last_batch: u64,
    replicas: Vec<Replica>,
    used_blocks: u64,
    verified_blocks: u64,
    problems: &'a [String],
}

#[derive(Serialize)]
struct Device<'a> {
    name: &'a str,
    index: u8,
    bytes: u64,
    journal_bytes: u64,
    extent_bytes: u64,
    prepared_bytes: u64,
    clean: bool,
    incarnation: u64,
    owner: &'a str,
}

#[derive(Serialize)]
struct Replica {
    volume: String,
    kind: &'static str,
    blocks: u64,
    mapped_blocks: u64,
    log_only_blocks: u64,
    first_index: Option<u64>,
    last_index: Option<u64>,
    applied_index: Option<u64>,
    committed_index: Option<u64>,
}

pub(super) fn run(args: &PoolInspectArgs) -> anyhow::Result<()> {
    let report = ballast_pool::inspect(&args.paths, args.verify)?;
    match args.output {
        Format::Table => print(&format!("{}\n", report.to_string().trim_end()))?,
        Format::Json => print(&(serde_json::to_string_pretty(&wire(&report))? + "\n"))?,
    }
    match report.problems.len() {
        0 => Ok(()),
        n => bail!("{n} problems found: keep a copy of the devices before you change anything (docs/operations.md)"),
    }
}

fn wire(report: &InspectReport) -> Report<'_> {
    let devices = report.devices.iter().map(|device| Device {
        name: &device.name,
        index: device.index,
        bytes: device.size,
        journal_bytes: device.journal,
        extent_bytes: device.extents.0,
        prepared_bytes: device.extents.1,
        clean: device.clean,
        incarnation: device.incarnation,
        owner: &device.owner,
    });
    let replicas = report.replicas.iter().map(|replica| Replica {
        volume: replica.volume.to_string(),
        kind: replica.kind,
        blocks: replica.blocks,
        mapped_blocks: replica.mapped,
        log_only_blocks: replica.log_only,
        first_index: replica.log.map(|(first, _)| first),
        last_index: replica.log.map(|(_, last)| last),
        applied_index: replica.applied,
        committed_index: replica.committed,
    });
    Report {
        pool: &report.pool,
        devices: devices.collect(),
        checkpoint_batch: report.journal.0,
        last_batch: report.journal.1,
        replicas: replicas.collect(),
        used_blocks: report.used_blocks,
        verified_blocks: report.verified_blocks,
        problems: &report.problems,
    }
}
