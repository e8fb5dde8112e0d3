//! Filling a replica that fell behind the log: the blocks of a volume, streamed from the leader's map.
//!
//! The image is *fuzzy*: blocks are read while writes go on, so some are newer than the index the snapshot is named
//! after. That is correct, because every entry after that index still reaches the receiver through the log and
//! overwrites what it wrote before with the same bytes: contents converge at the newest index the sender had applied
//! while it sent, and the receiver serves no read before it has applied everything committed. What must not happen
//! is that the sender drops those entries meanwhile: [`SendGuard`] holds purging back.

mod receive;
mod send;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Counts the snapshots a replica is sending.
#[derive(Clone, Default)]
pub struct SendGuard {
    sending: Arc<AtomicUsize>,
}

impl SendGuard {
    /// While the result lives, the log is not purged.
    pub fn enter(&self) -> impl Drop + Send + 'static {
        self.sending.fetch_add(1, Ordering::SeqCst);
        Leave(self.sending.clone())
    }

    /// Whether a snapshot is under way.
    pub fn is_sending(&self) -> bool {
        self.sending.load(Ordering::SeqCst) > 0
    }
}

struct Leave(Arc<AtomicUsize>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
