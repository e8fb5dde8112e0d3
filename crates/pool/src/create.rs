//! Making a pool: labels, superblocks, an empty metadata store.

use std::fs::OpenOptions;
use std::io;
use std::sync::Arc;

use ballast_api::PoolId;

use crate::error::{PoolError, Result};
use crate::format::BLOCK;
use crate::format::label::{DATA_START, LABEL_OFFSETS, Label, Layout};
use crate::format::root::{ROOT_KEY, Root};
use crate::format::superblock::{Owner, Superblock};
use crate::io::{AlignedBuf, Device, PoolDevice, Purpose};
use crate::journal::ring::MIN_RING_BYTES;
use crate::meta::{Change, MetaStore, RedbStore, SuperStore, region_len};
use crate::recover::lock;
use crate::survey::{Survey, survey};
use crate::types::{DeviceConfig, PoolConfig};

const MIB: u64 = 1 << 20;
/// The least room for data that a device must have.
const MIN_EXTENTS: u64 = 256 << 10;

/// Makes a missing file, sparse.
pub(crate) fn make_file(device: &DeviceConfig) -> io::Result<()> {
    let Some(size) = device.size else { return Ok(()) };
    match OpenOptions::new().write(true).create_new(true).open(&device.path) {
        Ok(file) => {
            file.set_len(size / BLOCK * BLOCK)?;
            file.sync_all()?;
            // The name must survive a power loss as well.
            match device.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                Some(parent) => std::fs::File::open(parent)?.sync_all(),
                None => std::fs::File::open(".")?.sync_all(),
            }
        }
        // Between these two steps it may have been interrupted.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && is_absent(device) => {
            let file = OpenOptions::new().write(true).open(&device.path)?;
            file.set_len(size / BLOCK * BLOCK)?;
            file.sync_all()
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    }
}

fn layout(size: u64, index: usize, total: u64, config: &PoolConfig) -> Layout {
    let journal = config.journal_bytes.unwrap_or((size / 32).clamp(32 * MIB, 256 * MIB).min(size / 4));
    let journal_bytes = journal.max(MIN_RING_BYTES) / BLOCK * BLOCK;
    let meta_bytes =
        if index == 0 { config.meta_bytes.unwrap_or_else(|| region_len(total)) / BLOCK * BLOCK } else { 0 };
    let journal_offset = DATA_START + meta_bytes;
    Layout {
        size: size / BLOCK * BLOCK,
        meta_offset: DATA_START,
        meta_bytes,
        journal_offset,
        journal_bytes,
        extents_offset: journal_offset + journal_bytes,
    }
}

/// Makes a pool on blank devices, or on those where its making was interrupted.
pub(crate) fn create_on(devices: &[Arc<dyn Device>], config: &PoolConfig) -> Result<PoolId> {
    let devices = wrap(devices);
    locked(&devices, || match survey(&devices)? {
        Survey::Pool { device, label } => Err(PoolError::ForeignDevice { device, found: label }),
        Survey::Unfinished => {
            clear_labels(&devices)?;
            make(&devices, config)
        }
        Survey::Blank => make(&devices, config),
    })
}

/// The same, unless there is a pool.
pub(crate) fn create_if_blank(devices: &[Arc<dyn Device>], config: &PoolConfig) -> Result<Option<PoolId>> {
    let devices = wrap(devices);
    locked(&devices, || match survey(&devices)? {
        Survey::Pool { .. } => Ok(None),
        Survey::Unfinished => {
            clear_labels(&devices)?;
            make(&devices, config).map(Some)
        }
        Survey::Blank => make(&devices, config).map(Some),
    })
}

/// Whether one of these devices is a pool's.
pub(crate) fn is_pool(devices: &[Arc<dyn Device>]) -> Result<bool> {
    let devices = wrap(devices);
    locked(&devices, || Ok(!matches!(survey(&devices)?, Survey::Blank)))
}

