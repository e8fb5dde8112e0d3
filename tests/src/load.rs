//! The checked load: `tools/checkload.c` behind a typed interface.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process::{self, PATIENCE};
use crate::runner::leave_evidence;
use crate::tools;

/// What the load knows when it answers.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// "stats", "mark", "paused", "resumed", "saved", "verified", "result" ...
    pub event: String,
    /// No error, nothing without an answer, nothing lost, nothing wrong.
    pub ok: bool,
    /// Commands answered.
    pub ops: u64,
    /// Writes answered.
    pub writes: u64,
    /// Logins, the first one included.
    pub logins: u64,
    /// Commands issued again after a lost connection.
    pub reissued: u64,
    /// Commands that ended with another status than GOOD.
    pub errors: u64,
    /// Commands without an answer for longer than 100 s.
    pub stuck: u64,
    /// Sectors that held something older than an answered write.
    pub lost: u64,
    /// Sectors that held what was never written there.
    pub wrong: u64,
    /// Sectors that held parts of two writes.
    pub torn: u64,
    /// Sectors that full verifications have read.
    pub verified_sectors: u64,
    /// The longest time between two answers while commands were waiting.
    pub longest_gap_ms: f64,
    /// The same since the last mark.
    pub gap_since_mark_ms: f64,
    /// The longest time one command took.
    pub longest_command_ms: f64,
}

impl Report {
    /// An error unless everything was right.
    pub fn expect_clean(&self) -> Result<()> {
        if !self.ok {
            bail!("the checked load found faults: {self:?}");
        }
        Ok(())
    }
}

/// How to run it.
pub struct LoadOptions {
    /// The unit.
    pub url: String,
    /// Decides the order of commands and the content.
    pub seed: u64,
    /// Commands in flight.
    pub depth: u32,
    /// Bytes of the unit that are used, from its start.
    pub span: u64,
    /// Where the table of expected content is kept.
    pub state: PathBuf,
    /// Go on from that table instead of expecting zeroes.
    pub resume: bool,
    /// Only answer commands, do not begin to write.
    pub paused: bool,
    /// The target reads and writes a page cache: two halves of a sector may come from different writes.
    pub allow_torn: bool,
}

impl LoadOptions {
    /// Depth 32 over the first `span` bytes of a unit that is all zeroes.
    pub fn new(url: String, seed: u64, span: u64, directory: &Path) -> Self {
        let state = directory.join("checkload.state");
        Self { url, seed, depth: 32, span, state, resume: false, paused: false, allow_torn: false }
    }

    /// The same, going on from the table that the last run left, and only on command.
    pub fn to_verify(&self) -> Self {
        Self { url: self.url.clone(), state: self.state.clone(), resume: true, paused: true, ..*self }
    }
}

/// A running load. Killed when dropped.
pub struct CheckedLoad {
    child: Child,
    stdin: Option<ChildStdin>,
    reports: Receiver<Report>,
    errors: PathBuf,
}

impl CheckedLoad {
    /// Starts it and waits for its login.
    pub fn start(options: &LoadOptions) -> Result<Self> {
        let errors = options.state.with_extension("log");
        let mut command = process::bound(tools::own("checkload")?);
        command.args([
            "--url",
            &options.url,
            "--seed",
            &options.seed.to_string(),
            "--depth",
            &options.depth.to_string(),
        ]);
        command.args(["--span", &options.span.to_string(), "--state"]).arg(&options.state);
        command.args(options.resume.then_some("--load-state"));
        command.args(options.paused.then_some("--paused"));
        command.args(options.allow_torn.then_some("--allow-torn"));
        let log = std::fs::File::options().create(true).append(true).open(&errors)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("no stdout")?;
        let (sender, reports) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(report) = serde_json::from_str(&line) else { return };
                if sender.send(report).is_err() {
                    return;
                }
            }
        });
        let mut load = Self { child, stdin, reports, errors };
        load.wait_for("started", PATIENCE)?;
        Ok(load)
    }

    fn wait_for(&mut self, event: &str, limit: Duration) -> Result<Report> {
        let begun = Instant::now();
        loop {
            match self.reports.recv_timeout(limit.saturating_sub(begun.elapsed())) {
                Ok(report) if report.event == event => return Ok(report),
                Ok(_other) => {}
                Err(RecvTimeoutError::Timeout) => bail!("the load said no \"{event}\" within {} s", limit.as_secs()),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("the load ended ({status}) before \"{event}\"\n{}", process::tail(&self.errors, 20));
                }
            }
        }
    }

    fn command(&mut self, command: &str, event: &str, limit: Duration) -> Result<Report> {
        let stdin = self.stdin.as_mut().context("the load has been told to quit")?;
        writeln!(stdin, "{command}").with_context(|| process::tail(&self.errors, 20))?;
        self.wait_for(event, limit)
    }

    /// The counters now.
    pub fn stats(&mut self) -> Result<Report> {
        self.command("stats", "stats", PATIENCE)
    }

    /// Starts a new measurement of the longest pause.
    pub fn mark(&mut self) -> Result<Report> {
        self.command("mark", "mark", PATIENCE)
    }

    /// Waits until `more` further commands have been answered: I/O goes on.
    pub fn wait_progress(&mut self, more: u64, limit: Duration) -> Result<Report> {
        let from = self.stats()?.ops;
        let begun = Instant::now();
        loop {
            let report = self.stats()?;
            if report.ops >= from + more {
                return Ok(report);
            }
            if begun.elapsed() > limit {
                bail!("I/O does not go on: {} answers in {} s", report.ops - from, limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops issuing and waits until everything in flight has been answered; saves the table.
    pub fn pause(&mut self) -> Result<Report> {
        self.command("pause", "paused", 2 * PATIENCE)?;
        self.command("save", "saved", PATIENCE)
    }

    /// Goes on after a pause.
    pub fn resume(&mut self) -> Result<Report> {
        self.command("resume", "resumed", PATIENCE)
    }

    /// Reads back and checks the whole span (needs a pause).
    pub fn verify_all(&mut self) -> Result<Report> {
        self.command("verify-all", "verified", 4 * PATIENCE)
    }

    /// Ends it and returns its result.
    pub fn finish(mut self) -> Result<Report> {
        let report = self.command("quit", "result", 2 * PATIENCE)?;
        self.stdin = None;
        self.child.wait()?;
        Ok(report)
    }
}

impl Drop for CheckedLoad {
    fn drop(&mut self) {
        leave_evidence(process::tail(&self.errors, 40));
        let _gone_is_fine = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Reads a stopped load's span back with a new process and checks it against the saved table.
pub fn verify_again(options: &LoadOptions) -> Result<Report> {
    let mut load = CheckedLoad::start(&options.to_verify())?;
    load.verify_all()?;
    load.finish()
}
