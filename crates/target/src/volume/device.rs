//! A volume as a [`BlockDevice`]: bytes to 4 KiB blocks, checksums both ways.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ballast_api::{BLOCK_SIZE, BlockCount, Epoch, PoolId, TargetId, VolumeId};
use ballast_rpc::Endpoint;
use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use tokio::sync::{mpsc, oneshot, watch};

use super::actor::{self, Command};
use super::core::{Core, Op, Reply};
use super::locks::RangeLocks;
use crate::block_device::{ATOMIC, BlockDevice, DeviceError, Extent, Geometry, LOGICAL_BLOCK};
use crate::latency;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// Blocks in one write or read request: 1 MiB.
const MAX_BLOCKS: u64 = 256;
// Wherever an atomic write begins, one request holds all of it.
const _: () = assert!(ATOMIC + BLOCK <= MAX_BLOCKS * BLOCK);

/// Blocks in one question for extents: 64 MiB.
const MAX_EXTENT_BLOCKS: u64 = 16_384;

/// Blocks in one unmap request: 128 MiB, so that applying one never holds the log up for long.
const MAX_UNMAP: u64 = 32 * 1024;

/// Times a block may arrive damaged before the read fails.
const DAMAGED_RETRIES: u32 = 3;

/// What is needed to serve a volume.
#[derive(Clone, Debug)]
pub struct VolumeOptions {
    /// Its id.
    pub volume: VolumeId,
    /// Its name, for people.
    pub name: String,
    /// Its capacity, as far as it is known; the group may say more.
    pub blocks: BlockCount,
    /// This process.
    pub target: TargetId,
    /// The pools that hold a copy, and where they listen.
    pub replicas: Vec<(PoolId, Endpoint)>,
    /// How long I/O waits for a leader before it fails with a retryable error. Below the 120 s after which Linux'
    /// initiator gives a session up.
    pub io_wait: Duration,
}

/// What a volume is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// Looking for the leader for the first time.
    Opening,
    /// A leader serves it.
    Online,
    /// Looking for the leader again; I/O waits.
    Waiting,
    /// Another target has taken the volume over. This one serves nothing any more.
    Fenced,
}

/// State and counters of a volume.
#[derive(Clone, Copy, Debug)]
pub struct VolumeStats {
    /// See [`VolumeState`].
    pub state: VolumeState,
    /// The newest epoch this target holds.
    pub epoch: Epoch,
    /// Who leads, while online.
    pub leader: Option<PoolId>,
    /// Reads answered or under way.
    pub reads: u64,
    /// Writes answered or under way.
    pub writes: u64,
    /// Times the leader was lost.
    pub retries: u64,
}

pub(super) struct Shared {
    pub(super) name: String,
    /// Capacity in blocks; only grows.
    pub(super) blocks: AtomicU64,
    pub(super) status: watch::Sender<(VolumeState, Epoch, Option<PoolId>)>,
    pub(super) retries: AtomicU64,
    /// What earlier targets kept, when the volume was taken over.
    pub(super) kept: watch::Sender<Option<Bytes>>,
    reads: AtomicU64,
    writes: AtomicU64,
}

/// The client of one volume. Dropping it ends its task.
pub struct RaftVolume {
    volume: VolumeId,
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
    locks: RangeLocks,
    io_wait: Duration,
}

