//! The values that callers hand in and get back.

use std::path::PathBuf;
use std::sync::Arc;

use ballast_api::{BlockCount, Lba, PoolId};
use bytes::Bytes;

/// The most blocks one log record may carry.
pub const MAX_RECORD_BLOCKS: usize = 256;
/// The most bytes of header one log record may carry.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;
/// The most bytes of hard state.
pub const MAX_HARD_STATE_BYTES: usize = 64 * 1024;

/// Which blocks of a range are mapped: lengths of runs, mapped and unmapped ones by turns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents {
    /// Whether the first run is a mapped one.
    pub mapped_first: bool,
    /// Blocks of each run.
    pub runs: Vec<u32>,
}

/// What a new pool is made of, or what a pool grows by.
#[derive(Clone, Debug, Default)]
pub struct PoolConfig {
    /// The pool's name, for people; kept in the label.
    pub name: String,
    /// Its devices; the first one also holds the metadata. For a pool that is there their order does not matter.
    pub devices: Vec<DeviceConfig>,
    /// Size of each device's journal; `None`: size/32, at least 32 MiB, at most 256 MiB.
    pub journal_bytes: Option<u64>,
    /// Size of the metadata region, of all devices that have one; `None`: from the pool's size.
    pub meta_bytes: Option<u64>,
}

/// One device of a new pool.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// A block device, or a file.
    pub path: PathBuf,
    /// For files: made sparse with this size when missing.
    pub size: Option<u64>,
}

/// How device I/O is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IoBackend {
    /// io_uring where the kernel allows it, else plain calls.
    #[default]
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// Plain calls on threads.
    Threads,
}

/// Settings of an open pool.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The pool's name in messages.
    pub name: String,
    /// How device I/O is done.
    pub io: IoBackend,
    /// Bytes of map leaves kept in memory that could be read back.
    pub map_memory: u64,
    /// Bytes of payload kept in memory for log readers, per replica.
    pub tail_memory: u64,
    /// Bytes of recently written blocks kept in memory for reads.
    pub cache: u64,
    /// Log records of one replica after which a checkpoint starts.
    pub checkpoint_records: u64,
    /// Blocks written by one replica after which a checkpoint starts (in a small pool 1/16 of it): until then the log
    /// keeps what was overwritten.
    pub checkpoint_blocks: u64,
    /// A checkpoint starts this long after the first change when none came earlier.
    pub checkpoint_after: std::time::Duration,
    /// No threads: every step runs on the calling thread, in an order that the caller's calls determine.
    pub manual: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            name: String::from("pool"),
            io: IoBackend::Auto,
            map_memory: 64 << 20,
            tail_memory: 4 << 20,
            cache: 64 << 20,
            checkpoint_records: 32768,
            checkpoint_blocks: 131_072,
            checkpoint_after: std::time::Duration::from_secs(30),
            manual: false,
        }
    }
}

/// What a replica is created with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaConfig {
    /// Size of the volume.
    pub blocks: BlockCount,
    /// Kept as it is, for the caller (name, members ...).
    pub user: Bytes,
}

/// A place in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogMark {
    /// The log index.
    pub index: u64,
    /// Opaque to the pool (the replica keeps term and leader there).
    pub tag: [u8; 16],
}

/// One log entry.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// Where it stands.
    pub mark: LogMark,
    /// Opaque to the pool, at most [`MAX_HEADER_BYTES`].
    pub header: Bytes,
    /// What applying it does to the map.
    pub op: LogOp,
}

/// What a log entry does to the map.
#[derive(Clone, Debug)]
pub enum LogOp {
    /// Nothing.
    None,
    /// Maps new data.
    Write {
        /// First block.
        lba: Lba,
        /// crc32 (IEEE) of each block.
        crcs: Arc<[u32]>,
        /// The blocks, `crcs.len() * 4096` bytes, at most [`MAX_RECORD_BLOCKS`] blocks.
        payload: Bytes,
    },
    /// Unmaps a range; it reads as zeroes afterwards.
    Unmap {
        /// First block.
        lba: Lba,
        /// How many.
        count: BlockCount,
    },
}

/// The bounds of a replica's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogState {
    /// Everything up to here was purged.
    pub purged: Option<LogMark>,
    /// The last entry, or what was purged when there is none.
    pub last: Option<LogMark>,
    /// The last index that is durable.
    pub durable: Option<u64>,
}

/// Blocks that were read.
#[derive(Clone, Debug)]
pub struct BlockData {
    /// The blocks; unmapped ones are zeroes.
    pub payload: Bytes,
    /// crc32 of each block.
    pub crcs: Vec<u32>,
}

/// A run of mapped blocks of a replica.
#[derive(Clone, Debug)]
pub struct ExportChunk {
    /// First block.
    pub lba: Lba,
    /// The log index that wrote each block.
    pub births: Vec<u64>,
    /// crc32 of each block.
    pub crcs: Vec<u32>,
    /// The blocks.
    pub payload: Bytes,
}

/// Figures of one device.
#[derive(Clone, Debug)]
pub struct DeviceStats {
    /// Its name.
    pub name: String,
    /// Why it is fenced, when it is.
    pub fenced: Option<String>,
    /// Bytes of extent area.
    pub capacity_bytes: u64,
    /// Bytes of extent area prepared for use.
    pub prepared_bytes: u64,
    /// Bytes written, all purposes.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
}

/// Figures of a pool since it was opened.
#[derive(Clone, Debug)]
pub struct PoolStats {
    /// The pool.
    pub id: PoolId,
    /// Bytes for data.
    pub capacity_bytes: u64,
    /// Of them in use.
    pub allocated_bytes: u64,
    /// Of them free.
    pub free_bytes: u64,
    /// Size of the journal, all devices.
    pub journal_bytes: u64,
    /// Of it in use.
    pub journal_used_bytes: u64,
    /// Payload written.
    pub payload_bytes_written: u64,
    /// Journal headers written.
    pub journal_bytes_written: u64,
    /// Metadata written by checkpoints.
    pub checkpoint_bytes_written: u64,
    /// Zeroes written to prepare sparse files.
    pub prepare_bytes_written: u64,
    /// Labels and superblocks written.
    pub superblock_bytes_written: u64,
    /// Flushes, all devices.
    pub device_flushes: u64,
    /// Journal batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Bytes of map leaves in memory.
    pub map_bytes: u64,
    /// Each device.
    pub devices: Vec<DeviceStats>,
}
