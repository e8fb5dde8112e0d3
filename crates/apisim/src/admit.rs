//! What the real server adds to new objects and refuses in all: only what a controller of volumes can stumble over.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::kinds::Kind;
use crate::store::{Key, Store};

/// Fields that a new object gets.
pub(crate) fn defaults(store: &mut Store, kind: &Kind, object: &mut Value) {
    let mut default = |path: &[&str], value: Value| {
        let place = path.iter().fold(&mut *object, |place, name| &mut place[*name]);
        if place.is_null() {
            *place = value;
        }
    };
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "namespaces") => default(&["status", "phase"], json!("Active")),
        ("", "persistentvolumes") => {
            default(&["spec", "persistentVolumeReclaimPolicy"], json!("Retain"));
            default(&["spec", "volumeMode"], json!("Filesystem"));
            default(&["status", "phase"], json!("Pending"));
        }
        ("", "persistentvolumeclaims") => {
            default(&["spec", "volumeMode"], json!("Filesystem"));
            default(&["status", "phase"], json!("Pending"));
        }
        ("", "pods") => default(&["status", "phase"], json!("Pending")),
        ("", "services") => {
            default(&["spec", "type"], json!("ClusterIP"));
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 0).to_bits() + store.next_cluster_ip);
            if object["spec"]["clusterIP"].is_null() {
                store.next_cluster_ip += 1;
                object["spec"]["clusterIP"] = json!(address.to_string());
                object["spec"]["clusterIPs"] = json!([address.to_string()]);
            }
        }
        ("apps", "deployments" | "statefulsets") => default(&["spec", "replicas"], json!(1)),
        ("storage.k8s.io", "storageclasses") => {
            default(&["reclaimPolicy"], json!("Delete"));
            default(&["volumeBindingMode"], json!("Immediate"));
        }
        _ => {}
    }
}

/// Fields that a write may leave out without losing them.
pub(crate) fn keep(kind: &Kind, old: &Value, object: &mut Value) {
    if (kind.group.as_str(), kind.plural.as_str()) == ("", "services") {
        for field in ["clusterIP", "clusterIPs", "type"] {
            if object["spec"][field].is_null() {
                object["spec"][field] = old["spec"][field].clone();
            }
        }
    }
}

/// Names and labels must be as Kubernetes wants them
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>).
pub(crate) fn check(key: &Key, object: &Value) -> Result<(), ApiError> {
    let invalid = |why: String| Err(ApiError::invalid(&key.kind.words(), &key.name, &why));
    let most = if key.kind == Kind::new("", "services") || key.kind == Kind::new("", "namespaces") { 63 } else { 253 };
    let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let part = |part: &str| {
        part.starts_with(plain) && part.ends_with(plain) && part.chars().all(|letter| plain(letter) || letter == '-')
    };
    // Names of roles may hold anything.
    let free = key.kind.group == "rbac.authorization.k8s.io";
    if !free && (key.name.len() > most || !key.name.split('.').all(part)) {
        return invalid(format!(
            "metadata.name: Invalid value: \"{}\": not a DNS name of up to {most} letters",
            key.name
        ));
    }
    for (name, value) in object["metadata"]["labels"].as_object().into_iter().flatten() {
        let good = value.as_str().is_some_and(|value| value.is_empty() || is_word(value));
        let short = name.rsplit('/').next().unwrap_or_default();
        if !good || !is_word(short) {
            return invalid(format!(
                "metadata.labels: Invalid value: {name}={value}: not up to 63 letters, digits, '-', '_' and '.'"
            ));
        }
    }
    for (name, value) in object["metadata"]["annotations"].as_object().into_iter().flatten() {
        if !value.is_string() {
            return invalid(format!("metadata.annotations: {name} is not a string"));
        }
    }
    Ok(())
}

fn is_word(text: &str) -> bool {
    let end = |letter: char| letter.is_ascii_alphanumeric();
    let inner = |letter: char| end(letter) || matches!(letter, '-' | '_' | '.');
    (1..=63).contains(&text.len()) && text.starts_with(end) && text.ends_with(end) && text.chars().all(inner)
}
