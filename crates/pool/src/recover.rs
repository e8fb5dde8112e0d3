//! Opening a pool: labels, owner, checkpoint, journal.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::alloc::{Allocator, decode_region};
use crate::error::{PoolError, Result};
use crate::format::BLOCK;
use crate::format::batch::{Batch, Record, StoredOp};
use crate::format::label::{Label, Layout};
use crate::format::leaf::Leaf;
use crate::format::log::{CHUNK, decode_chunk};
use crate::format::root::{self, ROOT_KEY, ReplicaRecord, Root, SlotKind};
use crate::format::superblock::Owner;
use crate::io::{Device, PoolDevice};
use crate::journal::recovery::BatchReader;
use crate::journal::ring::Journal;
use crate::members::{members, read_label, read_superblock, settle};
use crate::meta::{MetaStore, RedbStore, SuperStore, regions};
use crate::pool::Shared;
use crate::state::replica::{CachedLeaf, Entry, Kind, ReplicaState};
use crate::state::{Applied, CheckpointState, Core};
use crate::types::OpenOptions;

/// This process, for the superblock.
fn owner() -> Owner {
    let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    Owner {
        pid: std::process::id(),
        boot: read("/proc/sys/kernel/random/boot_id"),
        host: read("/proc/sys/kernel/hostname"),
    }
}

pub(crate) fn lock(device: &PoolDevice) -> Result<()> {
    if device.raw().lock().map_err(|e| PoolError::io(&device.name, "lock", e))? {
        return Ok(());
    }
    let owner = read_label(device).and_then(|label| read_superblock(device, &label)).map(|sb| sb.owner);
    let owner = match owner {
        Ok(owner) if owner.pid != 0 => format!("process {} on {} (boot {})", owner.pid, owner.host, owner.boot),
        _ => String::from("another process"),
    };
    Err(PoolError::Locked { device: device.name.clone(), owner })
}

pub(crate) fn pool_hash(label: &Label) -> u64 {
    let bytes = label.pool.as_bytes();
    let half = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    half(0) ^ half(8).rotate_left(29)
}

pub(crate) fn open(devices: Vec<Arc<dyn Device>>, options: OpenOptions) -> Result<Shared> {
    let devices: Vec<Arc<PoolDevice>> = devices.into_iter().map(|device| Arc::new(PoolDevice::new(device))).collect();
    for (at, device) in devices.iter().enumerate() {
        if let Err(e) = lock(device) {
            devices[..at].iter().for_each(|device| drop(device.raw().unlock()));
            return Err(e);
        }
    }
    let result = open_locked(devices.clone(), options);
    if result.is_err() {
        devices.iter().for_each(|device| drop(device.raw().unlock()));
    }
    result
}

fn open_locked(devices: Vec<Arc<PoolDevice>>, options: OpenOptions) -> Result<Shared> {
    let mut members = members(devices)?;
    settle(&mut members)?;
    let incarnation = members.supers.iter().map(|sb| sb.incarnation).max().unwrap_or(0) + 1;
    let clean = members.supers.iter().all(|sb| sb.clean);
    let supers: Vec<Arc<SuperStore>> = members
        .devices
        .iter()
        .zip(members.supers)
        .map(|(device, sb)| Arc::new(SuperStore::new(Arc::clone(device), sb)))
        .collect();
    let me = owner();
    for store in &supers {
        store.update(|sb| {
            sb.incarnation = incarnation;
            sb.clean = false;
            sb.owner = me.clone();
        })?;
    }
    let layouts: Vec<Layout> = members.labels.iter().map(|label| label.layout).collect();
    let meta = RedbStore::open(Arc::clone(&supers[0]), regions(&members.devices, &layouts))?;
    let prepared: Vec<u64> = supers.iter().map(|store| store.get().prepared).collect();
    let label = &members.labels[0];
    let name = options.name.clone();
    let mut core = load(&meta, &layouts, &prepared, options, pool_hash(label))?;
    let reader = BatchReader { devices: &members.devices, layouts: &layouts };
    let mut journal = core.journal.clone();
    let from = journal.next_seq;
    reader.replay(&mut journal, clean, &mut |batch| replay(&mut core, &meta, batch))?;
    let replayed = journal.next_seq - from;
    journal.incarnation = incarnation;
    core.journal = journal;
    finish(&mut core);
    let known = core.journal.devices();
    let grown = known < layouts.len();
    core.journal.add_rings(layouts[known..].iter().map(|layout| layout.journal_bytes));
    if replayed > 0 {
        core.touch();
        tracing::info!(pool = %name, batches = replayed, "journal replayed");
    }
    let shared = Shared::new(label.pool, members.devices, layouts, supers, Box::new(meta), core);
    if grown {
        // Before anything is written to the new rings, or allocated on the new devices (see `Journal::add_rings`).
        shared.run_checkpoint()?;
        tracing::info!(pool = %name, from = known, to = shared.devices.len(), "the pool has grown by devices");
    }
    Ok(shared)
}

