//! The annotation `cas.openebs.io/config`: settings of pools (on a StoragePoolClaim) and of volumes (on a StorageClass and
//! on a PersistentVolumeClaim, which goes before).
//!
//! ```yaml
//! - name: ReplicaCount
//!   value: "3"
//! - name: TargetResourceLimits
//!   value: |-
//!       memory: 1Gi
//! ```
//! Names that are not known are kept and have no effect, as with cStor.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not the form above.
    #[error("the annotation cas.openebs.io/config is not a YAML list of names and values: {0}")]
    Form(String),
    /// A value of the wrong kind.
    #[error("the setting {name} in cas.openebs.io/config has the value '{value}': {problem}")]
    Value {
        /// The setting.
        name: String,
        /// What it says.
        value: String,
        /// What it should be.
        problem: String,
    },
    /// A setting that must be there.
    #[error("the setting {name} is missing in cas.openebs.io/config: {hint}")]
    Missing {
        /// The setting.
        name: &'static str,
        /// What to write.
        hint: &'static str,
    },
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    #[serde(default)]
    value: Option<Value>,
    #[serde(default)]
    enabled: Option<Value>,
    #[serde(default)]
    data: Option<Value>,
}

/// Settings by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    entries: BTreeMap<String, Value>,
}

/// One text for a scalar, however it was quoted.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        _ => None,
    }
}

impl Config {
    /// From the text of the annotation; an empty one has no settings.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let form = |error: serde_saphyr::Error| ConfigError::Form(error.to_string());
        let list: Vec<Entry> = serde_saphyr::from_str(text).map_err(form)?;
        let entries = list.into_iter().filter_map(|entry| {
            let value = entry.value.or(entry.data).or(entry.enabled)?;
            Some((entry.name, value))
        });
        Ok(Self { entries: entries.collect() })
    }

    /// These settings, and those of `below` that are not among them.
    #[must_use]
    pub fn over(mut self, below: Self) -> Self {
        for (name, value) in below.entries {
            self.entries.entry(name).or_insert(value);
        }
        self
    }

    /// The settings as an annotation.
    pub fn to_annotation(&self) -> String {
        let list: Vec<Value> =
            self.entries.iter().map(|(name, value)| serde_json::json!({ "name": name, "value": value })).collect();
        // JSON is YAML.
        Value::Array(list).to_string()
    }

    /// A setting that is one word; empty ones count as absent.
    pub fn text(&self, name: &str) -> Option<String> {
        self.entries.get(name).and_then(scalar).filter(|text| !text.is_empty() && text != "none")
    }

    fn wrong(&self, name: &str, problem: &str) -> ConfigError {
        let value = self.entries.get(name).map(ToString::to_string).unwrap_or_default();
        ConfigError::Value { name: name.to_owned(), value, problem: problem.to_owned() }
    }

    /// A number between two bounds.
    pub fn number(&self, name: &str, least: u32, most: u32) -> Result<Option<u32>, ConfigError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse::<u32>() {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(name, &format!("write a number from {least} to {most}"))),
        }
    }

    /// A setting that is YAML in itself: a block string, or the thing itself.
    fn nested<T: DeserializeOwned>(&self, name: &str, what: &str) -> Result<Option<T>, ConfigError> {
        let parsed = match self.entries.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() || text.trim() == "none" => return Ok(None),
            Some(Value::String(text)) => serde_saphyr::from_str(text).map_err(|error| error.to_string()),
            Some(other) => serde_json::from_value(other.clone()).map_err(|error| error.to_string()),
        };
        parsed.map(Some).map_err(|error| self.wrong(name, &format!("write {what} ({error})")))
    }

    fn quantities(&self, name: &str) -> Result<Option<BTreeMap<String, Quantity>>, ConfigError> {
        let map: Option<BTreeMap<String, Value>> = self.nested(name, "resources, for example `memory: 1Gi`")?;
        let Some(map) = map else { return Ok(None) };
        let quantity = |(resource, value): (String, Value)| match scalar(&value) {
            Some(text) => Ok((resource, Quantity(text))),
            None => Err(self.wrong(name, "write one quantity for each resource")),
        };
        map.into_iter().map(quantity).collect::<Result<_, _>>().map(Some)
    }

    /// Requests and limits under two names, None when neither is set.
    pub fn resources(&self, requests: &str, limits: &str) -> Result<Option<ResourceRequirements>, ConfigError> {
        let (requests, limits) = (self.quantities(requests)?, self.quantities(limits)?);
        let any = requests.is_some() || limits.is_some();
        Ok(any.then(|| ResourceRequirements { requests, limits, ..ResourceRequirements::default() }))
    }

    /// Tolerations: a map of names that mean nothing, or a list.
    pub fn tolerations(&self, name: &str) -> Result<Vec<Toleration>, ConfigError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Map(BTreeMap<String, Toleration>),
            List(Vec<Toleration>),
        }
        let form: Option<Form> = self.nested(name, "tolerations, for example `t1: {key: a, operator: Exists}`")?;
        Ok(match form {
            None => Vec::new(),
            Some(Form::Map(map)) => map.into_values().collect(),
            Some(Form::List(list)) => list,
        })
    }

    /// Labels that a node must have.
    pub fn node_selector(&self, name: &str) -> Result<BTreeMap<String, String>, ConfigError> {
        let map: Option<BTreeMap<String, Value>> = self.nested(name, "labels, for example `disk: ssd`")?;
        let label = |(key, value): (String, Value)| match scalar(&value) {
            Some(text) => Ok((key, text)),
            None => Err(self.wrong(name, "write one value for each label")),
        };
        map.unwrap_or_default().into_iter().map(label).collect()
    }
}

