//! What a pool must be after a crash: everything acknowledged, perhaps what was under way, nothing else.
//!
//! Every operation on the pool is noted with the number of device events before it was issued and when it was
//! acknowledged. A crash at event `p` may show any state between "all that was acknowledged at `p`" and "all that was
//! issued at `p`".

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ballast_pool::*;

/// What an entry does: blocks with their tags (0 is a hole).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    Nothing,
    Write(u64, Vec<u64>),
    Unmap(u64, u64),
}

impl Op {
    pub fn record(&self, index: u64) -> LogRecord {
        match self {
            Op::Nothing => super::nothing(index),
            Op::Write(lba, tags) => super::write(index, *lba, tags),
            Op::Unmap(lba, count) => super::unmap(index, *lba, *count),
        }
    }

    pub fn of(record: &LogRecord) -> Self {
        match &record.op {
            LogOp::None => Op::Nothing,
            LogOp::Unmap { lba, count } => Op::Unmap(lba.0, count.0),
            LogOp::Write { lba, payload, .. } => Op::Write(lba.0, tags(payload)),
        }
    }

    fn apply(&self, map: &mut BTreeMap<u64, u64>) {
        match self {
            Op::Nothing => {}
            Op::Write(lba, tags) => map.extend(tags.iter().enumerate().map(|(at, tag)| (lba + at as u64, *tag))),
            Op::Unmap(lba, count) => map.retain(|at, _| *at < *lba || *at >= lba + count),
        }
    }
}

/// The tags of blocks; panics when a block is not one that a test made.
pub fn tags(payload: &[u8]) -> Vec<u64> {
    let one = |bytes: &[u8]| {
        let tag = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let good = if tag == 0 { bytes.iter().all(|byte| *byte == 0) } else { bytes == super::block(tag) };
        assert!(good, "a block that nobody wrote");
        tag
    };
    payload.chunks_exact(4096).map(one).collect()
}

pub type Log = BTreeMap<u64, Op>;

/// When something was acknowledged.
pub type Acked = Arc<AtomicUsize>;

pub fn not_acked() -> Acked {
    Arc::new(AtomicUsize::new(usize::MAX))
}

fn at(acked: &Acked) -> usize {
    acked.load(Ordering::Relaxed)
}

/// A value that was true from `issued` on, and certainly from `acked` on.
#[derive(Clone, Debug)]
pub struct Version<T> {
    pub issued: usize,
    pub acked: Acked,
    pub value: T,
}

/// The versions that a crash at `point` may show.
pub fn possible<T>(versions: &[Version<T>], point: usize) -> &[Version<T>] {
    let first = versions.iter().rposition(|v| at(&v.acked) <= point).unwrap_or(0);
    let end = versions.iter().position(|v| v.issued > point).unwrap_or(versions.len());
    &versions[first.min(end)..end]
}

/// A replica between two installs.
#[derive(Clone, Debug)]
pub struct Era {
    pub start: Option<u64>,
    pub base: BTreeMap<u64, u64>,
    pub logs: Vec<Version<Rc<Log>>>,
    pub purged: Vec<Version<Option<u64>>>,
    pub applied: Vec<Version<Option<u64>>>,
    /// What was applied, in order; skipped entries as `Nothing`.
    pub history: Vec<(u64, Op)>,
}

impl Era {
    fn new(issued: usize, acked: Acked, start: Option<u64>, base: BTreeMap<u64, u64>) -> Self {
        let version = |value| vec![Version { issued, acked: Arc::clone(&acked), value }];
        let logs = vec![Version { issued, acked: Arc::clone(&acked), value: Rc::new(Log::new()) }];
        Self { start, base, logs, purged: version(start), applied: version(start), history: Vec::new() }
    }

    pub fn log(&self) -> Rc<Log> {
        Rc::clone(&self.logs.last().unwrap().value)
    }

    pub fn map_at(&self, applied: Option<u64>) -> BTreeMap<u64, u64> {
        let mut map = self.base.clone();
        self.history.iter().filter(|(index, _)| Some(*index) <= applied).for_each(|(_, op)| op.apply(&mut map));
        map
    }

    pub fn last_applied(&self) -> Option<u64> {
        self.applied.last().unwrap().value
    }

    pub fn last_purged(&self) -> Option<u64> {
        self.purged.last().unwrap().value
    }
}

/// One life of a replica, from creation to deletion.
#[derive(Clone, Debug)]
pub struct Life {
    pub volume: u8,
    pub number: u64,
    pub created: (usize, Acked),
    pub deleted: Option<(usize, Acked)>,
    pub votes: Vec<Version<u64>>,
    pub eras: Vec<Version<Era>>,
}