/// The state at the last checkpoint.
pub(crate) fn load(
    meta: &dyn MetaStore,
    layouts: &[Layout],
    prepared: &[u64],
    options: OpenOptions,
    pool_hash: u64,
) -> Result<Core> {
    let bad = |what: &str| PoolError::metadata(what.to_owned(), "a value is missing or its checksum is wrong");
    let root = meta.get(ROOT_KEY)?.as_deref().and_then(Root::decode).ok_or_else(|| bad("the root"))?;
    // Fewer: the pool has grown since then, and the checkpoint is about the devices it had.
    if root.heads.is_empty() || root.heads.len() > layouts.len() {
        return Err(bad("the root"));
    }
    let mut alloc = Allocator::default();
    for (layout, prepared) in layouts.iter().zip(prepared) {
        alloc.add_device(layout.extents_offset / BLOCK, layout.extent_blocks(), *prepared);
    }
    for (key, value) in meta.scan(b"A", b"B", usize::MAX)? {
        let place = match key.as_slice() {
            [b'A', device, region @ ..] => region.try_into().ok().map(|region| (*device, u32::from_be_bytes(region))),
            _ => None,
        };
        let (Some((device, region)), Some(image)) = (place, decode_region(&value)) else {
            return Err(bad("the allocator"));
        };
        if !alloc.load_region(device, region, &image) {
            return Err(bad("the allocator"));
        }
    }
    let rings: Vec<u64> = layouts.iter().map(|layout| layout.journal_bytes).collect();
    let capacity = alloc.capacity();
    let mut core = Core {
        fenced: None,
        closing: false,
        draining: false,
        options,
        replicas: HashMap::new(),
        by_volume: HashMap::new(),
        next_slot: root.next_slot,
        alloc,
        queue: VecDeque::new(),
        urgent: false,
        lazy_committed: BTreeSet::new(),
        lazy_applied: BTreeSet::new(),
        frees: Vec::new(),
        frees_soon: 0,
        frees_checkpoint: Vec::new(),
        frees_frozen: 0,
        removed_slots: Vec::new(),
        removed_keys: Vec::new(),
        journal: Journal::new(&rings, &root.heads, root.seq, root.crc, root.incarnation, pool_hash),
        checkpoint: CheckpointState {
            requested: false,
            count: root.checkpoint,
            generation: 0,
            dirty_since: None,
            waiters: Vec::new(),
        },
        lru: VecDeque::new(),
        leaves: 0,
        reserve: (capacity / 128).clamp(16, 16384),
        admitted: 0,
        waited_for: 0,
        batches: 0,
        records: 0,
        unflushed_install: false,
        #[cfg(feature = "sim")]
        early_reuse: false,
    };
    for (key, value) in meta.scan(b"V", b"W", usize::MAX)? {
        let slot = key.get(1..5).and_then(|slot| slot.try_into().ok()).map(u32::from_be_bytes);
        let (Some(slot), Some(record)) = (slot, ReplicaRecord::decode(&value)) else { return Err(bad("a replica")) };
        load_replica(meta, &mut core, slot, record)?;
    }
    Ok(core)
}

