//! The bytes on the device: pure encoders and decoders, no I/O.
//!
//! All numbers are little-endian. Everything that is stored carries a crc32 and is refused when it does not match;
//! decoders return `None` on any byte sequence that an encoder cannot have produced, and never panic.
//!
//! ```text
//! device:  0        4K            8K          64K      68K           1M
//!          | label  | superblock  |    -      | label  | superblock  | [metadata] | journal ring | extents ...
//!          |  copy A|      slot A |           |  copy B|      slot B |  device 0  |  each device | each device
//! ```

pub(crate) mod batch;
pub(crate) mod codec;
pub(crate) mod label;
pub(crate) mod leaf;
pub(crate) mod log;
pub(crate) mod root;
pub(crate) mod superblock;

/// The version of everything on the device; another one is refused.
pub(crate) const FORMAT_VERSION: u16 = 1;
/// Bytes in a block.
pub(crate) const BLOCK: u64 = ballast_api::BLOCK_SIZE as u64;

/// A pool block address: device in bits 40..48, block of that device in bits 0..40; 0 is none.
pub(crate) const fn pool_block(device: usize, block: u64) -> u64 {
    ((device as u64) << 40) | block
}

/// Device and block of a pool block address.
pub(crate) const fn split_block(addr: u64) -> (usize, u64) {
    ((addr >> 40) as usize, addr & ((1 << 40) - 1))
}

/// A run of blocks on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    /// Pool block address of the first one.
    pub(crate) addr: u64,
    /// How many.
    pub(crate) len: u32,
}

/// crc32 of a block of zeroes.
pub(crate) fn zero_crc() -> u32 {
    static CRC: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *CRC.get_or_init(|| crc32fast::hash(&[0; ballast_api::BLOCK_SIZE]))
}

#[cfg(test)]
mod tests;
