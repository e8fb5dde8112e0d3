//! What is known, and one step from it: look if that is due, wipe what was given back, write what differs.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use ballast_api::k8s::{BlockDevice, Disk};
use kube::ResourceExt as _;
use kube::runtime::watcher::{Error as WatchError, Event};
use tokio::time::Instant;

use super::cache::Cache;
use super::cluster::{Cluster, Written};
use crate::error::NdmError;
use crate::plan::{
    Desired, Gone, Node, Objects, Release, Scan, Wipes, Write, desired, farewell, is_released, releases, writes,
};
use crate::scanner::Scanner;
use crate::sparse;

/// How long it is believed that another node runs, or does not.
const NODE_BELIEF: Duration = Duration::from_secs(30);
/// A write may make another one due (a new object's status); more rounds than this are not needed.
const ROUNDS: usize = 4;
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What a step wants.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Something was changed on a device, or could not be looked at yet.
    pub(super) look_again: bool,
}

pub(super) struct Manager {
    cluster: Cluster,
    node: Node,
    scanner: Scanner,
    devices: Cache<BlockDevice>,
    disks: Cache<Disk>,
    scan: Option<Scan>,
    /// Devices that were given back. What kept one from being wiped is tried again soon, because mostly its pool has only to
    /// end first, then ever later: when, and after how long.
    wipes: Wipes,
    wipe_again: Option<(Instant, Duration)>,
    /// Other nodes: when they were asked for, and whether they are gone.
    nodes: BTreeMap<String, (Instant, bool)>,
    /// What was written last and the version that it left: the same write again would change nothing.
    written: HashMap<String, (Write, Option<String>)>,
    retry: Option<(Instant, Duration)>,
}

impl Manager {
    pub(super) fn new(cluster: Cluster, node: Node, scanner: Scanner) -> Self {
        Self {
            cluster,
            node,
            scanner,
            devices: Cache::new(),
            disks: Cache::new(),
            scan: None,
            wipes: Wipes::default(),
            wipe_again: None,
            nodes: BTreeMap::new(),
            written: HashMap::new(),
            retry: None,
        }
    }

    pub(super) fn device_event(&mut self, event: Result<Event<BlockDevice>, WatchError>) {
        match event {
            Ok(event) => self.devices.note(event),
            Err(error) => tracing::warn!(%error, "cannot watch BlockDevices; trying again"),
        }
    }

    pub(super) fn disk_event(&mut self, event: Result<Event<Disk>, WatchError>) {
        match event {
            Ok(event) => self.disks.note(event),
            Err(error) => tracing::warn!(%error, "cannot watch Disks; trying again"),
        }
    }

