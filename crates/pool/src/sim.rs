//! A simulated disk for crash tests: it remembers what was written and flushed, and in which order.
//!
//! A [`SimDisks`] is a set of disks with one common history. [`SimDisks::crash`] makes the disks as they may be found
//! after a power loss at any point of that history: everything before a disk's last flush is there, of the rest an
//! arbitrary part, torn at 512-byte sectors.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::io::Device;

const PAGE: u64 = 4096;
const SECTOR: usize = 512;

/// Something that happened to a disk.
#[derive(Clone, Debug)]
pub enum SimEvent {
    /// A write of whole pages.
    Write {
        /// Which disk.
        disk: usize,
        /// Where.
        offset: u64,
        /// What.
        bytes: Arc<[u8]>,
    },
    /// A flush that completed.
    Flush {
        /// Which disk.
        disk: usize,
    },
}

/// The content of a disk; what is absent is zero.
#[derive(Clone, Debug, Default)]
struct Image {
    pages: HashMap<u64, Arc<[u8]>>,
}

impl Image {
    fn read(&self, offset: u64, buf: &mut [u8]) {
        let end = offset + buf.len() as u64;
        for page in offset / PAGE..end.div_ceil(PAGE) {
            let (from, to) = ((page * PAGE).max(offset), ((page + 1) * PAGE).min(end));
            let target = &mut buf[(from - offset) as usize..(to - offset) as usize];
            match self.pages.get(&page) {
                Some(bytes) => {
                    target.copy_from_slice(&bytes[(from - page * PAGE) as usize..(to - page * PAGE) as usize])
                }
                None => target.fill(0),
            }
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (at, page) in bytes.chunks(PAGE as usize).enumerate() {
            let number = offset / PAGE + at as u64;
            if page.iter().all(|byte| *byte == 0) {
                self.pages.remove(&number);
            } else {
                self.pages.insert(number, page.into());
            }
        }
    }

    /// Writes only the sectors that `survives` picks.
    fn write_torn(&mut self, offset: u64, bytes: &[u8], survives: &mut dyn FnMut() -> bool) {
        for (at, page) in bytes.chunks(PAGE as usize).enumerate() {
            let start = offset + at as u64 * PAGE;
            let mut content = vec![0; PAGE as usize];
            self.read(start, &mut content);
            for (old, new) in content.chunks_mut(SECTOR).zip(page.chunks(SECTOR)) {
                if survives() {
                    old.copy_from_slice(new);
                }
            }
            self.write(start, &content);
        }
    }
}

/// How a simulated disk misbehaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SimFault {
    /// Not at all.
    #[default]
    None,
    /// Flushes report success and do nothing.
    LyingFlush,
    /// Writes fail from now on.
    FailWrites,
    /// Flushes fail from now on.
    FailFlushes,
}

impl crate::Pool {
    /// Breaks the rule that a freed block is reused only after its cause is durable: a crash test must notice.
    pub fn break_reuse_rule(&self) {
        self.shared().core().early_reuse = true;
    }
}

#[derive(Debug, Default)]
struct State {
    /// Content as the running program sees it.
    now: Vec<Image>,
    /// Content before the recorded history.
    start: Vec<Image>,
    history: Vec<SimEvent>,
    recording: bool,
    fault: SimFault,
    /// Disks are sparse files on a file system that has no room beyond this offset.
    host_limit: Option<u64>,
    locked: Vec<bool>,
}

/// A set of simulated disks.
#[derive(Clone, Debug)]
pub struct SimDisks {
    state: Arc<Mutex<State>>,
    sizes: Arc<[u64]>,
}

impl SimDisks {
    /// Empty disks of these sizes.
    pub fn new(sizes: &[u64]) -> Self {
        let images = vec![Image::default(); sizes.len()];
        let state = State { now: images.clone(), start: images, locked: vec![false; sizes.len()], ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), sizes: sizes.into() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disks, for a pool.
    pub fn devices(&self) -> Vec<Arc<dyn Device>> {
        (0..self.sizes.len()).map(|disk| Arc::new(SimDevice { disks: self.clone(), disk }) as _).collect()
    }

    /// Begins to record; what was written so far counts as durable.
    pub fn record(&self) {
        let mut state = self.state();
        state.start = state.now.clone();
        state.history.clear();
        state.recording = true;
    }

    /// Events recorded so far.
    pub fn events(&self) -> usize {
        self.state().history.len()
    }

    /// Whether the event with this number is a write.
    pub fn is_write(&self, event: usize) -> bool {
        matches!(self.state().history.get(event), Some(SimEvent::Write { .. }))
    }

    /// Makes the disks misbehave.
    pub fn set_fault(&self, fault: SimFault) {
        self.state().fault = fault;
    }

    /// The disks are sparse files, and the file system below them has no room beyond this offset.
    pub fn set_host_limit(&self, limit: u64) {
        self.state().host_limit = Some(limit);
    }

    /// Changes bytes behind the pool's back.
    pub fn damage(&self, disk: usize, offset: u64, change: impl FnOnce(&mut [u8])) {
        let mut state = self.state();
        let mut page = vec![0; PAGE as usize];
        state.now[disk].read(offset / PAGE * PAGE, &mut page);
        change(&mut page);
        state.now[disk].write(offset / PAGE * PAGE, &page);
    }

    /// A copy of the disks as they are now.
    pub fn copy(&self) -> Self {
        let images = self.state().now.clone();
        Self::from_images(images, &self.sizes)
    }

    fn from_images(images: Vec<Image>, sizes: &Arc<[u64]>) -> Self {
        let locked = vec![false; sizes.len()];
        let state = State { now: images.clone(), start: images, locked, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), sizes: Arc::clone(sizes) }
    }

