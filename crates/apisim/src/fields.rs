//! Fields of an object as a set of paths, which is what server-side apply reasons with.
//!
//! A path ends at a leaf: a scalar, a list or map that is one value ("atomic"), or an empty map. Lists of maps with keys
//! ("containers" by name) are walked into; their items are addressed by their keys. Which lists have keys stands in the
//! schema of a built-in kind, here in a short table. Custom resources whose schema says nothing, such as Ballast's, have
//! atomic lists everywhere but in their metadata
//! (<https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy>).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// One step down into an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// A field of a map.
    Field(String),
    /// An item of a list by its keys, values as JSON text.
    Item(BTreeMap<String, String>),
    /// An item of a set of words.
    Word(String),
}

/// From the root to a leaf.
pub(crate) type Path = Vec<Step>;

enum Shape {
    Atomic,
    Set,
    Keys(&'static [&'static str]),
}

/// Lists with keys, by the name of their field and, where one name is used twice, a field that the items have.
fn shape(built_in: bool, path: &[Step], items: &[Value]) -> Shape {
    let Some(Step::Field(name)) = path.last() else { return Shape::Atomic };
    let meta = matches!(path, [Step::Field(first), _] if first == "metadata");
    let keys: &'static [&'static str] = match (name.as_str(), built_in) {
        ("finalizers", _) if meta => return Shape::Set,
        ("ownerReferences", _) if meta => &["uid"],
        ("containers" | "initContainers" | "ephemeralContainers" | "volumes" | "env" | "imagePullSecrets", true) => {
            &["name"]
        }
        ("volumeMounts", true) => &["mountPath"],
        ("volumeDevices", true) => &["devicePath"],
        ("conditions", true) => &["type"],
        ("ports", true) if items.iter().any(|item| item.get("containerPort").is_some()) => {
            &["containerPort", "protocol"]
        }
        ("ports", true) if items.iter().all(|item| item.get("port").is_some()) => &["port", "protocol"],
        _ => return Shape::Atomic,
    };
    Shape::Keys(keys)
}

/// Maps that are one value.
fn atomic_map(built_in: bool, path: &[Step]) -> bool {
    let name = |step: Option<&Step>| match step {
        Some(Step::Field(name)) => name.clone(),
        _ => String::new(),
    };
    let last = name(path.last());
    let atomic = ["selector", "nodeSelector", "configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef"];
    // A config map's volume source has `items` too, but is granular itself.
    built_in && atomic.contains(&last.as_str())
}

/// The keys of a list's item; absent ones have their default.
fn item_keys(item: &Value, keys: &[&str]) -> BTreeMap<String, String> {
    let value = |key: &str| match item.get(key) {
        Some(value) => value.to_string(),
        None if key == "protocol" => "\"TCP\"".to_owned(),
        None => "null".to_owned(),
    };
    keys.iter().map(|key| ((*key).to_owned(), value(key))).collect()
}

/// All leaves in the order of the document. `null` counts as absent.
pub(crate) fn leaves(object: &Value, built_in: bool) -> Vec<(Path, Value)> {
    let mut found = Vec::new();
    walk(object, built_in, &mut Vec::new(), &mut found);
    found
}

fn walk(value: &Value, built_in: bool, path: &mut Path, found: &mut Vec<(Path, Value)>) {
    match value {
        Value::Null => {}
        Value::Object(map) if !map.is_empty() && !atomic_map(built_in, path) => {
            for (name, inner) in map {
                path.push(Step::Field(name.clone()));
                if !server_owned(path) {
                    walk(inner, built_in, path, found);
                }
                path.pop();
            }
        }
        Value::Array(items) if !items.is_empty() => match shape(built_in, path, items) {
            Shape::Atomic => found.push((path.clone(), value.clone())),
            Shape::Set => {
                for item in items {
                    path.push(Step::Word(item.to_string()));
                    found.push((path.clone(), item.clone()));
                    path.pop();
                }
            }
            Shape::Keys(keys) => {
                for item in items {
                    path.push(Step::Item(item_keys(item, keys)));
                    walk(item, built_in, path, found);
                    path.pop();
                }
            }
        },
        leaf => found.push((path.clone(), leaf.clone())),
    }
}

/// Fields that nobody owns.
fn server_owned(path: &[Step]) -> bool {
    match path {
        [Step::Field(name)] => matches!(name.as_str(), "apiVersion" | "kind"),
        [Step::Field(first), Step::Field(name)] if first == "metadata" => matches!(
            name.as_str(),
            "name"
                | "namespace"
                | "uid"
                | "resourceVersion"
                | "generation"
                | "generateName"
                | "creationTimestamp"
                | "deletionTimestamp"
                | "deletionGracePeriodSeconds"
                | "managedFields"
                | "selfLink"
        ),
        _ => false,
    }
}

fn is_word(item: &Value, word: &str) -> bool {
    item.to_string().as_str() == word
}

fn item_position(items: &[Value], keys: &BTreeMap<String, String>) -> Option<usize> {
    let names: Vec<&str> = keys.keys().map(String::as_str).collect();
    items.iter().position(|item| item_keys(item, &names) == *keys)
}

