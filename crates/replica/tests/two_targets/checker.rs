//! Whether a history is one that a single disk could have answered, with one owner after the other.
//!
//! **Owners.** Targets follow each other in the order of their epochs. When a target has answered anything at all, its
//! take-over is in the log; that moment is the *end* of all targets with older epochs. Nothing that begins after the end of
//! its target may be answered, and the epochs of two targets must not interleave.
//!
//! **Registers.** Each block, and the state that is kept, is a register whose values are all different. An answered call
//! took effect between its begin and its end. A write that was not answered took effect after its begin, or never; if its
//! value was read it did. And since all that an old target does is fenced by the new one's epoch, no effect of a call comes
//! after the end of its target. So each call that had an effect has an interval, and the question is whether one moment can be
//! chosen in each such that every read returns the newest value: this is linearizability, and for different values it is
//! decided exactly by looking at *zones* (P. Gibbons, E. Korach: Testing Shared Memories, SIAM J. Comput. 26, 1997). All
//! calls of one value, its write and its reads, lie together in every good order. From the earliest end of any of them to
//! the latest begin of any of them is the value's zone; if these are in that order, the zone is *forward*: throughout it the
//! register must have held the value. Else, *backward*, there is a moment in it at which all calls can be put together. A
//! good order exists if and only if no read ends before its write begins, no two forward zones overlap, and no backward zone
//! lies inside a forward one. So nothing bad passes, and nothing good is refused.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Call, Event, Moment, Ownership, Register, Value};

const NEVER: Moment = Moment::MAX;

/// All calls of one value.
// Some of it only stands in messages.
#[allow(dead_code)]
#[derive(Clone, Copy, Debug)]
struct Zone {
    value: Value,
    writer: usize,
    written: (Moment, Moment),
    answered: bool,
    reads: u64,
    earliest_end: Moment,
    latest_begin: Moment,
}

impl Zone {
    fn is_forward(&self) -> bool {
        self.earliest_end < self.latest_begin
    }

    fn include(&mut self, begin: Moment, end: Moment) {
        self.earliest_end = self.earliest_end.min(end);
        self.latest_begin = self.latest_begin.max(begin);
    }
}

/// All that is wrong; nothing when the history is a good one.
pub fn check(events: &[Event], owners: &[Ownership]) -> Vec<String> {
    let mut wrong = interleaved(owners);
    let ends = ends(events, owners);
    let late = |event: &&Event| event.end.is_some() && event.begin > ends[event.target];
    wrong.extend(
        events.iter().filter(late).map(|event| format!("two owners: {event:?} begins after {}", ends[event.target])),
    );
    let mut registers: BTreeMap<Register, Vec<&Event>> = BTreeMap::new();
    for event in events {
        registers.entry(event.register).or_default().push(event);
    }
    for (register, events) in registers {
        wrong.extend(check_register(&events, &ends).into_iter().map(|what| format!("{register:?}: {what}")));
    }
    wrong
}

/// From when on each target must not be answered any more.
fn ends(events: &[Event], owners: &[Ownership]) -> Vec<Moment> {
    let mut first_answer = vec![NEVER; owners.len()];
    for event in events {
        let first = &mut first_answer[event.target];
        *first = (*first).min(event.end.unwrap_or(NEVER));
    }
    let mut order: Vec<usize> = (0..owners.len()).filter(|target| owners[*target].last > 0).collect();
    order.sort_by_key(|target| owners[*target].last);
    let mut ends = vec![NEVER; owners.len()];
    let mut end = NEVER;
    for target in order.into_iter().rev() {
        ends[target] = end;
        end = end.min(first_answer[target]);
    }
    ends
}

fn interleaved(owners: &[Ownership]) -> Vec<String> {
    let mut order: Vec<_> = owners.iter().enumerate().filter(|(_, owner)| owner.last > 0).collect();
    order.sort_by_key(|(_, owner)| owner.last);
    let bad = order.windows(2).filter(|pair| pair[1].1.first <= pair[0].1.last);
    bad.map(|pair| format!("a target came back after another had taken over: {:?} and {:?}", pair[0], pair[1]))
        .collect()
}

fn check_register(events: &[&Event], ends: &[Moment]) -> Vec<String> {
    let mut wrong = Vec::new();
    // What was there at first was written before everything else.
    let first = Zone {
        value: 0,
        writer: usize::MAX,
        written: (0, 0),
        answered: true,
        reads: 0,
        earliest_end: 0,
        latest_begin: 0,
    };
    let mut zones = HashMap::from([(0, first)]);
    for event in events {
        let Call::Write(value) = event.call else { continue };
        let (begin, end) = (event.begin, event.end.unwrap_or(NEVER).min(ends[event.target]));
        let (writer, answered) = (event.target, event.end.is_some());
        let (written, earliest_end, latest_begin) = ((begin, end), end, begin);
        let zone = Zone { value, writer, written, answered, reads: 0, earliest_end, latest_begin };
        if zones.insert(value, zone).is_some() {
            wrong.push(format!("the test wrote value {value} twice"));
        }
    }
    for event in events {
        let (Call::Read(value), Some(end)) = (event.call, event.end) else { continue };
        let end = end.min(ends[event.target]);
        match zones.get_mut(&value) {
            None => wrong.push(format!("a value that nobody wrote: {event:?}")),
            Some(zone) if end < zone.written.0 => {
                wrong.push(format!("read before it was written: {event:?}, {zone:?}"))
            }
            Some(zone) => {
                zone.reads += 1;
                zone.include(event.begin, end);
            }
        }
    }
    // A write that was neither answered nor read has not happened, as far as anybody can tell.
    let zones: Vec<Zone> = zones.into_values().filter(|zone| zone.answered || zone.reads > 0).collect();
    let (mut forward, backward): (Vec<Zone>, Vec<Zone>) = zones.into_iter().partition(Zone::is_forward);
    forward.sort_by_key(|zone| zone.earliest_end);
    for pair in forward.windows(2).filter(|pair| pair[1].earliest_end < pair[0].latest_begin) {
        wrong.push(format!("both were the newest, or one went back: {:?} and {:?}", pair[0], pair[1]));
    }
    for inner in backward {
        // Those that begin before it; when none of them overlap, only the last one can hold it.
        let before = forward.partition_point(|outer| outer.earliest_end < inner.latest_begin);
        let outer = before.checked_sub(1).map(|last| forward[last]);
        if let Some(outer) = outer.filter(|outer| inner.earliest_end < outer.latest_begin) {
            wrong.push(format!("a write that was answered is not seen, or went back: {inner:?} inside {outer:?}"));
        }
    }
    wrong
}
