//! Reading blocks and log entries from the devices, checked.
//!
//! A block may be freed and reused between the look at the map and the read: its checksum then does not match, and the
//! map has another entry. Only when the map still has the same one is the block read again past the page cache, and
//! only when that does not match either is it corrupt.

use std::ops::Range;
use std::sync::Arc;

use ballast_api::{BLOCK_SIZE, BlockCount, Lba};
use bytes::Bytes;

use crate::error::{PoolError, Result};
use crate::format::batch::StoredOp;
use crate::format::leaf::{LEAF_BLOCKS, MapEntry};
use crate::format::{BLOCK, split_block, zero_crc};
use crate::pool::Shared;
use crate::types::{BlockData, ExportChunk, Extents, LogMark, LogOp, LogRecord};

/// How a read is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Only what needs no waiting.
    Cached,
    Normal,
    /// Past the page cache.
    Direct,
}

enum Lookup {
    Entries(Vec<MapEntry>),
    Missing(Vec<u64>),
}

impl Shared {
    fn lookup(&self, slot: u32, lba: u64, count: u64) -> Result<Lookup> {
        let mut core = self.core();
        core.check()?;
        let rs = core.replica_mut(slot)?;
        if lba.checked_add(count).is_none_or(|end| end > rs.capacity) {
            return Err(PoolError::OutOfRange { lba, count, capacity: rs.capacity });
        }
        let mut entries = Vec::with_capacity(count as usize);
        let mut missing = Vec::new();
        let mut at = lba;
        while at < lba + count {
            let leaf = at / LEAF_BLOCKS;
            let end = ((leaf + 1) * LEAF_BLOCKS).min(lba + count);
            match rs.leaves.get_mut(&leaf) {
                Some(cached) => {
                    cached.hot = true;
                    let from = (at % LEAF_BLOCKS) as usize;
                    entries.extend_from_slice(&cached.leaf.entries[from..from + (end - at) as usize]);
                }
                None => missing.push(leaf),
            }
            at = end;
        }
        Ok(if missing.is_empty() { Lookup::Entries(entries) } else { Lookup::Missing(missing) })
    }

    async fn lookup_all(self: &Arc<Self>, slot: u32, lba: u64, count: u64) -> Result<Vec<MapEntry>> {
        loop {
            match self.lookup(slot, lba, count)? {
                Lookup::Entries(entries) => return Ok(entries),
                Lookup::Missing(leaves) => self.load_leaves(slot, leaves).await?,
            }
        }
    }

    /// Reads blocks, neighbours in one go; `false` when [`Mode::Cached`] would have to wait. Holes are left alone.
    fn fetch(&self, addrs: &[u64], buf: &mut [u8], mode: Mode) -> Result<bool> {
        let mut at = 0;
        while at < addrs.len() {
            let start = at;
            at += 1;
            if addrs[start] == 0 {
                continue;
            }
            while at < addrs.len() && addrs[at] == addrs[start] + (at - start) as u64 {
                at += 1;
            }
            let (device, block) = split_block(addrs[start]);
            let Some(target) = self.devices.get(device) else {
                return Err(PoolError::metadata("the map", format!("no device {device}")));
            };
            let piece = &mut buf[start * BLOCK_SIZE..at * BLOCK_SIZE];
            match mode {
                Mode::Cached => {
                    if !target.raw().try_read_at(block * BLOCK, piece).unwrap_or(false) {
                        return Ok(false);
                    }
                }
                Mode::Normal => target.read_at(block * BLOCK, piece)?,
                Mode::Direct => target.read_direct_at(block * BLOCK, piece)?,
            }
        }
        Ok(true)
    }

    /// The first block that does not have its checksum.
    fn first_bad(addrs: &[u64], crcs: &[u32], buf: &[u8]) -> Option<(usize, u32)> {
        buf.chunks_exact(BLOCK_SIZE).enumerate().find_map(|(at, block)| {
            let got = if addrs[at] == 0 { return None } else { crc32fast::hash(block) };
            (got != crcs[at]).then_some((at, got))
        })
    }

