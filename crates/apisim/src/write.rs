//! Create, update, patch and apply: what a write does to an object.
//!
//! A write to the object leaves `status` alone where it is a subresource; a write to the status leaves all else alone.
//! `metadata.generation` counts changes of anything but metadata and status. An object that is being deleted goes when its
//! last finalizer does.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::fields;
use crate::owners::{Manager, Owners};
use crate::store::{Key, Store};
use crate::{admit, collect};

/// Fields of the metadata that only the server writes.
const SERVER_FIELDS: [&str; 8] = [
    "uid",
    "creationTimestamp",
    "generation",
    "resourceVersion",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generateName",
    "namespace",
];

/// How a write comes.
#[derive(Clone, Debug)]
pub(crate) struct By {
    pub(crate) manager: String,
    pub(crate) status: bool,
    pub(crate) force: bool,
}

impl By {
    fn manager(&self, apply: bool) -> Manager {
        Manager { name: self.manager.clone(), apply, status: self.status }
    }
}

/// Whether `generateName` may be this: a name in itself, but for a dash at the end.
fn begins_a_name(prefix: &str) -> bool {
    let outside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    prefix.strip_suffix('-').unwrap_or(prefix).split('.').all(|label| {
        label.starts_with(outside) && label.ends_with(outside) && label.chars().all(|c| outside(c) || c == '-')
    })
}

