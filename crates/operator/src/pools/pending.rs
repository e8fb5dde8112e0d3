//! Replicas that a pool shall delete when it is back: annotations of its CStorPool.
//!
//! ```text
//! deletion.openebs.io/<volume id>.<Raft id>: "true"    written by the operator: this replica and no other
//! deletion.openebs.io/<volume id>: "true"              written by an administrator: whichever replica of the volume there is
//! ```

use ballast_api::VolumeId;
use ballast_api::k8s::{CStorPool, labels};
use kube::ResourceExt as _;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PendingDeletion {
    /// Its volume.
    pub(crate) volume: VolumeId,
    /// Its Raft id; 0: whichever there is.
    pub(crate) replica: u64,
}

impl PendingDeletion {
    /// The annotation that says so.
    pub(crate) fn key(&self) -> String {
        match self.replica {
            0 => format!("{}{}", labels::PENDING_DELETION, self.volume),
            replica => format!("{}{}.{replica}", labels::PENDING_DELETION, self.volume),
        }
    }

    fn parse(key: &str) -> Option<Self> {
        let text = key.strip_prefix(labels::PENDING_DELETION)?;
        let (volume, replica) = match text.split_once('.') {
            Some((volume, replica)) => (volume, replica.parse().ok().filter(|replica| *replica != 0)?),
            None => (text, 0),
        };
        Some(Self { volume: volume.parse().ok()?, replica })
    }
}

/// What a pool's object says. What cannot be read deletes nothing.
pub(crate) fn pending_deletions(pool: &CStorPool) -> Vec<PendingDeletion> {
    pool.annotations().keys().filter_map(|key| PendingDeletion::parse(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let volume = VolumeId::random();
        for replica in [0, 1, u64::MAX] {
            let deletion = PendingDeletion { volume, replica };
            assert_eq!(PendingDeletion::parse(&deletion.key()), Some(deletion));
            // An annotation's name has at most 63 characters behind the slash.
            assert!(deletion.key().split_once('/').unwrap().1.len() <= 63);
        }
        let parse = |text: &str| PendingDeletion::parse(&format!("{}{text}", labels::PENDING_DELETION));
        for wrong in [String::from("x"), format!("{volume}."), format!("{volume}.0"), format!("{volume}.x")] {
            assert_eq!(parse(&wrong), None, "{wrong}");
        }
    }
}
