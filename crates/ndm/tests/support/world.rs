//! Objects in memory, and writes done to them as an API server would.

use ballast_api::k8s::{BlockDevice, Disk};
use ballast_ndm::device::Device;
use ballast_ndm::plan::{Gone, Node, Objects, Scan, Wipes, Write, desired, farewell, releases, writes};
use serde_json::Value;

/// The cluster.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) objects: Objects,
    pub(crate) gone: Gone,
    pub(crate) wipes: Wipes,
    version: u64,
}

pub(crate) fn node(name: &str) -> Node {
    Node { name: name.to_owned(), hostname: format!("host-{name}") }
}

impl World {
    /// Brings a node's objects to what they should say; returns the writes.
    pub(crate) fn step(&mut self, name: &str, devices: Vec<Device>) -> Vec<Write> {
        self.step_scan(name, Scan { devices, ..Scan::default() })
    }

    pub(crate) fn step_scan(&mut self, name: &str, scan: Scan) -> Vec<Write> {
        let mut all = Vec::new();
        for _ in 0..5 {
            let (wanted, _) = desired(&node(name), &scan, &self.objects, &self.gone);
            let due = writes(&node(name), &wanted, &self.objects, !scan.unsettled, &self.wipes);
            if due.is_empty() {
                return all;
            }
            due.iter().for_each(|write| self.apply(write));
            all.extend(due);
        }
        panic!("the writes do not end: {all:#?}");
    }

    pub(crate) fn stop(&mut self, name: &str) -> Vec<Write> {
        let due = farewell(&node(name), &self.objects);
        due.iter().for_each(|write| self.apply(write));
        due
    }

    /// The devices that are to be wiped, by path.
    pub(crate) fn to_wipe(&self, name: &str, devices: Vec<Device>) -> Vec<(String, bool)> {
        let scan = Scan { devices, ..Scan::default() };
        let (wanted, _) = desired(&node(name), &scan, &self.objects, &self.gone);
        let releases = releases(&wanted, &self.objects, &self.wipes.cleaned);
        releases.into_iter().map(|release| (release.path, release.in_use.is_none())).collect()
    }

    fn apply(&mut self, write: &Write) {
        self.version += 1;
        let version = Some(self.version.to_string());
        match write {
            Write::Device(name, body) => {
                let new: BlockDevice = serde_json::from_value(body.clone()).unwrap();
                let object = self
                    .objects
                    .devices
                    .entry(name.clone())
                    .or_insert_with(|| BlockDevice::new(name, Default::default()));
                let claim = object.spec.claim_ref.take();
                object.spec = new.spec;
                object.spec.claim_ref = claim;
                object.metadata.labels.get_or_insert_default().extend(new.metadata.labels.unwrap_or_default());
                object
                    .metadata
                    .annotations
                    .get_or_insert_default()
                    .extend(new.metadata.annotations.unwrap_or_default());
                object.metadata.resource_version = version;
            }
            Write::DeviceStatus(name, body) => {
                let object = self.objects.devices.get_mut(name).unwrap();
                let status = object.status.get_or_insert_default();
                let text = |key: &str| body["status"].get(key).and_then(Value::as_str).map(str::to_owned);
                status.state = text("state").unwrap();
                status.message = text("message");
                status.pool_id = text("poolID");
                object.metadata.resource_version = version;
            }
            Write::Unclaim(name, expected) => {
                let object = self.objects.devices.get_mut(name).unwrap();
                // A request that was planned before an earlier write of the same round is refused.
                if object.metadata.resource_version == *expected {
                    object.status.get_or_insert_default().claim_state = "Unclaimed".to_owned();
                    object.metadata.resource_version = version;
                }
            }
            Write::Disk(name, body) => {
                let new: Disk = serde_json::from_value(body.clone()).unwrap();
                let object =
                    self.objects.disks.entry(name.clone()).or_insert_with(|| Disk::new(name, Default::default()));
                object.spec = new.spec;
                object.metadata.labels = new.metadata.labels;
            }
            Write::DiskStatus(name, body) => {
                let object = self.objects.disks.get_mut(name).unwrap();
                object.status.get_or_insert_default().state = body["status"]["state"].as_str().unwrap().to_owned();
            }
        }
    }

    pub(crate) fn get(&self, name: &str) -> &BlockDevice {
        &self.objects.devices[name]
    }

    /// The object that is at a path of a node and there.
    pub(crate) fn at(&self, node: &str, path: &str) -> String {
        let here = |object: &&BlockDevice| {
            object.spec.node_attributes.node_name == node && object.spec.path == path && state(object) == "Active"
        };
        let found: Vec<String> =
            self.objects.devices.values().filter(here).map(|object| object.metadata.name.clone().unwrap()).collect();
        assert_eq!(found.len(), 1, "objects at {node} {path}: {found:?}");
        found[0].clone()
    }

    pub(crate) fn claim(&mut self, name: &str, state: &str) {
        let object = self.objects.devices.get_mut(name).unwrap();
        object.status.get_or_insert_default().claim_state = state.to_owned();
    }

    /// Objects that are there, with their state.
    pub(crate) fn states(&self) -> Vec<(&str, &str)> {
        self.objects.devices.iter().map(|(name, object)| (name.as_str(), state(object))).collect()
    }
}

pub(crate) fn state(object: &BlockDevice) -> &str {
    object.status.as_ref().map_or("", |status| &status.state)
}

pub(crate) fn message(object: &BlockDevice) -> &str {
    object.status.as_ref().and_then(|status| status.message.as_deref()).unwrap_or("")
}
