//! Making a pool: labels, superblocks, an empty metadata store.

use std::fs::OpenOptions;
use std::io;
use std::sync::Arc;

use ballast_api::PoolId;

use crate::error::{PoolError, Result};
use crate::format::BLOCK;
use crate::format::label::{DATA_START, Found, LABEL_OFFSETS, Label, Layout};
use crate::format::root::{ROOT_KEY, Root};
use crate::format::superblock::{Owner, SUPERBLOCK_OFFSETS, Superblock};
use crate::io::{AlignedBuf, Device, PoolDevice, Purpose};
use crate::journal::ring::MIN_RING_BYTES;
use crate::meta::{Change, MetaStore, RedbStore, SuperStore, region_len};
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

/// What somebody else wrote at the start of a device.
fn foreign(head: &mut [u8]) -> Option<String> {
    for offset in LABEL_OFFSETS {
        let at = offset as usize;
        match head.get(at..at + BLOCK as usize).map(Label::decode) {
            Some(Found::Label(label)) => return Some(format!("a device of pool {} ({})", label.name, label.pool)),
            Some(Found::OtherVersion(version)) => return Some(format!("a pool device of format version {version}")),
            _ => {}
        }
    }
    let signatures: [(usize, &[u8], &str); 8] = [
        (0, b"XFSB", "an xfs file system"),
        (0x438, &[0x53, 0xef], "an ext2/3/4 file system"),
        (0x10040, b"_BHRfS_M", "a btrfs file system"),
        (512, b"EFI PART", "a GPT partition table"),
        (512, b"LABELONE", "an LVM physical volume"),
        (0, b"LUKS", "an encrypted device"),
        (4086, b"SWAPSPACE2", "swap space"),
        (510, &[0x55, 0xaa], "a boot sector or partition table"),
    ];
    for (at, magic, name) in signatures {
        if head.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
            return Some(name.to_owned());
        }
    }
    // A creation that was interrupted before the labels: nobody can have used that.
    for at in SUPERBLOCK_OFFSETS.map(|offset| offset as usize) {
        let block = &mut head[at..at + BLOCK as usize];
        if Superblock::decode(block).is_some_and(|sb| sb.incarnation == 0) {
            block.fill(0);
        }
    }
    head.iter().any(|byte| *byte != 0).then(|| String::from("unknown bytes in its first MiB"))
}

pub(crate) fn create_on(devices: &[Arc<dyn Device>], config: &PoolConfig) -> Result<PoolId> {
    if devices.is_empty() || devices.len() > 200 {
        return Err(PoolError::invalid("a pool has 1 to 200 devices"));
    }
    let devices: Vec<Arc<PoolDevice>> =
        devices.iter().map(|device| Arc::new(PoolDevice::new(Arc::clone(device)))).collect();
    let total: u64 = devices.iter().map(|device| device.raw().len()).sum();
    let pool = PoolId::random();
    let mut layouts = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        if !device.raw().lock().map_err(|e| PoolError::io(&device.name, "lock", e))? {
            return Err(PoolError::Locked { device: device.name.clone(), owner: String::from("another process") });
        }
        let layout = layout(device.raw().len(), index, total, config);
        if layout.extents_offset + MIN_EXTENTS > layout.size {
            return Err(PoolError::BadLabel {
                device: device.name.clone(),
                why: format!("{} bytes are too few, {} are needed", layout.size, layout.extents_offset + MIN_EXTENTS),
            });
        }
        let mut head = vec![0; DATA_START as usize];
        device.read_at(0, &mut head)?;
        if let Some(found) = foreign(&mut head) {
            let _ = device.raw().unlock();
            return Err(PoolError::ForeignDevice { device: device.name.clone(), found });
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
    for device in &devices {
        device.raw().unlock().map_err(|e| PoolError::io(&device.name, "unlock", e))?;
    }
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
