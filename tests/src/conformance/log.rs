//! What the log of `iscsi-test-cu` says of each test.
//!
//! Only the verdict counts: a test that is skipped says `[SKIPPED]` and then "passed", and `[FAILED]` may stand before
//! "passed" too (of a command that was meant to fail). What follows the verdict on its line is of the suite's end.
//!
//! ```text
//!   Test: Simple ...    [FAILED] COMPAREANDWRITE failed with wrong sense. ...
//! FAILED
//!     1. test_compareandwrite_simple.c:71  - CU_ASSERT_EQUAL(_r,0)
//!   Test: Eject ...    [SKIPPED] Logical unit is not removable. Skipping test.
//! passed
//!   Test: VPD ...passed    [SKIPPED] PERSISTENT RESERVE IN is not implemented.       <- not the test's
//! ```

use anyhow::{Context, Result, ensure};

/// What became of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It ran and was content.
    Passed,
    /// It ran and was not; what it said, and its first failed assertion.
    Failed(String),
    /// It did not run; what it said why.
    Skipped(String),
    /// No verdict: it hung, the tool crashed or did not get as far.
    Hung,
}

/// What a log says.
pub(super) struct Parsed {
    /// Its tests, in order.
    pub(super) results: Vec<(String, Verdict)>,
    /// It ends with a summary: the tool got through all tests.
    pub(super) complete: bool,
}

/// Reads a log, whole or broken off.
pub(super) fn parse(log: &str) -> Result<Parsed> {
    let (body, summary) = match log.split_once("\nRun Summary:") {
        Some((body, summary)) => (body, Some(summary)),
        None => (log, None),
    };
    let mut tests: Vec<Running> = Vec::new();
    for line in body.lines() {
        if let Some((name, said)) = line.strip_prefix("  Test: ").and_then(|rest| rest.split_once(" ...")) {
            tests.push(Running { name: name.to_owned(), ..Running::default() });
            tests.last_mut().into_iter().for_each(|test| test.hear(said));
        } else if let Some(test) = tests.last_mut() {
            test.hear(line);
        }
    }
    let results: Vec<(String, Verdict)> = tests.into_iter().map(Running::judge).collect();
    if let Some(summary) = summary {
        let number = |wanted: fn(&Verdict) -> bool| results.iter().filter(|(_, verdict)| wanted(verdict)).count();
        let failed = number(|verdict| matches!(verdict, Verdict::Failed(_)));
        let open = number(|verdict| matches!(verdict, Verdict::Hung));
        let (counted, counted_failed) = count(summary).context("a summary without numbers")?;
        // A verdict that was overlooked must not make a failed test a passed one.
        ensure!(
            open == 0 && (counted, counted_failed) == (results.len(), failed),
            "the summary counts {counted} tests and {counted_failed} failures, \
             the log shows {} and {failed}, {open} without a verdict",
            results.len()
        );
    }
    Ok(Parsed { results, complete: summary.is_some() })
}

/// How many tests a summary says were run, and how many of them failed.
fn count(summary: &str) -> Option<(usize, usize)> {
    let line = summary.lines().find_map(|line| line.trim_start().strip_prefix("tests "))?;
    // Total, Ran, Passed, Failed, Inactive.
    let numbers: Vec<usize> = line.split_whitespace().map_while(|number| number.parse().ok()).collect();
    Some((*numbers.get(1)?, *numbers.get(3)?))
}

/// A test of which the log is being read.
#[derive(Default)]
struct Running {
    name: String,
    passed: Option<bool>,
    skipped: Option<String>,
    complaint: Option<String>,
    assertion: Option<String>,
}

impl Running {
    fn hear(&mut self, line: &str) {
        let after = |mark: &str| line.split_once(mark).map(|(_, text)| text.trim().to_owned());
        let keep = |slot: &mut Option<String>, mark| {
            if slot.is_none() {
                *slot = after(mark);
            }
        };
        match self.passed {
            None if line.starts_with("passed") => self.passed = Some(true),
            None if line.starts_with("FAILED") => self.passed = Some(false),
            None => {
                keep(&mut self.skipped, "[SKIPPED]");
                keep(&mut self.complaint, "[FAILED]");
            }
            Some(false) => keep(&mut self.assertion, "    1. "),
            Some(true) => {}
        }
    }

    fn judge(self) -> (String, Verdict) {
        let verdict = match (self.passed, self.skipped) {
            (None, _) => Verdict::Hung,
            (Some(true), None) => Verdict::Passed,
            (Some(true), Some(reason)) => Verdict::Skipped(reason),
            (Some(false), _) => {
                let said: Vec<String> = [self.complaint, self.assertion].into_iter().flatten().collect();
                Verdict::Failed(said.join(" | "))
            }
        };
        (self.name, verdict)
    }
}

#[cfg(test)]
mod tests;
