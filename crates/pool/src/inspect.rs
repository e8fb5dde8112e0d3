//! Looking at a pool without opening it: labels, superblocks, journal, maps, allocator, and (on request) every payload.
//!
//! The devices are only read. Recovery runs as it would at an opening, over a layer that keeps its writes in memory.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ballast_api::{BLOCK_SIZE, VolumeId};

use crate::alloc::Allocator;
use crate::error::{PoolError, Result};
use crate::format::batch::StoredOp;
use crate::format::leaf::{LEAF_BLOCKS, Leaf};
use crate::format::{BLOCK, split_block};
use crate::io::{Device, FileDevice, PoolDevice};
use crate::map::{damaged, stored_leaves};
use crate::members::members;
use crate::meta::MetaStore;
use crate::recover;
use crate::state::Core;
use crate::state::replica::{Kind, PENDING, ReplicaState};
use crate::types::OpenOptions;

/// What was found on one device.
#[derive(Clone, Debug)]
pub struct DeviceReport {
    /// Its name.
    pub name: String,
    /// Its place in the pool.
    pub index: u8,
    /// Bytes, as labelled.
    pub size: u64,
    /// Bytes for metadata; device 0 has them, and perhaps devices that the pool grew by.
    pub metadata: u64,
    /// Bytes of journal.
    pub journal: u64,
    /// Bytes of extent area, and how much of it is prepared.
    pub extents: (u64, u64),
    /// Whether it was closed properly.
    pub clean: bool,
    /// How often the pool was opened.
    pub incarnation: u64,
    /// Who opened it last.
    pub owner: String,
}

/// What was found of one replica.
#[derive(Clone, Debug)]
pub struct ReplicaReport {
    /// The volume.
    pub volume: VolumeId,
    /// What it is: a replica, a deleted one being reclaimed, an unfinished install.
    pub kind: &'static str,
    /// Size of the volume in blocks.
    pub blocks: u64,
    /// Mapped blocks.
    pub mapped: u64,
    /// Blocks that only the log holds.
    pub log_only: u64,
    /// First and last log index.
    pub log: Option<(u64, u64)>,
    /// Last applied index.
    pub applied: Option<u64>,
    /// Last committed index that is known.
    pub committed: Option<u64>,
}

/// What was found in a pool.
#[derive(Clone, Debug)]
pub struct InspectReport {
    /// Name and id.
    pub pool: String,
    /// Its devices.
    pub devices: Vec<DeviceReport>,
    /// The last batch in the checkpoint, and the last one in the journal.
    pub journal: (u64, u64),
    /// Its replicas.
    pub replicas: Vec<ReplicaReport>,
    /// Blocks marked as used.
    pub used_blocks: u64,
    /// Blocks whose payload was verified.
    pub verified_blocks: u64,
    /// Everything that is wrong.
    pub problems: Vec<String>,
}

impl fmt::Display for InspectReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "pool {}", self.pool)?;
        for d in &self.devices {
            writeln!(
                f,
                "device {}: {} size {} metadata {} journal {} extents {} prepared {} incarnation {} {} owner {}",
                d.index,
                d.name,
                d.size,
                d.metadata,
                d.journal,
                d.extents.0,
                d.extents.1,
                d.incarnation,
                if d.clean { "clean" } else { "in use or crashed" },
                d.owner
            )?;
        }
        writeln!(f, "journal: checkpoint at batch {}, last batch {}", self.journal.0, self.journal.1)?;
        for r in &self.replicas {
            let log = r.log.map_or(String::from("empty"), |(first, last)| format!("{first}..={last}"));
            writeln!(
                f,
                "{} {}: {} of {} blocks mapped, {} held by the log ({log}), applied {:?}, committed {:?}",
                r.kind, r.volume, r.mapped, r.blocks, r.log_only, r.applied, r.committed
            )?;
        }
        writeln!(f, "blocks: {} used, {} verified", self.used_blocks, self.verified_blocks)?;
        for problem in &self.problems {
            writeln!(f, "PROBLEM: {problem}")?;
        }
        write!(f, "{}", if self.problems.is_empty() { "no problems" } else { "the pool is damaged" })
    }
}