impl Life {
    pub fn new(volume: u8, number: u64, issued: usize) -> Self {
        let acked = not_acked();
        let era = Era::new(issued, Arc::clone(&acked), None, BTreeMap::new());
        Self {
            volume,
            number,
            created: (issued, Arc::clone(&acked)),
            deleted: None,
            votes: vec![Version { issued, acked: Arc::clone(&acked), value: 0 }],
            eras: vec![Version { issued, acked, value: era }],
        }
    }

    pub fn era(&mut self) -> &mut Era {
        &mut self.eras.last_mut().unwrap().value
    }

    pub fn install(&mut self, issued: usize, start: u64, base: BTreeMap<u64, u64>) -> Acked {
        let acked = not_acked();
        let era = Era::new(issued, Arc::clone(&acked), Some(start), base);
        self.eras.push(Version { issued, acked: Arc::clone(&acked), value: era });
        acked
    }

    pub fn may_live(&self, point: usize) -> bool {
        self.created.0 <= point && self.deleted.as_ref().is_none_or(|(_, acked)| at(acked) > point)
    }

    pub fn must_live(&self, point: usize) -> bool {
        at(&self.created.1) <= point && self.deleted.as_ref().is_none_or(|(issued, _)| *issued > point)
    }

    /// Compares a recovered replica with what it may be; applies the rest again.
    pub fn check(&self, point: usize, replica: &Replica, blocks: &[u64]) -> Result<(), String> {
        let fail = |what: String| Err(format!("volume {} life {}: {what}", self.volume, self.number));
        let vote = replica.hard_state().map_or(0, |vote| u64::from_le_bytes(vote[..8].try_into().unwrap()));
        let votes = possible(&self.votes, point);
        if !votes.iter().any(|v| v.value == vote) {
            return fail(format!(
                "vote {vote}, expected one of {:?}",
                votes.iter().map(|v| v.value).collect::<Vec<_>>()
            ));
        }
        let applied = replica.applied().map(|mark| mark.index);
        let state = replica.log_state();
        let eras = possible(&self.eras, point);
        let Some(Version { value: era, .. }) = eras.iter().rev().find(|era| era.value.start <= applied) else {
            return fail(format!("applied {applied:?} is of no possible era"));
        };
        let purged = state.purged.map(|mark| mark.index);
        let purges = possible(&era.purged, point);
        if !purges.iter().any(|v| v.value == purged) {
            return fail(format!(
                "purged {purged:?}, expected {:?}",
                purges.iter().map(|v| v.value).collect::<Vec<_>>()
            ));
        }
        let applies = possible(&era.applied, point);
        let (low, high) = (applies.first().and_then(|v| v.value), applies.last().and_then(|v| v.value));
        if applied < low || applied > high {
            return fail(format!("applied {applied:?}, expected {low:?}..={high:?}"));
        }
        let first = purged.map_or(0, |index| index + 1);
        let records = match super::ready(replica.read_log(first..u64::MAX, usize::MAX)) {
            Ok(records) => records,
            Err(e) => return fail(format!("log: {e}")),
        };
        let log: Log = records.iter().map(|record| (record.mark.index, Op::of(record))).collect();
        let logs = possible(&era.logs, point);
        let expected =
            |v: &Version<Rc<Log>>| v.value.range(first..).map(|(index, op)| (*index, op.clone())).collect::<Log>();
        if !logs.iter().any(|v| expected(v) == log) {
            let all: Vec<Log> = logs.iter().map(expected).collect();
            return fail(format!("log {log:?}\nexpected one of {all:?}"));
        }
        self.compare(era, replica, applied, blocks)?;
        // Apply again what had been applied when the crash came.
        if let Some(upto) = high.filter(|high| applied < Some(*high)) {
            let skips: Vec<u64> = self.skips(era);
            if let Err(e) = super::ready(replica.apply(upto, &skips, None)) {
                return fail(format!("apply up to {upto}: {e}"));
            }
            self.compare(era, replica, high, blocks)?;
        }
        Ok(())
    }

    fn skips(&self, era: &Era) -> Vec<u64> {
        let log_op = |index: &u64| era.logs.iter().rev().find_map(|v| v.value.get(index).cloned());
        let skipped = era.history.iter().filter(|(index, op)| *op == Op::Nothing && log_op(index) != Some(Op::Nothing));
        skipped.map(|(index, _)| *index).collect()
    }

    fn compare(&self, era: &Era, replica: &Replica, applied: Option<u64>, blocks: &[u64]) -> Result<(), String> {
        let map = era.map_at(applied);
        for lba in blocks {
            let data = super::ready(replica.read(ballast_api::Lba(*lba), ballast_api::BlockCount(1)))
                .map_err(|e| format!("volume {} life {}: read {lba}: {e}", self.volume, self.number))?;
            let (got, expected) = (tags(&data.payload)[0], map.get(lba).copied().unwrap_or(0));
            if got != expected {
                return Err(format!(
                    "volume {} life {}: block {lba} at applied {applied:?}: {got:x}, expected {expected:x}",
                    self.volume, self.number
                ));
            }
        }
        Ok(())
    }
}
