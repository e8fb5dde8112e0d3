//! A block device in memory: sparse 4 KiB pages. For tests, examples and protocol measurements.

use std::sync::{Mutex, PoisonError, RwLock};

use bytes::{Bytes, BytesMut};

use crate::block_device::{BlockDevice, DeviceError, Extent, Geometry, LOGICAL_BLOCK};

const PAGE: u64 = 4096;

/// A device in memory. Pages are shared with readers by reference count; a write replaces whole pages.
pub struct MemoryDevice {
    geometry: Geometry,
    pages: RwLock<Vec<Option<Bytes>>>,
    state: Mutex<Bytes>,
}

static ZEROES: [u8; PAGE as usize] = [0; PAGE as usize];

impl MemoryDevice {
    /// A device of `bytes` (rounded down to whole blocks) that reads as zeroes.
    pub fn new(bytes: u64, serial: &str, naa: [u8; 16]) -> Self {
        let blocks512 = bytes / LOGICAL_BLOCK;
        let pages = vec![None; bytes.div_ceil(PAGE) as usize];
        let geometry = Geometry { blocks512, serial: serial.to_owned(), naa, read_only: false };
        Self { geometry, pages: RwLock::new(pages), state: Mutex::default() }
    }

    /// The same device, refusing writes.
    pub fn read_only(mut self) -> Self {
        self.geometry.read_only = true;
        self
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        let end = offset.checked_add(len).ok_or(DeviceError::OutOfRange)?;
        if end > self.geometry.blocks512 * LOGICAL_BLOCK { Err(DeviceError::OutOfRange) } else { Ok(()) }
    }

    fn zero(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.check(offset, len)?;
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        for (index, start, n) in parts(offset, len) {
            pages[index] = match pages[index].take() {
                Some(old) if n < PAGE as usize => Some(patched(&old, start, &ZEROES[..n])),
                _ => None,
            };
        }
        Ok(())
    }
}

/// The pages of a range: index, first byte within the page, bytes.
fn parts(offset: u64, len: u64) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut at = offset;
    let end = offset + len;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let start = at % PAGE;
            let n = (PAGE - start).min(end - at);
            let part = ((at / PAGE) as usize, start as usize, n as usize);
            at += n;
            part
        })
    })
}

/// A range inside the device.
fn get(pages: &[Option<Bytes>], offset: u64, len: u32) -> Bytes {
    let page = |index: usize| pages[index].clone().unwrap_or_else(|| Bytes::from_static(&ZEROES));
    if offset % PAGE + u64::from(len) <= PAGE && len > 0 {
        let start = (offset % PAGE) as usize;
        return page((offset / PAGE) as usize).slice(start..start + len as usize);
    }
    let mut out = BytesMut::with_capacity(len as usize);
    for (index, start, n) in parts(offset, u64::from(len)) {
        out.extend_from_slice(&page(index)[start..start + n]);
    }
    out.freeze()
}

/// Writes inside the device.
fn put(pages: &mut [Option<Bytes>], offset: u64, mut data: Bytes) {
    for (index, start, n) in parts(offset, data.len() as u64) {
        let piece = data.split_to(n);
        pages[index] = Some(match &pages[index] {
            _ if n == PAGE as usize => Bytes::copy_from_slice(&piece),
            Some(old) => patched(old, start, &piece),
            None => patched(&ZEROES, start, &piece),
        });
    }
}

fn patched(old: &[u8], start: usize, new: &[u8]) -> Bytes {
    let mut page = BytesMut::from(old);
    page[start..start + new.len()].copy_from_slice(new);
    page.freeze()
}

impl BlockDevice for MemoryDevice {
    fn geometry(&self) -> Geometry {
        self.geometry.clone()
    }

    fn blocks512(&self) -> u64 {
        self.geometry.blocks512
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Bytes, DeviceError> {
        self.check(offset, u64::from(len))?;
        Ok(get(&self.pages.read().unwrap_or_else(PoisonError::into_inner), offset, len))
    }

    async fn write(&self, offset: u64, data: Bytes, _fua: bool) -> Result<(), DeviceError> {
        self.check(offset, data.len() as u64)?;
        put(&mut self.pages.write().unwrap_or_else(PoisonError::into_inner), offset, data);
        Ok(())
    }

    async fn update(
        &self,
        offset: u64,
        len: u32,
        change: impl FnOnce(&[u8]) -> Option<Bytes> + Send,
    ) -> Result<(), DeviceError> {
        self.check(offset, u64::from(len))?;
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(data) = change(&get(&pages, offset, len)) {
            put(&mut pages, offset, data);
        }
        Ok(())
    }

    async fn extents(&self, offset: u64, len: u64) -> Result<Vec<Extent>, DeviceError> {
        self.check(offset, len)?;
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        let mut extents: Vec<Extent> = Vec::new();
        for (index, _, n) in parts(offset, len) {
            let (len, mapped) = (n as u64, pages[index].is_some());
            match extents.last_mut().filter(|last| last.mapped == mapped) {
                Some(last) => last.len += len,
                None => extents.push(Extent { len, mapped }),
            }
        }
        Ok(extents)
    }

    async fn unmap(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.zero(offset, len)
    }

    async fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), DeviceError> {
        self.zero(offset, len)
    }

    async fn load_state(&self) -> Result<Bytes, DeviceError> {
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn save_state(&self, state: Bytes) -> Result<(), DeviceError> {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Op {
        Write(u64, u64, u8),
        Zero(u64, u64),
        Unmap(u64, u64),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let range = || (0u64..60, 1u64..30);
        let op = prop_oneof![
            (range(), any::<u8>()).prop_map(|((o, n), b)| Op::Write(o, n, b)),
            range().prop_map(|(o, n)| Op::Zero(o, n)),
            range().prop_map(|(o, n)| Op::Unmap(o, n)),
        ];
        prop::collection::vec(op, 1..40)
    }

    proptest! {
        #[test]
        fn behaves_like_an_array(ops in ops()) {
            let size = 64 * 512;
            let device = MemoryDevice::new(size, "m", [0; 16]);
            let mut model = vec![0u8; size as usize];
            for op in ops {
                let (offset, len, byte) = match op { Op::Write(o, n, b) => (o, n, b), Op::Zero(o, n) | Op::Unmap(o, n) => (o, n, 0) };
                let (offset, len) = (offset * 512, len * 512);
                let done = match op {
                    Op::Write(..) => device.write(offset, Bytes::from(vec![byte; len as usize]), false).now_or_never(),
                    Op::Zero(..) => device.write_zeroes(offset, len).now_or_never(),
                    Op::Unmap(..) => device.unmap(offset, len).now_or_never(),
                }.unwrap();
                if offset + len > size {
                    prop_assert_eq!(done, Err(DeviceError::OutOfRange));
                } else {
                    model[offset as usize..(offset + len) as usize].fill(byte);
                }
                let all = device.read(0, size as u32).now_or_never().unwrap().unwrap();
                prop_assert_eq!(&all[..], &model[..]);
            }
            let page = device.read(4096 + 512, 1024).now_or_never().unwrap().unwrap();
            prop_assert_eq!(&page[..], &model[4608..5632]);
        }
    }
}
