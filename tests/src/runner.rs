//! A test runner in the manner of libtest, for tests that take minutes and may have to be skipped.
//!
//! It prints the lines that `cargo test` prints, so that everything that reads those can read these, and understands a
//! name filter, `--exact`, `--skip` and `--list`. Tests run one after the other: they measure, and the machine is small.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

/// How a test ended that did not fail.
pub enum Outcome {
    /// It ran to its end.
    Passed,
    /// It could not run here; the reason says what is missing.
    Skipped(String),
}

/// What a test function returns.
pub type TestResult = anyhow::Result<Outcome>;

/// One test: its name and its function.
pub type Test = (&'static str, fn() -> TestResult);

/// Text that is shown only when the running test fails (the tails of logs).
static EVIDENCE: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Leaves something to look at in case the running test fails.
pub fn leave_evidence(text: String) {
    if let Ok(mut evidence) = EVIDENCE.lock() {
        evidence.push(text);
    }
}

/// Ends the test as skipped when `$missing` (an `Option<String>`) says that something is not there.
#[macro_export]
macro_rules! skip_if {
    ($missing:expr) => {
        if let Some(reason) = $missing {
            return Ok($crate::runner::Outcome::Skipped(reason));
        }
    };
}

struct Arguments {
    filters: Vec<String>,
    skip: Vec<String>,
    exact: bool,
    list: bool,
}

impl Arguments {
    fn parse() -> Self {
        let mut parsed = Self { filters: Vec::new(), skip: Vec::new(), exact: false, list: false };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--exact" => parsed.exact = true,
                "--list" => parsed.list = true,
                "--skip" => parsed.skip.extend(arguments.next()),
                "--test-threads" | "--format" | "--color" => drop(arguments.next()),
                other if other.starts_with('-') => {}
                other => parsed.filters.push(other.to_owned()),
            }
        }
        parsed
    }

    fn wants(&self, name: &str) -> bool {
        let hit = |pattern: &String| if self.exact { name == pattern } else { name.contains(pattern.as_str()) };
        (self.filters.is_empty() || self.filters.iter().any(hit)) && !self.skip.iter().any(hit)
    }
}

fn run_one(function: fn() -> TestResult) -> TestResult {
    catch_unwind(AssertUnwindSafe(function)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(anyhow::anyhow!("panicked: {}", text.unwrap_or("(no message)")))
    })
}

/// Runs the tests that the command line asks for; failure when any of them failed.
pub fn main(tests: &[Test]) -> ExitCode {
    let arguments = Arguments::parse();
    let chosen: Vec<&Test> = tests.iter().filter(|(name, _)| arguments.wants(name)).collect();
    if arguments.list {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    crate::scratch::sweep();
    println!("\nrunning {} test{}", chosen.len(), if chosen.len() == 1 { "" } else { "s" });
    let (mut passed, mut skipped, mut failures) = (0, 0, Vec::new());
    let begun = Instant::now();
    for (name, function) in &chosen {
        let one = Instant::now();
        let result = run_one(*function);
        let seconds = one.elapsed().as_secs_f64();
        let evidence = EVIDENCE.lock().map(|mut all| std::mem::take(&mut *all)).unwrap_or_default();
        match result {
            Ok(Outcome::Passed) => {
                passed += 1;
                println!("test {name} ... ok ({seconds:.1} s)");
            }
            Ok(Outcome::Skipped(reason)) => {
                skipped += 1;
                println!("test {name} ... ignored, SKIPPED: {reason}");
            }
            Err(error) => {
                println!("test {name} ... FAILED ({seconds:.1} s)");
                println!("---- {name} ----\n{error:#}");
                evidence.iter().for_each(|text| println!("{text}"));
                failures.push(*name);
            }
        }
    }
    if !failures.is_empty() {
        println!("\nfailures:\n    {}", failures.join("\n    "));
    }
    println!(
        "\ntest result: {}. {passed} passed; {} failed; {skipped} ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        if failures.is_empty() { "ok" } else { "FAILED" },
        failures.len(),
        tests.len() - chosen.len(),
        begun.elapsed().as_secs_f64()
    );
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
