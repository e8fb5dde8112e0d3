//! Times in buckets of fixed bounds: powers of two, each cut into four, from 1 us to 134 s.
//!
//! ```text
//! 0 1 2 3 | 4 5 6 7 | 8 10 12 14 | 16 20 24 28 | ... | 2^26 .. | 2^27 and more      microseconds
//! ```
//! Recording is two additions to atomics and a look at a third: no lock, no allocation, and the memory does not grow.
//! What is asked for is computed from a copy ([`Snapshot`]). A percentile and the time that it stands for are in the same
//! bucket, and a bucket is at most a quarter as wide as its lower bound (1 us below 4 us): that is its error.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of one power of two.
const PARTS: usize = 4;
const PART_BITS: u32 = PARTS.ilog2();
/// The first power of two that is not told apart any more: 134 s. I/O fails earlier.
const TOP: u32 = 27;
/// Those of 0 to 3 us, those of each power of two from 4 us on, and one for everything beyond.
const BUCKETS: usize = PARTS * (TOP - PART_BITS + 1) as usize + 1;

const NANOS: u64 = 1000;

/// The bucket of a time in microseconds.
const fn bucket_of(us: u64) -> usize {
    if us < PARTS as u64 {
        return us as usize;
    }
    let power = us.ilog2();
    if power >= TOP {
        return BUCKETS - 1;
    }
    // The two bits below the highest say which quarter.
    let part = (us >> (power - PART_BITS)) as usize % PARTS;
    PARTS * (power - PART_BITS + 1) as usize + part
}

/// What a bucket holds: from, and up to but not including.
const fn bounds_of(bucket: usize) -> (u64, u64) {
    if bucket < PARTS {
        return (bucket as u64, bucket as u64 + 1);
    }
    if bucket == BUCKETS - 1 {
        return (1 << TOP, u64::MAX);
    }
    let shift = (bucket / PARTS - 1) as u32;
    let from = ((PARTS + bucket % PARTS) as u64) << shift;
    (from, from + (1 << shift))
}

/// Counts of times; filled by many threads, read by any.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
    max_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum_ns: AtomicU64::new(0), max_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one.
    pub fn record(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(ns / NANOS)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
        // A new longest time is rare; a look costs next to nothing.
        if ns > self.max_ns.load(Ordering::Relaxed) {
            self.max_ns.fetch_max(ns, Ordering::Relaxed);
        }
    }

    /// What there is by now. A time that is being recorded meanwhile may be in one part of it and not yet in another.
    pub fn snapshot(&self) -> Snapshot {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).enumerate();
        let buckets = counts.filter(|(_, count)| *count > 0).map(|(bucket, count)| {
            let (from_us, to_us) = bounds_of(bucket);
            Bucket { from_us, to_us, count }
        });
        Snapshot {
            buckets: buckets.collect(),
            sum_ns: self.sum_ns.load(Ordering::Relaxed),
            max_ns: self.max_ns.load(Ordering::Relaxed),
        }
    }
}

/// One bucket with something in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// The shortest time in it, in microseconds.
    pub from_us: u64,
    /// The first time that is too long for it; `u64::MAX` for none.
    pub to_us: u64,
    /// How many.
    pub count: u64,
}

