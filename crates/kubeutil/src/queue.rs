//! A work queue: keys that something should be done about.
//!
//! A key is worked on by one at a time, however often it is added; what is added while it is worked on is done after that.
//! After a failure it comes back later and later, and the others are not held up. All work happens inside [`Queue::run`], so
//! dropping that ends it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Stop;

/// The first wait after a failure; doubled by each further one.
const FIRST: Duration = Duration::from_millis(500);
/// The longest wait after failures.
const LONGEST: Duration = Duration::from_secs(120);

/// What to do after work on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing, until the key is added again.
    Change,
    /// The same again after so long, unless it is added before.
    Time(Duration),
    /// It failed: again, later and later.
    Failure,
}

struct State<K> {
    /// In the order of their time.
    due: BTreeMap<(Instant, u64), K>,
    place: HashMap<K, (Instant, u64)>,
    running: HashSet<K>,
    failures: HashMap<K, u32>,
    number: u64,
}

impl<K: Clone + Eq + Hash> State<K> {
    /// The earlier time counts.
    fn add(&mut self, key: K, at: Instant) {
        if let Some(place) = self.place.get(&key).copied() {
            if place.0 <= at {
                return;
            }
            self.due.remove(&place);
        }
        self.number += 1;
        let place = (at, self.number);
        self.due.insert(place, key.clone());
        self.place.insert(key, place);
    }

    /// The first key that is due and not being worked on; else when to look again, None when only a change can help.
    fn next(&mut self, now: Instant) -> Result<K, Option<Instant>> {
        let found =
            self.due.iter().find(|(_, key)| !self.running.contains(*key)).map(|(place, key)| (*place, key.clone()));
        match found {
            None => Err(None),
            Some((place, _)) if place.0 > now => Err(Some(place.0)),
            Some((place, key)) => {
                self.due.remove(&place);
                self.place.remove(&key);
                self.running.insert(key.clone());
                Ok(key)
            }
        }
    }

    fn finish(&mut self, key: K, after: After, now: Instant) {
        self.running.remove(&key);
        if after != After::Failure {
            self.failures.remove(&key);
        }
        match after {
            After::Change => {}
            After::Time(time) => self.add(key, now + time),
            After::Failure => {
                let failures = self.failures.entry(key.clone()).or_default();
                let wait = FIRST.saturating_mul(1 << (*failures).min(16)).min(LONGEST);
                *failures += 1;
                self.add(key, now + wait);
            }
        }
    }
}

struct Inner<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

/// The queue. Clones are the same.
pub struct Queue<K>(Arc<Inner<K>>);

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Clone + Eq + Hash + Debug> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            due: BTreeMap::new(),
            place: HashMap::new(),
            running: HashSet::new(),
            failures: HashMap::new(),
            number: 0,
        };
        Self(Arc::new(Inner { state: Mutex::new(state), changed: Notify::new() }))
    }
}

impl<K: Clone + Eq + Hash + Debug> Queue<K> {
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changed about the key: it is worked on as soon as there is room, also when it waits after a failure.
    pub fn add(&self, key: K) {
        self.lock().add(key, Instant::now());
        self.0.changed.notify_one();
    }

    /// Works until it is told to stop; then begins nothing new and ends when what was begun is done. `work` says what
    /// comes after.
    pub async fn run<W: Future<Output = After>>(&self, at_once: usize, stop: Stop, work: impl Fn(K) -> W) {
        let mut running = FuturesUnordered::new();
        let stop = stop.requested();
        tokio::pin!(stop);
        let mut stopping = false;
        loop {
            let mut wake = None;
            while !stopping && running.len() < at_once.max(1) {
                let next = self.lock().next(Instant::now());
                match next {
                    Ok(key) => {
                        let work = work(key.clone());
                        running.push(async move { (key, work.await) });
                    }
                    Err(until) => {
                        wake = until;
                        break;
                    }
                }
            }
            if stopping && running.is_empty() {
                return;
            }
            let timer = async {
                match wake {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((key, after)) = running.next(), if !running.is_empty() => {
                    self.lock().finish(key, after, Instant::now());
                }
                () = self.0.changed.notified(), if !stopping => {}
                () = timer => {}
                () = &mut stop, if !stopping => stopping = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    async fn run<W: Future<Output = After>>(queue: &Queue<u32>, at_once: usize, time: u64, work: impl Fn(u32) -> W) {
        let (_stopper, stop) = Stop::pair();
        let _ = tokio::time::timeout(Duration::from_secs(time), queue.run(at_once, stop, work)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn many_at_once_but_one_key_only_once() {
        let queue = Queue::default();
        (0..10).for_each(|key| queue.add(key));
        (0..10).for_each(|key| queue.add(key));
        let (now, most, all) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
        run(&queue, 4, 100, |key| {
            let (now, most, all, queue) = (&now, &most, &all, &queue);
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                if all.lock().unwrap().iter().filter(|done| **done == 3).count() == 0 && key == 3 {
                    // While it is worked on: once more after that.
                    queue.add(3);
                    queue.add(3);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                all.lock().unwrap().push(key);
                now.fetch_sub(1, Ordering::Relaxed);
                After::Change
            }
        })
        .await;
        assert_eq!(most.load(Ordering::Relaxed), 4);
        let mut all = all.into_inner().unwrap();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_and_longer_and_hold_up_nobody() {
        let queue = Queue::default();
        queue.add(0);
        queue.add(1);
        let (start, times) = (Instant::now(), Mutex::new(Vec::new()));
        run(&queue, 1, 600, |key| {
            let times = &times;
            async move {
                if key == 1 {
                    return After::Time(Duration::from_secs(100));
                }
                times.lock().unwrap().push(start.elapsed().as_millis());
                After::Failure
            }
        })
        .await;
        let times = times.into_inner().unwrap();
        assert_eq!(times[..5], [0, 500, 1500, 3500, 7500]);
        assert_eq!(times.last().unwrap() - times[times.len() - 2], 120_000);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_begun_is_finished() {
        let queue = Queue::default();
        queue.add(0);
        let (stopper, stop) = Stop::pair();
        let done = AtomicUsize::new(0);
        let work = queue.run(1, stop, |_| async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            done.fetch_add(1, Ordering::Relaxed);
            After::Time(Duration::ZERO)
        });
        let tell = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stopper.stop();
        };
        tokio::join!(work, tell);
        assert_eq!(done.load(Ordering::Relaxed), 1);
    }
}
