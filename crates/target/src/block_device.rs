//! What the SCSI layer serves: an address space of 512-byte blocks behind an asynchronous trait.
//!
//! Nothing here knows where the bytes are. A device answers a write only when it is durable: the target reports no
//! volatile write cache (WCE=0), so that initiators need no flush for what was answered.

use std::future::Future;

use bytes::Bytes;
use thiserror::Error;

/// Bytes of a logical block as initiators see it.
pub const LOGICAL_BLOCK: u64 = 512;

/// Bytes that one write changes in one step.
pub const ATOMIC: u64 = 512 * 1024;

/// Size and identity of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// Capacity in 512-byte logical blocks.
    pub blocks512: u64,
    /// Unit serial number (the volume's uuid); printable ASCII.
    pub serial: String,
    /// The volume's uuid, for the designators of VPD page 83h.
    pub naa: [u8; 16],
    /// Writes are refused.
    pub read_only: bool,
}

/// A part of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub len: u64,
    /// It takes space.
    pub mapped: bool,
}

/// Why a device could not do what it was asked; [`crate::scsi::sense::device_error`] is the one table that maps it
/// to SCSI status and sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// A pool is full; reads, unmaps and deletes still work.
    #[error("no space left in the pool; free space or add devices")]
    NoSpace,
    /// A newer target serves the volume.
    #[error("another target has taken over this volume; reconnect")]
    Fenced,
    /// For the moment; the initiator may retry.
    #[error("volume unavailable, retry: {0}")]
    Unavailable(String),
    /// Every copy of this block is damaged.
    #[error("no good copy of logical block {lba512} is left; restore it from a snapshot or backup")]
    Corrupt {
        /// The first damaged 512-byte block.
        lba512: u64,
    },
    /// Beyond the capacity.
    #[error("beyond the end of the volume")]
    OutOfRange,
    /// A bug or an I/O error below.
    #[error("internal error: {0}")]
    Internal(String),
}

/// A block device. Offsets and lengths are in bytes, multiples of 512 and inside the capacity: the SCSI layer has
/// checked them. Calls run concurrently; overlapping ones in any order.
///
/// A call that was started is always driven to its end, also when its command was aborted or its connection lost:
/// an operation that is still under way must never land after a later one that the initiator saw finished.
pub trait BlockDevice: Send + Sync + 'static {
    /// Size and identity.
    fn geometry(&self) -> Geometry;

    /// Capacity in 512-byte blocks; asked for every command, so override it when `geometry` is not free.
    fn blocks512(&self) -> u64 {
        self.geometry().blocks512
    }

    /// Reads `len` bytes.
    fn read(&self, offset: u64, len: u32) -> impl Future<Output = Result<Bytes, DeviceError>> + Send;

    /// Writes; durable when it returns, with or without `fua`. Up to [`ATOMIC`] bytes are there as a whole or not at all, for
    /// readers as well as after a crash.
    fn write(&self, offset: u64, data: Bytes, fua: bool) -> impl Future<Output = Result<(), DeviceError>> + Send;

    /// Reads a range, shows it to `change`, and writes what that returns over it; nobody else's write comes between. With
    /// `None` nothing is written. Durable when it returns.
    fn update(
        &self,
        offset: u64,
        len: u32,
        change: impl FnOnce(&[u8]) -> Option<Bytes> + Send,
    ) -> impl Future<Output = Result<(), DeviceError>> + Send;

    /// Which parts of a range take space, in order from its beginning; may end before the range does, but not before one
    /// part of it is told. A part that takes none reads as zeroes.
    fn extents(&self, offset: u64, len: u64) -> impl Future<Output = Result<Vec<Extent>, DeviceError>> + Send;

    /// Frees a range; it reads as zeroes afterwards. Partial allocation blocks at its ends are zeroed.
    fn unmap(&self, offset: u64, len: u64) -> impl Future<Output = Result<(), DeviceError>> + Send;

    /// Makes a range read as zeroes.
    fn write_zeroes(&self, offset: u64, len: u64) -> impl Future<Output = Result<(), DeviceError>> + Send;

    /// What [`Self::save_state`] kept last, also by an earlier target; empty when nothing was. Waits until it is known.
    fn load_state(&self) -> impl Future<Output = Result<Bytes, DeviceError>> + Send;

    /// Keeps bytes with the device, beside its contents, for whoever serves it next; durable when it returns. After
    /// [`DeviceError::Unavailable`] either the old or the new ones are kept.
    fn save_state(&self, state: Bytes) -> impl Future<Output = Result<(), DeviceError>> + Send;

    /// Returns when everything answered before is durable.
    fn flush(&self) -> impl Future<Output = Result<(), DeviceError>> + Send;
}