impl Store {
    /// POST.
    pub(crate) fn create(
        &mut self,
        kind: &crate::Kind,
        namespace: Option<&str>,
        body: Value,
        by: &By,
    ) -> Result<Value, ApiError> {
        let meta = &body["metadata"];
        let name = match (meta["name"].as_str(), meta["generateName"].as_str()) {
            (Some(name), _) if !name.is_empty() => name.to_owned(),
            (_, Some(prefix)) if !prefix.is_empty() => {
                if !begins_a_name(prefix) {
                    let why =
                        format!("metadata.generateName: Invalid value: \"{prefix}\": a lowercase RFC 1123 subdomain");
                    return Err(ApiError::invalid(&kind.words(), prefix, &why));
                }
                format!("{prefix}{}", self.random.suffix())
            }
            _ => {
                return Err(ApiError::invalid(
                    &kind.words(),
                    "",
                    "metadata.name: Required value: name or generateName is required",
                ));
            }
        };
        if !meta["resourceVersion"].is_null() {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let key = self.key(kind, namespace, &name)?;
        if self.objects.contains_key(&key) {
            return Err(ApiError::already_exists(&kind.words(), &name));
        }
        let mut owners = Owners::default();
        let mut object = body;
        if self.has_status(kind)
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
        owners.updated(&by.manager(false), &Value::Null, &object, kind.built_in());
        self.admit_new(key, object, owners)
    }

    /// The common end of create and of apply to nothing.
    fn admit_new(&mut self, key: Key, mut object: Value, owners: Owners) -> Result<Value, ApiError> {
        check_identity(&key, &object)?;
        self.check_namespace(&key)?;
        if let Some(meta) = object["metadata"].as_object_mut() {
            SERVER_FIELDS.iter().filter(|field| **field != "generateName").for_each(|field| {
                meta.remove(*field);
            });
        }
        object["metadata"]["name"] = json!(key.name);
        if !key.namespace.is_empty() {
            object["metadata"]["namespace"] = json!(key.namespace);
        }
        object["metadata"]["uid"] = json!(self.uid());
        object["metadata"]["creationTimestamp"] = json!(self.now().to_string());
        object["metadata"]["generation"] = json!(1);
        admit::defaults(self, &key.kind, &mut object);
        admit::check(&key, &object)?;
        let object = self.put(key, object, owners);
        collect::after_write(self);
        Ok(object)
    }

    fn check_namespace(&self, key: &Key) -> Result<(), ApiError> {
        if key.namespace.is_empty() {
            return Ok(());
        }
        let kind = crate::Kind::new("", "namespaces");
        let namespace = Key { kind, namespace: String::new(), name: key.namespace.clone() };
        if self.get(&namespace)?.object["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let message = format!(
            "{} \"{}\" is forbidden: unable to create new content in namespace {} because it is being terminated",
            key.kind.words(),
            key.name,
            key.namespace
        );
        Err(ApiError::new(403, "Forbidden", message))
    }

    /// PUT.
    pub(crate) fn replace(&mut self, key: &Key, body: Value, by: &By) -> Result<Value, ApiError> {
        let old = self.get(key)?.object.clone();
        check_identity(key, &body)?;
        let version = body["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if version.is_empty() && !key.kind.built_in() {
            let why = "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update";
            return Err(ApiError::invalid(&key.kind.words(), &key.name, why));
        }
        check_preconditions(key, &old, &body["metadata"])?;
        self.commit(key, &old, body, None, by)
    }

    /// PATCH, merge.
    pub(crate) fn patch(&mut self, key: &Key, patch: &Value, by: &By) -> Result<Value, ApiError> {
        let old = self.get(key)?.object.clone();
        check_preconditions(key, &old, &patch["metadata"])?;
        let mut new = old.clone();
        fields::merge_patch(&mut new, patch);
        check_identity(key, &new)?;
        self.commit(key, &old, new, None, by)
    }

    /// PATCH, server-side apply.
    pub(crate) fn apply(&mut self, key: &Key, mut config: Value, by: &By) -> Result<Value, ApiError> {
        if by.manager.is_empty() {
            return Err(ApiError::bad_request("fieldManager is required for apply patch"));
        }
        check_identity(key, &config)?;
        if !config["metadata"]["managedFields"].is_null() {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let existing = self.objects.get(key).cloned();
        let status_only = self.has_status(&key.kind);
        if let Some(map) = config.as_object_mut() {
            // What a manager applies to one subresource says nothing about the other.
            map.retain(|name, _| match name.as_str() {
                "apiVersion" | "kind" | "metadata" => true,
                "status" => by.status || !status_only,
                _ => !by.status,
            });
            if by.status
                && let Some(meta) = map.get_mut("metadata").and_then(Value::as_object_mut)
            {
                meta.retain(|name, _| ["name", "namespace", "uid", "resourceVersion"].contains(&name.as_str()));
            }
        }
        let manager = by.manager(true);
        let built_in = key.kind.built_in();
        let conflict = |conflict: crate::owners::Conflict| {
            let why = format!("Apply failed with 1 conflict: conflict with \"{}\": {}", conflict.with, conflict.field);
            ApiError::conflict(&key.kind.words(), &key.name, &why)
        };
        let Some(stored) = existing else {
            if by.status {
                return Err(ApiError::not_found(&key.kind.words(), &key.name));
            }
            if !config["metadata"]["uid"].is_null() {
                return Err(ApiError::conflict(&key.kind.words(), &key.name, "no object with this uid exists"));
            }
            if !config["metadata"]["resourceVersion"].is_null() {
                return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
            }
            let mut owners = Owners::default();
            let mut object = json!({"apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": {}});
            owners.apply(&manager, &mut object, &config, by.force, built_in).map_err(conflict)?;
            return self.admit_new(key.clone(), object, owners);
        };
        check_preconditions(key, &stored.object, &config["metadata"])?;
        let (mut new, mut owners) = (stored.object.clone(), stored.owners);
        owners.apply(&manager, &mut new, &config, by.force, built_in).map_err(conflict)?;
        self.commit(key, &stored.object, new, Some(owners), by)
    }

    /// The test's own hand: the whole object, or the whole status, without looking at versions.
    pub(crate) fn replace_whole(&mut self, key: &Key, body: Value, by: &By) -> Result<Value, ApiError> {
        let old = self.get(key)?.object.clone();
        self.commit(key, &old, body, None, by)
    }

    /// The common end of all writes to an object that is there. `owners` when the write was an apply.
    fn commit(
        &mut self,
        key: &Key,
        old: &Value,
        new: Value,
        owners: Option<Owners>,
        by: &By,
    ) -> Result<Value, ApiError> {
        let subresource = self.has_status(&key.kind);
        let mut object = if by.status {
            let mut object = old.clone();
            replace_field(&mut object, "status", &new);
            object
        } else {
            let mut object = new;
            if subresource {
                replace_field(&mut object, "status", old);
            }
            object
        };
        for field in ["apiVersion", "kind"] {
            if object[field].is_null() {
                object[field] = old[field].clone();
            }
        }
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        object["metadata"]["name"] = old["metadata"]["name"].clone();
        for field in SERVER_FIELDS {
            let before = &old["metadata"];
            replace_field(&mut object["metadata"], field, before);
        }
        drop_empty(&mut object["metadata"]);
        admit::keep(&key.kind, old, &mut object);
        admit::check(key, &object)?;
        let deleting = !old["metadata"]["deletionTimestamp"].is_null();
        let finalizers = |object: &Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        if deleting && finalizers(&object).iter().any(|finalizer| !finalizers(old).contains(finalizer)) {
            let why = "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted";
            return Err(ApiError::invalid(&key.kind.words(), &key.name, why));
        }
        if object == *old {
            if let (Some(owners), Some(stored)) = (owners, self.objects.get_mut(key)) {
                stored.owners = owners;
            }
            return Ok(object);
        }
        let work = |object: &Value| {
            let mut copy = object.clone();
            if let Some(map) = copy.as_object_mut() {
                map.remove("metadata");
                if subresource {
                    map.remove("status");
                }
            }
            copy
        };
        if work(&object) != work(old) {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or_default();
            object["metadata"]["generation"] = json!(generation + 1);
        }
        let owners = owners.unwrap_or_else(|| {
            let mut owners = self.objects.get(key).map(|stored| stored.owners.clone()).unwrap_or_default();
            owners.updated(&by.manager(false), old, &object, key.kind.built_in());
            owners
        });
        let object = self.put(key.clone(), object, owners);
        if deleting && finalizers(&object).is_empty() {
            self.take(key);
        }
        collect::after_write(self);
        Ok(object)
    }
}

fn replace_field(object: &mut Value, name: &str, from: &Value) {
    let Some(map) = object.as_object_mut() else { return };
    match from.get(name) {
        Some(value) => map.insert(name.to_owned(), value.clone()),
        None => map.remove(name),
    };
}

/// Empty maps and lists of the metadata count as absent.
fn drop_empty(meta: &mut Value) {
    if let Some(map) = meta.as_object_mut() {
        map.retain(|_, value| {
            !value.is_null()
                && !value.as_object().is_some_and(serde_json::Map::is_empty)
                && !value.as_array().is_some_and(Vec::is_empty)
        });
        map.remove("managedFields");
    }
}

fn check_identity(key: &Key, body: &Value) -> Result<(), ApiError> {
    if body["kind"].as_str().is_none_or(str::is_empty) || body["apiVersion"].as_str().is_none_or(str::is_empty) {
        return Err(ApiError::bad_request("Object 'Kind' and 'apiVersion' must be set in the body"));
    }
    let version = body["apiVersion"].as_str().unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    if group != key.kind.group {
        return Err(ApiError::bad_request(format!("{version} is not the group of the request, {}", key.kind.words())));
    }
    let meta = &body["metadata"];
    if meta["name"].as_str().is_some_and(|name| !name.is_empty() && name != key.name) {
        return Err(ApiError::bad_request("the name of the object does not match the name on the URL"));
    }
    if meta["namespace"].as_str().is_some_and(|namespace| namespace != key.namespace) {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// `uid` and `resourceVersion`, when they are given, must be those of the object.
pub(crate) fn check_preconditions(key: &Key, old: &Value, given: &Value) -> Result<(), ApiError> {
    for (field, why) in [
        ("uid", "Precondition failed: UID in precondition does not match"),
        (
            "resourceVersion",
            "the object has been modified; please apply your changes to the latest version and try again",
        ),
    ] {
        let wanted = given[field].as_str().unwrap_or_default();
        if !wanted.is_empty() && old["metadata"][field] != *wanted {
            return Err(ApiError::conflict(&key.kind.words(), &key.name, why));
        }
    }
    Ok(())
}
