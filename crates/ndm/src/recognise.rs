//! Which object a device is.
//!
//! An object notes the keys of its device (annotation [`IDENTITY`]). A device is the object that shares its strongest key
//! with it, unless a stronger key of both says otherwise. So a device keeps its object when it is renamed, moved, labelled
//! or wiped, and one object never stands for two devices:
//!
//! * two devices of this node with one key of a kind that [must be unique](KeyKind::must_be_unique): the one that the
//!   object was before stays it, the other gets an object of its own and a message, and is not offered;
//! * a device whose label or world-wide name another node's object has: the object moves when that node gave it up or is
//!   gone; otherwise this node's device gets an object of its own and a message. Other keys never reach across nodes:
//!   partitions and file systems have the same ids on all nodes that were made from one image.
//!
//! The function is pure and its result does not depend on the order of the devices.

use std::collections::{BTreeMap, BTreeSet};

use ballast_api::k8s::BlockDevice;

use crate::device::{Device, Key, KeyKind, hash};

/// On BlockDevices: the keys of the device, separated by spaces.
pub const IDENTITY: &str = "ndm.io/identity";

/// What an object says of its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The object's name.
    pub name: String,
    /// The node it is on.
    pub node: String,
    /// Where it was.
    pub path: String,
    /// Its keys.
    pub keys: BTreeSet<Key>,
    /// Its node has not said that it is gone. A node disk manager that was stopped says nothing: its disks are still there.
    pub held: bool,
    /// It is being wiped: then a blank device may be it.
    pub released: bool,
}

impl Known {
    /// From an object.
    pub fn of(object: &BlockDevice) -> Self {
        let status = object.status.clone().unwrap_or_default();
        let keys = object.metadata.annotations.iter().flatten().find(|(key, _)| *key == IDENTITY);
        Self {
            name: object.metadata.name.clone().unwrap_or_default(),
            node: object.spec.node_attributes.node_name.clone(),
            path: object.spec.path.clone(),
            keys: keys.map(|(_, text)| text.split(' ').filter_map(Key::parse).collect()).unwrap_or_default(),
            held: status.state != "Inactive",
            released: status.claim_state == "Released",
        }
    }

    fn has(&self, key: &Key) -> bool {
        // An object that lost its annotation is still known by the key that named it.
        self.keys.contains(key) || (self.keys.is_empty() && self.name == object_name(&key.hash))
    }
}

/// What a device came out as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The object's name.
    pub name: String,
    /// The keys that are this device's alone: what the object notes.
    pub keys: Vec<Key>,
    /// Who has the same identity, when somebody has: the device is not offered then.
    pub duplicate_of: Option<String>,
}

/// What [`recognise`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recognised {
    /// One for each device, in order.
    pub verdicts: Vec<Verdict>,
    /// Nodes that have the object of a device that is here. When one of them is gone, call again and say so.
    pub contested: BTreeSet<String>,
}

/// The name of the object of a block device.
pub fn object_name(hash: &str) -> String {
    format!("blockdevice-{hash}")
}

/// The name of the object of a sparse file.
pub fn sparse_name(hostname: &str, path: &str) -> String {
    format!("sparse-{}", hash(&["sparse", hostname, path]))
}

/// Finds the object of each device. `gone` are nodes that are known not to run.
pub fn recognise(node: &str, devices: &[Device], known: &[Known], gone: &BTreeSet<String>) -> Recognised {
    let mut work = Work {
        node,
        devices,
        known,
        gone,
        object: vec![None; devices.len()],
        lost: vec![BTreeSet::new(); devices.len()],
        duplicate_of: vec![None; devices.len()],
        contested: BTreeSet::new(),
    };
    for kind in KeyKind::ALL {
        for (key, group) in groups(devices, kind) {
            work.match_group(key, &group);
        }
    }
    work.finish()
}

/// The devices of each key of a kind.
fn groups(devices: &[Device], kind: KeyKind) -> BTreeMap<&Key, Vec<usize>> {
    let mut groups: BTreeMap<&Key, Vec<usize>> = BTreeMap::new();
    for (at, device) in devices.iter().enumerate() {
        for key in device.keys.iter().filter(|key| key.kind == kind) {
            groups.entry(key).or_default().push(at);
        }
    }
    groups
}

struct Work<'a> {
    node: &'a str,
    devices: &'a [Device],
    known: &'a [Known],
    gone: &'a BTreeSet<String>,
    /// The object of each device, by its place in `known`.
    object: Vec<Option<usize>>,
    /// Keys that are not the device's alone.
    lost: Vec<BTreeSet<Key>>,
    duplicate_of: Vec<Option<String>>,
    contested: BTreeSet<String>,
}

