//! Bad input through the layers that do no I/O: framing, login, text, commands, the session.
//!
//! A case is a small story that one seed decides: PDUs or CDBs made as they should be, then bent. Whatever comes, nothing may
//! panic, every accepted request is answered exactly once or its session ends, and what is kept in memory stays bounded.
//! Case `i` has the seed `BALLAST_FUZZ_SEED + i`, so that a case which failed can be run alone. The long form:
//!
//! ```text
//! BALLAST_FUZZ_CASES=10000000 cargo test --release -p ballast-target --test fuzz_parsing -- --nocapture
//! BALLAST_FUZZ_CASES=1 BALLAST_FUZZ_SEED=4711 cargo test --release -p ballast-target --test fuzz_parsing   # one case again
//! ```
//! Arithmetic that wraps silently in a release build is found with `CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true` before it.
#![allow(unreachable_pub)]

mod cdb;
mod framing;
mod login;
mod model;
mod pdus;
mod random;
mod rig;
mod session;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use random::{Rng, Tally};

const CASES: u64 = 200_000;
/// Cases that a thread takes at a time.
const CHUNK: u64 = 256;
/// What resident memory may grow by after the first tenth: freed memory that the allocator keeps, in two or more arenas.
const GROWTH: u64 = 32 << 20;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

/// Resident memory in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("statm of this process");
    let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("resident pages");
    pages * 4096
}

/// Says which case it was when it ends by a panic.
struct Case(u64);

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the case that failed: BALLAST_FUZZ_CASES=1 BALLAST_FUZZ_SEED={}", self.0);
        }
    }
}

fn run_case(seed: u64, tally: &mut Tally) {
    let case = Case(seed);
    let rng = &mut Rng::new(seed);
    match rng.below(10) {
        0 => framing::run(rng, tally),
        1 => login::run_text(rng, tally),
        2 => login::run(rng, tally),
        3 | 4 => cdb::run(rng, tally),
        _ => session::run(rng, tally),
    }
    drop(case);
}

/// Runs cases `from..to` on all processors.
fn run_cases(first_seed: u64, cases: std::ops::Range<u64>) -> Tally {
    let next = AtomicU64::new(cases.start);
    let work = || {
        let mut tally = Tally::default();
        loop {
            let from = next.fetch_add(CHUNK, Ordering::Relaxed);
            if from >= cases.end {
                return tally;
            }
            for i in from..cases.end.min(from + CHUNK) {
                run_case(first_seed.wrapping_add(i), &mut tally);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut sum = Tally::default();
        for thread in all {
            sum.add(thread.join().expect("no case may panic"));
        }
        sum
    })
}

#[test]
fn no_input_makes_the_target_panic_or_forget_an_answer_or_grow() {
    let seed = setting("BALLAST_FUZZ_SEED").unwrap_or(1);
    let cases = setting("BALLAST_FUZZ_CASES").unwrap_or(CASES);
    println!("{cases} cases from BALLAST_FUZZ_SEED={seed}");
    let begun = Instant::now();
    let mut tally = run_cases(seed, 0..cases / 10);
    let early = resident();
    tally.add(run_cases(seed, cases / 10..cases));
    let late = resident();
    println!("{:.1?}; resident after a tenth {} KiB, in the end {} KiB", begun.elapsed(), early >> 10, late >> 10);
    println!("{tally}");
    assert!(cases < 1000 || late <= early + GROWTH, "memory grew from {early} to {late} bytes");
    if cases >= 10_000 {
        tally.assert_reached(&[
            "framing: whole PDUs",
            "framing: bad header digest",
            "framing: bad data digest",
            "framing: too long",
            "login: full feature phase",
            "login: full feature phase by CHAP",
            "login: refused",
            "text: pairs",
            "cdb: good",
            "cdb: check condition",
            "session: answered",
            "session: solicited write",
            "session: broken write",
            "session: aborted before it ran",
            "session: aborted while it ran",
            "session: waited for memory",
            "session: rejected",
            "session: ended by an error",
            "session: logged out",
            "session: all answered in the end",
            "session: text answered",
        ]);
    }
}
