//! From what the objects should say and what they say now to the writes: none when they agree.
//!
//! Specs, labels and status fields are ours and go by server-side apply. `status.claimState` belongs to the operator; we only
//! set it when it is empty, or Unclaimed again after a wipe, each time on condition that nobody changed the object meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use ballast_api::k8s::labels::{HOSTNAME, NDM_MANAGED};
use ballast_api::k8s::{BlockDevice, Disk, GROUP, VERSION};
use serde_json::{Value, json};

use super::desired::disk_name;
use super::{Desired, Node, Objects, is_managed, is_released};
use crate::recognise::IDENTITY;

const GONE: &str = "it is not on its node; it will be recognised when it is back, here or on another node";

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Apply a BlockDevice: spec, labels, annotation.
    Device(String, Value),
    /// Apply the status of a BlockDevice.
    DeviceStatus(String, Value),
    /// Set `status.claimState` to Unclaimed, if this is still the object's version.
    Unclaim(String, Option<String>),
    /// Apply a Disk.
    Disk(String, Value),
    /// Apply the status of a Disk.
    DiskStatus(String, Value),
}

/// A device that its pool gave back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The BlockDevice.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// A file is replaced; a device is wiped.
    pub sparse: bool,
    /// What keeps it from being wiped.
    pub in_use: Option<String>,
}

/// The devices of this node that are to be wiped; `cleaned` were.
pub fn releases(desired: &[Desired], objects: &Objects, cleaned: &BTreeSet<String>) -> Vec<Release> {
    let released = desired.iter().filter(|wanted| {
        let object = objects.devices.get(&wanted.name);
        !cleaned.contains(&wanted.name) && object.is_some_and(|object| is_managed(object) && is_released(object))
    });
    released
        .map(|wanted| Release {
            name: wanted.name.clone(),
            path: wanted.spec.path.clone(),
            sparse: wanted.spec.details.device_type == "sparse",
            in_use: wanted.in_use.clone(),
        })
        .collect()
}

/// What became of the devices that were to be wiped, by object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wipes {
    /// Done. Only these become Unclaimed, and only when the last look found nothing on them: that look alone may be older
    /// than what a pool wrote.
    pub cleaned: BTreeSet<String>,
    /// What went wrong.
    pub trouble: BTreeMap<String, String>,
}

/// The writes that are due. With `vanished`, objects of this node without a device become Inactive.
pub fn writes(node: &Node, desired: &[Desired], objects: &Objects, vanished: bool, wipes: &Wipes) -> Vec<Write> {
    let mut writes = Vec::new();
    for wanted in desired {
        let object = objects.devices.get(&wanted.name);
        if object.is_none_or(is_managed) {
            device_writes(wanted, object, wipes, &mut writes);
            disk_writes(wanted, objects, &mut writes);
        }
    }
    if vanished {
        let wanted = |name: &str| desired.iter().any(|wanted| wanted.name == name || wanted.disk.0 == name);
        state_writes(node, objects, "Inactive", Some(GONE), |name| !wanted(name), &mut writes);
    }
    writes
}

/// The writes of a node disk manager that stops: from now on nobody looks at this node's devices.
pub fn farewell(node: &Node, objects: &Objects) -> Vec<Write> {
    let mut writes = Vec::new();
    state_writes(node, objects, "Unknown", None, |_| true, &mut writes);
    // What was missing stays missing.
    writes.retain(|write| match write {
        Write::DeviceStatus(name, _) => objects.devices.get(name).is_some_and(|object| state(object) == "Active"),
        Write::DiskStatus(name, _) => disk_state(objects.disks.get(name)) == "Active",
        _ => true,
    });
    writes
}

fn claim_state(object: &BlockDevice) -> &str {
    object.status.as_ref().map_or("", |status| status.claim_state.as_str())
}

fn state(object: &BlockDevice) -> &str {
    object.status.as_ref().map_or("", |status| status.state.as_str())
}

fn disk_state(disk: Option<&Disk>) -> &str {
    disk.and_then(|disk| disk.status.as_ref()).map_or("", |status| status.state.as_str())
}

