//! Sparse files that play disks, for clusters without free ones.
//!
//! They are made once and then never changed by us: not grown, not cut, and not deleted when fewer are asked for, because
//! a pool may be on them. Only a file that its pool gave back is replaced by a fresh one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use ballast_pool::PoolError;

use crate::content::Content;
use crate::device::{Device, Hardware};

/// The least size of a file, and what cStor's manifests ask for.
pub const MIN_SIZE: u64 = 1 << 30;
const SUFFIX: &str = "-ndm-sparse.img";

/// What can go wrong with the files.
#[derive(Debug, thiserror::Error)]
pub enum SparseError {
    /// The directory or a file cannot be made or listed.
    #[error("{path}: {source}. Check that the node's directory for sparse files is mounted there and can be written")]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be given back.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> SparseError {
    let path = path.to_owned();
    move |source| SparseError::Io { path, source }
}

/// Makes the files that are missing.
pub fn prepare(dir: &Path, size: u64, count: u32) -> Result<(), SparseError> {
    std::fs::create_dir_all(dir).map_err(io_error(dir))?;
    for number in 0..count {
        let path = dir.join(format!("{number}{SUFFIX}"));
        if path.exists() {
            continue;
        }
        fresh(&path, size.max(MIN_SIZE))?;
        tracing::info!(path = %path.display(), size = size.max(MIN_SIZE), "made a sparse file");
    }
    Ok(())
}

/// A new file of this size in place of what is there. Under its own name it is complete from the first moment on.
fn fresh(path: &Path, size: u64) -> Result<(), SparseError> {
    let temporary = path.with_extension("new");
    let make = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        file.set_len(size)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        // The name must survive a power loss as well.
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    make().map_err(io_error(path))
}

/// The files that are there, by number.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>, SparseError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io_error(dir))? {
        let path = entry.map_err(io_error(dir))?.path();
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(SUFFIX));
        if let Some(number) = number.and_then(|number| number.parse::<u32>().ok())
            && path.is_file()
        {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// A file as a device.
pub fn device(path: &Path, size: u64, content: &Content) -> Device {
    let label = match content {
        Content::Pool(label) => Some(label.clone()),
        _ => None,
    };
    let refusal = crate::device::content_refusal(content);
    Device {
        kind: "sparse",
        path: path.display().to_string(),
        size,
        logical_sector: 512,
        physical_sector: 4096,
        hardware_sector: 512,
        drive_type: "",
        hardware: Hardware::default(),
        by_id: Vec::new(),
        by_path: Vec::new(),
        fs_type: refusal.as_ref().map(|refusal| refusal.word.to_owned()).unwrap_or_default(),
        mount_point: String::new(),
        partitioned: matches!(content, Content::PartitionTable { .. }),
        parent: None,
        blank: *content == Content::Blank,
        readable: !matches!(content, Content::Unreadable(_)),
        keys: Vec::new(),
        label,
        refusal,
    }
}

/// Replaces a file that its pool gave back by a fresh one of the same size. Refuses while a process has the pool open, and
/// when the file holds anything but a pool's device.
pub fn recreate(path: &Path) -> Result<(), SparseError> {
    let name = path.display().to_string();
    let old = OpenOptions::new().read(true).write(true).open(path).map_err(io_error(path))?;
    match old.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(PoolError::Locked { device: name, owner: String::from("another process") }.into());
        }
        Err(TryLockError::Error(source)) => return Err(SparseError::Io { path: path.to_owned(), source }),
    }
    match crate::content::read(path) {
        Content::Pool(_) | Content::PoolOfOtherVersion(_) | Content::Blank => {}
        other => return Err(PoolError::ForeignDevice { device: name, found: format!("{other:?}") }.into()),
    }
    let size = old.metadata().map_err(io_error(path))?.len();
    // The lock is held on the old file until the new one has its name: whoever opens the name later gets the new one.
    fresh(path, size)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use ballast_pool::{DeviceConfig, OpenOptions as PoolOptions, Pool, PoolConfig};

    use super::*;

    #[test]
    fn files_are_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("made/by/us");
        prepare(&dir, 5 << 20, 2).unwrap();
        let files = list(&dir).unwrap();
        assert_eq!(files, [dir.join("0-ndm-sparse.img"), dir.join("1-ndm-sparse.img")]);
        let meta = files[0].metadata().unwrap();
        assert_eq!((meta.len(), meta.blocks()), (MIN_SIZE, 0), "the floor, and nothing allocated");
        // An existing file keeps its size, whatever is asked for now; fewer files delete none.
        File::options().write(true).open(&files[1]).unwrap().set_len(3 << 30).unwrap();
        prepare(&dir, 2 << 30, 1).unwrap();
        prepare(&dir, 2 << 30, 3).unwrap();
        let sizes: Vec<u64> = list(&dir).unwrap().iter().map(|file| file.metadata().unwrap().len()).collect();
        assert_eq!(sizes, [1 << 30, 3 << 30, 2 << 30]);
        for other in ["x-ndm-sparse.img", "0-ndm-sparse.new", "note.txt"] {
            std::fs::write(dir.join(other), "x").unwrap();
        }
        assert_eq!(list(&dir).unwrap().len(), 3);
        assert!(prepare(&dir.join("note.txt/below"), 1, 1).is_err());
    }

    #[test]
    fn a_file_that_was_given_back_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path(), 0, 1).unwrap();
        let path = dir.path().join("0-ndm-sparse.img");
        let devices = vec![DeviceConfig { path: path.clone(), size: None }];
        Pool::create(&PoolConfig { name: "p".into(), devices, ..PoolConfig::default() }).unwrap();
        let pool = Pool::open(std::slice::from_ref(&path), PoolOptions::default()).unwrap();
        assert!(matches!(recreate(&path), Err(SparseError::Pool(PoolError::Locked { .. }))));
        pool.close().unwrap();
        assert!(path.metadata().unwrap().blocks() > 0);
        recreate(&path).unwrap();
        let meta = path.metadata().unwrap();
        assert_eq!((meta.len(), meta.blocks()), (MIN_SIZE, 0));
        std::fs::write(&path, b"XFSB and somebody's data").unwrap();
        assert!(matches!(recreate(&path), Err(SparseError::Pool(PoolError::ForeignDevice { .. }))));
        assert_eq!(std::fs::read(&path).unwrap(), b"XFSB and somebody's data");
    }
}
