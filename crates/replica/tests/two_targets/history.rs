//! What the targets of one volume were asked and what they answered, with the moments of both.
//!
//! Moments are numbers of one counter: if `a.end < b.begin`, then `a` was answered before `b` was asked.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ballast_api::BLOCK_SIZE;
use bytes::Bytes;

use crate::support::block;

pub type Moment = u64;
/// What a register holds: a number of one counter, so no value is ever written twice. 0: never written.
pub type Value = u64;

/// Something that holds one value: a block, or what the target keeps with the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Register {
    Block(u64),
    State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Write(Value),
    /// What it returned. Reads that were not answered say nothing and are not noted.
    Read(Value),
}

#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Number of the target.
    pub target: usize,
    pub register: Register,
    pub call: Call,
    pub begin: Moment,
    /// `None`: not answered, or answered with an error; then it may have happened or not.
    pub end: Option<Moment>,
}

/// One target process's time as the owner, from its own point of view.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ownership {
    /// The epochs that it has seen as its own; 0: none.
    pub first: u64,
    pub last: u64,
}

#[derive(Default)]
pub struct History {
    clock: AtomicU64,
    values: AtomicU64,
    events: Mutex<Vec<Event>>,
    owners: Mutex<Vec<Ownership>>,
    /// Answers that no target may ever give.
    wrong: Mutex<Vec<String>>,
}

impl History {
    pub fn now(&self) -> Moment {
        self.clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub fn new_value(&self) -> Value {
        self.values.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub fn new_target(&self) -> usize {
        let mut owners = self.owners.lock().unwrap();
        owners.push(Ownership::default());
        owners.len() - 1
    }

    /// Returns the event's number.
    pub fn note(&self, event: Event) -> usize {
        let mut events = self.events.lock().unwrap();
        events.push(event);
        events.len() - 1
    }

    /// A write is noted before it is asked for, because others may read its value before its own answer is heard.
    pub fn note_end(&self, event: usize, end: Moment) {
        self.events.lock().unwrap()[event].end = Some(end);
    }

    pub fn note_epoch(&self, target: usize, epoch: u64) {
        let owner = &mut self.owners.lock().unwrap()[target];
        if epoch > 0 {
            owner.first = if owner.first == 0 { epoch } else { owner.first };
            owner.last = epoch;
        }
    }

    pub fn note_wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    pub fn recorded(&self) -> (Vec<Event>, Vec<Ownership>, Vec<String>) {
        let (events, owners) = (self.events.lock().unwrap().clone(), self.owners.lock().unwrap().clone());
        (events, owners, self.wrong.lock().unwrap().clone())
    }
}

/// A block that says where it belongs, what it holds and who wrote it.
pub fn contents(lba: u64, value: Value, target: usize) -> Bytes {
    let mut data = block(lba, value).to_vec();
    for (word, at) in [lba, value, target as u64].into_iter().zip([0, 8, 16]) {
        data[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    data.into()
}

/// The value of a block that was read, if the block is one that was written as a whole, here.
pub fn value_of(lba: u64, data: &[u8]) -> Result<Value, String> {
    let word = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().unwrap());
    let (value, target) = (word(8), word(16));
    if data.iter().all(|byte| *byte == 0) {
        Ok(0)
    } else if data.len() == BLOCK_SIZE && contents(lba, value, target as usize) == data {
        Ok(value)
    } else {
        Err(format!("block {lba} is torn or another one: it names block {}, value {value}, target {target}", word(0)))
    }
}

/// What a target keeps: a value, in a few or in many bytes.
pub fn state(value: Value) -> Bytes {
    value.to_le_bytes().repeat(1 + (value as usize % 7) * 40).into()
}

pub fn value_of_state(data: &Bytes) -> Result<Value, String> {
    let Some(first) = data.first_chunk() else { return Ok(0) };
    let value = u64::from_le_bytes(*first);
    if *data == state(value) { Ok(value) } else { Err(format!("the state that was kept is torn: {data:?}")) }
}