impl Work<'_> {
    fn match_group(&mut self, key: &Key, group: &[usize]) {
        let possible = |at: &usize| {
            let known = &self.known[*at];
            known.has(key) && (known.node == self.node || key.kind.moves()) && !self.object.contains(&Some(*at))
        };
        let mut candidates: Vec<usize> = (0..self.known.len()).filter(possible).collect();
        // Ours before others'; the rest only makes the order certain.
        candidates.sort_by_key(|at| {
            let known = &self.known[*at];
            (known.node != self.node, !known.held, &known.name)
        });
        for candidate in candidates {
            let open: Vec<usize> = group
                .iter()
                .copied()
                .filter(|at| self.object[*at].is_none() && self.compatible(*at, candidate, key.kind))
                .collect();
            let known = &self.known[candidate];
            if !open.is_empty() && known.node != self.node && known.held && !self.gone.contains(&known.node) {
                self.contest(key, &open, known);
                continue;
            }
            if let Some(best) = self.best(&open, candidate) {
                self.object[best] = Some(candidate);
            }
        }
        if group.len() > 1 {
            self.settle_duplicates(key, group);
        }
    }

    /// Another node has it too.
    fn contest(&mut self, key: &Key, open: &[usize], known: &Known) {
        self.contested.insert(known.node.clone());
        for at in open {
            self.lost[*at].insert(key.clone());
            self.duplicate_of[*at].get_or_insert(format!("{} on node {}", known.path, known.node));
        }
    }

    /// Those that are not what the key's object is: a copy, or another path to it.
    fn settle_duplicates(&mut self, key: &Key, group: &[usize]) {
        let owner = group.iter().copied().find(|at| self.object[*at].is_some_and(|object| self.known[object].has(key)));
        for at in group.iter().copied().filter(|at| Some(*at) != owner) {
            // One that a stronger key tells apart is no copy.
            let told_apart = self.object[at].is_some()
                || self.devices[at].keys.iter().any(|other| {
                    other.kind < key.kind && other.kind.must_be_unique() && !self.lost[at].contains(other)
                });
            self.lost[at].insert(key.clone());
            if key.kind.must_be_unique() && !told_apart {
                let other = owner.or_else(|| group.iter().copied().find(|other| *other != at));
                let path = other.map(|other| self.devices[other].path.clone()).unwrap_or_default();
                self.duplicate_of[at].get_or_insert(path);
            }
        }
    }

    /// Whether a device can be an object although they only share a key of this kind.
    fn compatible(&self, at: usize, candidate: usize, kind: KeyKind) -> bool {
        let (device, known) = (&self.devices[at], &self.known[candidate]);
        // The same disk may get another label; but a label tells devices apart that have nothing else.
        let counts = |other: &KeyKind| *other < kind && (*other != KeyKind::Label || kind.is_weak());
        KeyKind::ALL.into_iter().filter(counts).all(|other| {
            let mut here = device.keys.iter().filter(|key| key.kind == other).peekable();
            let there = known.keys.iter().any(|key| key.kind == other);
            match (here.peek().is_some(), there) {
                (true, true) => here.any(|key| known.keys.contains(key)),
                // A disk with a serial number is not the one without at the same place; a pool's device is not a blank
                // one, unless it was to be wiped.
                (false, true) if kind.is_weak() => match other {
                    KeyKind::Label => known.released || !device.readable,
                    KeyKind::Wwn | KeyKind::Serial => false,
                    _ => true,
                },
                _ => true,
            }
        })
    }

    /// The one that has most in common with the object; none when that is not clear.
    fn best(&self, open: &[usize], candidate: usize) -> Option<usize> {
        let known = &self.known[candidate];
        let score = |at: usize| {
            let device = &self.devices[at];
            let shared = device.keys.iter().filter(|key| known.keys.contains(key)).count();
            shared * 2 + usize::from(known.node == self.node && known.path == device.path)
        };
        let top = open.iter().map(|at| score(*at)).max()?;
        let mut best = open.iter().copied().filter(|at| score(*at) == top);
        best.next().filter(|_| best.next().is_none())
    }

    fn finish(self) -> Recognised {
        let mut names: BTreeSet<String> = self.known.iter().map(|known| known.name.clone()).collect();
        let verdicts = (0..self.devices.len()).map(|at| {
            let mut keys = self.devices[at].keys.clone();
            keys.retain(|key| !self.lost[at].contains(key));
            if let Some(object) = self.object[at].filter(|_| !self.devices[at].readable) {
                let label = self.known[object].keys.iter().filter(|key| key.kind == KeyKind::Label);
                keys.splice(0..0, label.cloned());
            }
            let name = match self.object[at] {
                Some(object) => self.known[object].name.clone(),
                None => {
                    let name = self.new_name(&keys, &names);
                    names.insert(name.clone());
                    name
                }
            };
            Verdict { name, keys, duplicate_of: self.duplicate_of[at].clone() }
        });
        Recognised { verdicts: verdicts.collect(), contested: self.contested }
    }

    /// From the strongest key; when somebody has that name, from the key, this node, and a number.
    fn new_name(&self, keys: &[Key], taken: &BTreeSet<String>) -> String {
        let hash_of = keys.first().map(|key| key.hash.as_str()).unwrap_or_default();
        let plain = object_name(hash_of);
        let salted = (1..).map(|n: u32| object_name(&hash(&["again", hash_of, self.node, &n.to_string()])));
        std::iter::once(plain).chain(salted).find(|name| !taken.contains(name)).unwrap_or_default()
    }
}