impl RaftVolume {
    /// Starts to look for the leader; I/O may be submitted at once. Must be called inside a tokio runtime.
    pub fn open(options: VolumeOptions) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            name: options.name,
            blocks: AtomicU64::new(options.blocks.0),
            status: watch::Sender::new((VolumeState::Opening, Epoch(0), None)),
            retries: AtomicU64::new(0),
            kept: watch::Sender::new(None),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        });
        let io_wait = options.io_wait;
        let pools = options.replicas.iter().map(|(pool, _)| *pool).collect();
        let core = Core::new(options.volume, options.target, pools, options.io_wait);
        let replicas: HashMap<_, _> = options.replicas.into_iter().collect();
        tokio::spawn(actor::run(core, replicas, receiver, shared.clone()));
        Self { volume: options.volume, commands, shared, locks: RangeLocks::default(), io_wait }
    }

    /// The replicas listen elsewhere now.
    pub fn set_replicas(&self, replicas: Vec<(PoolId, Endpoint)>) {
        _ = self.commands.send(Command::Replicas(replicas));
    }

    /// Capacity.
    pub fn blocks(&self) -> BlockCount {
        BlockCount(self.shared.blocks.load(Ordering::Acquire))
    }

    /// The group has agreed on more blocks. Initiators are told with their next command; fewer blocks change nothing.
    pub fn grow(&self, blocks: BlockCount) {
        self.shared.blocks.fetch_max(blocks.0, Ordering::AcqRel);
    }

    /// State and counters.
    pub fn stats(&self) -> VolumeStats {
        let (state, epoch, leader) = *self.shared.status.borrow();
        VolumeStats {
            state,
            epoch,
            leader,
            reads: self.shared.reads.load(Ordering::Relaxed),
            writes: self.shared.writes.load(Ordering::Relaxed),
            retries: self.shared.retries.load(Ordering::Relaxed),
        }
    }

    async fn submit(&self, op: Op) -> Result<Reply, DeviceError> {
        let gone = || DeviceError::Unavailable("the volume is being closed".to_owned());
        let (ticket, reply) = oneshot::channel();
        self.commands.send(Command::Submit(op, ticket)).map_err(|_| gone())?;
        let answer = reply.await.map_err(|_| gone())?;
        if let Some(exchange) = answer.exchange {
            latency::leader_answered(exchange);
        }
        answer.result
    }

    async fn read_blocks(&self, lba: u64, blocks: u64) -> Result<Bytes, DeviceError> {
        let mut attempt = 0;
        loop {
            // `blocks` is at most MAX_BLOCKS.
            let reply = self.submit(Op::Read { lba, blocks: blocks as u32 }).await?;
            let Reply::Data { crcs, payload } = reply else {
                return Err(DeviceError::Internal("an answer without data to a read".to_owned()));
            };
            if crcs.len() as u64 != blocks || payload.len() as u64 != blocks * BLOCK {
                return Err(DeviceError::Internal(format!("{} bytes in answer to {blocks} blocks", payload.len())));
            }
            match payload.chunks_exact(BLOCK_SIZE).zip(&crcs).position(|(data, crc)| crc32fast::hash(data) != *crc) {
                None => return Ok(payload),
                Some(bad) => {
                    attempt += 1;
                    let lba512 = (lba + bad as u64) * (BLOCK / LOGICAL_BLOCK);
                    tracing::warn!(volume = %self.shared.name, lba512, attempt, "a block was damaged on its way here");
                    if attempt > DAMAGED_RETRIES {
                        return Err(DeviceError::Corrupt { lba512 });
                    }
                }
            }
        }
    }

    /// Any number of whole blocks.
    async fn read_cover(&self, first: u64, end: u64) -> Result<Bytes, DeviceError> {
        if end - first <= MAX_BLOCKS {
            return self.read_blocks(first, end - first).await;
        }
        let parts = pieces(first, end - first, MAX_BLOCKS).map(|(lba, count)| self.read_blocks(lba, count));
        let parts = try_join_all(parts).await?;
        let mut whole = BytesMut::with_capacity(((end - first) * BLOCK) as usize);
        parts.iter().for_each(|part| whole.extend_from_slice(part));
        Ok(whole.freeze())
    }

    /// Whole blocks, locked by the caller.
    async fn write_blocks(&self, lba: u64, data: Bytes) -> Result<(), DeviceError> {
        let pieces = pieces(lba, data.len() as u64 / BLOCK, MAX_BLOCKS).map(|(at, count)| {
            let from = ((at - lba) * BLOCK) as usize;
            let payload = data.slice(from..from + (count * BLOCK) as usize);
            let crcs = payload.chunks_exact(BLOCK_SIZE).map(crc32fast::hash).collect();
            self.submit(Op::Write { lba: at, crcs, payload })
        });
        try_join_all(pieces).await.map(drop)
    }

    /// Data that begins or ends inside a block: the rest of that block is read and written with it.
    async fn write_partial(&self, offset: u64, data: Bytes) -> Result<(), DeviceError> {
        let (first, end) = cover(offset, data.len() as u64);
        let mut whole = BytesMut::with_capacity(((end - first) * BLOCK) as usize);
        let head = (offset - first * BLOCK) as usize;
        if head > 0 {
            whole.extend_from_slice(&self.read_blocks(first, 1).await?[..head]);
        }
        whole.extend_from_slice(&data);
        let tail = whole.len() % BLOCK_SIZE;
        if tail > 0 {
            whole.extend_from_slice(&self.read_blocks(end - 1, 1).await?[tail..]);
        }
        self.write_blocks(first, whole.freeze()).await
    }
}

