//! The text of `GET /metrics`: Prometheus' exposition format 0.0.4.
//!
//! Histograms have fewer buckets here than inside: a monitoring system keeps a series for each. Their bounds are powers of
//! two in microseconds, which are bounds inside too, so that the counts are exact; `le` is in seconds.

use std::fmt::{self, Write as _};

use ballast_api::control::{LatencyReport, TargetVolumeStatus, VolumeLatency};

use crate::latency::Snapshot;
use crate::volume::VolumeState;

/// Bounds: 16 us, 32 us ... 16.8 s.
const POWERS: std::ops::RangeInclusive<u32> = 4..=24;

const MICROS: f64 = 1e6;
const NANOS: f64 = 1e9;

/// A number of a volume.
type Number = fn(&TargetVolumeStatus) -> u64;

const NUMBERS: [(&str, &str, &str, Number); 6] = [
    ("sessions", "gauge", "Initiators that are logged in.", |volume| volume.sessions.into()),
    ("epoch", "gauge", "Epoch that this target holds.", |volume| volume.epoch),
    ("size_bytes", "gauge", "Capacity.", |volume| volume.blocks.saturating_mul(ballast_api::BLOCK_SIZE as u64)),
    ("reads_total", "counter", "Reads answered or under way.", |volume| volume.reads),
    ("writes_total", "counter", "Writes answered or under way.", |volume| volume.writes),
    ("retries_total", "counter", "Times the leader was lost.", |volume| volume.retries),
];

/// The whole text.
pub(crate) fn render(status: &[TargetVolumeStatus], latencies: &LatencyReport) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    _ = write_all(&mut text, status, &latencies.volumes);
    text
}

fn write_all(text: &mut String, status: &[TargetVolumeStatus], latencies: &[VolumeLatency]) -> fmt::Result {
    for (name, kind, help, value) in NUMBERS {
        head(text, name, kind, help)?;
        for volume in status {
            writeln!(text, "ballast_volume_{name}{{volume=\"{}\"}} {}", Label(&volume.name), value(volume))?;
        }
    }
    head(text, "state", "gauge", "1 for the state that the volume is in.")?;
    for volume in status {
        for state in VolumeState::ALL.map(VolumeState::name) {
            let is = u8::from(volume.state == state);
            writeln!(text, "ballast_volume_state{{volume=\"{}\",state=\"{state}\"}} {is}", Label(&volume.name))?;
        }
    }
    head(text, "io_seconds", "histogram", "Time of commands by kind and stage.")?;
    for volume in latencies {
        for stage in &volume.stages {
            let labels =
                format!("volume=\"{}\",kind=\"{}\",stage=\"{}\"", Label(&volume.name), stage.kind, stage.stage);
            histogram(text, &labels, &Snapshot::from_message(stage))?;
        }
    }
    Ok(())
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(text, "# HELP ballast_volume_{name} {help}\n# TYPE ballast_volume_{name} {kind}")
}

fn histogram(text: &mut String, labels: &str, snapshot: &Snapshot) -> fmt::Result {
    let name = "ballast_volume_io_seconds";
    for us in POWERS.map(|power| 1u64 << power) {
        let (le, count) = (us as f64 / MICROS, snapshot.below(us));
        writeln!(text, "{name}_bucket{{{labels},le=\"{le}\"}} {count}")?;
    }
    let count = snapshot.count();
    writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
    writeln!(text, "{name}_sum{{{labels}}} {}", snapshot.sum_ns as f64 / NANOS)?;
    writeln!(text, "{name}_count{{{labels}}} {count}")
}

/// A label's value: names come from outside, and one that is not escaped would spoil the whole text.
struct Label<'a>(&'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::latency::{Histogram, Kind, Stage};

    fn text(name: &str, times: &[u64]) -> String {
        let histogram = Histogram::default();
        times.iter().for_each(|us| histogram.record(Duration::from_micros(*us)));
        let stages = vec![histogram.snapshot().to_message(Kind::Write, Stage::Replicate)];
        let status = TargetVolumeStatus {
            name: name.to_owned(),
            state: "online".to_owned(),
            sessions: 2,
            retries: 3,
            blocks: 2,
            ..TargetVolumeStatus::default()
        };
        let latency = VolumeLatency { name: name.to_owned(), stages, ..VolumeLatency::default() };
        render(&[status], &LatencyReport { volumes: vec![latency], ..LatencyReport::default() })
    }

    #[test]
    fn numbers_and_states_have_their_lines() {
        let text = text("demo", &[]);
        for line in [
            "# TYPE ballast_volume_retries_total counter",
            "ballast_volume_sessions{volume=\"demo\"} 2",
            "ballast_volume_retries_total{volume=\"demo\"} 3",
            "ballast_volume_size_bytes{volume=\"demo\"} 8192",
            "ballast_volume_state{volume=\"demo\",state=\"online\"} 1",
            "ballast_volume_state{volume=\"demo\",state=\"waiting\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn buckets_are_cumulative_in_seconds_and_end_with_all() {
        let text = text("demo", &[10, 20, 20, 1_000_000, 100_000_000]);
        let labels = "volume=\"demo\",kind=\"write\",stage=\"replicate\"";
        for (name, count) in [
            (format!("_bucket{{{labels},le=\"0.000016\"}}"), "1"),
            (format!("_bucket{{{labels},le=\"0.000032\"}}"), "3"),
            (format!("_bucket{{{labels},le=\"1.048576\"}}"), "4"),
            (format!("_bucket{{{labels},le=\"16.777216\"}}"), "4"),
            (format!("_bucket{{{labels},le=\"+Inf\"}}"), "5"),
            (format!("_count{{{labels}}}"), "5"),
            (format!("_sum{{{labels}}}"), "101.00005"),
        ] {
            let line = format!("ballast_volume_io_seconds{name} {count}");
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn names_cannot_break_out_of_their_quotes() {
        assert!(text("a\"} 1\n\\", &[]).contains("ballast_volume_epoch{volume=\"a\\\"} 1\\n\\\\\"} 0\n"));
    }
}
