//! Filling a replica that fell behind the log: the blocks of a volume, streamed from the leader's map.
//!
//! The image is *fuzzy*: blocks are read while writes go on, so some are newer than the index the snapshot is named
//! after. That is correct, because every entry after that index still reaches the receiver through the log and
//! overwrites what it wrote before with the same bytes: contents converge at the newest index the sender had applied
//! while it sent, and the receiver serves no read before it has applied everything committed. What must not happen
//! is that the sender drops those entries meanwhile: [`Sending`] holds purging back.

mod receive;
mod send;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ballast_api::ReplicaId;
use ballast_pool::{Installer, Replica};
use bytes::Bytes;

pub use receive::{ReceiveError, receive};
pub use send::{SendError, send};

/// The contents of a volume on their way into or out of a replica.
pub enum VolumeImage {
    /// On the sender: read from the map when it is sent.
    Local {
        /// The replica to read.
        replica: Replica,
        /// Epoch, owner and members at the snapshot's index.
        state: Bytes,
    },
    /// On the receiver: all blocks are in the pool, and wait for the moment that makes them the volume.
    Received {
        /// What completes it.
        installer: Installer,
        /// Epoch, owner and members at the snapshot's index.
        state: Bytes,
    },
}

/// The snapshots that a replica is sending.
#[derive(Clone, Default)]
pub struct Sending {
    under_way: Arc<Mutex<Vec<Arc<Progress>>>>,
}

/// How far a snapshot is.
#[derive(Debug)]
struct Progress {
    to: ReplicaId,
    sent: AtomicU64,
    total: AtomicU64,
}

impl Sending {
    /// While the result lives, the log is not purged.
    pub fn begin(&self, to: ReplicaId) -> Transfer {
        let progress = Arc::new(Progress { to, sent: AtomicU64::new(0), total: AtomicU64::new(0) });
        self.list().push(progress.clone());
        Transfer { sending: self.clone(), progress }
    }

    /// Whether a snapshot is under way.
    pub fn is_sending(&self) -> bool {
        !self.list().is_empty()
    }

    /// Blocks sent and blocks in all, by receiver.
    pub fn progress(&self) -> BTreeMap<ReplicaId, (u64, u64)> {
        let count = |value: &AtomicU64| value.load(Ordering::Relaxed);
        self.list().iter().map(|one| (one.to, (count(&one.sent), count(&one.total)))).collect()
    }

    fn list(&self) -> MutexGuard<'_, Vec<Arc<Progress>>> {
        // The list is changed in single steps; a panic elsewhere cannot leave it half changed.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A snapshot under way.
pub struct Transfer {
    sending: Sending,
    progress: Arc<Progress>,
}

impl Transfer {
    /// Who receives it.
    pub fn to(&self) -> ReplicaId {
        self.progress.to
    }

    /// It is this far.
    pub fn note(&self, sent: u64, total: u64) {
        self.progress.total.store(total, Ordering::Relaxed);
        self.progress.sent.store(sent, Ordering::Relaxed);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.sending.list().retain(|one| !Arc::ptr_eq(one, &self.progress));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_seen_until_it_ends() {
        let sending = Sending::default();
        let (a, b) = (sending.begin(ReplicaId(1)), sending.begin(ReplicaId(2)));
        a.note(5, 9);
        assert_eq!(sending.progress(), BTreeMap::from([(ReplicaId(1), (5, 9)), (ReplicaId(2), (0, 0))]));
        drop(a);
        assert!(sending.is_sending());
        drop(b);
        assert!(!sending.is_sending());
    }
}