/// Blocks that cover a range of bytes: first, end.
fn cover(offset: u64, len: u64) -> (u64, u64) {
    (offset / BLOCK, (offset + len).div_ceil(BLOCK))
}

/// Runs of whole blocks as parts of a range of bytes.
fn clip(first: u64, mapped_first: bool, runs: &[u32], offset: u64, len: u64) -> Vec<Extent> {
    let mut at = first * BLOCK;
    let mut mapped = !mapped_first;
    let parts = runs.iter().map(|blocks| {
        let start = at.max(offset);
        at += u64::from(*blocks) * BLOCK;
        mapped = !mapped;
        Extent { len: at.min(offset + len).saturating_sub(start), mapped }
    });
    parts.filter(|extent| extent.len > 0).collect()
}

fn pieces(lba: u64, blocks: u64, max: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..blocks).step_by(max as usize).map(move |at| (lba + at, max.min(blocks - at)))
}

impl BlockDevice for RaftVolume {
    fn geometry(&self) -> Geometry {
        Geometry {
            blocks512: self.blocks512(),
            serial: self.volume.to_string(),
            naa: *self.volume.as_bytes(),
            read_only: false,
        }
    }

    fn blocks512(&self) -> u64 {
        self.blocks().bytes() / LOGICAL_BLOCK
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Bytes, DeviceError> {
        self.shared.reads.fetch_add(1, Ordering::Relaxed);
        if len == 0 {
            return Ok(Bytes::new());
        }
        let (first, end) = cover(offset, u64::from(len));
        let head = (offset - first * BLOCK) as usize;
        Ok(self.read_cover(first, end).await?.slice(head..head + len as usize))
    }

    async fn write(&self, offset: u64, data: Bytes, _fua: bool) -> Result<(), DeviceError> {
        self.shared.writes.fetch_add(1, Ordering::Relaxed);
        if data.is_empty() {
            return Ok(());
        }
        let (first, end) = cover(offset, data.len() as u64);
        let _lock = self.locks.lock(first, end).await;
        if offset.is_multiple_of(BLOCK) && (data.len() as u64).is_multiple_of(BLOCK) {
            self.write_blocks(first, data).await
        } else {
            self.write_partial(offset, data).await
        }
    }

    async fn update(
        &self,
        offset: u64,
        len: u32,
        change: impl FnOnce(&[u8]) -> Option<Bytes> + Send,
    ) -> Result<(), DeviceError> {
        if len == 0 {
            return Ok(());
        }
        self.shared.writes.fetch_add(1, Ordering::Relaxed);
        let (first, end) = cover(offset, u64::from(len));
        // Writes of this target wait at the lock. A write of another target took a newer epoch first, and then ours is
        // refused; so nothing comes between the read and the write, also when the write has to be sent again.
        let _lock = self.locks.lock(first, end).await;
        let whole = self.read_cover(first, end).await?;
        let range = (offset - first * BLOCK) as usize..(offset - first * BLOCK) as usize + len as usize;
        let Some(new) = change(&whole[range.clone()]) else { return Ok(()) };
        if new.len() != range.len() {
            return Err(DeviceError::Internal(format!("{} bytes to put over {len}", new.len())));
        }
        let mut whole = BytesMut::from(whole);
        whole[range].copy_from_slice(&new);
        self.write_blocks(first, whole.freeze()).await
    }

    async fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>, DeviceError> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let (first, end) = cover(offset, len);
        let blocks = (end - first).min(MAX_EXTENT_BLOCKS);
        let Reply::Extents { mapped_first, runs } =
            self.submit(Op::Extents { lba: first, blocks: blocks as u32 }).await?
        else {
            return Err(DeviceError::Internal("no extents in answer to a question for them".to_owned()));
        };
        Ok(clip(first, mapped_first, &runs, offset, len))
    }

