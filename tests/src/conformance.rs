//! Debian's `iscsi-test-cu` (package libiscsi-bin): run suite by suite, and what its log says.
//!
//! What one must know of the tool (1.19):
//! * One process a suite. Some of its tests leave a hook behind that changes the commands of later ones.
//! * Suites that take reservations come last: one that fails there keeps its reservation, and every later write fails.
//! * Its exit status says nothing. A log without a "Run Summary" is that of a tool which hung or crashed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

pub use log::Verdict;

use crate::process::{self, PATIENCE};
use crate::runner::leave_evidence;

mod log;

/// The tool's name.
pub const TOOL: &str = "iscsi-test-cu";
/// The family that holds every test once.
const FAMILY: &str = "ALL";
/// How long a suite may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Starts of the names of suites that may leave a reservation behind.
const LAST: [&str; 3] = ["Sanitize", "Prout", "Reserve6"];

/// A suite and its tests, as the tool lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suite {
    /// Its name.
    pub name: String,
    /// The names of its tests.
    pub tests: Vec<String>,
}

/// All suites, in the order in which they are to be run.
pub fn suites() -> Result<Vec<Suite>> {
    let suites = parse_list(&process::run(Command::new(TOOL).arg("--list"), PATIENCE)?);
    ensure!(!suites.is_empty(), "{TOOL} --list names no suites of {FAMILY}");
    Ok(suites)
}

fn parse_list(list: &str) -> Vec<Suite> {
    let mut suites: Vec<Suite> = Vec::new();
    for line in list.lines() {
        match line.splitn(3, '.').collect::<Vec<_>>()[..] {
            [FAMILY, name] => suites.push(Suite { name: name.to_owned(), tests: Vec::new() }),
            [FAMILY, name, test] => {
                if let Some(suite) = suites.iter_mut().find(|suite| suite.name == name) {
                    suite.tests.push(test.to_owned());
                }
            }
            _ => {}
        }
    }
    suites.sort_by_key(|suite| LAST.iter().any(|start| suite.name.starts_with(start)));
    suites
}

/// The tool with what it is to be pointed at. It destroys the unit's data.
pub struct Tool {
    url: String,
    second_path: Option<String>,
    preload: Option<PathBuf>,
    logs: PathBuf,
}

impl Tool {
    /// For the unit at `url`; its logs go into the directory `logs`.
    pub fn new(url: String, logs: &Path) -> Self {
        Self { url, second_path: None, preload: None, logs: logs.to_owned() }
    }

    /// The same unit by another path: without it the multipath suite is skipped.
    #[must_use]
    pub fn second_path(mut self, url: String) -> Self {
        self.second_path = Some(url);
        self
    }

    /// A library that is to be preloaded into the tool.
    #[must_use]
    pub fn preload(mut self, library: PathBuf) -> Self {
        self.preload = Some(library);
        self
    }

    fn on_suite(&self, mut command: Command, suite: &str) -> Command {
        command.args(["--dataloss", "--verbose", "--test", &format!("{FAMILY}.{suite}"), &self.url]);
        command.args(&self.second_path);
        if let Some(library) = &self.preload {
            command.env("LD_PRELOAD", library);
        }
        command
    }

    /// What targets answer to the tool's logins, one `KEY=VALUE` a line.
    pub fn negotiated(&self) -> Result<String> {
        let mut command = self.on_suite(Command::new(TOOL), "TestUnitReady");
        let output = process::run_any(command.env("LIBISCSI_DEBUG", "6"), LIMIT)?;
        let said = String::from_utf8_lossy(&output.stderr);
        let answers =
            said.lines().filter_map(|line| line.split_once("TargetLoginReply: ")?.1.split_whitespace().next());
        Ok(answers.collect::<Vec<_>>().join("\n"))
    }

    /// Runs one suite.
    pub fn run(&self, suite: &Suite) -> Result<SuiteResult> {
        let path = self.logs.join(format!("{}.log", suite.name));
        let log = File::create(&path).with_context(|| path.display().to_string())?;
        let mut command = self.on_suite(process::bound(TOOL), &suite.name);
        let begun = Instant::now();
        let mut child = command.stdout(log.try_clone()?).stderr(log).spawn().context("cannot start the tool")?;
        let mut ended = None;
        process::wait_until(LIMIT, || {
            ended = child.try_wait().ok().flatten();
            ended.is_some()
        });
        if ended.is_none() {
            child.kill()?;
            child.wait()?;
        }
        let took = begun.elapsed();
        let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        let mut parsed = log::parse(&text).with_context(|| format!("suite {}:\n{text}", suite.name))?;
        let unheard_of = |name: &&String| !parsed.results.iter().any(|(heard, _)| heard == *name);
        let unheard: Vec<String> = suite.tests.iter().filter(unheard_of).cloned().collect();
        parsed.results.extend(unheard.into_iter().map(|name| (name, Verdict::Hung)));
        let unfinished = match ended {
            None => Some(format!("no end within {} s", LIMIT.as_secs())),
            Some(status) if !parsed.complete => Some(format!("no summary, {status}")),
            Some(_) => None,
        };
        if unfinished.is_some() {
            leave_evidence(process::tail(&path, 12));
        }
        Ok(SuiteResult { name: suite.name.clone(), results: parsed.results, unfinished, took })
    }

    /// Runs all suites; `before` is called with the number of those that have been run, ahead of each.
    pub fn run_all(&self, mut before: impl FnMut(usize) -> Result<()>) -> Result<Report> {
        let mut report = Report::default();
        for (run, suite) in suites()?.iter().enumerate() {
            before(run)?;
            report.suites.push(self.run(suite)?);
        }
        Ok(report)
    }
}

