//! Regions of devices as the storage under redb, one behind the other, and the superblock that remembers how much of them
//! is in use. Device 0 has the first region; a device that the pool grew by may add another one.
//!
//! redb writes page by page and then syncs. The pages are gathered here and go to the device in one submission, in order
//! of their address, followed by one flush.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

use crate::error::{PoolError, Result};
use crate::format::BLOCK;
use crate::format::label::Layout;
use crate::format::superblock::Superblock;
use crate::io::{AlignedBuf, PoolDevice, Purpose};

/// The superblock of one device, and how to change it.
#[derive(Debug)]
pub(crate) struct SuperStore {
    pub(crate) device: Arc<PoolDevice>,
    state: Mutex<Superblock>,
}

impl SuperStore {
    pub(crate) fn new(device: Arc<PoolDevice>, state: Superblock) -> Self {
        Self { device, state: Mutex::new(state) }
    }

    pub(crate) fn get(&self) -> Superblock {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the superblock; durable on return.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Superblock)) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = state.clone();
        change(&mut next);
        next.generation += 1;
        self.device.write_at(next.offset(), &next.encode(), Purpose::Superblock)?;
        self.device.flush()?;
        *state = next;
        Ok(())
    }
}

/// The size of the metadata region for this many bytes of data. A mapped block costs 11 bytes where the map is dense and
/// some 50 where every block lies in a leaf of its own; copy on write needs the changed part twice. redb doubles, and
/// its bookkeeping comes on top.
pub(crate) fn region_len(data_bytes: u64) -> u64 {
    (data_bytes / 48).clamp(8 << 20, 1 << 40).next_power_of_two() + (1 << 20)
}

/// A region of a device.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    pub(crate) device: Arc<PoolDevice>,
    /// Where it begins on the device, and its length; whole blocks.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// The metadata regions of a pool's devices.
pub(crate) fn regions<'a>(devices: &[Arc<PoolDevice>], layouts: impl IntoIterator<Item = &'a Layout>) -> Vec<Region> {
    let region = |(device, layout): (&Arc<PoolDevice>, &Layout)| Region {
        device: Arc::clone(device),
        offset: layout.meta_offset,
        bytes: layout.meta_bytes,
    };
    devices.iter().zip(layouts).map(region).filter(|region| region.bytes > 0).collect()
}

/// The regions, as one.
#[derive(Debug)]
pub(crate) struct RegionBackend {
    /// Remembers the length.
    supers: Arc<SuperStore>,
    regions: Vec<Region>,
    /// The length that redb has set. That in the superblock is the longest that it ever had; a store that is opened begins
    /// with that, and redb lays itself out anew in it.
    len: AtomicU64,
    /// Pages written since the last sync.
    pages: Mutex<BTreeMap<u64, Box<[u8]>>>,
}

/// A part of a range that lies in one region.
struct Piece {
    /// Which region.
    region: usize,
    /// Where on the region's device.
    at: u64,
    /// Which bytes of the range.
    part: Range<usize>,
}

fn other(error: PoolError) -> io::Error {
    io::Error::other(error.to_string())
}

impl RegionBackend {
    pub(crate) fn new(supers: Arc<SuperStore>, regions: Vec<Region>) -> Self {
        let len = AtomicU64::new(supers.get().meta_len);
        Self { supers, regions, len, pages: Mutex::new(BTreeMap::new()) }
    }