    /// When writes that failed are due again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry.map(|(at, _)| at)
    }

    /// When what could not be wiped is due again.
    pub(super) fn wipe_again_at(&self) -> Option<Instant> {
        self.wipe_again.map(|(at, _)| at)
    }

    /// What could not be wiped is tried again.
    pub(super) fn try_again(&mut self) {
        self.wipes.trouble.clear();
        self.wipe_again = self.wipe_again.map(|(_, wait)| {
            let wait = (wait * 2).min(LAST_RETRY);
            (Instant::now() + wait, wait)
        });
    }

    pub(super) async fn step(&mut self, look: bool) -> Step {
        let mut step = Step::default();
        if look {
            match self.scanner.scan().await {
                Ok((scan, _)) => {
                    step.look_again = scan.unsettled;
                    if self.scan.as_ref() != Some(&scan) {
                        tracing::info!(devices = scan.devices.len(), "the node's devices changed");
                    }
                    self.scan = Some(scan);
                }
                // What was seen last stays true: a node that cannot be read has not lost its disks.
                Err(error) => tracing::error!(%error, "cannot look at the node's devices"),
            }
        }
        if !self.devices.is_complete() || !self.disks.is_complete() || self.scan.is_none() {
            return step;
        }
        if self.retry.is_some_and(|(at, _)| at > Instant::now()) {
            return step;
        }
        match self.reconcile().await {
            Ok(wiped) => {
                self.retry = None;
                step.look_again |= wiped;
                self.wipe_again = match self.wipes.trouble.is_empty() {
                    true => None,
                    false => self.wipe_again.or(Some((Instant::now() + FIRST_RETRY, FIRST_RETRY))),
                };
            }
            Err(error) => {
                let wait = self.retry.map_or(FIRST_RETRY, |(_, wait)| (wait * 2).min(LAST_RETRY));
                tracing::warn!(%error, seconds = wait.as_secs(), "trying again");
                self.retry = Some((Instant::now() + wait, wait));
            }
        }
        step
    }

    /// Marks all devices of this node as unknown.
    pub(super) async fn farewell(&mut self) {
        for write in farewell(&self.node, &self.objects()) {
            if let Err(error) = self.cluster.write(&write).await {
                tracing::warn!(%error, "cannot mark this node's devices as unknown");
                return;
            }
        }
    }

    fn objects(&self) -> Objects {
        Objects { devices: self.devices.objects().clone(), disks: self.disks.objects().clone() }
    }

    /// Brings the objects to what they should say. `true` when a device was wiped.
    async fn reconcile(&mut self) -> Result<bool, NdmError> {
        let scan = self.scan.clone().unwrap_or_default();
        let mut wiped = false;
        for _ in 0..ROUNDS {
            let objects = self.objects();
            let wanted = self.wanted(&scan, &objects).await;
            // What is claimed again, or for the first time, is not clean for ever.
            let released = |name: &String| objects.devices.get(name).is_some_and(is_released);
            self.wipes.cleaned.retain(released);
            for release in releases(&wanted, &objects, &self.wipes.cleaned) {
                if !self.wipes.trouble.contains_key(&release.name) {
                    wiped |= self.release(release).await;
                }
            }
            let mut due = writes(&self.node, &wanted, &objects, !scan.unsettled, &self.wipes);
            due.retain(|write| !self.is_repeated(write, &objects));
            if due.is_empty() {
                break;
            }
            for write in due {
                self.write(write).await?;
            }
        }
        Ok(wiped)
    }

    async fn wanted(&mut self, scan: &Scan, objects: &Objects) -> Vec<Desired> {
        let (wanted, contested) = desired(&self.node, scan, objects, &Gone::new());
        if contested.is_empty() {
            return wanted;
        }
        let mut gone = Gone::new();
        for name in contested {
            let known = self.nodes.get(&name).filter(|(asked, _)| asked.elapsed() < NODE_BELIEF);
            let is_gone = match known {
                Some((_, is_gone)) => *is_gone,
                None => {
                    let is_gone = self.cluster.is_gone(&name).await;
                    self.nodes.insert(name.clone(), (Instant::now(), is_gone));
                    if !is_gone {
                        tracing::warn!(node = name, "a device of this node has the identity of one of that node's");
                    }
                    is_gone
                }
            };
            if is_gone {
                gone.insert(name);
            }
        }
        desired(&self.node, scan, objects, &gone).0
    }

    /// Takes a device back from its pool; says whether anything was changed.
    async fn release(&mut self, release: Release) -> bool {
        let Release { name, path, sparse, in_use } = release;
        if let Some(why) = in_use {
            tracing::warn!(name, path, why, "the device cannot be wiped");
            self.wipes.trouble.insert(name, why);
            return false;
        }
        tracing::info!(name, path, "wiping a device that its pool gave back");
        let target = if sparse { PathBuf::from(&path) } else { self.scanner.device(&path) };
        let work = tokio::task::spawn_blocking(move || -> Result<(), NdmError> {
            if sparse {
                sparse::recreate(&target)?;
            } else {
                ballast_pool::wipe(&target).map_err(sparse::SparseError::from)?;
            }
            Ok(())
        });
        match work.await.map_err(NdmError::from).and_then(|result| result) {
            Ok(()) => {
                self.wipes.cleaned.insert(name);
                true
            }
            Err(error) => {
                tracing::warn!(name, path, %error, "the device cannot be wiped");
                self.wipes.trouble.insert(name, error.to_string());
                false
            }
        }
    }

    async fn write(&mut self, write: Write) -> Result<(), NdmError> {
        let version = match self.cluster.write(&write).await? {
            Written::Device(object) => {
                let version = object.resource_version();
                self.devices.put(*object);
                version
            }
            Written::Disk(object) => {
                let version = object.resource_version();
                self.disks.put(*object);
                version
            }
            Written::Nothing => return Ok(()),
        };
        tracing::debug!(?write, "written");
        self.written.insert(slot(&write), (write, version));
        Ok(())
    }

    /// The same was written to the same version already, and the object still differs: somebody else holds a field of ours.
    /// Writing it again and again would not change that.
    fn is_repeated(&self, write: &Write, objects: &Objects) -> bool {
        let version = match write {
            Write::Device(name, _) | Write::DeviceStatus(name, _) | Write::Unclaim(name, _) => {
                objects.devices.get(name).and_then(|object| object.resource_version())
            }
            Write::Disk(name, _) | Write::DiskStatus(name, _) => {
                objects.disks.get(name).and_then(|object| object.resource_version())
            }
        };
        self.written
            .get(&slot(write))
            .is_some_and(|(last, left)| last == write && version.is_some() && *left == version)
    }
}

/// One memory for each object and part.
fn slot(write: &Write) -> String {
    match write {
        Write::Device(name, _) => format!("device {name}"),
        Write::DeviceStatus(name, _) => format!("device status {name}"),
        Write::Unclaim(name, _) => format!("claim {name}"),
        Write::Disk(name, _) => format!("disk {name}"),
        Write::DiskStatus(name, _) => format!("disk status {name}"),
    }
}
