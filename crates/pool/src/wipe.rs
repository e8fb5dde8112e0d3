//! Looking at the label of one device, and taking a device back from its pool.
//!
//! Wiping zeroes the first MiB (labels and superblocks; what lies behind it means nothing without them). The labels go last,
//! the first copy last of all: a wipe that was interrupted leaves a device that still says whose it is, and is simply
//! repeated. What carries anybody else's data is never written to.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use ballast_api::PoolId;
use rustix::fs::OFlags;

use crate::error::{PoolError, Result};
use crate::format::BLOCK;
use crate::format::label::{DATA_START, Found, LABEL_OFFSETS, Label};
use crate::io::{AlignedBuf, Device, FileDevice};
use crate::survey::foreign;
use crate::types::IoBackend;

/// What the label of a device says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceLabel {
    /// The pool it belongs to.
    pub pool: PoolId,
    /// The pool's name, for people.
    pub pool_name: String,
    /// Random, unlike that of any other device.
    pub device: [u8; 16],
    /// Its place in the pool.
    pub index: u8,
    /// How many devices the pool has.
    pub devices: u8,
}

/// What [`wipe`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wiped {
    /// A device of a pool; it is blank now.
    Label,
    /// It was blank already; nothing was written.
    Nothing,
}

/// Reads the label of a file or block device, without waiting for a pool that has it open. `None` when it has none;
/// [`PoolError::WrongVersion`] when its label is of another version.
pub fn label_of(path: &Path) -> Result<Option<DeviceLabel>, PoolError> {
    let name = path.display().to_string();
    let device = FileDevice::open_read_only(path).map_err(|e| PoolError::io(&name, "open", e))?;
    label_on(&device)
}

fn label_on(device: &dyn Device) -> Result<Option<DeviceLabel>> {
    let mut other = None;
    for offset in LABEL_OFFSETS.into_iter().filter(|offset| offset + BLOCK <= device.len()) {
        let mut bytes = vec![0; BLOCK as usize];
        device.read_at(offset, &mut bytes).map_err(|e| PoolError::io(&device.name(), "read", e))?;
        match Label::decode(&bytes) {
            Found::Label(Label { pool, device, index, devices, name, .. }) => {
                return Ok(Some(DeviceLabel { pool, pool_name: name, device, index, devices }));
            }
            Found::OtherVersion(version) => other = Some(version),
            Found::Nothing => {}
        }
    }
    match other {
        Some(found) => {
            Err(PoolError::WrongVersion { device: device.name(), found, supported: crate::format::FORMAT_VERSION })
        }
        None => Ok(None),
    }
}

/// Takes a device back from its pool: afterwards it is blank, and [`Pool::create`](crate::Pool::create) accepts it.
///
/// Refuses when a pool has it open, when the kernel uses it (mounted, part of a device-mapper or RAID device), and when
/// it carries anything but a pool's label.
pub fn wipe(path: &Path) -> Result<Wiped, PoolError> {
    let name = path.display().to_string();
    let _exclusive = exclusive(path, &name)?;
    let device = FileDevice::open(path, IoBackend::Threads).map_err(|e| PoolError::io(&name, "open", e))?;
    wipe_on(&device)
}

/// For a block device, O_EXCL means: nobody has it mounted or built something on it (open(2)). For a file it means nothing.
fn exclusive(path: &Path, name: &str) -> Result<Option<File>> {
    let kind = std::fs::metadata(path).map_err(|e| PoolError::io(name, "stat", e))?.file_type();
    if !kind.is_block_device() {
        return Ok(None);
    }
    match OpenOptions::new().read(true).write(true).custom_flags(OFlags::EXCL.bits() as i32).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => Err(PoolError::Locked {
            device: name.to_owned(),
            owner: String::from("the kernel (mounted, or part of another device)"),
        }),
        Err(e) => Err(PoolError::io(name, "open exclusively", e)),
    }
}

fn wipe_on(device: &dyn Device) -> Result<Wiped> {
    let name = device.name();
    if !device.lock().map_err(|e| PoolError::io(&name, "lock", e))? {
        return Err(PoolError::Locked { device: name, owner: String::from("another process") });
    }
    let result = wipe_locked(device, &name);
    let unlocked = device.unlock().map_err(|e| PoolError::io(&name, "unlock", e));
    result.and_then(|wiped| unlocked.map(|()| wiped))
}

