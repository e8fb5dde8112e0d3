//! The children of `ballast up`: one process per pool, one target.
//!
//! Starting is in any order, since every child waits for the others by itself. Stopping has an order: first the
//! target, so that initiators get an orderly logout and no write is on its way, then the pools, all at once.

mod backoff;
mod process;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use process::{ChildSpec, Process, ProcessStatus};

use crate::datadir::{DataDir, PoolDir};
use crate::report::ProcessKind;
use crate::rpc::unix_endpoint;

/// How long a child may take to stop before it is killed.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(20);

/// Name of the target process.
pub(crate) const TARGET: &str = "target";

/// All children.
pub(crate) struct Supervisor {
    processes: Vec<Process>,
}

impl Supervisor {
    /// Starts all of `specs`.
    pub(crate) fn start(specs: Vec<ChildSpec>, dir: &DataDir) -> Self {
        Self { processes: specs.into_iter().map(|spec| Process::start(spec, dir.clone())).collect() }
    }

    /// The children.
    pub(crate) fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// Stops everything; returns when nothing runs any more.
    pub(crate) async fn stop(self, grace: Duration) {
        let (targets, pools): (Vec<_>, Vec<_>) =
            self.processes.into_iter().partition(|process| process.spec.kind == ProcessKind::Target);
        futures_util::future::join_all(targets.into_iter().map(|process| process.stop(grace))).await;
        futures_util::future::join_all(pools.into_iter().map(|process| process.stop(grace))).await;
    }
}

/// How a pool process is started; `cache` is the memory for its recently written blocks.
pub(crate) fn pool_spec(program: PathBuf, dir: &DataDir, pool: &PoolDir, cache: u64) -> ChildSpec {
    let mut args: Vec<OsString> = ["pool", "serve", "--name", &pool.name].map(OsString::from).to_vec();
    for device in &pool.devices {
        args.extend(["--device".into(), device.into()]);
    }
    args.extend(["--listen".into(), unix_endpoint(&dir.socket(&pool.name)).into()]);
    args.extend(["--cache".into(), cache.to_string().into()]);
    ChildSpec { name: pool.name.clone(), kind: ProcessKind::Pool, program, args }
}

/// How the target process is started.
pub(crate) fn target_spec(program: PathBuf, dir: &DataDir, portal: SocketAddr, chap: Option<&Path>) -> ChildSpec {
    let control = unix_endpoint(&dir.socket(TARGET));
    let args = ["target", "serve", "--portal", &portal.to_string(), "--control", &control].map(OsString::from);
    let mut args = args.to_vec();
    if let Some(chap) = chap {
        args.extend(["--chap".into(), chap.into()]);
    }
    ChildSpec { name: TARGET.to_owned(), kind: ProcessKind::Target, program, args }
}