    /// Blocks with their map entries.
    async fn read_mapped(self: &Arc<Self>, slot: u32, lba: u64, count: u64) -> Result<(Vec<MapEntry>, Vec<u8>)> {
        let mut before: Option<Vec<MapEntry>> = None;
        loop {
            let entries = self.lookup_all(slot, lba, count).await?;
            let addrs: Vec<u64> = entries.iter().map(MapEntry::addr).collect();
            let crcs: Vec<u32> = entries.iter().map(|entry| entry.crc).collect();
            let mode = if before.as_ref() == Some(&entries) { Mode::Direct } else { Mode::Normal };
            let mut buf = vec![0; count as usize * BLOCK_SIZE];
            let mut wanted = addrs.clone();
            if mode == Mode::Normal {
                self.cache.fill(slot, lba, &entries, &mut wanted, &mut buf);
            }
            let hit = mode == Mode::Normal && self.fetch(&wanted, &mut buf, Mode::Cached)?;
            if !hit {
                buf = self.blocking(move |shared| shared.fetch(&wanted, &mut buf, mode).map(|_| buf)).await?;
            }
            match Self::first_bad(&addrs, &crcs, &buf) {
                None => return Ok((entries, buf)),
                Some((at, got)) if mode == Mode::Direct => {
                    // Reused while it was read, after all?
                    if self.lookup_all(slot, lba, count).await? != entries {
                        before = None;
                        continue;
                    }
                    return Err(self.corrupt(slot, addrs[at], lba + at as u64, crcs[at], got));
                }
                Some(_) => before = Some(entries),
            }
        }
    }

    fn corrupt(&self, slot: u32, addr: u64, lba: u64, expected: u32, got: u32) -> PoolError {
        let (device, block) = split_block(addr);
        let volume = match self.core().replica(slot) {
            Ok(rs) => rs.volume,
            Err(e) => return e,
        };
        PoolError::Corrupt { device: self.devices[device].name.clone(), block, lba, volume, expected, got }
    }

    pub(crate) async fn read(self: &Arc<Self>, slot: u32, lba: Lba, count: BlockCount) -> Result<BlockData> {
        let (entries, buf) = self.read_mapped(slot, lba.0, count.0).await?;
        let crcs = entries.iter().map(|entry| if entry.is_some() { entry.crc } else { zero_crc() }).collect();
        Ok(BlockData { payload: Bytes::from(buf), crcs })
    }

    /// Which blocks of a range are mapped.
    pub(crate) async fn extents(self: &Arc<Self>, slot: u32, lba: Lba, count: BlockCount) -> Result<Extents> {
        let entries = self.lookup_all(slot, lba.0, count.0).await?;
        Ok(Extents {
            mapped_first: entries.first().is_some_and(MapEntry::is_some),
            runs: entries.chunk_by(|a, b| a.is_some() == b.is_some()).map(|run| run.len() as u32).collect(),
        })
    }

    /// The next run of mapped blocks at or after `from`.
    pub(crate) async fn export(self: &Arc<Self>, slot: u32, from: Lba, max_blocks: u32) -> Result<Option<ExportChunk>> {
        let max = u64::from(max_blocks.max(1));
        let mut at = from.0;
        loop {
            let capacity = {
                let core = self.core();
                core.check()?;
                core.replica(slot)?.capacity
            };
            let leaf = at / LEAF_BLOCKS;
            let Some(leaf) = self.next_leaf(slot, leaf, capacity.div_ceil(LEAF_BLOCKS)).await? else { return Ok(None) };
            at = at.max(leaf * LEAF_BLOCKS);
            let end = ((leaf + 1) * LEAF_BLOCKS).min(capacity);
            if at >= end {
                return Ok(None);
            }
            let entries = self.lookup_all(slot, at, end - at).await?;
            let Some(start) = entries.iter().position(MapEntry::is_some) else {
                at = end;
                continue;
            };
            let run = entries[start..].iter().take_while(|entry| entry.is_some()).count().min(max as usize);
            let lba = at + start as u64;
            let (entries, buf) = self.read_mapped(slot, lba, run as u64).await?;
            // Unmapped meanwhile: shorten, or look again.
            let run = entries.iter().take_while(|entry| entry.is_some()).count();
            if run == 0 {
                at = lba;
                continue;
            }
            return Ok(Some(ExportChunk {
                lba: Lba(lba),
                births: entries[..run].iter().map(MapEntry::birth).collect(),
                crcs: entries[..run].iter().map(|entry| entry.crc).collect(),
                payload: Bytes::from(buf).slice(..run * BLOCK_SIZE),
            }));
        }
    }

