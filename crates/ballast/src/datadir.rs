//! The data directory of `ballast up`.
//!
//! ```text
//! DIR/lock                     flock held by the running supervisor; holds its pid
//! DIR/ballast.json             format of this directory; whether the first start was completed
//! DIR/pools/pool-N/disk-M.img  the devices of pool N: all data and all metadata that matter
//! DIR/pools/pool-N.new/        a pool being made; removed and made again when the maker was interrupted
//! DIR/registry/                sled cache of what the pools know; may be deleted at any time while stopped
//! DIR/run/*.sock               unix sockets of the supervisor, the pools and the target
//! DIR/log/NAME.log             what each child said; NAME.log.1 is the part before
//! ```
//! Invariant: a directory `pool-N` is complete. It gets its name by a rename after the pool in it was made.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Longest path of a unix socket: `sun_path` has 108 bytes with the final zero (unix(7)).
const LONGEST_SOCKET_PATH: usize = 107;
/// Format of the data directory that this program writes.
const FORMAT: u32 = 1;
/// A log longer than this is moved aside before a child starts.
const LOG_LIMIT: u64 = 10 << 20;

/// The data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    /// Some file operation failed.
    #[error("cannot {action} {}: {source}; check the path and its permissions", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A unix socket cannot be made below this directory.
    #[error(
        "the data directory is too deep: the socket {} has {len} bytes, unix sockets allow {LONGEST_SOCKET_PATH}; \
         use a shorter --data-dir", path.display()
    )]
    SocketPath {
        /// The socket.
        path: PathBuf,
        /// Length of its path.
        len: usize,
    },
    /// Somebody else runs on it.
    #[error(
        "the data directory {} is in use by another `ballast up` (pid {pid}): stop that one first, or use another \
         --data-dir", path.display()
    )]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// What the lock file says.
        pid: String,
    },
    /// Written by a newer program, or damaged.
    #[error("{} {detail}", path.display())]
    Format {
        /// The format file.
        path: PathBuf,
        /// What is wrong and what to do.
        detail: String,
    },
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DataDirError + 'a {
    move |source| DataDirError::Io { action, path: path.to_owned(), source }
}

/// Paths below one data directory.
#[derive(Clone, Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
}

/// Held while the supervisor runs; the kernel releases it when the process ends.
#[derive(Debug)]
pub(crate) struct DataDirLock {
    _file: File,
}

/// A pool that exists below the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolDir {
    /// `pool-N`
    pub(crate) name: String,
    /// N
    pub(crate) number: u32,
    /// Its devices, in order.
    pub(crate) devices: Vec<PathBuf>,
    /// Size of all devices.
    pub(crate) bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct FormatFile {
    format: u32,
    initialized: bool,
}

impl DataDir {
    /// The directory, which need not exist. Checks that sockets fit below it.
    pub(crate) fn new(root: &Path) -> Result<Self, DataDirError> {
        let root = std::path::absolute(root).map_err(io_error("find", root))?;
        // Through a symbolic link the path may be shorter or longer: the one that was given counts.
        let dir = Self { root };
        let longest = dir.socket("pool-9999");
        let len = longest.as_os_str().len();
        if len > LONGEST_SOCKET_PATH {
            return Err(DataDirError::SocketPath { path: longest, len });
        }
        Ok(dir)
    }

    /// Makes what is missing, for the supervisor.
    pub(crate) fn create(&self) -> Result<(), DataDirError> {
        for dir in [self.root.clone(), self.pools(), self.run(), self.log()] {
            // Volumes belong to their owner: nobody else reads the devices or talks to the sockets.
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io_error("create", &dir))?;
        }
        Ok(())
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn pools(&self) -> PathBuf {
        self.root.join("pools")
    }

    fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// Where the registry is kept.
    pub(crate) fn registry(&self) -> PathBuf {
        self.root.join("registry")
    }

