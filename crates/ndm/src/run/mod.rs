//! The shell: waits for something to happen, looks, and writes what is due.
//!
//! A scan is due when the kernel or udev said something (debounced), every minute, and after a wipe. Objects are watched, not
//! asked for, and written only when they differ from what they should say: while nothing changes there is no request at all.

mod cache;
mod cluster;
mod manager;

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::time::{Instant, MissedTickBehavior, sleep_until};

use crate::config::Config;
use crate::error::NdmError;
use crate::options::Options;
use crate::scanner::Scanner;
use crate::smart::Smart;
use crate::sparse;
use crate::uevent::{Debounce, Socket};

use cluster::Cluster;
use manager::Manager;

/// Between the last message about devices and the scan; udev's links are there then.
const QUIET: Duration = Duration::from_millis(700);
/// However many messages come, a scan is not put off longer than this.
const LONGEST: Duration = Duration::from_secs(5);
/// How long a stop may take to tell the API server.
const FAREWELL: Duration = Duration::from_secs(10);

/// Runs until `shutdown` is done; then marks this node's devices Unknown.
///
/// A boxed future is compiled here, once, and not in the crate of each caller.
pub fn run(
    client: kube::Client,
    options: Options,
    shutdown: BoxFuture<'static, ()>,
) -> BoxFuture<'static, Result<(), NdmError>> {
    Box::pin(manage(client, options, shutdown))
}

async fn manage(client: kube::Client, options: Options, mut shutdown: BoxFuture<'static, ()>) -> Result<(), NdmError> {
    let config = Config::load(options.config.as_deref())?;
    let smart = (options.smart && config.smart).then(|| Smart::new("smartctl"));
    let name = options.node_name();
    let cluster = Cluster::new(client, &options.namespace);
    let node = tokio::select! {
        node = cluster.this_node(&name) => node,
        () = &mut shutdown => return Ok(()),
    };
    let sparse_dir = sparse_dir(&options).await?;
    let scanner = Scanner::new(name, options.roots(), config, sparse_dir, smart);
    let mut devices = std::pin::pin!(watcher(cluster.devices.clone(), watcher::Config::default()).default_backoff());
    let mut disks = std::pin::pin!(watcher(cluster.disks.clone(), watcher::Config::default()).default_backoff());
    let mut uevents = open_socket();
    let mut debounce = Debounce::new(QUIET, LONGEST);
    let mut rescan = tokio::time::interval(Duration::from_secs(options.rescan));
    rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut manager = Manager::new(cluster, node, scanner);
    loop {
        let wake = manager.retry_at();
        let wipe = manager.wipe_again_at();
        let due = debounce.due().map(Instant::from_std);
        let mut look = false;
        tokio::select! {
            () = &mut shutdown => break,
            Some(event) = devices.next() => manager.device_event(event),
            Some(event) = disks.next() => manager.disk_event(event),
            heard = next(&mut uevents) => match heard {
                Ok(heard) => {
                    tracing::debug!(?heard, "a block device changed");
                    debounce.note(Instant::now().into_std());
                }
                Err(error) => {
                    tracing::warn!(%error, "no more messages about devices; they are looked for every minute");
                    uevents = None;
                }
            },
            () = at(due) => look = true,
            () = at(wake) => {}
            () = at(wipe) => {
                manager.try_again();
                look = true;
            }
            _ = rescan.tick() => {
                manager.try_again();
                look = true;
            }
        }
        if look {
            debounce.clear();
        }
        let step = tokio::select! {
            step = manager.step(look) => step,
            () = &mut shutdown => break,
        };
        if step.look_again {
            debounce.note(Instant::now().into_std());
        }
    }
    if tokio::time::timeout(FAREWELL, manager.farewell()).await.is_err() {
        tracing::warn!("stopped before the API server had noted that this node's devices are unknown now");
    }
    Ok(())
}

/// The directory for sparse files, when it is wanted and can be used.
async fn sparse_dir(options: &Options) -> Result<Option<std::path::PathBuf>, NdmError> {
    let Some(dir) = options.sparse_dir.clone().filter(|dir| !dir.as_os_str().is_empty()) else { return Ok(None) };
    let (size, count, made) = (options.sparse_size, options.sparse_count, dir.clone());
    match tokio::task::spawn_blocking(move || sparse::prepare(&made, size, count)).await? {
        Ok(()) => Ok(Some(dir)),
        Err(error) => {
            tracing::error!(%error, "no sparse files");
            Ok(None)
        }
    }
}

fn open_socket() -> Option<Socket> {
    match Socket::open() {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!(%error, "cannot hear of devices; they are looked for every minute");
            None
        }
    }
}

async fn next(socket: &mut Option<Socket>) -> std::io::Result<crate::uevent::Heard> {
    match socket {
        Some(socket) => socket.next().await,
        None => std::future::pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
