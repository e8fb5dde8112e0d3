//! The checker finds what is bad and takes what is good: histories made by hand, and small random ones against all orders.

use crate::checker::check;
use crate::history::{Call, Event, Moment, Ownership, Register, Value};
use crate::random::Random;

const UNANSWERED: Moment = 0;

fn event(target: usize, call: Call, begin: Moment, end: Moment) -> Event {
    let end = (end != UNANSWERED).then_some(end);
    Event { target, register: Register::Block(0), call, begin, end }
}

fn write(target: usize, value: Value, begin: Moment, end: Moment) -> Event {
    event(target, Call::Write(value), begin, end)
}

fn read(target: usize, value: Value, begin: Moment, end: Moment) -> Event {
    event(target, Call::Read(value), begin, end)
}

/// Targets 0 and 1, which have taken over in this order.
const ONE_AFTER_THE_OTHER: [Ownership; 2] = [Ownership { first: 1, last: 1 }, Ownership { first: 2, last: 3 }];

fn found(events: &[Event]) -> String {
    check(events, &ONE_AFTER_THE_OTHER).join("\n")
}

fn assert_good(events: &[Event]) {
    assert_eq!(found(events), "");
}

fn assert_bad(events: &[Event], what: &str) {
    assert!(found(events).contains(what), "{what:?} is not in: {:?}", found(events));
}

#[test]
fn one_target_after_the_other_is_good() {
    assert_good(&[
        read(0, 0, 1, 2),
        write(0, 7, 3, 4),
        read(0, 7, 5, 6),
        read(1, 7, 7, 8),
        write(1, 8, 9, 10),
        read(1, 8, 11, 12),
    ]);
}

#[test]
fn calls_at_the_same_time_are_good_in_any_order() {
    assert_good(&[write(0, 7, 1, 10), write(0, 8, 2, 11), read(0, 8, 3, 4), read(0, 7, 5, 12), read(0, 7, 13, 14)]);
    assert_good(&[write(0, 7, 1, 10), read(0, 0, 2, 3), read(0, 7, 4, 5)]);
}

#[test]
fn a_write_without_an_answer_may_have_happened_or_not() {
    assert_good(&[write(0, 7, 1, UNANSWERED), read(1, 0, 5, 6), read(1, 0, 7, 8)]);
    assert_good(&[write(0, 7, 1, UNANSWERED), read(0, 0, 2, 3), read(1, 7, 5, 6)]);
}

#[test]
fn a_stale_read_is_found() {
    assert_bad(&[write(0, 7, 1, 2), read(0, 0, 3, 4)], "is not seen, or went back");
    assert_bad(&[write(0, 7, 1, 2), write(0, 8, 3, 4), read(0, 7, 5, 6)], "is not seen, or went back");
    // By the old target, after the new one has answered; and then it must not have been answered at all.
    let stale = [write(0, 7, 1, 2), write(1, 8, 3, 4), read(0, 7, 5, 6)];
    assert_bad(&stale, "is not seen, or went back");
    assert_bad(&stale, "two owners");
}

#[test]
fn a_lost_write_is_found() {
    assert_bad(
        &[write(0, 7, 1, 2), write(0, 8, 3, 4), read(1, 7, 5, 6), read(1, 7, 7, 8)],
        "is not seen, or went back",
    );
}

#[test]
fn two_writers_are_found() {
    assert_bad(&[write(0, 7, 1, 2), write(1, 8, 3, 4), write(0, 9, 5, 6)], "two owners");
    assert_bad(&[read(0, 0, 1, 2), read(1, 0, 3, 4), read(0, 0, 5, 6)], "two owners");
}

#[test]
fn a_value_that_goes_back_is_found() {
    let back = [write(0, 7, 1, 2), write(0, 8, 3, 10), read(0, 8, 4, 5), read(0, 7, 6, 7)];
    assert_bad(&back, "went back");
    let to_and_fro = [write(0, 7, 1, 20), write(0, 8, 2, 21), read(0, 7, 3, 4), read(0, 8, 5, 6), read(0, 7, 7, 8)];
    assert_bad(&to_and_fro, "went back");
}

