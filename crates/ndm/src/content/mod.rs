//! What is on a device: read from its first and last MiB, never written.
//!
//! The question is only ever "may a pool have it?", so a device counts as free when its first MiB is all zeroes and nothing
//! is known by its end; anything else is somebody's, even when we do not know whose.

mod read;
mod signature;

use ballast_pool::DeviceLabel;

pub use read::{Probes, read};
pub use signature::examine;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Blank,
    /// A pool's label.
    Pool(DeviceLabel),
    /// A pool's label in a version that this program does not read.
    PoolOfOtherVersion(u16),
    /// A file system, or a part of something bigger.
    Signature {
        /// The name that blkid has for it: "ext4", "LVM2_member".
        kind: &'static str,
        /// Its own id.
        uuid: Option<String>,
    },
    /// A partition table.
    PartitionTable {
        /// "gpt" or "dos".
        kind: &'static str,
        /// The disk's GUID.
        uuid: Option<String>,
    },
    /// Bytes that we do not know.
    Unknown,
    /// It could not be read; why.
    Unreadable(String),
}
