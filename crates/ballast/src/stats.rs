//! What `ballast volume stats` says, as data: also the JSON for scripts.
//!
//! The JSON is stable: fields are added, never renamed or removed. Times are in microseconds; `null` where nothing was
//! counted. `seconds` is the time that the numbers are from, with `--watch` from the second print on; `null`: since the target
//! began to serve the volume. What the stages are: `crates/target/src/latency`.
//!
//! ```text
//! ballast volume stats -o json
//! [{"name":"demo","id":"uuid","iqn":"iqn...:demo","seconds":null,
//!   "kinds":[{"kind":"write",
//!     "stages":[{"stage":"queue","count":9,"mean_us":3.1,"p50_us":2.5,"p90_us":4.5,"p99_us":6.2,"p999_us":6.2,"max_us":6.2}]}]}]
//! ```

use ballast_api::VolumeId;
use ballast_api::control::{LatencyReport, VolumeLatency};
use ballast_target::latency::Snapshot;
use serde::Serialize;

/// The commands of one volume.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct VolumeStats {
    /// Its name.
    pub(crate) name: String,
    /// Its uuid.
    pub(crate) id: String,
    /// Its iSCSI name.
    pub(crate) iqn: String,
    /// The time that the numbers are from.
    pub(crate) seconds: Option<f64>,
    /// Reads, writes, others.
    pub(crate) kinds: Vec<KindStats>,
}

/// Commands of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct KindStats {
    /// `read`, `write`, `other`
    pub(crate) kind: String,
    /// In order, the total last.
    pub(crate) stages: Vec<StageStats>,
}

/// One part of their time, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct StageStats {
    /// `queue`, `send`, `replicate`, `answer`, `total`
    pub(crate) stage: String,
    /// Commands.
    pub(crate) count: u64,
    /// Mean.
    pub(crate) mean_us: Option<f64>,
    /// Half of them took no longer.
    pub(crate) p50_us: Option<f64>,
    /// 90 of 100.
    pub(crate) p90_us: Option<f64>,
    /// 99 of 100.
    pub(crate) p99_us: Option<f64>,
    /// 999 of 1000.
    pub(crate) p999_us: Option<f64>,
    /// The longest.
    pub(crate) max_us: Option<f64>,
}

impl StageStats {
    fn new(stage: &str, times: &Snapshot) -> Self {
        let us = |time: std::time::Duration| time.as_nanos() as f64 / 1000.0;
        let percentile = |q| times.percentile(q).map(us);
        Self {
            stage: stage.to_owned(),
            count: times.count(),
            mean_us: times.mean().map(us),
            p50_us: percentile(0.5),
            p90_us: percentile(0.9),
            p99_us: percentile(0.99),
            p999_us: percentile(0.999),
            max_us: times.max().map(us),
        }
    }
}

/// An earlier answer, to show what came since.
pub(crate) struct Earlier<'a> {
    /// What was said.
    pub(crate) report: &'a LatencyReport,
    /// So many seconds ago.
    pub(crate) seconds: f64,
}

/// All volumes, or the one of that name.
pub(crate) fn volumes(now: &LatencyReport, earlier: Option<&Earlier<'_>>, name: Option<&str>) -> Vec<VolumeStats> {
    let wanted = now.volumes.iter().filter(|volume| name.is_none_or(|name| name == volume.name));
    // Another run of the target began to count anew.
    let earlier = earlier.filter(|earlier| earlier.report.target == now.target);
    let one = |volume: &VolumeLatency| {
        let before = earlier.and_then(|earlier| {
            let before = earlier.report.volumes.iter().find(|before| before.volume == volume.volume)?;
            Some((before, earlier.seconds))
        });
        // So did one that was taken away and given back.
        let (seconds, times) = before
            .and_then(|(before, seconds)| Some((Some(seconds), differences(volume, before)?)))
            .unwrap_or_else(|| (None, volume.stages.iter().map(Snapshot::from_message).collect()));
        stats(volume, seconds, &times)
    };
    wanted.map(one).collect()
}

/// What came to each stage; `None` when they began anew.
fn differences(now: &VolumeLatency, before: &VolumeLatency) -> Option<Vec<Snapshot>> {
    let of = |stage: &ballast_api::control::StageLatency| {
        let now = Snapshot::from_message(stage);
        let same = before.stages.iter().find(|old| old.kind == stage.kind && old.stage == stage.stage);
        same.map_or_else(|| Some(now.clone()), |old| now.since(&Snapshot::from_message(old)))
    };
    now.stages.iter().map(of).collect()
}