    async fn unmap(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        if len == 0 {
            return Ok(());
        }
        let (first, end) = cover(offset, len);
        let _lock = self.locks.lock(first, end).await;
        // Whole blocks are given back, the parts of blocks at the ends become zeroes.
        let (inner, inner_end) = (offset.div_ceil(BLOCK), (offset + len) / BLOCK);
        if inner >= inner_end {
            return self.zero_inside(offset, len).await;
        }
        self.zero_inside(offset, inner * BLOCK - offset).await?;
        self.zero_inside(inner_end * BLOCK, offset + len - inner_end * BLOCK).await?;
        let pieces = pieces(inner, inner_end - inner, MAX_UNMAP);
        try_join_all(pieces.map(|(lba, blocks)| self.submit(Op::Unmap { lba, blocks }))).await.map(drop)
    }

    async fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        // Unmapped blocks read as zeroes.
        self.unmap(offset, len).await
    }

    async fn load_state(&self) -> Result<Bytes, DeviceError> {
        let mut kept = self.shared.kept.subscribe();
        let mut status = self.shared.status.subscribe();
        let taken_over = async {
            tokio::select! {
                kept = kept.wait_for(Option::is_some) => kept.ok().and_then(|kept| kept.clone()).ok_or(DeviceError::Fenced),
                _ = status.wait_for(|(state, ..)| *state == VolumeState::Fenced) => Err(DeviceError::Fenced),
            }
        };
        let why = || DeviceError::Unavailable(format!("no leader was found within {:?}", self.io_wait));
        tokio::time::timeout(self.io_wait, taken_over).await.map_err(|_| why())?
    }

    async fn save_state(&self, state: Bytes) -> Result<(), DeviceError> {
        self.submit(Op::SaveState(state)).await.map(drop)
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        // Every answered write is on the stable media of a majority already.
        match self.shared.status.borrow().0 {
            VolumeState::Fenced => Err(DeviceError::Fenced),
            _ => Ok(()),
        }
    }
}

impl RaftVolume {
    /// Zeroes less than two blocks' worth of bytes. The caller holds the lock.
    async fn zero_inside(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        if len == 0 {
            return Ok(());
        }
        self.write_partial(offset, Bytes::from(vec![0; len as usize])).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_the_limits() {
        assert_eq!(cover(0, 4096), (0, 1));
        assert_eq!(cover(512, 4096), (0, 2));
        assert_eq!(cover(8192, 1), (2, 3));
        assert_eq!(pieces(10, 5, 2).collect::<Vec<_>>(), [(10, 2), (12, 2), (14, 1)]);
        assert_eq!(pieces(10, 2, 2).collect::<Vec<_>>(), [(10, 2)]);
        assert_eq!(pieces(0, 0, 2).count(), 0);
    }

    #[test]
    fn extents_are_cut_to_what_was_asked() {
        let extent = |len, mapped| Extent { len, mapped };
        // Blocks 2 and 3 are mapped, 4 is not; asked from the middle of 2 to the middle of 4.
        assert_eq!(clip(2, true, &[2, 1], 2 * 4096 + 512, 9216), [extent(7680, true), extent(1536, false)]);
        assert_eq!(clip(0, false, &[5], 0, 4096), [extent(4096, false)]);
    }
}