    /// The first leaf at or after `from` that may hold something.
    async fn next_leaf(self: &Arc<Self>, slot: u32, from: u64, to: u64) -> Result<Option<u64>> {
        let in_memory = {
            let core = self.core();
            core.replica(slot)?.leaves.keys().copied().filter(|leaf| (from..to).contains(leaf)).min()
        };
        let stored = self.blocking(move |shared| crate::map::stored_leaves(&*shared.meta, slot, from, to, 1)).await?;
        Ok(in_memory.into_iter().chain(stored).min())
    }

    /// Log entries `range`, until `max_bytes` of payload are passed.
    pub(crate) async fn read_log(
        self: &Arc<Self>,
        slot: u32,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>> {
        let (mut records, absent) = self.collect_log(slot, &range, max_bytes)?;
        if absent.is_empty() {
            return Ok(records);
        }
        let found = self.blocking(move |shared| shared.read_payloads(slot, absent)).await?;
        for (at, bytes) in found {
            if let Some(LogRecord { op: LogOp::Write { payload, .. }, .. }) = records.get_mut(at) {
                *payload = bytes;
            }
        }
        Ok(records)
    }

    fn collect_log(
        &self,
        slot: u32,
        range: &Range<u64>,
        max_bytes: usize,
    ) -> Result<(Vec<LogRecord>, Vec<AbsentPayload>)> {
        let core = self.core();
        core.check()?;
        let rs = core.replica(slot)?;
        let (mut records, mut absent, mut bytes) = (Vec::new(), Vec::new(), 0);
        if rs.purged.is_some_and(|purged| range.start <= purged.index) && !range.is_empty() {
            return Err(rs.gap(range.start, "These entries were purged; transfer the whole replica"));
        }
        // A log may begin at 1.
        for index in range.start.max(rs.first)..range.end {
            let Some(entry) = rs.entry(index) else { break };
            let stored = &entry.stored;
            let op = match &stored.op {
                StoredOp::None => LogOp::None,
                StoredOp::Unmap { lba, count } => LogOp::Unmap { lba: Lba(*lba), count: BlockCount(*count) },
                StoredOp::Write { lba, crcs, extents } => {
                    bytes += crcs.len() * BLOCK_SIZE;
                    if entry.payload.is_none() {
                        let addrs = extents.blocks().collect();
                        absent.push(AbsentPayload {
                            at: records.len(),
                            mark: stored.mark,
                            lba: *lba,
                            addrs,
                            crcs: Arc::clone(crcs),
                        });
                    }
                    let payload = entry.payload.clone().unwrap_or_default();
                    LogOp::Write { lba: Lba(*lba), crcs: Arc::clone(crcs), payload }
                }
            };
            bytes += stored.header.len();
            records.push(LogRecord { mark: stored.mark, header: stored.header.clone(), op });
            if bytes > max_bytes {
                break;
            }
        }
        Ok((records, absent))
    }

    fn read_payloads(&self, slot: u32, absent: Vec<AbsentPayload>) -> Result<Vec<(usize, Bytes)>> {
        let mut out = Vec::with_capacity(absent.len());
        for entry in absent {
            let mut buf = vec![0; entry.addrs.len() * BLOCK_SIZE];
            self.fetch(&entry.addrs, &mut buf, Mode::Normal)?;
            if Self::first_bad(&entry.addrs, &entry.crcs, &buf).is_some() {
                self.fetch(&entry.addrs, &mut buf, Mode::Direct)?;
            }
            if let Some((at, got)) = Self::first_bad(&entry.addrs, &entry.crcs, &buf) {
                {
                    let core = self.core();
                    let rs = core.replica(slot)?;
                    if rs.entry(entry.mark.index).is_none_or(|now| now.stored.mark != entry.mark) {
                        return Err(rs.gap(entry.mark.index, "The entry was dropped while it was read"));
                    }
                }
                return Err(self.corrupt(slot, entry.addrs[at], entry.lba + at as u64, entry.crcs[at], got));
            }
            out.push((entry.at, Bytes::from(buf)));
        }
        Ok(out)
    }
}

/// A log entry whose payload must be read.
struct AbsentPayload {
    at: usize,
    mark: LogMark,
    lba: u64,
    addrs: Vec<u64>,
    crcs: Arc<[u32]>,
}
