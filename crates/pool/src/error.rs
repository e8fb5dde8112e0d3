//! What can go wrong in a pool. Every message says where it happened and what to do next.

use std::io;

use ballast_api::VolumeId;

/// An error of a pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A device refused an operation.
    #[error("{device}: {op} failed: {source}. Check the device (kernel log, SMART), then restart the pool")]
    Io {
        /// Which device.
        device: String,
        /// What was tried.
        op: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The pool stopped itself after a device failed; nothing more is written by this process.
    #[error("the pool is fenced: {reason}. Repair the device and restart the pool; its replicas then catch up")]
    Fenced {
        /// Why.
        reason: String,
    },
    /// The pool was closed.
    #[error("the pool is closed. Open it again before using it")]
    Closed,
    /// No room for new blocks.
    #[error("the pool has no space: {needed} blocks needed, {free} free. Unmap or delete data, or add a device")]
    NoSpace {
        /// Blocks asked for.
        needed: u64,
        /// Blocks that may be given to writes.
        free: u64,
    },
    /// A device carries somebody's data.
    #[error("{device} carries data ({found}); it is left alone. Wipe it (wipefs -a) if it is meant for a pool")]
    ForeignDevice {
        /// Which device.
        device: String,
        /// What was found there.
        found: String,
    },
    /// Written by another version of the format.
    #[error("{device}: format version {found}, this program reads version {supported}. Use the program that wrote it")]
    WrongVersion {
        /// Which device.
        device: String,
        /// The version on the device.
        found: u16,
        /// The version this program knows.
        supported: u16,
    },
    /// Another process has the device.
    #[error("{device} is in use by {owner}. Stop that process first; a pool has one owner at a time")]
    Locked {
        /// Which device.
        device: String,
        /// Who owns it, as far as its superblock tells.
        owner: String,
    },
    /// A device of the pool was not given.
    #[error("pool {pool}: device {index} of {count} is missing. Give all devices of the pool when opening it")]
    DeviceMissing {
        /// The pool's id.
        pool: String,
        /// Which of its devices.
        index: u8,
        /// How many it has.
        count: u8,
    },
    /// More devices than a pool can have.
    #[error(
        "a pool has at most {limit} devices, {given} were given; nothing was changed. Make another pool of the others"
    )]
    TooManyDevices {
        /// How many were given.
        given: usize,
        /// How many a pool can have.
        limit: usize,
    },
    /// No good label, or one that does not fit the others.
    #[error("{device}: {why}. Check that this is a device of the pool (pool-inspect shows its label)")]
    BadLabel {
        /// Which device.
        device: String,
        /// What is wrong.
        why: String,
    },
    /// A batch in the middle of the journal cannot be read: acknowledged data may be missing.
    #[error(
        "{device}: journal batch {seq} is damaged, batch {later} behind it is not: acknowledged records are lost. Do not open this pool for writing; rebuild its replicas from their peers"
    )]
    JournalDamaged {
        /// Which device.
        device: String,
        /// The batch that cannot be read.
        seq: u64,
        /// A later good batch.
        later: u64,
    },
    /// A block does not have the checksum it was written with.
    #[error(
        "{device} block {block}: checksum {got:08x}, expected {expected:08x} (volume {volume}, lba {lba}). Read it from another replica and repair it"
    )]
    Corrupt {
        /// Which device.
        device: String,
        /// The block on the device.
        block: u64,
        /// The block's address in the volume.
        lba: u64,
        /// The volume.
        volume: VolumeId,
        /// The checksum on record.
        expected: u32,
        /// The checksum of what was read.
        got: u32,
    },
    /// Metadata contradicts itself.
    #[error("metadata of {what} is damaged: {why}. Run pool-inspect; rebuild the replica or the pool from its peers")]
    BadMetadata {
        /// Of what.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// The metadata store failed.
    #[error("metadata store: {why}. Check device 0 of the pool")]
    Meta {
        /// What it said.
        why: String,
    },
    /// A payload handed in does not match its checksums.
    #[error(
        "payload of lba {lba} does not match its checksum (volume {volume}); it was damaged on the way. Send it again"
    )]
    PayloadMismatch {
        /// The block's address in the volume.
        lba: u64,
        /// The volume.
        volume: VolumeId,
    },
    /// An address outside the volume.
    #[error("blocks {lba}+{count} are outside the volume of {capacity} blocks. Check the request")]
    OutOfRange {
        /// First block.
        lba: u64,
        /// How many.
        count: u64,
        /// Size of the volume.
        capacity: u64,
    },
    /// No replica of this volume here.
    #[error("no replica of volume {volume} in this pool. Create it first")]
    UnknownReplica {
        /// The volume.
        volume: VolumeId,
    },
    /// The replica exists, made otherwise.
    #[error("a replica of volume {volume} exists with another configuration. Delete it first, or use it as it is")]
    ReplicaExists {
        /// The volume.
        volume: VolumeId,
    },
    /// An index that does not continue the log, or is not in it.
    #[error("volume {volume}: log index {got} does not fit, the log {log}. {hint}")]
    LogGap {
        /// The volume.
        volume: VolumeId,
        /// The index asked for.
        got: u64,
        /// What the log holds.
        log: String,
        /// What to do.
        hint: &'static str,
    },
    /// A request that cannot be meant.
    #[error("invalid request: {why}. This is a fault in the caller")]
    Invalid {
        /// What is wrong with it.
        why: String,
    },
}

impl PoolError {
    pub(crate) fn io(device: &str, op: &'static str, source: io::Error) -> Self {
        Self::Io { device: device.to_owned(), op, source }
    }

    pub(crate) fn invalid(why: impl Into<String>) -> Self {
        Self::Invalid { why: why.into() }
    }

    pub(crate) fn metadata(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::BadMetadata { what: what.into(), why: why.into() }
    }
}

pub(crate) type Result<T, E = PoolError> = std::result::Result<T, E>;
