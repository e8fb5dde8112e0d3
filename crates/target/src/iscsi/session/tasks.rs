//! The tasks of a session by initiator task tag.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::scsi::{Command, Sense};

/// Tags are counters; a multiplication spreads them. The map holds at most window + immediate entries, so that
/// chosen tags cannot cost much.
#[derive(Default)]
pub(super) struct TagHasher(u64);

impl Hasher for TagHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u32(u32::from(*b));
        }
    }

    fn write_u32(&mut self, tag: u32) {
        self.0 = (self.0 ^ u64::from(tag)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Waits for data.
    Collecting,
    /// Waits for the device.
    Ready,
    /// The device works on it.
    Running,
    /// Aborted, but the device still works on it.
    Doomed,
}

/// One command in progress.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) command: Command,
    pub(super) lun: u64,
    /// Expected data transfer length; 0 when neither R nor W is set.
    pub(super) expected: u32,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) immediate: bool,
    /// ORDERED task attribute.
    pub(super) ordered: bool,
    /// Order of arrival.
    arrival: u64,
    pub(super) data: Bytes,
    /// Only while data is outstanding.
    pub(super) collect: Option<Box<Collect>>,
    /// R2Ts sent, for ExpDataSN.
    pub(super) r2ts_sent: u32,
    grant: usize,
    state: State,
    /// When the last of its data had come.
    complete: Option<Instant>,
}

/// A write that is not complete yet.
#[derive(Debug)]
pub(super) struct Collect {
    pub(super) buf: BytesMut,
    /// Bytes that the command takes.
    pub(super) wanted: u32,
    /// Next DataSN of unsolicited Data-Out, while such is announced.
    pub(super) unsolicited: Option<u32>,
    /// Unsolicited bytes so far, also those beyond `wanted`.
    pub(super) pushed: u32,
    /// Open R2Ts, oldest first.
    pub(super) open: VecDeque<R2t>,
    /// Offset of the next R2T.
    pub(super) asked: u32,
    /// The command is lost; the rest of its data is swallowed first.
    pub(super) fail: Option<Sense>,
    pub(super) has_grant: bool,
}

/// An open R2T.
#[derive(Debug)]
pub(super) struct R2t {
    pub(super) ttt: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) got: u32,
    pub(super) data_sn: u32,
}

impl Task {
    pub(super) fn new(command: Command, lun: u64, immediate: bool) -> Self {
        Self {
            command,
            lun,
            expected: 0,
            read: false,
            write: false,
            immediate,
            ordered: false,
            arrival: 0,
            data: Bytes::new(),
            collect: None,
            r2ts_sent: 0,
            grant: 0,
            state: State::Collecting,
            complete: None,
        }
    }

    pub(super) fn set_ready(&mut self, data: Bytes, now: Instant) {
        self.collect = None;
        self.data = data;
        self.state = State::Ready;
        self.complete = Some(now);
    }

    pub(super) fn start(&mut self) {
        self.state = State::Running;
    }

    pub(super) fn complete(&self) -> Option<Instant> {
        self.complete
    }

    pub(super) fn is_doomed(&self) -> bool {
        self.state == State::Doomed
    }

    /// Aborts; true when the device still works on it, so that the task has to stay.
    pub(super) fn doom(&mut self) -> bool {
        if matches!(self.state, State::Running | State::Doomed) {
            self.state = State::Doomed;
            return true;
        }
        false
    }

    pub(super) fn set_grant(&mut self, bytes: usize) {
        self.grant = bytes;
    }

    pub(super) fn grant(&self) -> usize {
        self.grant
    }
}

/// All tasks.
#[derive(Default)]
pub(super) struct Tasks {
    map: HashMap<u32, Task, BuildHasherDefault<TagHasher>>,
    immediate: usize,
    ordered: usize,
    arrivals: u64,
}

impl Tasks {
    pub(super) fn insert(&mut self, itt: u32, mut task: Task) {
        self.immediate += usize::from(task.immediate);
        self.ordered += usize::from(task.ordered);
        self.arrivals += 1;
        task.arrival = self.arrivals;
        self.map.insert(itt, task);
    }

    pub(super) fn remove(&mut self, itt: u32) -> Option<Task> {
        let task = self.map.remove(&itt)?;
        self.immediate -= usize::from(task.immediate);
        self.ordered -= usize::from(task.ordered);
        Some(task)
    }

    pub(super) fn get_mut(&mut self, itt: u32) -> Option<&mut Task> {
        self.map.get_mut(&itt)
    }

    pub(super) fn contains(&self, itt: u32) -> bool {
        self.map.contains_key(&itt)
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn immediate(&self) -> usize {
        self.immediate
    }

    /// Tasks that take a place in the command window.
    pub(super) fn windowed(&self) -> u32 {
        (self.map.len() - self.immediate) as u32
    }

    /// Task attributes (SAM-5 section 8.6): an ORDERED task starts when it is the oldest, and no task starts before
    /// an older ORDERED one has ended.
    pub(super) fn may_start(&self, itt: u32) -> bool {
        if self.ordered == 0 {
            return true;
        }
        let Some(task) = self.map.get(&itt) else { return false };
        !self.map.values().any(|t| t.arrival < task.arrival && (task.ordered || t.ordered))
    }

    pub(super) fn tags(&self, mut which: impl FnMut(&Task) -> bool) -> Vec<u32> {
        self.map.iter().filter(|(_, t)| which(t)).map(|(itt, _)| *itt).collect()
    }
}
