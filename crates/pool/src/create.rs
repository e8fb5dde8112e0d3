//! Making a pool: labels, superblocks, an empty metadata store; and what every new device of a pool gets.

use std::fs::OpenOptions;
use std::io;
use std::sync::Arc;

use ballast_api::PoolId;

use crate::error::{PoolError, Result};
use crate::format::BLOCK;
use crate::format::label::{DATA_START, LABEL_OFFSETS, Label, Layout, roster};
use crate::format::root::{ROOT_KEY, Root};
use crate::format::superblock::{Owner, Superblock};
use crate::grow::Growth;
use crate::io::{AlignedBuf, Device, PoolDevice, Purpose};
use crate::journal::ring::MIN_RING_BYTES;
use crate::meta::{Change, MetaStore, RedbStore, SuperStore, region_len, regions};
use crate::recover::lock;
use crate::survey::{Survey, survey};
use crate::types::{DeviceConfig, PoolConfig};

const MIB: u64 = 1 << 20;
/// The least room for data that a device must have.
const MIN_EXTENTS: u64 = 256 << 10;
/// The most devices of a pool; labels count them in a byte.
pub(crate) const MAX_DEVICES: usize = 200;

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

/// Where things go on a new device that has so much of the pool's metadata.
pub(crate) fn layout(device: &PoolDevice, meta_bytes: u64, config: &PoolConfig) -> Result<Layout> {
    let size = device.raw().len();
    let journal = config.journal_bytes.unwrap_or((size / 32).clamp(32 * MIB, 256 * MIB).min(size / 4));
    let journal_bytes = journal.max(MIN_RING_BYTES) / BLOCK * BLOCK;
    let meta_bytes = meta_bytes / BLOCK * BLOCK;
    let journal_offset = DATA_START + meta_bytes;
    let layout = Layout {
        size: size / BLOCK * BLOCK,
        meta_offset: DATA_START,
        meta_bytes,
        journal_offset,
        journal_bytes,
        extents_offset: journal_offset + journal_bytes,
    };
    if layout.extents_offset + MIN_EXTENTS > layout.size {
        return Err(PoolError::BadLabel {
            device: device.name.clone(),
            why: format!("{} bytes are too few, {} are needed", layout.size, layout.extents_offset + MIN_EXTENTS),
        });
    }
    Ok(layout)
}

/// Refuses more devices than a pool can have.
pub(crate) fn check_count(given: usize) -> Result<()> {
    if given > MAX_DEVICES { Err(PoolError::TooManyDevices { given, limit: MAX_DEVICES }) } else { Ok(()) }
}

/// Makes a pool on blank devices, or on those where its making was interrupted.
pub(crate) fn create_on(devices: &[Arc<dyn Device>], config: &PoolConfig) -> Result<PoolId> {
    let devices = wrap(devices);
    locked(&devices, || match survey(&devices)? {
        Survey::Pool { device, label, .. } => Err(PoolError::ForeignDevice { device, found: label }),
        Survey::Unfinished => {
            clear_labels(&devices)?;
            make(&devices, config)
        }
        Survey::Blank => make(&devices, config),
    })
}

/// The same, unless there is a pool: then it grows by those devices that are blank. Opening tells whether it is whole.
pub(crate) fn create_or_grow(devices: &[Arc<dyn Device>], config: &PoolConfig) -> Result<()> {
    let devices = wrap(devices);
    locked(&devices, || {
        match survey(&devices)? {
            Survey::Pool { contents, .. } => {
                if let Some(growth) = Growth::of(&devices, &contents)? {
                    growth.run(config)?;
                }
                return Ok(());
            }
            Survey::Unfinished => clear_labels(&devices)?,
            Survey::Blank => {}
        }
        make(&devices, config).map(drop)
    })
}

/// Whether files may be made beside these devices, for a new pool or for one that grows. A file that is missing from a
/// pool is not made up for by an empty one.
pub(crate) fn takes_new_files(devices: &[Arc<dyn Device>]) -> Result<bool> {
    let devices = wrap(devices);
    locked(&devices, || match survey(&devices)? {
        Survey::Blank => Ok(true),
        Survey::Unfinished => Ok(false),
        Survey::Pool { contents, .. } => match Growth::of(&devices, &contents) {
            Err(PoolError::DeviceMissing { .. }) => Ok(false),
            growth => Ok(growth?.is_some()),
        },
    })
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
        clear_label(device)?;
    }
    Ok(())
}

/// Removes a label, or what is left of one, while the superblocks still say that it was never used.
fn clear_label(device: &PoolDevice) -> Result<()> {
    let zeroes = AlignedBuf::new(BLOCK as usize);
    let copies: Vec<(u64, &[u8])> = LABEL_OFFSETS.iter().map(|offset| (*offset, zeroes.as_slice())).collect();
    let mut blank = true;
    for offset in LABEL_OFFSETS {
        let mut bytes = vec![0; BLOCK as usize];
        device.read_at(offset, &mut bytes)?;
        blank &= bytes.iter().all(|byte| *byte == 0);
    }
    if blank {
        return Ok(());
    }
    device.write_many(&copies, |_| Purpose::Superblock)?;
    device.flush()
}

fn make(devices: &[Arc<PoolDevice>], config: &PoolConfig) -> Result<PoolId> {
    if devices.is_empty() {
        return Err(PoolError::invalid("a pool has at least one device"));
    }
    check_count(devices.len())?;
    let total: u64 = devices.iter().map(|device| device.raw().len()).sum();
    let pool = PoolId::random();
    let mut layouts = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        let meta_bytes = if index == 0 { config.meta_bytes.unwrap_or_else(|| region_len(total)) } else { 0 };
        layouts.push(layout(device, meta_bytes, config)?);
    }
    let mut supers = Vec::new();
    for (device, layout) in devices.iter().zip(&layouts) {
        supers.push(first_superblock(device, pool, layout)?);
    }
    let store = RedbStore::open(Arc::clone(&supers[0]), regions(devices, &layouts))?;
    let root = Root { heads: vec![0; devices.len()], next_slot: 1, ..Root::default() };
    store.commit(vec![Change::Put(ROOT_KEY.to_vec(), root.encode())])?;
    drop(store);
    // The labels last: a pool that was half made is no pool.
    let ids: Vec<[u8; 16]> = devices.iter().map(|_| *PoolId::random().as_bytes()).collect();
    for (index, (device, layout)) in devices.iter().zip(&layouts).enumerate() {
        let label = Label {
            pool,
            device: ids[index],
            index: index as u8,
            devices: devices.len() as u8,
            layout: *layout,
            name: config.name.clone(),
            roster: roster(&ids),
        };
        first_label(device, &label)?;
    }
    tracing::info!(%pool, name = config.name, devices = devices.len(), "pool made");
    Ok(pool)
}

/// Makes a blank device ready for its label: it has a superblock that says "never opened".
pub(crate) fn first_superblock(device: &Arc<PoolDevice>, pool: PoolId, layout: &Layout) -> Result<Arc<SuperStore>> {
    clear_label(device)?;
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
    let supers = Arc::new(SuperStore::new(Arc::clone(device), superblock));
    supers.update(|_| {})?;
    Ok(supers)
}

/// Writes both copies of the label of a device that has none.
pub(crate) fn first_label(device: &PoolDevice, label: &Label) -> Result<()> {
    let bytes = label.encode();
    let copies: Vec<(u64, &[u8])> = LABEL_OFFSETS.iter().map(|offset| (*offset, bytes.as_slice())).collect();
    device.write_many(&copies, |_| Purpose::Superblock)?;
    device.flush()
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