    /// Goes through the history and makes, for every point that `at` picks, the disks after a crash there. `random`
    /// decides the fate of what was not flushed; it gets the number of choices.
    pub fn crashes(
        &self,
        mut at: impl FnMut(usize) -> bool,
        mut random: impl FnMut(u64) -> u64,
        mut test: impl FnMut(usize, SimDisks),
    ) {
        let (mut durable, history) = {
            let state = self.state();
            (state.start.clone(), state.history.clone())
        };
        let mut in_flight: Vec<usize> = Vec::new();
        for point in 0..=history.len() {
            if at(point) {
                let mut images = durable.clone();
                let mut order = in_flight.clone();
                // Disks reorder: of two writes to one place the earlier may land last.
                for i in (1..order.len()).rev() {
                    order.swap(i, random(i as u64 + 1) as usize);
                }
                let mode = random(4);
                for event in order {
                    let SimEvent::Write { disk, offset, bytes } = &history[event] else { continue };
                    match mode {
                        0 => {}
                        1 => images[*disk].write(*offset, bytes),
                        _ => match random(3) {
                            0 => {}
                            1 => images[*disk].write(*offset, bytes),
                            _ => images[*disk].write_torn(*offset, bytes, &mut || random(2) == 0),
                        },
                    }
                }
                test(point, Self::from_images(images, &self.sizes));
            }
            match history.get(point) {
                Some(SimEvent::Write { .. }) => in_flight.push(point),
                Some(SimEvent::Flush { disk: flushed }) => {
                    in_flight.retain(|event| match &history[*event] {
                        SimEvent::Write { disk, offset, bytes } if disk == flushed => {
                            durable[*disk].write(*offset, bytes);
                            false
                        }
                        _ => true,
                    });
                }
                None => {}
            }
        }
    }
}

/// One simulated disk.
#[derive(Debug)]
struct SimDevice {
    disks: SimDisks,
    disk: usize,
}

impl Device for SimDevice {
    fn name(&self) -> String {
        format!("sim{}", self.disk)
    }

    fn len(&self) -> u64 {
        self.disks.sizes[self.disk]
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset + buf.len() as u64 > self.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.disks.state().now[self.disk].read(offset, buf);
        Ok(())
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }

    fn write_many(&self, writes: &[(u64, &[u8])]) -> io::Result<()> {
        let mut state = self.disks.state();
        if state.fault == SimFault::FailWrites {
            return Err(io::Error::other("simulated write error"));
        }
        for (offset, bytes) in writes {
            let whole = offset.is_multiple_of(PAGE) && (bytes.len() as u64).is_multiple_of(PAGE);
            if !whole || offset + bytes.len() as u64 > self.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a write that is not of whole pages"));
            }
            if state.host_limit.is_some_and(|limit| offset + bytes.len() as u64 > limit) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.now[self.disk].write(*offset, bytes);
            if state.recording {
                state.history.push(SimEvent::Write { disk: self.disk, offset: *offset, bytes: (*bytes).into() });
            }
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.disks.state();
        match state.fault {
            SimFault::FailFlushes | SimFault::FailWrites => return Err(io::Error::other("simulated flush error")),
            SimFault::LyingFlush => return Ok(()),
            SimFault::None => {}
        }
        if state.recording {
            state.history.push(SimEvent::Flush { disk: self.disk });
        }
        Ok(())
    }

    fn needs_preparation(&self) -> bool {
        self.disks.state().host_limit.is_some()
    }

    fn lock(&self) -> io::Result<bool> {
        Ok(!std::mem::replace(&mut self.disks.state().locked[self.disk], true))
    }

    fn unlock(&self) -> io::Result<()> {
        self.disks.state().locked[self.disk] = false;
        Ok(())
    }
}
