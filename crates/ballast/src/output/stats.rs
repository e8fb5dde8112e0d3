//! The table of `ballast volume stats`: for each volume and kind of command one line a stage. Where nothing was counted there
//! is no line.

use super::table::render;
use crate::stats::{KindStats, StageStats, VolumeStats};

/// All of it.
pub(crate) fn stats(volumes: &[VolumeStats]) -> String {
    let mut text = String::new();
    for volume in volumes {
        if !text.is_empty() {
            text.push('\n');
        }
        let over = match volume.seconds {
            Some(seconds) => format!("in the last {seconds:.1} s"),
            None => "since the target began to serve it".to_owned(),
        };
        let rows: Vec<_> = volume.kinds.iter().flat_map(rows).collect();
        if rows.is_empty() {
            text += &format!("volume {}, {over}: no commands\n", volume.name);
            continue;
        }
        text += &format!("volume {}, {over}\n", volume.name);
        let header = ["KIND", "STAGE", "COUNT", "MEAN", "P50", "P90", "P99", "P99.9", "MAX"];
        text += &render(&header, &[2, 3, 4, 5, 6, 7, 8], rows.into_iter());
    }
    if text.is_empty() { "the target serves no volumes\n".to_owned() } else { text }
}

fn rows(kind: &KindStats) -> impl Iterator<Item = Vec<String>> + '_ {
    // The kind stands once, so that the eye finds where the next one begins.
    let names = std::iter::once(kind.kind.clone()).chain(std::iter::repeat(String::new()));
    let counted = kind.stages.iter().filter(|stage| stage.count > 0);
    names.zip(counted).map(|(name, stage)| row(name, stage))
}

fn row(kind: String, stage: &StageStats) -> Vec<String> {
    let times = [stage.mean_us, stage.p50_us, stage.p90_us, stage.p99_us, stage.p999_us, stage.max_us];
    let times = times.map(|us| us.map_or_else(|| "-".to_owned(), span));
    [kind, stage.stage.clone(), stage.count.to_string()].into_iter().chain(times).collect()
}

/// A time in its unit, with three figures: more is not known.
fn span(us: f64) -> String {
    let (value, unit) = match us {
        us if us < 999.5 => (us, "us"),
        us if us < 999_500.0 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    let decimals = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    // Microseconds are cut into buckets of one.
    let decimals = if unit == "us" { decimals.min(1) } else { decimals };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::tests::report;
    use crate::stats::{Earlier, volumes};

    #[test]
    fn times_have_units_and_three_figures() {
        for (us, text) in [
            (0.4, "0.4 us"),
            (99.96, "100 us"),
            (312.4, "312 us"),
            (999.9, "1.00 ms"),
            (12_345.0, "12.3 ms"),
            (999_900.0, "1.00 s"),
            (100_000_000.0, "100 s"),
        ] {
            assert_eq!(span(us), text);
        }
    }

    #[test]
    fn each_stage_has_a_line_and_what_was_not_counted_has_none() {
        let text = stats(&volumes(&report(1, &[2000, 2000]), None, None));
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(text.starts_with("volume demo, since the target began to serve it\n"), "{text}");
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(lines[2][..5], ["write", "replicate", "2", "2.00", "ms"], "{text}");
        assert_eq!(lines[3][..2], ["total", "2"], "{text}");
        assert!(!text.contains("read"), "{text}");
    }

    #[test]
    fn a_quiet_time_says_so() {
        let old = report(1, &[5]);
        let earlier = Earlier { report: &old, seconds: 2.04 };
        assert_eq!(stats(&volumes(&old, Some(&earlier), None)), "volume demo, in the last 2.0 s: no commands\n");
        assert_eq!(stats(&[]), "the target serves no volumes\n");
    }
}
