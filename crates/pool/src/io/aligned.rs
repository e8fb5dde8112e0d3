//! Memory that starts on a 4 KiB boundary, as direct I/O wants it; without unsafe code.

const ALIGN: usize = ballast_api::BLOCK_SIZE;
/// What direct I/O needs of memory addresses: the logical block size of common devices.
pub(crate) const DIRECT_ALIGN: usize = 512;

/// A zeroed buffer on a 4 KiB boundary: a vector that is a little too long, used from the boundary on.
pub(crate) struct AlignedBuf {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    pub(crate) fn new(len: usize) -> Self {
        let memory = vec![0; len + ALIGN - 1];
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN - 1);
        Self { memory, start, len }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

pub(crate) fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(DIRECT_ALIGN)
}