/// Whether a file has to be made: it is missing, or its making was interrupted.
pub(crate) fn is_absent(device: &DeviceConfig) -> bool {
    device.size.is_some()
        && match std::fs::metadata(&device.path) {
            Ok(found) => found.is_file() && found.len() == 0,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
}

fn wrap(devices: &[Arc<dyn Device>]) -> Vec<Arc<PoolDevice>> {
    devices.iter().map(|device| Arc::new(PoolDevice::new(Arc::clone(device)))).collect()
}

fn locked<T>(devices: &[Arc<PoolDevice>], work: impl FnOnce() -> Result<T>) -> Result<T> {
    let unlock = |devices: &[Arc<PoolDevice>]| devices.iter().for_each(|device| drop(device.raw().unlock()));
    for (at, device) in devices.iter().enumerate() {
        if let Err(error) = lock(device) {
            unlock(&devices[..at]);
            return Err(error);
        }
    }
    let result = work();
    unlock(devices);
    result
}

fn clear_labels(devices: &[Arc<PoolDevice>]) -> Result<()> {
    for device in devices {
        tracing::warn!(device = device.name, "the making of this pool was interrupted; it begins again");
        let zeroes = AlignedBuf::new(BLOCK as usize);
        let copies: Vec<(u64, &[u8])> = LABEL_OFFSETS.iter().map(|offset| (*offset, zeroes.as_slice())).collect();
        device.write_many(&copies, |_| Purpose::Superblock)?;
        device.flush()?;
    }
    Ok(())
}

fn make(devices: &[Arc<PoolDevice>], config: &PoolConfig) -> Result<PoolId> {
    if devices.is_empty() || devices.len() > 200 {
        return Err(PoolError::invalid("a pool has 1 to 200 devices"));
    }
    let total: u64 = devices.iter().map(|device| device.raw().len()).sum();
    let pool = PoolId::random();
    let mut layouts = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        let layout = layout(device.raw().len(), index, total, config);
        if layout.extents_offset + MIN_EXTENTS > layout.size {
            return Err(PoolError::BadLabel {
                device: device.name.clone(),
                why: format!("{} bytes are too few, {} are needed", layout.size, layout.extents_offset + MIN_EXTENTS),
            });
        }
        layouts.push(layout);
    }
    let mut supers = Vec::new();
    for (device, layout) in devices.iter().zip(&layouts) {
        let sparse = device.raw().needs_preparation();
        if sparse {
            prepare(device, 0, DATA_START)?;
            prepare(device, layout.journal_offset, layout.journal_bytes)?;
            device.flush()?;
        }
        let superblock = Superblock {
            pool,
            generation: 0,
            incarnation: 0,
            clean: true,
            prepared: if sparse { 0 } else { layout.extent_blocks() },
            meta_len: 0,
            owner: Owner::default(),
        };
        supers.push(Arc::new(SuperStore::new(Arc::clone(device), superblock)));
        supers[supers.len() - 1].update(|_| {})?;
    }
    let store = RedbStore::open(Arc::clone(&supers[0]), layouts[0].meta_offset, layouts[0].meta_bytes)?;
    let root = Root { heads: vec![0; devices.len()], next_slot: 1, ..Root::default() };
    store.commit(vec![Change::Put(ROOT_KEY.to_vec(), root.encode())])?;
    drop(store);
    // The labels last: a pool that was half made is no pool.
    for (index, (device, layout)) in devices.iter().zip(&layouts).enumerate() {
        let label = Label {
            pool,
            device: *PoolId::random().as_bytes(),
            index: index as u8,
            devices: devices.len() as u8,
            layout: *layout,
            name: config.name.clone(),
        };
        let bytes = label.encode();
        let copies: Vec<(u64, &[u8])> = LABEL_OFFSETS.iter().map(|offset| (*offset, bytes.as_slice())).collect();
        device.write_many(&copies, |_| Purpose::Superblock)?;
        device.flush()?;
    }
    tracing::info!(%pool, name = config.name, devices = devices.len(), "pool made");
    Ok(pool)
}

/// Writes zeroes, so that later writes need no metadata of the file system.
pub(crate) fn prepare(device: &PoolDevice, offset: u64, len: u64) -> Result<()> {
    let zeroes = AlignedBuf::new(MIB as usize);
    let mut at = offset;
    while at < offset + len {
        let step = (offset + len - at).min(MIB);
        device.write_at(at, &zeroes.as_slice()[..step as usize], Purpose::Prepare)?;
        at += step;
    }
    Ok(())
}
