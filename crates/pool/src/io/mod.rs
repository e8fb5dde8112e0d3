//! Devices: the small trait the pool does its I/O through, and the counters around it.
//!
//! All calls block; the pool has threads for them. Writes that were not followed by a [`Device::flush`] may be lost,
//! reordered or torn by a crash, at any 512-byte boundary.

mod aligned;
mod file;
mod uring;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

pub(crate) use aligned::AlignedBuf;
pub(crate) use file::FileDevice;

use crate::error::{PoolError, Result};

/// A disk, a partition, a file, or something that plays one.
#[allow(clippy::len_without_is_empty)]
pub trait Device: Send + Sync + fmt::Debug {
    /// What people call it (its path).
    fn name(&self) -> String;
    /// Its size in bytes.
    fn len(&self) -> u64;
    /// Reads exactly this; may come from a cache.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Reads from the medium itself.
    fn read_direct_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, buf)
    }
    /// Reads when that needs no waiting; `false` when it would.
    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let _ = (offset, buf);
        Ok(false)
    }
    /// Writes all of these; offsets and lengths are multiples of 4 KiB and do not overlap.
    fn write_many(&self, writes: &[(u64, &[u8])]) -> io::Result<()>;
    /// Makes every completed write durable.
    fn flush(&self) -> io::Result<()>;
    /// Whether space must be written once before it may be used (a sparse file).
    fn needs_preparation(&self) -> bool {
        false
    }
    /// Takes the exclusive lock; `false` when another has it.
    fn lock(&self) -> io::Result<bool> {
        Ok(true)
    }
    /// Gives the lock back.
    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }
}

/// What is written, for the counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Payload,
    Journal,
    Checkpoint,
    Prepare,
    Superblock,
}

/// A device with counters, which fences itself at the first failed write or flush.
#[derive(Debug)]
pub(crate) struct PoolDevice {
    inner: Arc<dyn Device>,
    pub(crate) name: String,
    pub(crate) written: [AtomicU64; 5],
    pub(crate) flushes: AtomicU64,
    failed: OnceLock<String>,
}

impl PoolDevice {
    pub(crate) fn new(inner: Arc<dyn Device>) -> Self {
        let name = inner.name();
        Self {
            inner,
            name,
            written: std::array::from_fn(|_| AtomicU64::new(0)),
            flushes: AtomicU64::new(0),
            failed: OnceLock::new(),
        }
    }

    pub(crate) fn raw(&self) -> &dyn Device {
        &*self.inner
    }

    /// Why it is fenced, when it is.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    pub(crate) fn written_total(&self) -> u64 {
        self.written.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.read_at(offset, buf).map_err(|e| PoolError::io(&self.name, "read", e))
    }

    pub(crate) fn read_direct_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.read_direct_at(offset, buf).map_err(|e| PoolError::io(&self.name, "direct read", e))
    }

    /// Writes pieces of one or more purposes in one submission.
    pub(crate) fn write_many(&self, writes: &[(u64, &[u8])], purpose: impl Fn(usize) -> Purpose) -> Result<()> {
        self.check()?;
        for (at, (_, bytes)) in writes.iter().enumerate() {
            self.written[purpose(at) as usize].fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        self.inner.write_many(writes).map_err(|e| {
            // A sparse file on a full file system: what was not prepared does not exist, nothing is lost.
            let only_growth = (0..writes.len()).all(|at| purpose(at) == Purpose::Prepare);
            if only_growth && e.kind() == io::ErrorKind::StorageFull {
                return PoolError::io(&self.name, "prepare", e);
            }
            self.fail("write", e)
        })
    }

    pub(crate) fn write_at(&self, offset: u64, bytes: &[u8], purpose: Purpose) -> Result<()> {
        self.write_many(&[(offset, bytes)], |_| purpose)
    }

    pub(crate) fn flush(&self) -> Result<()> {
        self.check()?;
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.inner.flush().map_err(|e| self.fail("flush", e))
    }

    fn check(&self) -> Result<()> {
        match self.failed.get() {
            None => Ok(()),
            Some(reason) => Err(PoolError::Fenced { reason: reason.clone() }),
        }
    }

    /// After a failed write or flush nobody knows what is on the medium: never try again (the page cache would
    /// report success for data it dropped).
    fn fail(&self, op: &'static str, error: io::Error) -> PoolError {
        let _ = self.failed.set(format!("{}: {op} failed: {error}", self.name));
        PoolError::io(&self.name, op, error)
    }
}