/// The value at a path.
pub(crate) fn get<'a>(root: &'a Value, path: &[Step]) -> Option<&'a Value> {
    path.iter().try_fold(root, |value, step| match step {
        Step::Field(name) => value.get(name),
        Step::Item(keys) => {
            let items = value.as_array()?;
            items.get(item_position(items, keys)?)
        }
        Step::Word(word) => value.as_array()?.iter().find(|item| is_word(item, word)),
    })
}

/// Puts a leaf there, with all that leads to it. An empty map does not empty a full one.
pub(crate) fn set(root: &mut Value, path: &[Step], leaf: &Value) {
    let Some((step, rest)) = path.split_first() else {
        let keep = leaf.as_object().is_some_and(Map::is_empty) && root.is_object();
        if !keep {
            *root = leaf.clone();
        }
        return;
    };
    match step {
        Step::Field(name) => {
            if !root.is_object() {
                *root = Value::Object(Map::new());
            }
            if let Value::Object(map) = root {
                set(map.entry(name.clone()).or_insert(Value::Null), rest, leaf);
            }
        }
        Step::Item(_) | Step::Word(_) => {
            if !root.is_array() {
                *root = Value::Array(Vec::new());
            }
            let Value::Array(items) = root else { return };
            let position = match step {
                Step::Item(keys) => item_position(items, keys),
                Step::Word(word) => items.iter().position(|item| is_word(item, word)),
                Step::Field(_) => None,
            };
            let position = position.unwrap_or_else(|| {
                items.push(match step {
                    // The keys from the start, so that the next leaf finds its item.
                    Step::Item(keys) => Value::Object(keys.iter().filter_map(key_field).collect()),
                    _ => Value::Null,
                });
                items.len() - 1
            });
            set(&mut items[position], rest, leaf);
        }
    }
}

fn key_field((name, value): (&String, &String)) -> Option<(String, Value)> {
    let value: Value = serde_json::from_str(value).ok()?;
    (!value.is_null()).then(|| (name.clone(), value))
}

/// Takes a leaf away, and the containers that it leaves empty. A key goes only with the last other field of its item.
pub(crate) fn remove(root: &mut Value, path: &[Step]) {
    let Some((step, rest)) = path.split_first() else { return };
    match (root, step) {
        (Value::Object(map), Step::Field(name)) => {
            let Some(inner) = map.get_mut(name) else { return };
            if rest.is_empty() {
                map.remove(name);
                return;
            }
            remove(inner, rest);
            if is_empty(inner) {
                map.remove(name);
            }
        }
        (Value::Array(items), Step::Item(keys)) => {
            let Some(position) = item_position(items, keys) else { return };
            let item = &mut items[position];
            let others = item.as_object().is_some_and(|map| map.keys().any(|name| !keys.contains_key(name)));
            let key = matches!(rest, [Step::Field(name)] if keys.contains_key(name));
            if key && others {
                return;
            }
            if key {
                items.remove(position);
            } else {
                remove(item, rest);
                if is_empty(item) {
                    items.remove(position);
                }
            }
        }
        (Value::Array(items), Step::Word(word)) => items.retain(|item| !is_word(item, word)),
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// RFC 7386: maps are merged, null deletes, everything else replaces.
pub(crate) fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            map.remove(name);
        } else {
            merge_patch(map.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_the_sum_of_its_leaves() {
        let object = json!({
            "metadata": {"labels": {"a": "1"}, "finalizers": ["x", "y"], "ownerReferences": [{"uid": "u", "name": "n"}]},
            "spec": {
                "selector": {"app": "a"},
                "template": {"spec": {
                    "containers": [
                        {"name": "b", "args": ["1", "2"], "ports": [{"containerPort": 1}, {"containerPort": 1, "protocol": "UDP"}]},
                        {"name": "a", "env": [{"name": "E", "value": "v"}]},
                    ],
                    "volumes": [{"name": "v", "emptyDir": {}}],
                }},
            },
        });
        let mut copy = Value::Null;
        for (path, leaf) in leaves(&object, true) {
            set(&mut copy, &path, &leaf);
            assert_eq!(get(&copy, &path), Some(&leaf));
        }
        // Only the default of a key is added.
        let mut expected = object.clone();
        expected["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] = json!("TCP");
        assert_eq!(copy, expected);
        for (path, _) in leaves(&expected, true) {
            remove(&mut copy, &path);
        }
        for (path, _) in leaves(&copy.clone(), true) {
            remove(&mut copy, &path);
        }
        assert_eq!(copy, json!({}));
    }

    #[test]
    fn lists_of_custom_resources_are_one_value() {
        let object = json!({"spec": {"ports": [{"port": 1}]}, "status": {"conditions": [{"type": "a"}]}});
        assert_eq!(leaves(&object, false).len(), 2);
        assert!(leaves(&object, false).iter().all(|(_, leaf)| leaf.is_array()));
        assert!(leaves(&object, true).iter().all(|(_, leaf)| !leaf.is_array()));
    }

    #[test]
    fn merge_patches_of_the_rfc() {
        // RFC 7386, appendix A.
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [1]}), json!([2]), json!([2])),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut merged = target.clone();
            merge_patch(&mut merged, &patch);
            assert_eq!(merged, result, "{target} {patch}");
        }
    }
}
