//! Stages of commands with moments of our own.

use std::time::Duration;

use futures_util::future::{join, try_join_all};

use super::*;

/// Moments in microseconds after some start.
struct Clock(Instant);

impl Clock {
    fn at(&self, us: u64) -> Instant {
        self.0 + Duration::from_micros(us)
    }

    fn exchange(&self, sent: u64, answered: u64) -> Exchange {
        Exchange { sent: self.at(sent), answered: self.at(answered) }
    }
}

fn sums(latency: &Latency, kind: Kind) -> [u64; 5] {
    Stage::ALL.map(|stage| latency.snapshot(kind, stage).sum_ns / 1000)
}

#[test]
fn the_stages_add_up_to_the_total() {
    let clock = Clock(Instant::now());
    let latency = Latency::default();
    let exchange = Some(clock.exchange(50, 300));
    let trace = Trace { kind: Kind::Write, read: clock.at(0), started: clock.at(7), exchange };
    latency.record(&trace, clock.at(310));
    assert_eq!(sums(&latency, Kind::Write), [7, 43, 250, 10, 310]);
    assert_eq!(sums(&latency, Kind::Read), [0; 5]);
}

#[test]
fn what_asked_nobody_is_only_queued_and_answered() {
    let clock = Clock(Instant::now());
    let latency = Latency::default();
    let trace = Trace { kind: Kind::Other, read: clock.at(0), started: clock.at(7), exchange: None };
    latency.record(&trace, clock.at(9));
    let counts = Stage::ALL.map(|stage| latency.snapshot(Kind::Other, stage).count());
    assert_eq!((counts, sums(&latency, Kind::Other)), ([1, 0, 0, 0, 1], [7, 0, 0, 0, 9]));
}

#[test]
fn a_moment_before_the_one_that_caused_it_counts_as_no_time() {
    let clock = Clock(Instant::now());
    let latency = Latency::default();
    let exchange = Some(clock.exchange(4, 3));
    latency.record(&Trace { kind: Kind::Read, read: clock.at(9), started: clock.at(8), exchange }, clock.at(2));
    assert_eq!(sums(&latency, Kind::Read), [0; 5]);
}

#[tokio::test]
async fn each_command_keeps_the_answer_that_came_last_to_itself() {
    let clock = Clock(Instant::now());
    let parts = |answers: [(u64, u64); 3]| {
        traced(try_join_all(answers.map(|(sent, answered)| {
            let exchange = clock.exchange(sent, answered);
            async move {
                // Others are polled in between.
                tokio::task::yield_now().await;
                leader_answered(exchange);
                Ok::<_, ()>(())
            }
        })))
    };
    let (a, b) = join(parts([(1, 5), (2, 9), (3, 7)]), parts([(20, 30), (20, 31), (21, 40)])).await;
    assert_eq!((a.1, b.1), (Some(clock.exchange(2, 9)), Some(clock.exchange(21, 40))));
    assert_eq!(traced(async {}).await.1, None);
    leader_answered(clock.exchange(1, 2));
}
