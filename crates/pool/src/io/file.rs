//! A file or block device.
//!
//! Writes go through O_DIRECT where the file system allows it, so that a flush has only the device's own cache to empty;
//! reads go through a second descriptor and the page cache (a direct write invalidates the pages it covers; a page that
//! is stale all the same is noticed by its checksum and read again directly).

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, OFlags};
use rustix::io::ReadWriteFlags;

use super::Device;
use super::aligned::{AlignedBuf, is_aligned};
use super::uring::{Rings, VectoredWrite};
use crate::types::IoBackend;

/// The most pieces in one vectored write (IOV_MAX is 1024), and the most bytes.
const MAX_SLICES: usize = 512;
const MAX_WRITE: usize = 1 << 20;

/// A file or block device.
#[derive(Debug)]
pub(crate) struct FileDevice {
    path: PathBuf,
    len: u64,
    block_device: bool,
    /// Page cache.
    cached: File,
    /// O_DIRECT, or the page cache again where that is not supported.
    direct: File,
    is_direct: bool,
    rings: Option<Rings>,
}

impl std::fmt::Debug for Rings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rings")
    }
}

impl FileDevice {
    pub(crate) fn open(path: &Path, io: IoBackend) -> io::Result<Self> {
        Self::open_mode(path, io, true)
    }

    /// For looking only.
    pub(crate) fn open_read_only(path: &Path) -> io::Result<Self> {
        Self::open_mode(path, IoBackend::Threads, false)
    }

    fn open_mode(path: &Path, io: IoBackend, write: bool) -> io::Result<Self> {
        let cached = OpenOptions::new().read(true).write(write).open(path)?;
        let kind = cached.metadata()?.file_type();
        let block_device = kind.is_block_device();
        if !block_device && !kind.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a block device"));
        }
        let len = io::Seek::seek(&mut &cached, io::SeekFrom::End(0))?;
        let direct =
            OpenOptions::new().read(true).write(write).custom_flags(OFlags::DIRECT.bits() as i32).open(path).ok();
        // Small reads at random places must not pull their neighbours in.
        let _ = rustix::fs::fadvise(&cached, 0, None, Advice::Random);
        let rings = match io {
            IoBackend::Threads => None,
            IoBackend::Auto => Rings::probe(),
            IoBackend::IoUring => Some(
                Rings::probe()
                    .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the kernel does not allow io_uring"))?,
            ),
        };
        let is_direct = direct.is_some();
        let direct = match direct {
            Some(direct) => direct,
            None => cached.try_clone()?,
        };
        Ok(Self { path: path.to_owned(), len, block_device, cached, direct, is_direct, rings })
    }

    fn write_runs(&self, runs: &[VectoredWrite<'_>]) -> io::Result<()> {
        if let Some(rings) = &self.rings
            && runs.len() > 1
        {
            for (run, result) in runs.iter().zip(rings.write(self.direct.as_fd(), runs)?) {
                self.finish_run(run, result?)?;
            }
            return Ok(());
        }
        // A single run gains nothing from a ring.
        runs.iter().try_for_each(|run| self.finish_run(run, 0))
    }

    /// Writes what is left of a run after `done` bytes.
    fn finish_run(&self, run: &VectoredWrite<'_>, mut done: usize) -> io::Result<()> {
        let total: usize = run.slices.iter().map(|s| s.len()).sum();
        let mut stuck = 0;
        while done < total {
            let mut skip = done;
            let rest: Vec<IoSlice<'_>> = run
                .slices
                .iter()
                .filter_map(|slice| {
                    let cut = skip.min(slice.len());
                    skip -= cut;
                    (cut < slice.len()).then(|| IoSlice::new(&slice[cut..]))
                })
                .collect();
            match rustix::io::pwritev(&self.direct, &rest, run.offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) if stuck < 1000 => stuck += 1,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

impl Device for FileDevice {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.cached.read_exact_at(buf, offset)
    }

    fn read_direct_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if !self.is_direct {
            return self.cached.read_exact_at(buf, offset);
        }
        let mut aligned = AlignedBuf::new(buf.len());
        self.direct.read_exact_at(aligned.as_mut_slice(), offset)?;
        buf.copy_from_slice(aligned.as_slice());
        Ok(())
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        let len = buf.len();
        match rustix::io::preadv2(&self.cached, &mut [IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT) {
            Ok(n) => Ok(n == len),
            Err(_) => Ok(false),
        }
    }

    fn write_many(&self, writes: &[(u64, &[u8])]) -> io::Result<()> {
        // Direct I/O needs aligned memory: what is not is copied, once.
        let unaligned: usize =
            if self.is_direct { writes.iter().filter(|(_, b)| !is_aligned(b)).map(|(_, b)| b.len()).sum() } else { 0 };
        let mut bounce = AlignedBuf::new(unaligned);
        let mut filled = 0;
        for (_, bytes) in writes {
            if unaligned > 0 && !is_aligned(bytes) {
                bounce.as_mut_slice()[filled..filled + bytes.len()].copy_from_slice(bytes);
                filled += bytes.len();
            }
        }
        let mut used = 0;
        let mut runs: Vec<VectoredWrite<'_>> = Vec::new();
        let (mut run_end, mut run_len) = (u64::MAX, 0);
        for (offset, bytes) in writes {
            let source = if unaligned > 0 && !is_aligned(bytes) {
                used += bytes.len();
                &bounce.as_slice()[used - bytes.len()..used]
            } else {
                bytes
            };
            for (nth, piece) in source.chunks(MAX_WRITE).enumerate() {
                let at = offset + (nth * MAX_WRITE) as u64;
                match runs.last_mut() {
                    Some(run)
                        if run_end == at && run.slices.len() < MAX_SLICES && run_len + piece.len() <= MAX_WRITE =>
                    {
                        run.slices.push(IoSlice::new(piece));
                        run_len += piece.len();
                    }
                    _ => {
                        runs.push(VectoredWrite { offset: at, slices: vec![IoSlice::new(piece)] });
                        run_len = piece.len();
                    }
                }
                run_end = at + piece.len() as u64;
            }
        }
        self.write_runs(&runs)
    }

    fn flush(&self) -> io::Result<()> {
        self.direct.sync_data()
    }

    fn needs_preparation(&self) -> bool {
        !self.block_device
    }

    fn lock(&self) -> io::Result<bool> {
        match self.cached.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        self.cached.unlock()
    }
}