#[test]
fn a_late_write_of_the_old_target_is_found() {
    // It was not answered, so it may have happened: but not after the new target has answered.
    let late = [write(0, 7, 1, UNANSWERED), read(1, 0, 2, 3), read(1, 0, 4, 5), read(1, 7, 6, 7)];
    assert_bad(&late, "both were the newest");
    let over_the_new = [write(0, 7, 1, UNANSWERED), write(1, 8, 2, 3), read(1, 8, 4, 5), read(1, 7, 6, 7)];
    assert_bad(&over_the_new, "went back");
    // Also when nobody has read this block before.
    let elsewhere = Event { register: Register::State, ..read(1, 0, 2, 3) };
    assert_bad(&[write(0, 7, 1, UNANSWERED), elsewhere, write(1, 8, 4, 5), read(1, 7, 6, 7)], "not seen, or went back");
}

#[test]
fn a_retried_write_that_comes_twice_is_found() {
    assert_bad(&[write(0, 7, 1, 2), write(0, 8, 3, 4), read(0, 8, 5, 6), read(0, 7, 7, 8)], "went back");
}

#[test]
fn an_old_state_that_is_loaded_is_found() {
    let state = |event: Event| Event { register: Register::State, ..event };
    let saved = [state(write(0, 7, 1, 2)), state(write(0, 8, 3, 4)), state(write(0, 9, 5, UNANSWERED))];
    for good in [8, 9] {
        assert_good(&[saved[0], saved[1], saved[2], state(read(1, good, 6, 7))]);
    }
    assert_bad(
        &[saved[0], saved[1], saved[2], state(read(1, 7, 6, 7))],
        "State: a write that was answered is not seen",
    );
}

#[test]
fn values_from_nowhere_and_from_the_future_are_found() {
    assert_bad(&[read(0, 5, 1, 2)], "a value that nobody wrote");
    assert_bad(&[read(0, 5, 1, 2), write(0, 5, 3, 4)], "read before it was written");
}

#[test]
fn an_owner_that_comes_back_is_found() {
    let owners = [Ownership { first: 1, last: 4 }, Ownership { first: 2, last: 3 }];
    assert!(check(&[], &owners).join("").contains("came back"));
}

/// Whether one of all orders is good: the definition, for a few calls of one target.
fn has_a_good_order(events: &[Event], done: usize, value: Value) -> bool {
    if done + 1 == 1 << events.len() {
        return true;
    }
    let left = || events.iter().enumerate().filter(|(n, _)| done & (1 << n) == 0);
    let end = |event: &Event| event.end.unwrap_or(Moment::MAX);
    let earliest = left().map(|(_, event)| end(event)).min().unwrap_or(Moment::MAX);
    left().filter(|(_, event)| event.begin < earliest).any(|(n, event)| {
        let next = |value| has_a_good_order(events, done | (1 << n), value);
        match event.call {
            Call::Write(new) => next(new) || (event.end.is_none() && next(value)),
            Call::Read(seen) => seen == value && next(value),
        }
    })
}

#[test]
fn of_small_histories_exactly_those_without_any_good_order_are_bad() {
    let mut random = Random::new(4711);
    let mut counts = [0, 0];
    for _ in 0..30_000 {
        let calls = 2 + random.below(5);
        let writes = 1 + random.below(3).min(calls - 1);
        let mut moments: Vec<Moment> = (1..=2 * calls).collect();
        let mut draw = || moments.remove(random.below(moments.len() as u64) as usize);
        let spans: Vec<_> = (0..calls).map(|_| (draw(), draw())).map(|(a, b)| (a.min(b), a.max(b))).collect();
        let mut events = Vec::new();
        for (n, (begin, end)) in (1..).zip(spans) {
            events.push(match n {
                n if n > writes => read(0, random.below(writes + 1), begin, end),
                n if random.below(4) == 0 => write(0, n, begin, UNANSWERED),
                n => write(0, n, begin, end),
            });
        }
        let good = has_a_good_order(&events, 0, 0);
        assert_eq!(check(&events, &ONE_AFTER_THE_OTHER[..1]).is_empty(), good, "{events:#?}");
        counts[usize::from(good)] += 1;
    }
    assert!(counts.iter().all(|count| *count > 3000), "{counts:?}");
}
