//! Range locks: writes of one target that overlap are done one after the other.
//!
//! This keeps the order of overlapping writes the order of their answers, also through retries, and makes the
//! read-modify-write of partial blocks atomic. Reads take no lock.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Locked ranges of blocks.
#[derive(Default)]
pub(super) struct RangeLocks {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Start -> end (exclusive). Locked ranges never overlap, so this is enough to find a conflict.
    held: BTreeMap<u64, u64>,
    /// In order of arrival.
    waiting: Vec<Waiter>,
}

struct Waiter {
    start: u64,
    end: u64,
    granted: oneshot::Sender<()>,
}

impl Table {
    fn conflicts(&self, start: u64, end: u64) -> bool {
        self.held.range(..end).next_back().is_some_and(|(_, held_end)| *held_end > start)
    }

    /// Grants what can be granted now. A waiter also waits for earlier waiters it overlaps, so none starves.
    fn grant(&mut self) {
        let mut blocked: Vec<(u64, u64)> = Vec::new();
        let mut still = Vec::with_capacity(self.waiting.len());
        for waiter in std::mem::take(&mut self.waiting) {
            let (start, end) = (waiter.start, waiter.end);
            let behind = blocked.iter().any(|(s, e)| start < *e && *s < end);
            if behind || self.conflicts(start, end) {
                blocked.push((start, end));
                still.push(waiter);
            } else if waiter.granted.send(()).is_ok() {
                self.held.insert(start, end);
            }
        }
        self.waiting = still;
    }
}

/// Unlocks when dropped.
pub(super) struct RangeGuard<'a> {
    locks: &'a RangeLocks,
    start: u64,
}

impl RangeLocks {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Only moved between consistent states inside single calls.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no overlapping range is locked.
    pub(super) async fn lock(&self, start: u64, end: u64) -> RangeGuard<'_> {
        let wait = {
            let mut table = self.table();
            let queued = table.waiting.iter().any(|w| start < w.end && w.start < end);
            if !queued && !table.conflicts(start, end) {
                table.held.insert(start, end);
                None
            } else {
                let (granted, wait) = oneshot::channel();
                table.waiting.push(Waiter { start, end, granted });
                Some(wait)
            }
        };
        // Made before waiting: if this future is dropped after the grant, the range is released again.
        let guard = Granted { locks: self, start, armed: wait.is_none() };
        let guard = match wait {
            None => guard,
            Some(wait) => guard.wait(wait).await,
        };
        guard.into_guard()
    }

    fn unlock(&self, start: u64) {
        let mut table = self.table();
        table.held.remove(&start);
        table.grant();
    }
}

struct Granted<'a> {
    locks: &'a RangeLocks,
    start: u64,
    armed: bool,
}

impl<'a> Granted<'a> {
    async fn wait(mut self, wait: oneshot::Receiver<()>) -> Self {
        let mut wait = Waiting { locks: self.locks, start: self.start, inner: wait, done: false };
        // The sender lives in the table until it grants.
        _ = (&mut wait.inner).await;
        wait.done = true;
        self.armed = true;
        self
    }

    fn into_guard(mut self) -> RangeGuard<'a> {
        self.armed = false;
        RangeGuard { locks: self.locks, start: self.start }
    }
}

impl Drop for Granted<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.locks.unlock(self.start);
        }
    }
}

/// A waiter whose future may be dropped: before the grant its entry is skipped (the send fails), after it the range
/// has to be given back.
struct Waiting<'a> {
    locks: &'a RangeLocks,
    start: u64,
    inner: oneshot::Receiver<()>,
    done: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.inner.close();
        if self.inner.try_recv().is_ok() {
            self.locks.unlock(self.start);
        } else {
            // An abandoned waiter may have held others back.
            let mut table = self.locks.table();
            table.waiting.retain(|waiter| !waiter.granted.is_closed());
            table.grant();
        }
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        self.locks.unlock(self.start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn disjoint_ranges_do_not_wait() {
        let locks = RangeLocks::default();
        let _a = locks.lock(0, 8).now_or_never().unwrap();
        let _b = locks.lock(8, 16).now_or_never().unwrap();
        assert!(locks.lock(7, 9).now_or_never().is_none());
    }

    #[test]
    fn overlapping_ranges_follow_each_other_in_order() {
        let locks = RangeLocks::default();
        let a = locks.lock(0, 8).now_or_never().unwrap();
        let mut b = Box::pin(locks.lock(4, 12));
        let mut c = Box::pin(locks.lock(10, 14));
        assert!((&mut b).now_or_never().is_none());
        // c overlaps only b, which waits before it.
        assert!((&mut c).now_or_never().is_none());
        drop(a);
        let b = b.now_or_never().unwrap();
        assert!((&mut c).now_or_never().is_none());
        drop(b);
        assert!(c.now_or_never().is_some());
    }

    #[test]
    fn a_waiter_that_gives_up_holds_nobody_back() {
        let locks = RangeLocks::default();
        let a = locks.lock(0, 8).now_or_never().unwrap();
        let mut b = Box::pin(locks.lock(0, 16));
        assert!((&mut b).now_or_never().is_none());
        let mut c = Box::pin(locks.lock(12, 16));
        assert!((&mut c).now_or_never().is_none());
        drop(b);
        assert!((&mut c).now_or_never().is_some());
        drop(a);
        // Granted but never polled again: the range must come back.
        let a = locks.lock(0, 8).now_or_never().unwrap();
        let mut d = Box::pin(locks.lock(0, 8));
        assert!((&mut d).now_or_never().is_none());
        drop(a);
        drop(d);
        assert!(locks.lock(0, 8).now_or_never().is_some());
    }
}