fn wipe_locked(device: &dyn Device, name: &str) -> Result<Wiped> {
    let len = DATA_START.min(device.len() / BLOCK * BLOCK) as usize;
    let mut head = vec![0; DATA_START as usize];
    // From the medium: the pool wrote its label past the page cache.
    device.read_direct_at(0, &mut head[..len]).map_err(|e| PoolError::io(name, "read", e))?;
    let labelled = LABEL_OFFSETS.iter().any(|offset| {
        let at = *offset as usize;
        head.get(at..at + BLOCK as usize).is_some_and(|block| Label::decode(block) != Found::Nothing)
    });
    let blank = head.iter().all(|byte| *byte == 0);
    if blank {
        return Ok(Wiped::Nothing);
    }
    if !labelled && let Some(found) = foreign(&mut head) {
        return Err(PoolError::ForeignDevice { device: name.to_owned(), found });
    }
    let zeroes = AlignedBuf::new(len);
    let zeroes = zeroes.as_slice();
    let [first, second] = LABEL_OFFSETS;
    let write = |from: u64, to: u64| {
        let (from, to) = (from.min(len as u64) as usize, to.min(len as u64) as usize);
        if from < to {
            device.write_many(&[(from as u64, &zeroes[from..to])]).map_err(|e| PoolError::io(name, "wipe", e))?;
        }
        device.flush().map_err(|e| PoolError::io(name, "flush", e))
    };
    write(second + BLOCK, DATA_START)?;
    write(first + BLOCK, second)?;
    write(second, second + BLOCK)?;
    write(first, first + BLOCK)?;
    Ok(Wiped::Label)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;
    use crate::{DeviceConfig, Pool, PoolConfig};

    const SIZE: u64 = 128 << 20;

    fn make(path: &Path) -> PoolId {
        let devices = vec![DeviceConfig { path: path.to_owned(), size: Some(SIZE) }];
        Pool::create(&PoolConfig { name: "p".into(), devices, ..PoolConfig::default() }).unwrap()
    }

    #[test]
    fn a_wiped_device_is_blank_and_can_be_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device");
        let pool = make(&path);
        let label = label_of(&path).unwrap().expect("a label");
        assert_eq!((label.pool, label.pool_name.as_str(), label.index, label.devices), (pool, "p", 0, 1));
        assert_eq!(wipe(&path).unwrap(), Wiped::Label);
        assert_eq!(label_of(&path).unwrap(), None);
        assert_eq!(wipe(&path).unwrap(), Wiped::Nothing);
        let again = make(&path);
        assert_ne!(again, pool);
        Pool::open(&[path], crate::OpenOptions::default()).unwrap().close().unwrap();
    }

    #[test]
    fn an_open_pool_keeps_its_device() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device");
        make(&path);
        let pool = Pool::open(std::slice::from_ref(&path), crate::OpenOptions::default()).unwrap();
        assert!(matches!(wipe(&path), Err(PoolError::Locked { .. })));
        assert!(label_of(&path).unwrap().is_some());
        pool.close().unwrap();
        assert_eq!(wipe(&path).unwrap(), Wiped::Label);
    }

    #[test]
    fn anybody_elses_data_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device");
        let mut bytes = vec![0; 2 << 20];
        bytes[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(wipe(&path), Err(PoolError::ForeignDevice { found, .. }) if found.contains("ext2/3/4")));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(label_of(&path).unwrap(), None);
        // Too small for any label.
        std::fs::write(&path, [0; 5000]).unwrap();
        assert_eq!((label_of(&path).unwrap(), wipe(&path).unwrap()), (None, Wiped::Nothing));
    }

    /// A device that refuses all writes after the first few.
    #[derive(Debug)]
    struct Failing {
        bytes: Mutex<Vec<u8>>,
        writes: Mutex<u32>,
    }

    impl Device for Failing {
        fn name(&self) -> String {
            String::from("failing")
        }
        fn len(&self) -> u64 {
            self.bytes.lock().unwrap().len() as u64
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            buf.copy_from_slice(&self.bytes.lock().unwrap()[offset as usize..][..buf.len()]);
            Ok(())
        }
        fn write_many(&self, writes: &[(u64, &[u8])]) -> io::Result<()> {
            let mut left = self.writes.lock().unwrap();
            *left = left.checked_sub(1).ok_or_else(|| io::Error::other("pulled"))?;
            for (offset, bytes) in writes {
                self.bytes.lock().unwrap()[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
            }
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_interrupted_wipe_leaves_a_label_and_is_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device");
        let pool = make(&path);
        let made = std::fs::read(&path).unwrap();
        for writes in 0..4 {
            let device = Failing { bytes: Mutex::new(made[..2 << 20].to_vec()), writes: Mutex::new(writes) };
            assert!(wipe_on(&device).is_err());
            assert_eq!(label_on(&device).unwrap().map(|label| label.pool), Some(pool), "after {writes} writes");
            *device.writes.lock().unwrap() = 4;
            assert_eq!(wipe_on(&device).unwrap(), Wiped::Label);
            assert!(device.bytes.lock().unwrap()[..1 << 20].iter().all(|byte| *byte == 0));
        }
    }
}