    /// The socket of the process `name`; the supervisor's is `ballast`.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.sock"))
    }

    /// The log of the process `name`.
    pub(crate) fn log_file(&self, name: &str) -> PathBuf {
        self.log().join(format!("{name}.log"))
    }

    /// Opens the log of `name` for appending; a log that has grown too long is moved to `NAME.log.1` first.
    pub(crate) fn open_log(&self, name: &str) -> Result<File, DataDirError> {
        let path = self.log_file(name);
        if fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_LIMIT) {
            fs::rename(&path, path.with_extension("log.1")).map_err(io_error("rotate", &path))?;
        }
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(io_error("open", &path))
    }

    /// The last line with anything in it of the log of `name`.
    pub(crate) fn last_log_line(&self, name: &str) -> Option<String> {
        const TAIL: u64 = 4096;
        let mut file = File::open(self.log_file(name)).ok()?;
        let len = file.metadata().ok()?.len();
        file.seek(io::SeekFrom::Start(len.saturating_sub(TAIL))).ok()?;
        let mut tail = Vec::new();
        file.take(TAIL).read_to_end(&mut tail).ok()?;
        let text = String::from_utf8_lossy(&tail);
        text.lines().rev().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
    }

    /// Takes the directory for this process.
    pub(crate) fn lock(&self) -> Result<DataDirLock, DataDirError> {
        let path = self.root.join("lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(errno) if errno == rustix::io::Errno::WOULDBLOCK => {
                let mut pid = String::new();
                let read = (&mut file).take(32).read_to_string(&mut pid);
                let pid = if read.is_ok() && !pid.trim().is_empty() { pid.trim() } else { "unknown" };
                return Err(DataDirError::InUse { path: self.root.clone(), pid: pid.to_owned() });
            }
            Err(errno) => return Err(io_error("lock", &path)(errno.into())),
        }
        let pid = format!("{}\n", std::process::id());
        file.set_len(0).and_then(|()| file.write_all(pid.as_bytes())).map_err(io_error("write", &path))?;
        Ok(DataDirLock { _file: file })
    }

    /// Checks the format, writing it on the first run. True when an earlier run completed its first start.
    pub(crate) fn check_format(&self) -> Result<bool, DataDirError> {
        let path = self.format_file();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.write_format(false)?;
                return Ok(false);
            }
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        match serde_json::from_slice::<FormatFile>(&text) {
            Ok(file) if file.format == FORMAT => Ok(file.initialized),
            Ok(file) => Err(DataDirError::Format {
                detail: format!(
                    "says format {}, this ballast knows format {FORMAT}: use the ballast that wrote it",
                    file.format
                ),
                path,
            }),
            Err(error) => Err(DataDirError::Format {
                detail: format!("is damaged ({error}): remove this one file, it is written anew"),
                path,
            }),
        }
    }

    /// Remembers that the first start was completed: the default volume is not made again.
    pub(crate) fn set_initialized(&self) -> Result<(), DataDirError> {
        self.write_format(true)
    }

    fn format_file(&self) -> PathBuf {
        self.root.join("ballast.json")
    }

    fn write_format(&self, initialized: bool) -> Result<(), DataDirError> {
        let path = self.format_file();
        let new = path.with_extension("json.new");
        let text = format!("{{\"format\":{FORMAT},\"initialized\":{initialized}}}\n");
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.root)?.sync_all()
        };
        write().map_err(io_error("write", &path))
    }

    /// The pools that exist, by number.
    pub(crate) fn scan_pools(&self) -> Result<Vec<PoolDir>, DataDirError> {
        let mut found = Vec::new();
        for entry in list(&self.pools())? {
            let Some(name) = entry.file_name().and_then(|n| n.to_str()) else { continue };
            let Some(number) = pool_number(name) else { continue };
            let mut devices: Vec<PathBuf> = list(&entry)?
                .into_iter()
                .filter(|path| {
                    path.file_name()
                        .and_then(|n| n.to_str())
                        .is_some_and(|n| n.starts_with("disk-") && n.ends_with(".img"))
                })
                .collect();
            // By length first, so that disk-10 comes after disk-9.
            devices.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
            let mut bytes = 0;
            for device in &devices {
                bytes += fs::metadata(device).map_err(io_error("read", device))?.len();
            }
            found.push(PoolDir { name: name.to_owned(), number, devices, bytes });
        }
        found.sort_by_key(|pool| pool.number);
        Ok(found)
    }

    /// Where a pool is made: an empty directory and the device in it. An interrupted attempt is removed.
    pub(crate) fn begin_pool(&self, number: u32) -> Result<PathBuf, DataDirError> {
        let dir = self.pools().join(format!("pool-{number}.new"));
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &dir)(error)),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(io_error("create", &dir))?;
        Ok(dir.join("disk-0.img"))
    }

    /// The pool begun under `number` is complete: from now on it exists.
    pub(crate) fn finish_pool(&self, number: u32) -> Result<(), DataDirError> {
        let pools = self.pools();
        let new = pools.join(format!("pool-{number}.new"));
        fs::rename(&new, pools.join(format!("pool-{number}"))).map_err(io_error("rename", &new))?;
        File::open(&pools).and_then(|dir| dir.sync_all()).map_err(io_error("sync", &pools))
    }
}

