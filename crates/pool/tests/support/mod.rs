//! Helpers of the pool's tests.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod model;
pub mod workload;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use ballast_api::{BLOCK_SIZE, BlockCount, Lba, VolumeId};
use ballast_pool::*;
use bytes::Bytes;

pub const MIB: u64 = 1 << 20;

/// Runs a future; the pool needs no executor of its own.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// A small deterministic generator (xorshift64*).
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635 | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A block whose content tells what it is.
pub fn block(tag: u64) -> Vec<u8> {
    let mut out = vec![0; BLOCK_SIZE];
    for (at, word) in out.chunks_exact_mut(8).enumerate().step_by(32) {
        word.copy_from_slice(&(tag ^ ((at as u64) << 48)).to_le_bytes());
    }
    out
}

pub fn mark(index: u64) -> LogMark {
    let mut tag = [0; 16];
    tag[0] = 7;
    LogMark { index, tag }
}

/// A write of blocks with these tags.
pub fn write(index: u64, lba: u64, tags: &[u64]) -> LogRecord {
    let payload: Vec<u8> = tags.iter().flat_map(|tag| block(*tag)).collect();
    let crcs: Arc<[u32]> = payload.chunks_exact(BLOCK_SIZE).map(crc32fast::hash).collect();
    let op = LogOp::Write { lba: Lba(lba), crcs, payload: Bytes::from(payload) };
    LogRecord { mark: mark(index), header: Bytes::copy_from_slice(&index.to_le_bytes()), op }
}

pub fn unmap(index: u64, lba: u64, count: u64) -> LogRecord {
    LogRecord { mark: mark(index), header: Bytes::new(), op: LogOp::Unmap { lba: Lba(lba), count: BlockCount(count) } }
}

pub fn nothing(index: u64) -> LogRecord {
    LogRecord { mark: mark(index), header: Bytes::from_static(b"blank"), op: LogOp::None }
}

/// Appends and waits until it is durable.
pub fn append(replica: &Replica, records: Vec<LogRecord>) -> Result<(), PoolError> {
    let (tx, rx) = mpsc::channel();
    replica.append(records, Box::new(move |result| tx.send(result).unwrap()))?;
    rx.recv().unwrap()
}

pub fn read(replica: &Replica, lba: u64, count: u64) -> BlockData {
    let data = wait(replica.read(Lba(lba), BlockCount(count))).unwrap();
    for (block, crc) in data.payload.chunks_exact(BLOCK_SIZE).zip(&data.crcs) {
        assert_eq!(crc32fast::hash(block), *crc);
    }
    data
}

pub fn volume(n: u8) -> VolumeId {
    VolumeId::from_bytes([n; 16])
}

pub fn replica(pool: &Pool, n: u8, blocks: u64) -> Replica {
    wait(pool.create_replica(volume(n), ReplicaConfig { blocks: BlockCount(blocks), user: Bytes::new() })).unwrap()
}

/// A pool of sparse files in a directory.
pub fn make(dir: &Path, sizes: &[u64]) -> Vec<PathBuf> {
    let devices: Vec<DeviceConfig> = sizes
        .iter()
        .enumerate()
        .map(|(at, size)| DeviceConfig { path: dir.join(format!("disk{at}")), size: Some(*size) })
        .collect();
    let paths = devices.iter().map(|device| device.path.clone()).collect();
    let config = PoolConfig { name: String::from("test"), devices, journal_bytes: Some(4 * MIB), meta_bytes: None };
    Pool::create(&config).unwrap();
    paths
}

/// The result of a future of a manual pool, which never waits.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("a manual pool made its caller wait"),
    }
}
