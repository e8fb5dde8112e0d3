//! Snapshots as messages, both ways.

use ballast_api::control::{LatencyBucket, StageLatency};

use super::{Bucket, Kind, Snapshot, Stage};

impl Snapshot {
    /// As it is told.
    pub fn to_message(&self, kind: Kind, stage: Stage) -> StageLatency {
        let bucket = |b: &Bucket| LatencyBucket { from_us: b.from_us, to_us: b.to_us, count: b.count };
        StageLatency {
            kind: kind.name().to_owned(),
            stage: stage.name().to_owned(),
            sum_ns: self.sum_ns,
            max_ns: self.max_ns,
            buckets: self.buckets.iter().map(bucket).collect(),
        }
    }

    /// As it was told. Bounds may be others than this program's.
    pub fn from_message(message: &StageLatency) -> Self {
        let bucket = |b: &LatencyBucket| Bucket { from_us: b.from_us, to_us: b.to_us, count: b.count };
        let mut buckets: Vec<_> = message.buckets.iter().map(bucket).filter(|b| b.count > 0).collect();
        buckets.sort_by_key(|b| b.from_us);
        Self { buckets, sum_ns: message.sum_ns, max_ns: message.max_ns }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::latency::Histogram;

    #[test]
    fn a_snapshot_survives_the_way() {
        let histogram = Histogram::default();
        for us in [1, 5, 5, 100_000, 1 << 40] {
            histogram.record(Duration::from_micros(us));
        }
        let snapshot = histogram.snapshot();
        let message = snapshot.to_message(Kind::Write, Stage::Total);
        assert_eq!((&*message.kind, &*message.stage), ("write", "total"));
        assert_eq!(Snapshot::from_message(&message), snapshot);
    }
}