/// A copy of a histogram. It carries its bounds with it, so that one of another version of the program can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// In order; empty ones are left out.
    pub buckets: Vec<Bucket>,
    /// All times together.
    pub sum_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Snapshot {
    /// How many times were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.count).sum()
    }

    /// The mean; `None` without any.
    pub fn mean(&self) -> Option<Duration> {
        self.sum_ns.checked_div(self.count()).map(Duration::from_nanos)
    }

    /// The longest; `None` without any.
    pub fn max(&self) -> Option<Duration> {
        (self.count() > 0).then(|| Duration::from_nanos(self.max_ns))
    }

    /// The time that a share `q` of all (0.99 for p99) did not exceed; `None` without any. Within a bucket they are taken to
    /// be spread evenly.
    pub fn percentile(&self, q: f64) -> Option<Duration> {
        let rank = ((self.count() as f64 * q).ceil() as u64).max(1);
        let mut before = 0;
        for bucket in &self.buckets {
            if before + bucket.count >= rank {
                let from = bucket.from_us.saturating_mul(NANOS);
                // The last bucket ends with the longest time.
                let to = bucket.to_us.saturating_mul(NANOS).min(self.max_ns).max(from);
                let share = ((rank - before) as f64 - 0.5) / bucket.count as f64;
                return Some(Duration::from_nanos(from + ((to - from) as f64 * share) as u64));
            }
            before += bucket.count;
        }
        None
    }

    /// How many took less than this; exact where a bucket begins.
    pub fn below(&self, us: u64) -> u64 {
        self.buckets.iter().take_while(|bucket| bucket.to_us <= us).map(|bucket| bucket.count).sum()
    }

    /// Adds those of another one.
    pub fn merge(&mut self, other: &Self) {
        for new in &other.buckets {
            match self.buckets.binary_search_by_key(&new.from_us, |bucket| bucket.from_us) {
                Ok(at) => self.buckets[at].count += new.count,
                Err(at) => self.buckets.insert(at, *new),
            }
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// What came since an earlier copy of the same histogram; `None` when it is not that: something became less.
    ///
    /// Whether the longest time is a new one is only known when it grew; else it is told as far as the buckets do.
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        let mut buckets = Vec::with_capacity(self.buckets.len());
        let mut old = earlier.buckets.iter().peekable();
        for now in &self.buckets {
            let before = old.next_if(|old| old.from_us == now.from_us).map_or(0, |old| old.count);
            let count = now.count.checked_sub(before)?;
            if count > 0 {
                buckets.push(Bucket { count, ..*now });
            }
        }
        if old.next().is_some() {
            return None;
        }
        let max_ns = match buckets.last() {
            Some(last) if self.max_ns == earlier.max_ns => last.to_us.saturating_mul(NANOS).min(self.max_ns),
            Some(_) => self.max_ns,
            None => 0,
        };
        Some(Self { buckets, sum_ns: self.sum_ns.checked_sub(earlier.sum_ns)?, max_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(times: &[u64]) -> Snapshot {
        let histogram = Histogram::default();
        times.iter().for_each(|us| histogram.record(Duration::from_micros(*us)));
        histogram.snapshot()
    }

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        for bucket in 0..BUCKETS - 1 {
            let (from, to) = bounds_of(bucket);
            assert_eq!((bucket_of(from), bucket_of(to - 1)), (bucket, bucket));
            assert_eq!(bounds_of(bucket + 1).0, to);
            assert!(to - from == 1 || (to - from) * PARTS as u64 <= from, "{from} {to}");
        }
        assert_eq!((bucket_of(u64::MAX), bucket_of((1 << TOP) - 1)), (BUCKETS - 1, BUCKETS - 2));
    }

    #[test]
    fn nothing_recorded_has_no_percentiles() {
        let empty = of(&[]);
        assert_eq!((empty.count(), empty.mean(), empty.max(), empty.percentile(0.5)), (0, None, None, None));
    }

    #[test]
    fn what_is_beyond_the_last_bound_is_counted_and_does_not_overflow() {
        let histogram = Histogram::default();
        histogram.record(Duration::MAX);
        histogram.record(Duration::from_secs(200));
        histogram.record(Duration::from_nanos(1));
        let snapshot = histogram.snapshot();
        assert_eq!((snapshot.count(), snapshot.max_ns), (3, u64::MAX));
        assert!(snapshot.percentile(0.999).unwrap() > Duration::from_secs(134));
        assert!(snapshot.percentile(0.1).unwrap() < Duration::from_micros(1));
        let one = of(&[300_000_000]);
        assert!(one.percentile(0.99).unwrap() <= one.max().unwrap());
    }

    #[test]
    fn differences_tell_what_came_since_and_whether_it_began_again() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_micros(900));
        let first = histogram.snapshot();
        histogram.record(Duration::from_micros(100));
        let second = histogram.snapshot();
        let new = second.since(&first).unwrap();
        assert_eq!((new.count(), new.sum_ns), (1, 100_000));
        assert!((100_000..=112_000).contains(&new.max_ns), "as far as the bucket tells: {new:?}");
        histogram.record(Duration::from_micros(950));
        assert_eq!(histogram.snapshot().since(&second).unwrap().max_ns, 950_000);
        assert_eq!(second.since(&second).unwrap(), Snapshot::default());
        assert_eq!(first.since(&second), None);
        assert_eq!(of(&[100]).since(&first), None);
    }

    #[test]
    fn counts_below_a_power_of_two_are_exact() {
        let some = of(&[0, 15, 16, 17, 63, 64, 1 << 30]);
        assert_eq!([16, 64, 1 << 20, u64::MAX].map(|us| some.below(us)), [2, 5, 6, 7]);
    }

    proptest! {
        #[test]
        fn a_percentile_is_off_by_a_quarter_at_most(
            mut times in prop::collection::vec(prop_oneof![0u64..100, 0u64..10_000, 0u64..100_000_000], 1..300),
            q in 0.0f64..1.0,
        ) {
            let told = of(&times).percentile(q).unwrap().as_nanos() as f64 / 1000.0;
            times.sort_unstable();
            let rank = ((times.len() as f64 * q).ceil() as usize).max(1);
            let exact = times[rank - 1] as f64;
            prop_assert!((told - exact).abs() <= (exact / 4.0).max(1.0), "{} for {}", told, exact);
        }

        #[test]
        fn merged_copies_are_those_of_all_times_together(
            a in prop::collection::vec(0u64..1 << 40, 0..50), b in prop::collection::vec(0u64..1 << 40, 0..50),
        ) {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            let all = of(&[&a[..], &b[..]].concat());
            prop_assert_eq!(&merged, &all);
            let rest = all.since(&of(&a)).unwrap();
            prop_assert_eq!(rest.buckets, of(&b).buckets);
        }
    }
}
