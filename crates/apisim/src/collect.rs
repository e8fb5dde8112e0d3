//! Deletion: finalizers, owners, namespaces.
//!
//! The real server only marks an object that has finalizers; controllers of Kubernetes do the rest: one deletes what has no
//! owner left, one empties namespaces. Here both run at once after each write, or when the test says so.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::kinds::Kind;
use crate::owners::Owners;
use crate::store::{Key, Store};
use crate::write::check_preconditions;

/// What becomes of the objects that a deleted one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Propagation {
    Background,
    Foreground,
    Orphan,
}

fn propagation(options: &Value) -> Propagation {
    match options["propagationPolicy"].as_str() {
        Some("Foreground") => Propagation::Foreground,
        Some("Orphan") => Propagation::Orphan,
        _ => Propagation::Background,
    }
}

impl Store {
    /// DELETE. The object when it stays for its finalizers, else None.
    pub(crate) fn delete(&mut self, key: &Key, options: &Value) -> Result<Option<Value>, ApiError> {
        let object = self.get(key)?.object.clone();
        check_preconditions(key, &object, &options["preconditions"])?;
        match propagation(options) {
            Propagation::Background => {}
            Propagation::Foreground => self.add_finalizer(key, "foregroundDeletion"),
            Propagation::Orphan => self.orphan_dependents(&object),
        }
        self.mark_or_take(key);
        after_write(self);
        Ok(self.objects.get(key).map(|stored| stored.object.clone()))
    }

    fn add_finalizer(&mut self, key: &Key, name: &str) {
        let Some(stored) = self.objects.get(key).cloned() else { return };
        let mut object = stored.object;
        let mut finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        if object["metadata"]["deletionTimestamp"].is_null() && !finalizers.contains(&json!(name)) {
            finalizers.push(json!(name));
            object["metadata"]["finalizers"] = json!(finalizers);
            self.put(key.clone(), object, stored.owners);
        }
    }

    fn orphan_dependents(&mut self, owner: &Value) {
        let uid = &owner["metadata"]["uid"];
        for key in self.objects.keys().cloned().collect::<Vec<_>>() {
            self.drop_references(&key, |reference| reference["uid"] != *uid);
        }
    }

    fn drop_references(&mut self, key: &Key, keep: impl Fn(&Value) -> bool) {
        let Some(stored) = self.objects.get(key).cloned() else { return };
        let mut object = stored.object;
        let references = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let kept: Vec<Value> = references.iter().filter(|reference| keep(reference)).cloned().collect();
        if kept.len() == references.len() {
            return;
        }
        object["metadata"]["ownerReferences"] = json!(kept);
        self.put(key.clone(), object, stored.owners);
    }

    /// Marks an object for deletion, or takes it away when nothing holds it. Whether anything changed.
    pub(crate) fn mark_or_take(&mut self, key: &Key) -> bool {
        let Some(stored) = self.objects.get(key).cloned() else { return false };
        let mut object = stored.object;
        let held = object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        let namespace = key.kind == Kind::new("", "namespaces") && self.in_namespace(&key.name).next().is_some();
        if !held && !namespace {
            self.take(key);
            return true;
        }
        if !object["metadata"]["deletionTimestamp"].is_null() {
            return false;
        }
        object["metadata"]["deletionTimestamp"] = json!(self.now().to_string());
        object["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
        object["metadata"]["generation"] = json!(generation + 1);
        if namespace {
            object["status"]["phase"] = json!("Terminating");
        }
        self.put(key.clone(), object, stored.owners);
        true
    }

    fn in_namespace<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Key> {
        self.objects.keys().filter(move |key| key.namespace == name)
    }
}

/// Runs the collectors unless the test wants to run them itself.
pub(crate) fn after_write(store: &mut Store) {
    if store.collect_at_once {
        collect(store);
    }
}

/// Until there is nothing more to do.
pub(crate) fn collect(store: &mut Store) {
    while empty_namespaces(store) || delete_unowned(store) || finish_foreground(store) {}
}

fn deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

fn empty_namespaces(store: &mut Store) -> bool {
    let kind = Kind::new("", "namespaces");
    let terminating: Vec<String> = store
        .of_kind(&kind, None)
        .filter(|object| deleting(object))
        .filter_map(|object| object["metadata"]["name"].as_str().map(str::to_owned))
        .collect();
    let mut changed = false;
    for name in terminating {
        for key in store.in_namespace(&name).cloned().collect::<Vec<_>>() {
            changed |= store.mark_or_take(&key);
        }
        changed |= store.mark_or_take(&Key { kind: kind.clone(), namespace: String::new(), name });
    }
    changed
}

fn references(object: &Value) -> Vec<Value> {
    object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default()
}

fn delete_unowned(store: &mut Store) -> bool {
    let owned: Vec<(Key, Vec<Value>)> = store
        .objects
        .iter()
        .map(|(key, stored)| (key.clone(), references(&stored.object)))
        .filter(|(_, references)| !references.is_empty())
        .collect();
    let mut namespaces: BTreeMap<String, String> = BTreeMap::new();
    for (key, stored) in &store.objects {
        namespaces.insert(stored.object["metadata"]["uid"].to_string(), key.namespace.clone());
    }
    let mut changed = false;
    for (key, references) in owned {
        // An owner is in the namespace of what it owns, or in none.
        let lives = |reference: &&Value| {
            let namespace = namespaces.get(&reference["uid"].to_string());
            namespace.is_some_and(|namespace| namespace.is_empty() || *namespace == key.namespace)
        };
        let living: Vec<Value> = references.iter().filter(lives).cloned().collect();
        if living.is_empty() {
            changed |= store.mark_or_take(&key);
        } else if living.len() < references.len() {
            store.drop_references(&key, |reference| living.contains(reference));
            changed = true;
        }
    }
    changed
}

/// An owner that is deleted in the foreground waits for what it owns.
fn finish_foreground(store: &mut Store) -> bool {
    let waits = |object: &Value| {
        deleting(object)
            && object["metadata"]["finalizers"]
                .as_array()
                .is_some_and(|list| list.iter().any(|finalizer| finalizer == "foregroundDeletion"))
    };
    let owners: Vec<(Key, Value)> = store
        .objects
        .iter()
        .filter(|(_, stored)| waits(&stored.object))
        .map(|(key, stored)| (key.clone(), stored.object["metadata"]["uid"].clone()))
        .collect();
    let mut changed = false;
    for (owner, uid) in owners {
        let dependents: Vec<Key> = store
            .objects
            .iter()
            .filter(|(_, stored)| references(&stored.object).iter().any(|reference| reference["uid"] == uid))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &dependents {
            changed |= store.mark_or_take(key);
        }
        if dependents.is_empty()
            && let Some(stored) = store.objects.get(&owner).cloned()
        {
            let mut object = stored.object;
            if let Some(list) = object["metadata"]["finalizers"].as_array_mut() {
                list.retain(|finalizer| finalizer != "foregroundDeletion");
            }
            let last = object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
            let owners: Owners = stored.owners;
            store.put(owner.clone(), object, owners);
            if last {
                store.take(&owner);
            }
            changed = true;
        }
    }
    changed
}
