//! Writes through io_uring: all pieces of a batch in one submission, one system call to send them and wait for them.
//!
//! The only module with unsafe code. A ring is used by one caller at a time and is empty between calls.
#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use io_uring::{IoUring, opcode, types};

const ENTRIES: u32 = 64;

/// One vectored write.
pub(crate) struct VectoredWrite<'a> {
    pub(crate) offset: u64,
    pub(crate) slices: Vec<IoSlice<'a>>,
}

/// Idle rings; a caller takes one, or makes one.
pub(crate) struct Rings {
    idle: Mutex<Vec<IoUring>>,
}

impl Rings {
    /// `None` when the kernel does not allow io_uring.
    pub(crate) fn probe() -> Option<Self> {
        let ring = IoUring::new(ENTRIES).ok()?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe).ok()?;
        probe.is_supported(opcode::Writev::CODE).then(|| Self { idle: Mutex::new(vec![ring]) })
    }

    /// Writes everything; returns how many bytes each write took, or its error.
    pub(crate) fn write(&self, fd: BorrowedFd<'_>, writes: &[VectoredWrite<'_>]) -> io::Result<Vec<io::Result<usize>>> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut ring = match idle {
            Some(ring) => ring,
            None => IoUring::new(ENTRIES)?,
        };
        let mut results = Vec::with_capacity(writes.len());
        for part in writes.chunks(ENTRIES as usize) {
            submit(&mut ring, fd, part, &mut results)?;
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(ring);
        Ok(results)
    }
}

fn submit(
    ring: &mut IoUring,
    fd: BorrowedFd<'_>,
    writes: &[VectoredWrite<'_>],
    results: &mut Vec<io::Result<usize>>,
) -> io::Result<()> {
    let base = results.len();
    for (at, write) in writes.iter().enumerate() {
        results.push(Ok(0));
        // std documents IoSlice as ABI-compatible with iovec.
        let entry =
            opcode::Writev::new(types::Fd(fd.as_raw_fd()), write.slices.as_ptr().cast(), write.slices.len() as u32)
                .offset(write.offset)
                .build()
                .user_data(at as u64);
        // SAFETY: the slices, and the memory they point at, are borrowed by `writes` until this function returns, and
        // it returns only when every submitted write has completed (the loop below), or aborts the process.
        let pushed = unsafe { ring.submission().push(&entry) };
        if pushed.is_err() {
            return Err(io::Error::other("io_uring submission queue is full"));
        }
    }
    let mut done = 0;
    while done < writes.len() {
        match ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::ResourceBusy | io::ErrorKind::WouldBlock
                ) => {}
            // The kernel may still be reading the buffers: they must not be freed under it.
            Err(_) => std::process::abort(),
        }
        for completion in ring.completion() {
            let at = base + completion.user_data() as usize;
            if let Some(slot) = results.get_mut(at) {
                *slot = usize::try_from(completion.result())
                    .map_err(|_| io::Error::from_raw_os_error(-completion.result()));
            }
            done += 1;
        }
    }
    Ok(())
}