fn load_replica(meta: &dyn MetaStore, core: &mut Core, slot: u32, record: ReplicaRecord) -> Result<()> {
    let kind = match record.kind {
        SlotKind::Live => Kind::Live,
        SlotKind::Deleted => Kind::Deleted,
        SlotKind::Shadow => Kind::Shadow { dropped: true },
    };
    let mut rs = ReplicaState::new(slot, kind, record.volume, record.blocks, record.user);
    rs.purged = record.purged;
    rs.applied = record.applied;
    rs.recorded = rs.applied_index();
    rs.committed = record.committed;
    rs.hard_state = record.hard_state;
    rs.blob.clone_from(&record.blob);
    rs.saved_blob = record.blob;
    rs.mapped = record.mapped;
    if let Some((first, last)) = record.log {
        let what = || format!("the log of volume {}", record.volume);
        let (from, to) = (root::chunk_key(slot, first / CHUNK), root::chunk_key(slot, last / CHUNK + 1));
        for (_, value) in meta.scan(&from, &to, usize::MAX)? {
            let chunk = decode_chunk(slot, &value).ok_or_else(|| PoolError::metadata(what(), "a chunk is damaged"))?;
            for stored in chunk.into_iter().filter(|entry| (first..=last).contains(&entry.mark.index)) {
                rs.check_next(stored.mark.index)?;
                rs.push(Entry::new(stored, 0, None));
            }
        }
        if rs.log.len() as u64 != last - first + 1 {
            return Err(PoolError::metadata(what(), "entries are missing"));
        }
        // What is applied is in the map, except for the dead ones below.
        let applied = rs.applied_index();
        rs.log_only = rs.log.iter().filter(|e| Some(e.stored.mark.index) > applied).map(Entry::blocks).sum();
        for (index, block) in &record.dead {
            let Some(entry) = rs.entry_mut(*index) else {
                return Err(PoolError::metadata(what(), "a dead block has no entry"));
            };
            entry.set_dead(usize::from(*block));
            rs.log_only += 1;
        }
        rs.stored_chunks = Some((first / CHUNK, last / CHUNK));
        rs.unstored_from = last + 1;
    } else {
        rs.unstored_from = rs.purged.map_or(0, |mark| mark.index + 1);
    }
    rs.records_since_checkpoint = 0;
    rs.blocks_since_checkpoint = 0;
    rs.dirty = false;
    rs.durable = rs.last().map(|mark| mark.index);
    rs.publish_checkpoint();
    if kind == Kind::Live && core.by_volume.insert(rs.volume, slot).is_some() {
        return Err(PoolError::metadata(format!("volume {}", rs.volume), "two replicas claim it"));
    }
    core.replicas.insert(slot, rs);
    Ok(())
}