fn has_all(labels: Option<&BTreeMap<String, String>>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

fn device_writes(wanted: &Desired, object: Option<&BlockDevice>, wipes: &Wipes, writes: &mut Vec<Write>) {
    let name = &wanted.name;
    let same = object.is_some_and(|object| {
        let mut spec = object.spec.clone();
        spec.claim_ref = None;
        let noted = object.metadata.annotations.as_ref().and_then(|annotations| annotations.get(IDENTITY));
        spec == wanted.spec
            && has_all(object.metadata.labels.as_ref(), &wanted.labels)
            && noted == wanted.identity.as_ref()
    });
    if !same {
        let mut metadata = json!({ "name": name, "labels": wanted.labels });
        if let Some(identity) = &wanted.identity {
            metadata["annotations"] = json!({ IDENTITY: identity });
        }
        writes.push(Write::Device(name.clone(), object_body("BlockDevice", metadata, "spec", json!(wanted.spec))));
    }
    // The status of an object that is not there yet comes when it is.
    let Some(object) = object else { return };
    let released = is_released(object);
    let trouble = wipes.trouble.get(name).filter(|_| released).map(|why| format!("not wiped: {why}"));
    let message = trouble.or_else(|| wanted.message.clone());
    let noted = object.status.as_ref().and_then(|status| status.pool_id.as_deref()).filter(|_| !wanted.readable);
    status_write(object, "Active", message.as_deref(), wanted.pool_id.as_deref().or(noted), writes);
    if claim_state(object).is_empty() || (released && wanted.blank && wipes.cleaned.contains(name)) {
        writes.push(Write::Unclaim(name.clone(), object.metadata.resource_version.clone()));
    }
}

fn status_write(object: &BlockDevice, state: &str, message: Option<&str>, pool: Option<&str>, writes: &mut Vec<Write>) {
    let now = object.status.clone().unwrap_or_default();
    if now.state == state && now.message.as_deref() == message && now.pool_id.as_deref() == pool {
        return;
    }
    let name = object.metadata.name.clone().unwrap_or_default();
    let mut status = json!({ "state": state });
    if let Some(message) = message {
        status["message"] = json!(message);
    }
    if let Some(pool) = pool {
        status["poolID"] = json!(pool);
    }
    let body = object_body("BlockDevice", json!({ "name": name }), "status", status);
    writes.push(Write::DeviceStatus(name, body));
}

fn disk_writes(wanted: &Desired, objects: &Objects, writes: &mut Vec<Write>) {
    let (name, spec, labels) = &wanted.disk;
    let disk = objects.disks.get(name);
    if disk.is_none_or(|disk| disk.spec != *spec || !has_all(disk.metadata.labels.as_ref(), labels)) {
        let metadata = json!({ "name": name, "labels": labels });
        writes.push(Write::Disk(name.clone(), object_body("Disk", metadata, "spec", json!(spec))));
    }
    if disk.is_some() && disk_state(disk) != "Active" {
        writes.push(disk_status(name, "Active"));
    }
}

fn disk_status(name: &str, state: &str) -> Write {
    let body = object_body("Disk", json!({ "name": name }), "status", json!({ "state": state }));
    Write::DiskStatus(name.to_owned(), body)
}

/// All of this node's BlockDevices and Disks that `which` picks by name get a state; the pool that was on them stays noted. With a message that
/// replaces theirs, else theirs stays.
fn state_writes(
    node: &Node,
    objects: &Objects,
    state: &str,
    message: Option<&str>,
    which: impl Fn(&str) -> bool,
    writes: &mut Vec<Write>,
) {
    for (name, object) in &objects.devices {
        if object.spec.node_attributes.node_name != node.name || !is_managed(object) || !which(name) {
            continue;
        }
        let now = object.status.clone().unwrap_or_default();
        status_write(object, state, message.or(now.message.as_deref()), now.pool_id.as_deref(), writes);
    }
    let of_unmanaged =
        |disk: &str| objects.devices.iter().any(|(name, object)| disk_name(name) == disk && !is_managed(object));
    for (name, disk) in &objects.disks {
        let label = |key: &str| disk.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
        let ours = label(HOSTNAME) == Some(&node.hostname) && label(NDM_MANAGED) != Some("false");
        if ours && which(name) && !of_unmanaged(name) && disk_state(Some(disk)) != state {
            writes.push(disk_status(name, state));
        }
    }
}

fn object_body(kind: &str, metadata: Value, part: &str, content: Value) -> Value {
    json!({ "apiVersion": format!("{GROUP}/{VERSION}"), "kind": kind, "metadata": metadata, part: content })
}