fn stats(volume: &VolumeLatency, seconds: Option<f64>, times: &[Snapshot]) -> VolumeStats {
    let mut kinds: Vec<KindStats> = Vec::new();
    for (stage, times) in volume.stages.iter().zip(times) {
        if kinds.last().is_none_or(|last| last.kind != stage.kind) {
            kinds.push(KindStats { kind: stage.kind.clone(), stages: Vec::new() });
        }
        if let Some(kind) = kinds.last_mut() {
            kind.stages.push(StageStats::new(&stage.stage, times));
        }
    }
    let id = VolumeId::from_slice(&volume.volume).map_or_else(|_| String::new(), |id| id.to_string());
    VolumeStats { name: volume.name.clone(), id, iqn: volume.iqn.clone(), seconds, kinds }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use ballast_target::latency::{Histogram, Kind, Stage};

    use super::*;

    /// A report of a target that has run since `run`, with writes of these times.
    pub(crate) fn report(run: u8, times: &[u64]) -> LatencyReport {
        let histogram = Histogram::default();
        times.iter().for_each(|us| histogram.record(Duration::from_micros(*us)));
        let empty = Snapshot::default();
        let volume = VolumeLatency {
            volume: vec![9; 16].into(),
            name: "demo".to_owned(),
            iqn: "iqn.x:demo".to_owned(),
            stages: vec![
                empty.to_message(Kind::Read, Stage::Total),
                histogram.snapshot().to_message(Kind::Write, Stage::Replicate),
                histogram.snapshot().to_message(Kind::Write, Stage::Total),
            ],
        };
        LatencyReport { target: vec![run; 16].into(), volumes: vec![volume] }
    }

    fn writes(stats: &[VolumeStats]) -> (Option<f64>, u64) {
        (stats[0].seconds, stats[0].kinds[1].stages[0].count)
    }

    #[test]
    fn stages_are_gathered_by_kind_in_microseconds() {
        let stats = volumes(&report(1, &[100, 100, 5000]), None, Some("demo"));
        let [read, write] = &stats[0].kinds[..] else { panic!("{stats:?}") };
        assert_eq!((&*read.kind, read.stages.len(), read.stages[0].count), ("read", 1, 0));
        assert_eq!((read.stages[0].mean_us, read.stages[0].p999_us), (None, None));
        let total = &write.stages[1];
        assert_eq!((&*write.kind, &*total.stage, total.count), ("write", "total", 3));
        assert_eq!(
            (total.mean_us, total.max_us),
            (Some(5200.0 / 3.0).map(|us: f64| (us * 1000.0).floor() / 1000.0), Some(5000.0))
        );
        assert!((96.0..112.0).contains(&total.p50_us.unwrap()));
        assert!(volumes(&report(1, &[]), None, Some("other")).is_empty());
    }

    #[test]
    fn only_what_came_since_is_shown_unless_the_counts_began_anew() {
        let old = report(1, &[100, 100]);
        let earlier = Earlier { report: &old, seconds: 5.0 };
        let since = |now: &LatencyReport| writes(&volumes(now, Some(&earlier), None));
        assert_eq!(since(&report(1, &[100, 100, 7])), (Some(5.0), 1));
        assert_eq!(since(&report(2, &[100, 100, 7])), (None, 3), "another run of the target");
        assert_eq!(since(&report(1, &[100])), (None, 1), "taken away and given back");
    }

    #[test]
    fn the_json_is_as_documented() {
        let json = serde_json::to_value(volumes(&report(1, &[3]), None, None)).unwrap();
        assert_eq!(json[0]["name"], "demo");
        assert_eq!(json[0]["seconds"], serde_json::Value::Null);
        assert_eq!(json[0]["id"].as_str().map(str::len), Some(36));
        let stage = &json[0]["kinds"][1]["stages"][0];
        assert_eq!((stage["stage"].as_str(), stage["count"].as_u64()), (Some("replicate"), Some(1)));
        for field in ["mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us"] {
            assert!(stage[field].as_f64().is_some_and(|us| (3.0..=4.0).contains(&us)), "{field} of {stage}");
        }
    }
}
