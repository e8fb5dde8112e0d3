//! The objects, their revisions and the history that watches read. No I/O, no waiting.
//!
//! One revision counter for everything, as etcd has it: each change takes the next one, so a list's version orders it
//! among all changes. A write that changes nothing takes none.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::kinds::{CLUSTER_SCOPED, Kind, NAMES, PLAIN_STATUS};
use crate::owners::Owners;
use crate::random::Random;

/// An object's place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    /// Empty for kinds without.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) object: Value,
    pub(crate) owners: Owners,
}

/// One change. `old` is None for a new object, `new` for a deleted one.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) at: tokio::time::Instant,
    pub(crate) key: Key,
    pub(crate) old: Option<Value>,
    pub(crate) new: Option<Value>,
}

/// All objects.
pub(crate) struct Store {
    pub(crate) objects: BTreeMap<Key, Stored>,
    pub(crate) revision: u64,
    pub(crate) history: Vec<Change>,
    /// Watches from before this revision must list again.
    pub(crate) oldest: u64,
    pub(crate) random: Random,
    pub(crate) next_cluster_ip: u32,
    pub(crate) collect_at_once: bool,
    pub(crate) names: BTreeMap<Kind, (String, String)>,
    cluster_scoped: Vec<Kind>,
    plain_status: Vec<Kind>,
    epoch: Timestamp,
    started: tokio::time::Instant,
}

impl Store {
    pub(crate) fn new(seed: u64, epoch: Timestamp) -> Self {
        let kinds = |table: &[(&str, &str)]| table.iter().map(|(group, plural)| Kind::new(group, plural)).collect();
        Self {
            objects: BTreeMap::new(),
            revision: 1,
            history: Vec::new(),
            oldest: 1,
            random: Random::new(seed),
            next_cluster_ip: 1,
            collect_at_once: true,
            names: NAMES
                .iter()
                .map(|(group, plural, kind)| {
                    let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
                    (Kind::new(group, plural), (version, (*kind).to_owned()))
                })
                .collect(),
            cluster_scoped: kinds(&CLUSTER_SCOPED),
            plain_status: kinds(&PLAIN_STATUS),
            epoch,
            started: tokio::time::Instant::now(),
        }
    }

    pub(crate) fn add_cluster_scoped(&mut self, kind: Kind) {
        self.cluster_scoped.push(kind);
    }

    pub(crate) fn add_plain_status(&mut self, kind: Kind) {
        self.plain_status.push(kind);
    }

    pub(crate) fn has_status(&self, kind: &Kind) -> bool {
        !self.plain_status.contains(kind)
    }

    /// The time by tokio's clock, which tests can stop.
    pub(crate) fn now(&self) -> Timestamp {
        let now = self.epoch + self.started.elapsed();
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }

    /// Checks the scope of a request for one object.
    pub(crate) fn key(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> Result<Key, ApiError> {
        let cluster = self.cluster_scoped.contains(kind);
        if cluster != namespace.is_none() {
            let message = if cluster {
                format!("{} are not in a namespace", kind.words())
            } else {
                format!("an empty namespace may not be set: {} are in namespaces", kind.words())
            };
            return Err(ApiError::new(404, "NotFound", message));
        }
        Ok(Key { kind: kind.clone(), namespace: namespace.unwrap_or_default().to_owned(), name: name.to_owned() })
    }

    pub(crate) fn get(&self, key: &Key) -> Result<&Stored, ApiError> {
        self.objects.get(key).ok_or_else(|| ApiError::not_found(&key.kind.words(), &key.name))
    }

    /// Objects of a kind in the order of their names.
    pub(crate) fn of_kind<'a>(&'a self, kind: &'a Kind, namespace: Option<&'a str>) -> impl Iterator<Item = &'a Value> {
        let first =
            Key { kind: kind.clone(), namespace: namespace.unwrap_or_default().to_owned(), name: String::new() };
        self.objects
            .range(first..)
            .take_while(move |(key, _)| key.kind == *kind && namespace.is_none_or(|wanted| key.namespace == wanted))
            .map(|(_, stored)| &stored.object)
    }

    /// Puts an object, under the next revision.
    pub(crate) fn put(&mut self, key: Key, mut object: Value, owners: Owners) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        if let (Some(version), Some(kind)) = (object["apiVersion"].as_str(), object["kind"].as_str()) {
            self.names.insert(key.kind.clone(), (version.to_owned(), kind.to_owned()));
        }
        let old = self.objects.insert(key.clone(), Stored { object: object.clone(), owners });
        self.note(key, old.map(|stored| stored.object), Some(object.clone()));
        object
    }

    /// Takes an object away, under the next revision.
    pub(crate) fn take(&mut self, key: &Key) {
        if let Some(mut stored) = self.objects.remove(key) {
            self.revision += 1;
            stored.object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
            self.note(key.clone(), Some(stored.object), None);
        }
    }

    fn note(&mut self, key: Key, old: Option<Value>, new: Option<Value>) {
        self.history.push(Change { revision: self.revision, at: tokio::time::Instant::now(), key, old, new });
    }

    /// Forgets the history: watches that are not up to date must list again.
    pub(crate) fn compact(&mut self) {
        self.history.clear();
        self.oldest = self.revision;
    }

    pub(crate) fn uid(&mut self) -> String {
        let (high, low) = (self.random.next(), self.random.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            low >> 52,
            low & 0xffff_ffff_ffff
        )
    }
}
