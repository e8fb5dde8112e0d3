//! When a child that died is started again: a state machine of exits and times, without a clock of its own.
//!
//! The first restart is at once. A child that dies again within [`HEALTHY_AFTER`] of its start waits 100 ms, then
//! twice as long each time, at most [`LONGEST`]. A run of [`HEALTHY_AFTER`] forgets the past.

use std::time::Duration;

/// A run this long counts as healthy: the next death is the first again.
pub(crate) const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// The longest wait between two starts.
pub(crate) const LONGEST: Duration = Duration::from_secs(5);
const SECOND_WAIT: Duration = Duration::from_millis(100);

/// The restart policy's memory of one child.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// Deaths in a row without a healthy run between them.
    failures: u32,
}

impl Backoff {
    /// The child has exited after it ran for `ran`: how long to wait before the next start.
    pub(crate) fn exited(&mut self, ran: Duration) -> Duration {
        if ran >= HEALTHY_AFTER {
            self.failures = 0;
        }
        let wait = match self.failures {
            0 => Duration::ZERO,
            n => SECOND_WAIT.saturating_mul(1u32.checked_shl(n - 1).unwrap_or(u32::MAX)).min(LONGEST),
        };
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// Deaths in a row without a healthy run between them.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_at_once_then_doubling_to_the_limit() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> =
            (0..9).map(|_| u64::try_from(backoff.exited(Duration::ZERO).as_millis()).expect("small")).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.failures(), 9);
    }

    #[test]
    fn never_beyond_the_limit() {
        let mut backoff = Backoff::default();
        for _ in 0..200 {
            assert!(backoff.exited(Duration::from_secs(1)) <= LONGEST);
        }
    }

    #[test]
    fn a_healthy_run_forgets_the_past() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.exited(Duration::from_secs(1));
        }
        assert!(backoff.exited(HEALTHY_AFTER - Duration::from_millis(1)) > Duration::ZERO);
        assert_eq!(backoff.exited(HEALTHY_AFTER), Duration::ZERO);
        assert_eq!(backoff.exited(Duration::ZERO), Duration::from_millis(100));
    }
}
