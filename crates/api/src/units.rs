//! Addresses and sizes, in 4 KiB blocks.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes in a block: the unit of allocation, mapping and checksum.
pub const BLOCK_SIZE: usize = 4096;

/// The address of a block in a volume, counted in blocks (not in the 512-byte sectors of SCSI).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Lba(pub u64);

/// A number of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct BlockCount(pub u64);

impl BlockCount {
    /// Blocks that `bytes` fill; `None` when the last one would be partial.
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        if bytes.is_multiple_of(BLOCK_SIZE as u64) { Some(Self(bytes / BLOCK_SIZE as u64)) } else { None }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 * BLOCK_SIZE as u64
    }
}

impl fmt::Display for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for BlockCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
