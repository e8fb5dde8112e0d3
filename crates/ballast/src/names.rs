//! Names of volumes.
//!
//! A volume's name is an RFC 1123 label (so that it can name a Kubernetes object and end an IQN without escaping):
//! 1 to 63 of `a-z 0-9 -`, first and last not a hyphen. Its iSCSI name is `iqn.2016-09.com.openebs.cstor:NAME`, the
//! form that existing manifests and scripts expect (RFC 7143 section 4.2.7.4 gives the grammar).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const IQN_PREFIX: &str = "iqn.2016-09.com.openebs.cstor:";
const LONGEST: usize = 63;

/// A valid volume name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct VolumeName(String);

/// A name that is not an RFC 1123 label.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' cannot name a volume: use 1 to 63 of the characters a-z, 0-9 and '-', not beginning or ending with '-' \
     (RFC 1123 label)"
)]
pub(crate) struct NameError(String);

impl VolumeName {
    /// A name made from an id. Hyphenated lower-case hexadecimal is a label.
    pub(crate) fn from_id(id: &impl fmt::Display) -> Self {
        let label = id.to_string().to_ascii_lowercase();
        Self(label.chars().filter(|c| c.is_ascii_hexdigit() || *c == '-').take(LONGEST).collect())
    }

    /// The name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The iSCSI qualified name under which the target serves the volume.
    pub(crate) fn iqn(&self) -> String {
        format!("{IQN_PREFIX}{}", self.0)
    }
}

impl FromStr for VolumeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bytes = text.as_bytes();
        let allowed = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        let edges = bytes.first() != Some(&b'-') && bytes.last() != Some(&b'-');
        if bytes.is_empty() || bytes.len() > LONGEST || !edges || !bytes.iter().all(allowed) {
            return Err(NameError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for VolumeName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> Self {
        name.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted() {
        for text in ["a", "0", "demo", "pvc-1b2c3d", "a-b", &"x".repeat(63)] {
            assert_eq!(text.parse::<VolumeName>().map(|n| n.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("demo".parse::<VolumeName>().map(|n| n.iqn()), Ok("iqn.2016-09.com.openebs.cstor:demo".to_owned()));
    }

    #[test]
    fn refused() {
        for text in ["", "-a", "a-", "A", "a_b", "a.b", "ä", "a b", &"x".repeat(64)] {
            assert!(text.parse::<VolumeName>().is_err(), "{text}");
        }
    }
}