/// Looks at a pool that nobody has open. With `verify` every payload is read and checked.
pub fn inspect(paths: &[PathBuf], verify: bool) -> Result<InspectReport, PoolError> {
    let mut devices: Vec<Arc<dyn Device>> = Vec::new();
    for path in paths {
        let name = path.display().to_string();
        devices.push(Arc::new(FileDevice::open_read_only(path).map_err(|e| PoolError::io(&name, "open", e))?));
    }
    inspect_on(devices, verify)
}

/// The same on given devices.
pub fn inspect_on(devices: Vec<Arc<dyn Device>>, verify: bool) -> Result<InspectReport, PoolError> {
    let overlays: Vec<Arc<dyn Device>> =
        devices.into_iter().map(|device| Arc::new(Overlay::new(device)) as _).collect();
    let plain: Vec<Arc<PoolDevice>> =
        overlays.iter().map(|device| Arc::new(PoolDevice::new(Arc::clone(device)))).collect();
    let members = members(plain)?;
    let reports =
        members.labels.iter().zip(&members.supers).zip(&members.devices).map(|((label, sb), device)| DeviceReport {
            name: device.name.clone(),
            index: label.index,
            size: label.layout.size,
            metadata: label.layout.meta_bytes,
            journal: label.layout.journal_bytes,
            extents: (label.layout.extent_blocks() * BLOCK, sb.prepared * BLOCK),
            clean: sb.clean,
            incarnation: sb.incarnation,
            owner: format!("process {} on {}", sb.owner.pid, sb.owner.host),
        });
    let reports = reports.collect();
    let name = format!("{} ({})", members.labels[0].name, members.labels[0].pool);
    let shared = recover::open(overlays, OpenOptions { manual: true, ..OpenOptions::default() })?;
    let core = shared.core();
    let check = check(&core, &*shared.meta, &shared.devices, verify)?;
    let mut replicas: Vec<ReplicaReport> = core.replicas.values().map(report).collect();
    replicas.sort_by_key(|replica| replica.volume);
    Ok(InspectReport {
        pool: name,
        devices: reports,
        journal: (core.journal.durable_seq - core.journal.live_batches(), core.journal.durable_seq),
        replicas,
        used_blocks: core.alloc.used(),
        verified_blocks: check.verified,
        problems: check.problems,
    })
}

fn report(rs: &ReplicaState) -> ReplicaReport {
    ReplicaReport {
        volume: rs.volume,
        kind: match rs.kind {
            Kind::Live => "replica",
            Kind::Deleted => "deleted replica",
            Kind::Shadow { .. } => "unfinished install",
        },
        blocks: rs.capacity,
        mapped: rs.mapped,
        log_only: rs.log_only,
        log: rs.log.front().zip(rs.log.back()).map(|(first, last)| (first.stored.mark.index, last.stored.mark.index)),
        applied: rs.applied_index(),
        committed: rs.committed.map(|mark| mark.index),
    }
}

/// What a check found.
pub(crate) struct Check {
    pub(crate) verified: u64,
    pub(crate) problems: Vec<String>,
}

