//! SMART: what `smartctl` says about a disk's health. Only when it is switched on, and where smartctl is installed.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::process::Command;

/// Longer than a disk takes to spin up.
const LIMIT: Duration = Duration::from_secs(20);
/// Health changes slowly, and asking may wake a disk.
const EVERY: Duration = Duration::from_secs(3600);

#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    smart_status: Option<Status>,
    #[serde(default)]
    smartctl: Smartctl,
}

#[derive(Deserialize)]
struct Status {
    passed: bool,
}

#[derive(Default, Deserialize)]
struct Smartctl {
    #[serde(default)]
    exit_status: i32,
}

/// What is bad, if anything is, in the output of `smartctl --json -H -i`. The exit status is a bit mask: bit 3 says that
/// the disk is failing, bit 4 that it was (smartctl(8), "EXIT STATUS").
pub fn verdict(json: &[u8]) -> Option<String> {
    let report: Report = serde_json::from_slice(json).ok()?;
    let failing = report.smart_status.is_some_and(|status| !status.passed) || report.smartctl.exit_status & 8 != 0;
    if failing {
        return Some("SMART: the disk says that it is failing; replace it".to_owned());
    }
    (report.smartctl.exit_status & 16 != 0).then(|| "SMART: a value is at its limit; watch this disk".to_owned())
}

/// Asks about disks, each at most once an hour.
#[derive(Debug)]
pub struct Smart {
    program: String,
    known: HashMap<String, (Instant, Option<String>)>,
}

impl Smart {
    /// With this program, usually "smartctl".
    pub fn new(program: impl Into<String>) -> Self {
        Self { program: program.into(), known: HashMap::new() }
    }

    /// What is bad about these disks, by name. Given are name and path.
    pub async fn check(&mut self, disks: &[(String, PathBuf)]) -> BTreeMap<String, String> {
        self.known.retain(|known, _| disks.iter().any(|(name, _)| name == known));
        let due = |disk: &&(String, PathBuf)| self.known.get(&disk.0).is_none_or(|(asked, _)| asked.elapsed() >= EVERY);
        let due: Vec<&(String, PathBuf)> = disks.iter().filter(due).collect();
        let verdicts = futures_util::future::join_all(due.iter().map(|(_, path)| self.ask(path))).await;
        let now = Instant::now();
        self.known.extend(due.into_iter().zip(verdicts).map(|((name, _), verdict)| (name.clone(), (now, verdict))));
        let bad = self.known.iter().filter_map(|(path, (_, verdict))| Some((path.clone(), verdict.clone()?)));
        bad.collect()
    }

    async fn ask(&self, path: &Path) -> Option<String> {
        let mut command = Command::new(&self.program);
        command.args(["--json", "-H", "-i"]).arg(path).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        match tokio::time::timeout(LIMIT, command.output()).await {
            Ok(Ok(output)) => verdict(&output.stdout),
            Ok(Err(error)) => {
                tracing::debug!(path = %path.display(), %error, "smartctl did not run");
                None
            }
            Err(_) => Some(format!("SMART: the disk did not answer within {} s", LIMIT.as_secs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let ok = r#"{"smartctl":{"exit_status":0},"smart_status":{"passed":true},"model_name":"X"}"#;
        assert_eq!(verdict(ok.as_bytes()), None);
        let failing = r#"{"smartctl":{"exit_status":8},"smart_status":{"passed":false}}"#;
        assert!(verdict(failing.as_bytes()).is_some_and(|text| text.contains("failing")));
        assert!(verdict(br#"{"smartctl":{"exit_status":16}}"#).is_some_and(|text| text.contains("limit")));
        // A disk without SMART, and no JSON at all.
        assert_eq!(verdict(br#"{"smartctl":{"exit_status":4}}"#), None);
        assert_eq!(verdict(b"smartctl: not found"), None);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_says_nothing() {
        let mut smart = Smart::new("/nonexistent/smartctl");
        assert!(smart.check(&[("/dev/sdx".to_owned(), "/dev/sdx".into())]).await.is_empty());
        assert_eq!(smart.known.len(), 1);
        assert!(smart.check(&[]).await.is_empty());
        assert!(smart.known.is_empty(), "a disk that is gone is forgotten");
    }
}