/// N of `pool-N`, in its one canonical spelling.
fn pool_number(name: &str) -> Option<u32> {
    let number: u32 = name.strip_prefix("pool-")?.parse().ok()?;
    (name == format!("pool-{number}")).then_some(number)
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, DataDirError> {
    let entries = fs::read_dir(dir).map_err(io_error("list", dir))?;
    entries.map(|entry| entry.map(|e| e.path()).map_err(io_error("list", dir))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temp() -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::new(&temp.path().join("data")).unwrap();
        dir.create().unwrap();
        (temp, dir)
    }

    #[test]
    fn second_lock_is_refused_and_names_the_holder() {
        let (_temp, dir) = temp();
        let held = dir.lock().unwrap();
        let refused = dir.lock().unwrap_err();
        let pid = std::process::id().to_string();
        assert!(matches!(&refused, DataDirError::InUse { pid: p, .. } if *p == pid), "{refused}");
        drop(held);
        dir.lock().unwrap();
    }

    #[test]
    fn a_socket_path_that_is_too_long_is_refused_up_front() {
        let fits = "/".to_owned() + &"d".repeat(LONGEST_SOCKET_PATH - "/x/run/pool-9999.sock".len() + 1);
        DataDir::new(Path::new(&fits)).unwrap();
        let refused = DataDir::new(Path::new(&(fits + "d"))).unwrap_err();
        assert!(matches!(refused, DataDirError::SocketPath { len: 108, .. }), "{refused}");
    }

    #[test]
    fn only_complete_pools_exist() {
        let (_temp, dir) = temp();
        let image = dir.begin_pool(1).unwrap();
        fs::write(&image, b"1234").unwrap();
        assert_eq!(dir.scan_pools().unwrap(), []);
        // Interrupted and begun again: nothing is left of the first attempt.
        let image = dir.begin_pool(1).unwrap();
        assert!(!image.exists());
        fs::write(&image, b"1234").unwrap();
        dir.finish_pool(1).unwrap();
        let pools = dir.scan_pools().unwrap();
        assert_eq!(pools.len(), 1);
        assert_eq!((pools[0].name.as_str(), pools[0].number, pools[0].bytes), ("pool-1", 1, 4));
        assert!(pools[0].devices[0].ends_with("pools/pool-1/disk-0.img"));
    }

    #[test]
    fn pool_numbers() {
        assert_eq!(pool_number("pool-0"), Some(0));
        assert_eq!(pool_number("pool-12"), Some(12));
        for name in ["pool-01", "pool-", "pool-1.new", "pool", "x-1", "pool--1", "pool-+1"] {
            assert_eq!(pool_number(name), None, "{name}");
        }
    }

    #[test]
    fn format_is_kept_and_checked() {
        let (_temp, dir) = temp();
        assert!(!dir.check_format().unwrap());
        assert!(!dir.check_format().unwrap());
        dir.set_initialized().unwrap();
        assert!(dir.check_format().unwrap());
        fs::write(dir.format_file(), "{\"format\":99,\"initialized\":true}").unwrap();
        assert!(dir.check_format().unwrap_err().to_string().contains("format 99"));
        fs::write(dir.format_file(), "nonsense").unwrap();
        assert!(dir.check_format().unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn a_long_log_is_moved_aside() {
        let (_temp, dir) = temp();
        writeln!(dir.open_log("pool-0").unwrap(), "first\n").unwrap();
        assert_eq!(dir.last_log_line("pool-0").as_deref(), Some("first"));
        dir.open_log("pool-0").unwrap().set_len(LOG_LIMIT + 1).unwrap();
        dir.open_log("pool-0").unwrap();
        assert_eq!(fs::metadata(dir.log_file("pool-0")).unwrap().len(), 0);
        assert_eq!(fs::metadata(dir.log_file("pool-0").with_extension("log.1")).unwrap().len(), LOG_LIMIT + 1);
        assert_eq!(dir.last_log_line("target"), None);
    }
}