/// Compares the allocator with what maps and logs refer to: each used block has exactly one place that owns it.
pub(crate) fn check(core: &Core, meta: &dyn MetaStore, devices: &[Arc<PoolDevice>], verify: bool) -> Result<Check> {
    let mut check = Check { verified: 0, problems: Vec::new() };
    let mut seen: Allocator = core.alloc.empty_copy();
    for rs in core.replicas.values().filter(|rs| !matches!(rs.kind, Kind::Shadow { .. })) {
        let who = format!("volume {} (slot {})", rs.volume, rs.slot);
        let mut claim = |check: &mut Check, addr: u64, crc: u32, what: &str| -> Result<()> {
            if !seen.claim(addr) {
                check.problems.push(format!("{who}: block {addr:#x} of {what} has another owner, or is outside"));
                return Ok(());
            }
            if verify {
                let (device, block) = split_block(addr);
                let mut bytes = vec![0; BLOCK_SIZE];
                devices[device].read_at(block * BLOCK, &mut bytes)?;
                check.verified += 1;
                let got = crc32fast::hash(&bytes);
                if got != crc {
                    check
                        .problems
                        .push(format!("{who}: block {addr:#x} of {what}: checksum {got:08x}, expected {crc:08x}"));
                }
            }
            Ok(())
        };
        let mut leaves: Vec<u64> = stored_leaves(meta, rs.slot, 0, u64::MAX, usize::MAX)?;
        leaves.retain(|leaf| !rs.leaves.contains_key(leaf));
        leaves.extend(rs.leaves.keys());
        let mut mapped = 0;
        for number in leaves {
            let leaf = match rs.leaves.get(&number) {
                Some(cached) => Arc::clone(&cached.leaf),
                None => match meta.get(&crate::format::root::leaf_key(rs.slot, number))? {
                    Some(bytes) => Arc::new(Leaf::decode(&bytes).ok_or_else(|| damaged(rs.volume, number))?),
                    None => continue,
                },
            };
            for (at, entry) in leaf.present() {
                mapped += 1;
                claim(&mut check, entry.addr(), entry.crc, &format!("lba {}", number * LEAF_BLOCKS + at as u64))?;
            }
        }
        let mut log_only = 0;
        for entry in rs.log.iter().filter(|entry| entry.seq != PENDING) {
            let StoredOp::Write { crcs, extents, .. } = &entry.stored.op else { continue };
            let applied = Some(entry.stored.mark.index) <= rs.applied_index();
            for (at, addr) in extents.blocks().enumerate() {
                if !applied || entry.is_dead(at) {
                    log_only += 1;
                    claim(&mut check, addr, crcs[at], &format!("log index {}", entry.stored.mark.index))?;
                }
            }
        }
        let pending: u64 = rs.log.iter().filter(|entry| entry.seq == PENDING).map(|entry| entry.blocks()).sum();
        if rs.kind == Kind::Live && (mapped, log_only + pending) != (rs.mapped, rs.log_only) {
            check.problems.push(format!(
                "{who}: counts {} mapped and {} log blocks, has {mapped} and {}",
                rs.mapped,
                rs.log_only,
                log_only + pending
            ));
        }
    }
    for (addr, here) in core.alloc.differences(&seen) {
        check.problems.push(format!(
            "block {addr:#x} is marked {}",
            if here { "used, but nothing refers to it" } else { "free, but referred to" }
        ));
        if check.problems.len() > 100 {
            break;
        }
    }
    Ok(check)
}

impl crate::Pool {
    /// Compares the allocator with maps and logs, as [`inspect()`] does, while the pool is open but idle; returns what
    /// is wrong.
    pub fn check(&self, verify: bool) -> Result<Vec<String>, PoolError> {
        let shared = self.shared();
        let _one = shared.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        let core = shared.core();
        check(&core, &*shared.meta, &shared.devices, verify).map(|check| check.problems)
    }
}

/// A device whose writes stay in memory.
#[derive(Debug)]
struct Overlay {
    below: Arc<dyn Device>,
    pages: Mutex<HashMap<u64, Vec<u8>>>,
}

impl Overlay {
    fn new(below: Arc<dyn Device>) -> Self {
        Self { below, pages: Mutex::new(HashMap::new()) }
    }
}

impl Device for Overlay {
    fn name(&self) -> String {
        self.below.name()
    }

    fn len(&self) -> u64 {
        self.below.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.below.read_at(offset, buf)?;
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset + buf.len() as u64;
        for page in offset / BLOCK..end.div_ceil(BLOCK) {
            if let Some(bytes) = pages.get(&page) {
                let (from, to) = ((page * BLOCK).max(offset), ((page + 1) * BLOCK).min(end));
                buf[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&bytes[(from - page * BLOCK) as usize..(to - page * BLOCK) as usize]);
            }
        }
        Ok(())
    }

    fn write_many(&self, writes: &[(u64, &[u8])]) -> io::Result<()> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        for (offset, bytes) in writes {
            for (at, block) in bytes.chunks(BLOCK as usize).enumerate() {
                pages.insert(offset / BLOCK + at as u64, block.to_vec());
            }
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> io::Result<bool> {
        self.below.lock()
    }

    fn unlock(&self) -> io::Result<()> {
        self.below.unlock()
    }
}
