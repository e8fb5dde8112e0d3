//! Staying awake between the messages of a busy stream.
//!
//! A thread that sleeps until its socket has something costs the message a wake-up on another processor: 20 to 30 us on a
//! virtual machine, several times on the way of one command, which at depth 1 is most of its time (docs/write-cost.md). So
//! a process that carries data looks at its sockets again and again instead of sleeping, as long as the next message is
//! about to come: within the window, by how long it took the last times. Between looks it offers its processor to everybody
//! who wants it.
//!
//! An answer to what is under way and a new request are two different waits, each with its own past: an application that
//! thinks for a millisecond between two reads is slept for, the answers to its reads are not. What takes longer than the
//! window is slept for as ever, and heartbeats do not count; so a process with idle or slow volumes burns nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The share of the newest wait in the mean: 1/8.
const WEIGHT: u64 = 8;

/// What comes after a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Something is under way.
    Answer,
    /// Nothing is under way.
    Request,
}

static POLLER: OnceLock<Poller> = OnceLock::new();

/// When to stay awake, from the times of the messages. All times in nanoseconds since some start.
#[derive(Debug)]
struct Pace {
    window: u64,
    last: AtomicU64,
    /// Awake until then.
    until: AtomicU64,
    /// What is waited for since then: an index of `means`.
    next: AtomicUsize,
    /// How long the waits of each kind were.
    means: [AtomicU64; 2],
}

impl Pace {
    fn new(window: u64) -> Self {
        // Nothing is known yet: asleep.
        let means = std::array::from_fn(|_| AtomicU64::new(2 * window));
        Self { window, last: AtomicU64::new(0), until: AtomicU64::new(0), next: AtomicUsize::new(0), means }
    }

    /// A message passes. Whether the next one is worth staying awake for.
    ///
    /// Of two threads at once one may lose its update, which a mean bears.
    fn message(&self, now: u64, next: Next) -> bool {
        let waited = now.saturating_sub(self.last.swap(now, Ordering::Relaxed));
        // One long pause says little about the next wait; several do.
        let waited = waited.min(4 * self.window);
        let of = &self.means[self.next.swap(next as usize, Ordering::Relaxed)];
        let mean = of.load(Ordering::Relaxed);
        of.store(mean - mean / WEIGHT + waited / WEIGHT, Ordering::Relaxed);
        let soon = self.means[next as usize].load(Ordering::Relaxed) <= self.window;
        self.until.store(if soon { now + self.window } else { 0 }, Ordering::Relaxed);
        soon
    }

    fn awake(&self, now: u64) -> bool {
        now < self.until.load(Ordering::Relaxed)
    }
}

struct Poller {
    start: Instant,
    pace: Pace,
    asleep: AtomicBool,
    wake: Notify,
}

impl Poller {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    async fn run(&self) {
        loop {
            self.asleep.store(true, Ordering::Release);
            self.wake.notified().await;
            while self.pace.awake(self.now()) {
                // Others that want this processor go first; then the runtime looks at its sockets without sleeping.
                std::thread::yield_now();
                tokio::task::yield_now().await;
            }
        }
    }
}

/// From now on this process stays awake for up to `window` after each message, as long as the next one comes that fast.
///
/// Must be called inside the runtime that owns the sockets; the first call in a process counts. Does nothing with an empty
/// window, and on a single processor, where somebody else has to run before anything can arrive.
pub fn start(window: Duration) {
    if window.is_zero() || std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1) {
        return;
    }
    let poller = Poller {
        start: Instant::now(),
        pace: Pace::new(u64::try_from(window.as_nanos()).unwrap_or(u64::MAX / 8)),
        asleep: AtomicBool::new(true),
        wake: Notify::new(),
    };
    if POLLER.set(poller).is_ok() {
        tokio::spawn(async {
            if let Some(poller) = POLLER.get() {
                poller.run().await;
            }
        });
    }
}

/// A message that carries data was received or sent, and what is due after it.
pub fn message(next: Next) {
    let Some(poller) = POLLER.get() else { return };
    if poller.pace.message(poller.now(), next) && poller.asleep.load(Ordering::Relaxed) {
        // Two threads may see it at once; a second permit costs one look at the clock.
        poller.asleep.store(false, Ordering::Relaxed);
        poller.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 200_000;

    /// Requests that come `think` after the answer before, and are answered after `work`; what the pace says in the end
    /// after a request and after an answer.
    fn settled(pace: &Pace, mut now: u64, think: u64, work: u64) -> (bool, bool) {
        let mut verdicts = (false, false);
        for _ in 0..100 {
            now += think;
            verdicts.0 = pace.message(now, Next::Answer);
            now += work;
            verdicts.1 = pace.message(now, Next::Request);
        }
        verdicts
    }

    #[test]
    fn awake_only_for_what_comes_soon() {
        let pace = Pace::new(WINDOW);
        assert!(!pace.message(1_000_000_000, Next::Answer), "one message says nothing");
        assert_eq!(settled(&pace, 1_000_000_000, 50_000, 100_000), (true, true));
        assert_eq!(settled(&pace, 2_000_000_000, 1_000_000, 100_000), (true, false), "slow requests, fast answers");
        assert_eq!(settled(&pace, 3_000_000_000, 50_000, 500_000), (false, true), "fast requests, slow answers");
        assert_eq!(settled(&pace, 4_000_000_000, 500_000_000, 250_000), (false, false), "slow");
        assert_eq!(settled(&pace, 60_000_000_000, 50_000, 100_000), (true, true), "fast again");
    }

    #[test]
    fn it_is_awake_for_a_window_and_only_for_what_comes_soon() {
        let pace = Pace::new(WINDOW);
        pace.message(5 * WINDOW, Next::Answer);
        assert!(!pace.awake(5 * WINDOW), "nothing is known yet");
        // Fast answers, slow requests, 100 times.
        assert_eq!(settled(&pace, 10 * WINDOW, 1_000_000, 100_000), (true, false));
        let end = 10 * WINDOW + 100 * 1_100_000;
        assert!(!pace.awake(end), "a request is not due soon");
        pace.message(end + 1_000_000, Next::Answer);
        assert!(pace.awake(end + 1_000_000 + WINDOW - 1));
        assert!(!pace.awake(end + 1_000_000 + WINDOW));
    }

    #[test]
    fn one_long_pause_is_not_the_end_of_it() {
        let pace = Pace::new(WINDOW);
        assert_eq!(settled(&pace, 0, 50_000, 100_000), (true, true));
        let later = 3_600_000_000_000;
        assert!(pace.message(later, Next::Answer), "the answer after an hour's pause is as fast as before");
        assert!(pace.message(later + 100_000, Next::Request), "and so may be the next request");
    }

    #[tokio::test]
    async fn the_task_sleeps_wakes_and_sleeps_again() {
        message(Next::Request); // not started: nothing happens
        start(Duration::from_millis(20));
        let Some(poller) = POLLER.get() else { return }; // one processor
        tokio::task::yield_now().await;
        assert!(poller.asleep.load(Ordering::Relaxed));
        for _ in 0..100 {
            message(Next::Request);
        }
        assert!(!poller.asleep.load(Ordering::Relaxed), "awake");
        tokio::time::timeout(Duration::from_secs(30), async {
            while !poller.asleep.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("asleep a window after the last message");
    }
}
