//! The settings file `node-disk-manager.config`, in cStor's form: probes and filters, each with a state.
//!
//! What is not said keeps its default; keys that we do not know are accepted, so that a ConfigMap of any version of cStor's
//! node disk manager can be used as it is.

use std::path::{Path, PathBuf};

use serde::Deserialize;

const OS_DISKS: &str = "/,/etc/hosts,/boot";
const VENDORS: &str = "CLOUDBYT,OpenEBS";
const PATHS: &str = "loop,/dev/fd0,/dev/sr0,/dev/ram,/dev/dm-,/dev/md,/dev/rbd,/dev/zd";

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Disks that hold these mount points are left out, with all that is on them.
    pub os_disks: Filter,
    /// By vendor, whole words, upper or lower case.
    pub vendors: Filter,
    /// By path, also parts of it, upper or lower case.
    pub paths: Filter,
    /// Whether SMART may be asked (when that is switched on at all).
    pub smart: bool,
}

/// One filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Whether it does anything.
    pub enabled: bool,
    /// When not empty, only these pass.
    pub include: Vec<String>,
    /// These do not pass.
    pub exclude: Vec<String>,
}

impl Filter {
    fn excluding(list: &str) -> Self {
        Self { enabled: true, include: Vec::new(), exclude: words(list) }
    }

    /// Whether something passes, given how it is compared with an entry.
    pub fn passes(&self, matches: impl Fn(&str) -> bool) -> bool {
        let any = |list: &[String]| list.iter().any(|entry| matches(entry));
        !self.enabled || ((self.include.is_empty() || any(&self.include)) && !any(&self.exclude))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            os_disks: Filter::excluding(OS_DISKS),
            vendors: Filter::excluding(VENDORS),
            paths: Filter::excluding(PATHS),
            smart: true,
        }
    }
}

/// A settings file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{path}: {source}. Mount the ConfigMap with node-disk-manager.config there, or leave --config out")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{path}: {why}. Write lists 'probeconfigs' and 'filterconfigs' of key, state, include and exclude")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        why: String,
    },
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    probeconfigs: Option<Vec<Entry>>,
    #[serde(default)]
    filterconfigs: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    key: String,
    #[serde(default)]
    state: Option<State>,
    #[serde(default)]
    include: Option<Words>,
    #[serde(default)]
    exclude: Option<Words>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum State {
    Plain(bool),
    Quoted(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Many(Vec<String>),
}

impl Words {
    fn list(self) -> Vec<String> {
        match self {
            Self::One(text) => words(&text),
            Self::Many(list) => list.iter().flat_map(|text| words(text)).collect(),
        }
    }
}

fn words(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

impl Config {
    /// Reads a file; without one, the defaults.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|why| ConfigError::Parse { path: path.to_owned(), why })
    }

    /// Reads the text of a file; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        let value: serde_json::Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if value.is_null() || value.as_str() == Some("") {
            return Ok(config);
        }
        let raw: Raw = serde_json::from_value(value).map_err(|error| error.to_string())?;
        for entry in raw.probeconfigs.into_iter().flatten() {
            let state = entry.enabled()?;
            if entry.key == "smart-probe" {
                config.smart = state;
            }
        }
        for entry in raw.filterconfigs.into_iter().flatten() {
            let enabled = entry.enabled()?;
            let filter = match entry.key.as_str() {
                "os-disk-exclude-filter" => &mut config.os_disks,
                "vendor-filter" => &mut config.vendors,
                "path-filter" => &mut config.paths,
                _ => continue,
            };
            // As in cStor: a filter that is named has the lists that stand there, not the defaults.
            *filter = Filter {
                enabled,
                include: entry.include.map(Words::list).unwrap_or_default(),
                exclude: entry.exclude.map(Words::list).unwrap_or_default(),
            };
        }
        Ok(config)
    }
}

impl Entry {
    fn enabled(&self) -> Result<bool, String> {
        match &self.state {
            None => Ok(true),
            Some(State::Plain(state)) => Ok(*state),
            Some(State::Quoted(text)) => text
                .trim()
                .to_ascii_lowercase()
                .parse()
                .map_err(|_| format!("state of '{}' is '{text}': write true or false", self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSTOR: &str = r#"
probeconfigs:
  - key: udev-probe
    name: udev probe
    state: true
  - key: seachest-probe
    name: seachest probe
    state: "false"
  - key: smart-probe
    name: smart probe
    state: "false"
filterconfigs:
  - key: os-disk-exclude-filter
    name: os disk exclude filter
    state: true
    exclude: "/,/etc/hosts,/boot"
  - key: vendor-filter
    name: vendor filter
    state: "true"
    include: ""
    exclude: "CLOUDBYT,OpenEBS"
  - key: path-filter
    name: path filter
    state: true
    include:
    exclude: loop, /dev/fd0,/dev/dm-
  - key: tomorrow-filter
    state: true
metaconfigs:
  - key: node-labels
    pattern: ""
"#;

    #[test]
    fn a_config_map_of_cstor() {
        let config = Config::parse(CSTOR).unwrap();
        assert_eq!(config.os_disks, Config::default().os_disks);
        assert_eq!(config.vendors, Config::default().vendors);
        assert_eq!(config.paths.exclude, ["loop", "/dev/fd0", "/dev/dm-"]);
        assert!(config.paths.include.is_empty() && !config.smart);
    }

    #[test]
    fn what_is_not_said_keeps_its_default() {
        for text in ["", "\n# nothing\n", "probeconfigs:\n", "filterconfigs: []\n"] {
            assert_eq!(Config::parse(text), Ok(Config::default()), "{text:?}");
        }
        let config = Config::parse("filterconfigs:\n- key: vendor-filter\n  state: false\n").unwrap();
        assert!(!config.vendors.enabled);
        assert_eq!(config.paths, Config::default().paths);
    }

    #[test]
    fn malformed() {
        for (text, part) in [
            ("filterconfigs: 3", "sequence"),
            ("filterconfigs:\n- state: true\n", "key"),
            ("filterconfigs:\n- key: path-filter\n  state: maybe\n", "maybe"),
            ("filterconfigs: [", ""),
            ("- a", ""),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
        let error = Config::load(Some(Path::new("/nonexistent/config"))).unwrap_err();
        assert!(error.to_string().contains("ConfigMap"));
    }

    #[test]
    fn include_wins_then_exclude() {
        let filter =
            |include: &str, exclude: &str| Filter { enabled: true, include: words(include), exclude: words(exclude) };
        let contains = |text: &'static str| move |entry: &str| text.contains(entry);
        assert!(filter("", "").passes(contains("/dev/sda")));
        assert!(!filter("", "sda,sdb").passes(contains("/dev/sda")));
        assert!(filter("sd", "").passes(contains("/dev/sda")));
        assert!(!filter("nvme", "").passes(contains("/dev/sda")));
        assert!(!filter("sd", "sda").passes(contains("/dev/sda")));
        assert!(Filter { enabled: false, ..filter("nvme", "sda") }.passes(contains("/dev/sda")));
    }
}