/// Does again what a batch recorded.
pub(crate) fn replay(core: &mut Core, meta: &dyn MetaStore, batch: Batch) -> Result<()> {
    let seq = batch.head.seq;
    for record in batch.records {
        let mut frees = Vec::new();
        match record {
            Record::Create { slot, volume, blocks, user } => {
                if slot >= core.next_slot {
                    core.next_slot = slot + 1;
                    core.replicas.insert(slot, ReplicaState::new(slot, Kind::Live, volume, blocks, user));
                    core.by_volume.insert(volume, slot);
                }
            }
            Record::Delete { slot } => {
                if let Some(rs) = core.replicas.get_mut(&slot).filter(|rs| rs.kind == Kind::Live) {
                    rs.kind = Kind::Deleted;
                    let volume = rs.volume;
                    rs.drop_log(&mut frees);
                    core.by_volume.remove(&volume);
                }
            }
            Record::Append { slot, entry } => {
                // Gone by a later deletion that the checkpoint already contains.
                let Some(rs) = core.replicas.get_mut(&slot).filter(|rs| rs.kind == Kind::Live) else { continue };
                rs.check_next(entry.mark.index)
                    .map_err(|e| PoolError::metadata(format!("batch {seq}"), e.to_string()))?;
                if let StoredOp::Write { extents, .. } = &entry.op {
                    for addr in extents.blocks() {
                        if !core.alloc.claim(addr) {
                            return Err(PoolError::metadata(
                                format!("batch {seq}"),
                                format!("block {addr:#x} is used twice"),
                            ));
                        }
                    }
                }
                rs.durable = Some(entry.mark.index);
                rs.push(Entry::new(entry, seq, None));
            }
            Record::Truncate { slot, after } => {
                if let Some(rs) = core.replicas.get_mut(&slot) {
                    rs.truncate(after, &mut frees);
                }
            }
            Record::Purge { slot, upto } => {
                if let Some(rs) = core.replicas.get_mut(&slot) {
                    rs.purge(upto, &mut frees);
                }
            }
            Record::HardState { slot, state } => {
                // Saved while an install was completed: it belongs to the slot that took over.
                let volume = core.replicas.get(&slot).map(|rs| rs.volume);
                let heir = volume.and_then(|volume| core.by_volume.get(&volume)).copied().unwrap_or(slot);
                if let Some(rs) = core.replicas.get_mut(&heir) {
                    rs.hard_state = Some(state);
                    rs.dirty = true;
                }
            }
            Record::Committed { slot, mark } => {
                if let Some(rs) = core.replicas.get_mut(&slot) {
                    rs.committed = Some(mark);
                    rs.dirty = true;
                }
            }
            Record::Applied { slot, upto, skips } => {
                let live =
                    core.replicas.get(&slot).is_some_and(|rs| rs.kind == Kind::Live && rs.applied_index() < Some(upto));
                if live {
                    replay_applied(core, meta, slot, upto, &skips, &mut frees)?;
                }
            }
        }
        for addr in frees {
            core.alloc.release(addr);
        }
    }
    Ok(())
}

fn replay_applied(
    core: &mut Core,
    meta: &dyn MetaStore,
    slot: u32,
    upto: u64,
    skips: &[u64],
    frees: &mut Vec<u64>,
) -> Result<()> {
    loop {
        match core.apply_resident(slot, upto, skips, frees)? {
            Applied::All => break,
            Applied::Missing(leaves) => {
                for leaf in leaves {
                    load_leaf(core, meta, slot, leaf)?;
                }
            }
            Applied::LargeUnmap { mark, lba, count } => {
                for leaf in crate::map::existing_leaves(core, meta, slot, lba, count)? {
                    load_leaf(core, meta, slot, leaf)?;
                    if let Some(rs) = core.replicas.get_mut(&slot) {
                        rs.unmap_in_leaf(leaf, lba, count, frees);
                    }
                }
                if let Some(rs) = core.replicas.get_mut(&slot) {
                    rs.applied = Some(mark);
                }
            }
        }
    }
    if let Some(rs) = core.replicas.get_mut(&slot) {
        rs.recorded = Some(upto);
        rs.skips.clear();
        rs.needs_applied = false;
    }
    Ok(())
}

fn load_leaf(core: &mut Core, meta: &dyn MetaStore, slot: u32, leaf: u64) -> Result<()> {
    let Some(rs) = core.replicas.get_mut(&slot) else { return Ok(()) };
    if rs.leaves.contains_key(&leaf) {
        return Ok(());
    }
    let loaded = match meta.get(&root::leaf_key(slot, leaf))? {
        None => Leaf::default(),
        Some(bytes) => Leaf::decode(&bytes).ok_or_else(|| crate::map::damaged(rs.volume, leaf))?,
    };
    rs.leaves.insert(leaf, CachedLeaf { leaf: Arc::new(loaded), dirty: false, frozen: false, hot: true });
    Ok(())
}

/// What a replay leaves behind is a state like any other.
fn finish(core: &mut Core) {
    core.leaves = core.replicas.values().map(|rs| rs.leaves.len() as u64).sum();
    let leaves: Vec<(u32, u64)> =
        core.replicas.iter().flat_map(|(slot, rs)| rs.leaves.keys().map(move |leaf| (*slot, *leaf))).collect();
    core.lru.extend(leaves);
    for rs in core.replicas.values_mut() {
        rs.needs_applied = false;
        rs.tail_from = rs.last().map_or(0, |mark| mark.index + 1);
    }
    if core.replicas.values().any(|rs| rs.kind != Kind::Live) {
        core.checkpoint.requested = true;
    }
}
