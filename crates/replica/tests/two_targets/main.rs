//! Two targets are alive on one volume, again and again, and the network between them and the pools is disturbed: never two
//! writers, never a stale read.
//!
//! * [`net`] - relays before and between the pools, which cut, hold back and deliver late
//! * [`target`] - a target with its users, over `RaftVolume`
//! * [`rounds`] - who takes over when, and what is disturbed meanwhile
//! * [`history`], [`checker`] - what was asked and answered, and whether that can be
//! * [`fenced`] - what else becomes of a target that lost its volume
//!
//! `BALLAST_ROUNDS` sets the number of rounds, `BALLAST_SEED` repeats the strikes of a run: the order of events inside a
//! round is the machine's. `RUST_LOG=two_targets=info` and `--nocapture` show the rounds.
// Code of tests: a failed unwrap is a failed test.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod checker;
mod checker_tests;
mod fenced;
mod history;
mod net;
#[allow(dead_code)]
#[path = "../../../../tests/src/random.rs"]
mod random;
mod rounds;
#[path = "../support/mod.rs"]
mod support;
mod target;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rounds::{Figures, Lane};

/// About a minute's worth on two processors.
const ROUNDS: u64 = 160;
/// Groups that go through rounds side by side: for much of a round, one waits for an election.
const LANES: u64 = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_targets_on_one_volume_are_never_two_writers_and_never_read_what_is_old() {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("BALLAST_SEED").unwrap_or_else(clock);
    let rounds = number("BALLAST_ROUNDS").unwrap_or(ROUNDS);
    println!("BALLAST_SEED={seed} BALLAST_ROUNDS={rounds}");
    let began = Instant::now();
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            let rounds = rounds / LANES + u64::from(lane < rounds % LANES);
            tokio::spawn(async move {
                let lane = Lane::new(seed.wrapping_add(lane)).await;
                lane.run(rounds).await
            })
        })
        .collect();
    let mut figures = Figures::default();
    let mut wrong = Vec::new();
    for (n, lane) in lanes.into_iter().enumerate() {
        match lane.await {
            Ok((counted, found)) => {
                figures.add(&counted);
                wrong.extend(found.into_iter().map(|what| format!("group {n}: {what}")));
            }
            Err(error) => wrong.push(format!("group {n}: {error}")),
        }
    }
    println!("{figures} in {:.1} s", began.elapsed().as_secs_f64());
    assert!(wrong.is_empty(), "BALLAST_SEED={seed} BALLAST_ROUNDS={rounds}:\n{}", wrong.join("\n"));
}