    fn bytes(&self) -> u64 {
        self.regions.iter().map(|region| region.bytes).sum()
    }

    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.bytes() => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "outside the metadata region")),
        }
    }

    /// Where a range is on the devices.
    fn pieces(&self, offset: u64, len: usize) -> impl Iterator<Item = Piece> {
        let end = offset + len as u64;
        let mut start = 0;
        self.regions.iter().enumerate().filter_map(move |(nth, region)| {
            let (first, last) = (start.max(offset), (start + region.bytes).min(end));
            let piece = (first < last).then(|| Piece {
                region: nth,
                at: region.offset + first - start,
                part: (first - offset) as usize..(last - offset) as usize,
            });
            start += region.bytes;
            piece
        })
    }

    fn read_devices(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        for Piece { region, at, part } in self.pieces(offset, out.len()) {
            self.regions[region].device.read_at(at, &mut out[part]).map_err(other)?;
        }
        Ok(())
    }

    /// Writes, in one submission per region.
    fn write_devices(&self, writes: &[(u64, &[u8])], purpose: Purpose) -> io::Result<()> {
        let mut lists: Vec<Vec<(u64, &[u8])>> = vec![Vec::new(); self.regions.len()];
        for (offset, bytes) in writes {
            for Piece { region, at, part } in self.pieces(*offset, bytes.len()) {
                lists[region].push((at, &bytes[part]));
            }
        }
        for (region, list) in self.regions.iter().zip(lists).filter(|(_, list)| !list.is_empty()) {
            region.device.write_many(&list, |_| purpose).map_err(other)?;
        }
        Ok(())
    }

    /// Flushes the devices that these ranges are on.
    fn flush_devices(&self, ranges: impl Iterator<Item = (u64, usize)>) -> io::Result<()> {
        let touched: BTreeSet<usize> =
            ranges.flat_map(|(offset, len)| self.pieces(offset, len)).map(|piece| piece.region).collect();
        touched.into_iter().try_for_each(|region| self.regions[region].device.flush().map_err(other))
    }
}

impl StorageBackend for RegionBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len.load(Ordering::Acquire))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check(offset, out.len())?;
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        self.read_devices(offset, out)?;
        let end = offset + out.len() as u64;
        for (page, bytes) in pages.range(offset / BLOCK..end.div_ceil(BLOCK)) {
            let start = page * BLOCK;
            let (from, to) = (start.max(offset), (start + BLOCK).min(end));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }

    /// The region itself grows only: the free-page state that redb saved with a commit is that of the store before it gave
    /// space back, and redb 4.5 cannot load it into a shorter one after a crash. But redb must find the length that it set:
    /// it takes growth to less than the length for a truncation, and panics when pages are being written.
    fn set_len(&self, len: u64) -> io::Result<()> {
        let old = self.len.load(Ordering::Acquire);
        if len <= old {
            // What was written behind the end is gone.
            self.pages.lock().unwrap_or_else(PoisonError::into_inner).split_off(&len.div_ceil(BLOCK));
            self.len.store(len, Ordering::Release);
            return Ok(());
        }
        if len > self.bytes() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the metadata region of the pool is full"));
        }
        // New space must read as zeroes.
        let zeroes = AlignedBuf::new(1 << 20);
        let mut at = old;
        while at < len {
            let step = (len - at).min(1 << 20);
            self.write_devices(&[(at, &zeroes.as_slice()[..step as usize])], Purpose::Prepare)?;
            at += step;
        }
        self.flush_devices(std::iter::once((old, (len - old) as usize)))?;
        if len > self.supers.get().meta_len {
            self.supers.update(|sb| sb.meta_len = len).map_err(other)?;
        }
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.is_empty() {
            return Ok(());
        }
        let writes: Vec<(u64, &[u8])> = pages.iter().map(|(page, bytes)| (page * BLOCK, &bytes[..])).collect();
        self.write_devices(&writes, Purpose::Checkpoint)?;
        self.flush_devices(writes.iter().map(|(offset, bytes)| (*offset, bytes.len())))?;
        pages.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(offset, data.len())?;
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut offset, mut data) = (offset, data);
        while !data.is_empty() {
            let (page, from) = (offset / BLOCK, (offset % BLOCK) as usize);
            let step = data.len().min(BLOCK as usize - from);
            if step == BLOCK as usize {
                pages.insert(page, data[..step].into());
            } else {
                let bytes = match pages.entry(page) {
                    std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        let mut bytes = vec![0; BLOCK as usize].into_boxed_slice();
                        self.read_devices(page * BLOCK, &mut bytes)?;
                        entry.insert(bytes)
                    }
                };
                bytes[from..from + step].copy_from_slice(&data[..step]);
            }
            offset += step as u64;
            data = &data[step..];
        }
        Ok(())
    }
}
