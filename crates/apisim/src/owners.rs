//! Who owns which field, and what server-side apply makes of it
//! (<https://kubernetes.io/docs/reference/using-api/server-side-apply/>).
//!
//! A manager owns what it applied, or what it changed by other writes. Applying without a field that one applied before
//! removes it, unless somebody else owns it too. Applying another value than the one that somebody else owns is a conflict;
//! with `force` the field changes hands.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::fields::{self, Path, Step};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Manager {
    pub(crate) name: String,
    pub(crate) apply: bool,
    pub(crate) status: bool,
}

/// Owners of one object's fields.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    fields: BTreeMap<Manager, BTreeSet<Path>>,
}

/// Fields that another manager owns with another value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) with: String,
    pub(crate) field: String,
}

impl Owners {
    /// After a write that is not an apply.
    pub(crate) fn updated(&mut self, manager: &Manager, old: &Value, new: &Value, built_in: bool) {
        let before: BTreeMap<Path, Value> = fields::leaves(old, built_in).into_iter().collect();
        let after: BTreeMap<Path, Value> = fields::leaves(new, built_in).into_iter().collect();
        let changed: BTreeSet<Path> = after
            .iter()
            .filter(|(path, value)| before.get(*path) != Some(*value))
            .map(|(path, _)| path.clone())
            .collect();
        for owned in self.fields.values_mut() {
            owned.retain(|path| after.contains_key(path) && !changed.contains(path));
        }
        self.fields.entry(manager.clone()).or_default().extend(changed);
        self.fields.retain(|_, owned| !owned.is_empty());
    }

    /// Merges `config` into `live`.
    pub(crate) fn apply(
        &mut self,
        manager: &Manager,
        live: &mut Value,
        config: &Value,
        force: bool,
        built_in: bool,
    ) -> Result<(), Conflict> {
        let wanted = fields::leaves(config, built_in);
        let paths: BTreeSet<Path> = wanted.iter().map(|(path, _)| path.clone()).collect();
        let differs: Vec<&Path> = wanted
            .iter()
            .filter(|(path, value)| fields::get(live, path).is_some_and(|there| there != value && !empty_map(value)))
            .map(|(path, _)| path)
            .collect();
        for (other, owned) in &mut self.fields {
            if other == manager {
                continue;
            }
            if let Some(field) = differs.iter().find(|path| owned.contains(**path)) {
                if !force {
                    return Err(Conflict { with: other.name.clone(), field: show(field) });
                }
                owned.retain(|path| !differs.contains(&path));
            }
        }
        let before = self.fields.insert(manager.clone(), paths.clone()).unwrap_or_default();
        let gone: Vec<Path> = before
            .into_iter()
            .filter(|path| !paths.contains(path) && !self.fields.values().any(|owned| owned.contains(path)))
            .collect();
        // Keys last: they go only with an item that has nothing else.
        for _ in 0..2 {
            gone.iter().for_each(|path| fields::remove(live, path));
        }
        for (path, value) in &wanted {
            fields::set(live, path, value);
        }
        self.fields.retain(|_, owned| !owned.is_empty());
        Ok(())
    }
}

fn empty_map(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn show(path: &[Step]) -> String {
    let step = |step: &Step| match step {
        Step::Field(name) => format!(".{name}"),
        Step::Item(keys) => format!("{keys:?}"),
        Step::Word(word) => format!("[{word}]"),
    };
    path.iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manager(name: &str, apply: bool) -> Manager {
        Manager { name: name.to_owned(), apply, status: false }
    }

    #[test]
    fn what_is_no_longer_applied_goes_unless_another_owns_it() {
        let (a, b) = (manager("a", true), manager("b", true));
        let (mut owners, mut live) = (Owners::default(), json!({}));
        owners.apply(&a, &mut live, &json!({"spec": {"x": 1, "y": 1, "z": {"w": 1}}}), false, false).unwrap();
        owners.apply(&b, &mut live, &json!({"spec": {"y": 1}}), false, false).unwrap();
        owners.apply(&a, &mut live, &json!({"spec": {"x": 2}}), false, false).unwrap();
        assert_eq!(live, json!({"spec": {"x": 2, "y": 1}}));
        owners.apply(&b, &mut live, &json!({}), false, false).unwrap();
        assert_eq!(live, json!({"spec": {"x": 2}}));
    }

    #[test]
    fn another_value_is_a_conflict_and_force_takes_the_field() {
        let (a, b, user) = (manager("a", true), manager("b", true), manager("user", false));
        let (mut owners, mut live) = (Owners::default(), json!({}));
        owners.apply(&a, &mut live, &json!({"x": 1}), false, false).unwrap();
        let conflict = owners.apply(&b, &mut live, &json!({"x": 2}), false, false).unwrap_err();
        assert_eq!((conflict.with.as_str(), conflict.field.as_str()), ("a", ".x"));
        owners.apply(&b, &mut live, &json!({"x": 2}), true, false).unwrap();
        // It is b's now: a's leaving it out changes nothing.
        owners.apply(&a, &mut live, &json!({}), false, false).unwrap();
        assert_eq!(live, json!({"x": 2}));
        // A plain update takes fields too.
        owners.updated(&user, &live, &json!({"x": 3}), false);
        live = json!({"x": 3});
        assert!(owners.apply(&b, &mut live, &json!({"x": 4}), false, false).is_err());
        owners.apply(&b, &mut live, &json!({}), false, false).unwrap();
        assert_eq!(live, json!({"x": 3}));
    }

    #[test]
    fn items_with_keys_come_and_go_whole() {
        let (a, b) = (manager("a", true), manager("b", true));
        let (mut owners, mut live) = (Owners::default(), json!({}));
        let config = |names: &[&str]| {
            let items: Vec<Value> = names.iter().map(|name| json!({"name": name, "image": "i"})).collect();
            json!({"spec": {"containers": items}})
        };
        owners.apply(&a, &mut live, &config(&["z", "y"]), false, true).unwrap();
        owners.apply(&b, &mut live, &config(&["x"]), false, true).unwrap();
        owners.apply(&a, &mut live, &config(&["y"]), false, true).unwrap();
        assert_eq!(live, config(&["y", "x"]));
        owners.apply(&a, &mut live, &json!({"metadata": {"finalizers": ["f"]}}), false, true).unwrap();
        assert_eq!(
            live,
            json!({"metadata": {"finalizers": ["f"]}, "spec": {"containers": [{"name": "x", "image": "i"}]}})
        );
        owners.apply(&a, &mut live, &json!({}), false, true).unwrap();
        assert_eq!(live, config(&["x"]));
    }
}