/// Settings of a pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolSettings {
    /// Of the pool's container.
    pub resources: Option<ResourceRequirements>,
    /// Of its pod.
    pub tolerations: Vec<Toleration>,
    /// Where sparse files are; None for the chart's setting.
    pub sparse_dir: Option<String>,
}

impl PoolSettings {
    /// From a StoragePoolClaim's annotation.
    pub fn from_config(config: &Config) -> Result<Self, ConfigError> {
        Ok(Self {
            resources: config.resources("PoolResourceRequests", "PoolResourceLimits")?,
            tolerations: config.tolerations("Tolerations")?,
            sparse_dir: config.text("SparseDir"),
        })
    }
}

/// Settings of a volume.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeSettings {
    /// The claim whose pools hold it.
    pub storage_pool_claim: String,
    /// Copies.
    pub replica_count: u32,
    /// "ext4" or "xfs".
    pub fs_type: String,
    /// Logical unit; only 0 is served.
    pub lun: u32,
    /// Of the target's container.
    pub resources: Option<ResourceRequirements>,
    /// Of its pod.
    pub tolerations: Vec<Toleration>,
    /// Of its pod.
    pub node_selector: BTreeMap<String, String>,
}

impl VolumeSettings {
    /// From the annotations of PVC and StorageClass, merged.
    pub fn from_config(config: &Config) -> Result<Self, ConfigError> {
        let storage_pool_claim = config.text("StoragePoolClaim").ok_or(ConfigError::Missing {
            name: "StoragePoolClaim",
            hint: "name the StoragePoolClaim whose pools hold the volumes of this StorageClass",
        })?;
        let fs_type = config.text("FSType").unwrap_or_else(|| String::from("ext4"));
        if !["ext4", "xfs", "ext3", "ext2", "btrfs"].contains(&fs_type.as_str()) {
            return Err(config.wrong("FSType", "write ext4 or xfs"));
        }
        Ok(Self {
            storage_pool_claim,
            replica_count: config.number("ReplicaCount", 1, 5)?.unwrap_or(3),
            fs_type,
            lun: config.number("Lun", 0, 0)?.unwrap_or(0),
            resources: config.resources("TargetResourceRequests", "TargetResourceLimits")?,
            tolerations: config.tolerations("TargetTolerations")?,
            node_selector: config.node_selector("TargetNodeSelector")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str = "- name: PoolResourceRequests\n  value: |-\n      memory: 512Mi\n- name: PoolResourceLimits\n  value: |-\n      memory: 1Gi\n      cpu: 500m\n- name: Tolerations\n  value: |-\n    t1:\n      key: storage\n      operator: Equal\n      value: \"true\"\n      effect: NoSchedule\n";

    #[test]
    fn a_pool_as_in_the_walkthrough() {
        let settings = PoolSettings::from_config(&Config::parse(POOL).unwrap()).unwrap();
        let resources = settings.resources.unwrap();
        assert_eq!(resources.requests.unwrap()["memory"], Quantity("512Mi".to_owned()));
        assert_eq!(resources.limits.unwrap()["cpu"], Quantity("500m".to_owned()));
        assert_eq!(settings.tolerations[0].key.as_deref(), Some("storage"));
        assert_eq!(PoolSettings::from_config(&Config::parse("").unwrap()).unwrap(), PoolSettings::default());
    }

    #[test]
    fn a_volume_as_in_the_walkthrough_and_the_pvc_goes_before_the_class() {
        let class =
            Config::parse("- name: StoragePoolClaim\n  value: \"cstor-pool\"\n- name: ReplicaCount\n  value: \"2\"\n");
        let pvc =
            Config::parse("- {name: ReplicaCount, value: 1}\n- {name: FSType, value: xfs}\n- {name: Later, value: x}");
        let merged = pvc.unwrap().over(class.unwrap());
        let settings = VolumeSettings::from_config(&merged).unwrap();
        assert_eq!((settings.storage_pool_claim.as_str(), settings.replica_count), ("cstor-pool", 1));
        assert_eq!((settings.fs_type.as_str(), settings.lun), ("xfs", 0));
        assert_eq!(Config::parse(&merged.to_annotation()).unwrap(), merged);
    }

    #[test]
    fn what_cannot_be_used_says_what_to_write() {
        let volume = |text: &str| VolumeSettings::from_config(&Config::parse(text)?);
        assert!(volume("").unwrap_err().to_string().contains("StoragePoolClaim"));
        for text in ["a: b", "- 1", "- value: x", "- name: [", "x"] {
            assert!(matches!(Config::parse(text), Err(ConfigError::Form(_))), "{text}");
        }
        let with = |entry: &str| volume(&format!("- {{name: StoragePoolClaim, value: p}}\n- {entry}"));
        assert!(with("{name: ReplicaCount, value: \"\"}").is_ok());
        for entry in [
            "{name: ReplicaCount, value: \"0\"}",
            "{name: ReplicaCount, value: \"six\"}",
            "{name: FSType, value: ntfs}",
            "{name: Lun, value: 3}",
            "{name: TargetResourceLimits, value: \"memory\"}",
            "{name: TargetTolerations, value: \"[1]\"}",
        ] {
            assert!(matches!(with(entry), Err(ConfigError::Value { .. })), "{entry}");
        }
    }
}