/// What a suite came to.
#[derive(Debug)]
pub struct SuiteResult {
    /// Its name.
    pub name: String,
    /// Each of its tests.
    pub results: Vec<(String, Verdict)>,
    /// How it ended, when it did not end well.
    pub unfinished: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// Numbers of tests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// They ran and were content.
    pub passed: usize,
    /// They ran and were not.
    pub failed: usize,
    /// They have no verdict, or their suite did not end.
    pub hung: usize,
    /// They did not run.
    pub skipped: usize,
}

impl Totals {
    /// How many were run to a verdict.
    pub fn ran(self) -> usize {
        self.passed + self.failed
    }

    fn add(mut self, other: Self) -> Self {
        self.passed += other.passed;
        self.failed += other.failed;
        self.hung += other.hung;
        self.skipped += other.skipped;
        self
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} hung, {} skipped", self.passed, self.failed, self.hung, self.skipped)
    }
}

impl SuiteResult {
    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (_, verdict) in &self.results {
            match verdict {
                Verdict::Passed => totals.passed += 1,
                Verdict::Failed(_) => totals.failed += 1,
                Verdict::Skipped(_) => totals.skipped += 1,
                Verdict::Hung => totals.hung += 1,
            }
        }
        // All tests are through and the tool hangs all the same, in its logout.
        if self.unfinished.is_some() && totals.hung == 0 {
            totals.hung = 1;
        }
        totals
    }
}

/// What all suites came to.
#[derive(Debug, Default)]
pub struct Report {
    /// The suites, in the order in which they were run.
    pub suites: Vec<SuiteResult>,
}

impl Report {
    /// What became of a test.
    pub fn verdict(&self, suite: &str, test: &str) -> Option<&Verdict> {
        let suite = self.suites.iter().find(|result| result.name == suite)?;
        suite.results.iter().find(|(name, _)| name == test).map(|(_, verdict)| verdict)
    }

    /// All suites together.
    pub fn totals(&self) -> Totals {
        self.suites.iter().map(SuiteResult::totals).fold(Totals::default(), Totals::add)
    }
}

/// A line a suite, then what did not pass, then the skipped ones by reason.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<24} {:>6} {:>6} {:>6} {:>7} {:>7}", "suite", "passed", "failed", "hung", "skipped", "seconds")?;
        for suite in &self.suites {
            let Totals { passed, failed, hung, skipped } = suite.totals();
            let seconds = suite.took.as_secs_f64();
            writeln!(f, "{:<24} {passed:>6} {failed:>6} {hung:>6} {skipped:>7} {seconds:>7.1}", suite.name)?;
        }
        let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for suite in &self.suites {
            if let Some(how) = &suite.unfinished {
                writeln!(f, "UNFINISHED {}: {how}", suite.name)?;
            }
            for (test, verdict) in &suite.results {
                let name = format!("{}.{test}", suite.name);
                match verdict {
                    Verdict::Passed => {}
                    Verdict::Failed(why) => writeln!(f, "FAILED {name}: {why}")?,
                    Verdict::Hung => writeln!(f, "HUNG {name}")?,
                    Verdict::Skipped(why) => reasons.entry(why).or_default().push(name),
                }
            }
        }
        for (reason, names) in reasons {
            writeln!(f, "SKIPPED, {reason:?}: {}", names.join(" "))?;
        }
        write!(f, "{}", self.totals())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_of_one_family_those_with_reservations_last() {
        let list = "ALL\nALL.ProutClear\nALL.ProutClear.Simple\nALL.ModeSense6\nALL.ModeSense6.Control-SWP\n\
                    ALL.ModeSense6.Residuals\nALL.Reserve6\nALL.Reserve6.2Initiators\nALL.Unmap\nALL.Unmap.VPD\n\
                    SCSI\nSCSI.Unmap\nSCSI.Unmap.VPD\n";
        let suites = parse_list(list);
        let names: Vec<&str> = suites.iter().map(|suite| suite.name.as_str()).collect();
        assert_eq!(names, ["ModeSense6", "Unmap", "ProutClear", "Reserve6"]);
        assert_eq!(suites[0].tests, ["Control-SWP", "Residuals"]);
    }

    fn suite(name: &str, results: &[(&str, Verdict)], unfinished: Option<&str>) -> SuiteResult {
        let results = results.iter().map(|(test, verdict)| ((*test).to_owned(), verdict.clone())).collect();
        let unfinished = unfinished.map(str::to_owned);
        SuiteResult { name: name.to_owned(), results, unfinished, took: Duration::from_millis(1260) }
    }

    #[test]
    fn a_report_names_what_did_not_pass_and_why() {
        let skipped = || Verdict::Skipped("not there".to_owned());
        let hung = [("Reset", Verdict::Hung), ("Late", skipped())];
        let report = Report {
            suites: vec![
                suite(
                    "Read6",
                    &[("Simple", Verdict::Passed), ("BeyondEol", Verdict::Failed("x.c:1".to_owned()))],
                    None,
                ),
                suite("Sanitize", &hung, Some("no end within 60 s")),
                suite("Unmap", &[("VPD", skipped())], Some("logout")),
            ],
        };
        let text = report.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "Read6                         1      1      0       0     1.3");
        let wanted = [
            "FAILED Read6.BeyondEol: x.c:1",
            "UNFINISHED Sanitize: no end within 60 s",
            "HUNG Sanitize.Reset",
            "UNFINISHED Unmap: logout",
            "SKIPPED, \"not there\": Sanitize.Late Unmap.VPD",
            "1 passed, 1 failed, 2 hung, 2 skipped",
        ];
        assert_eq!(lines[4..], wanted);
        assert_eq!(report.totals().ran(), 2);
    }
}
