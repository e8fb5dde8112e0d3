//! One supervised child: started, watched, started again, stopped.
//!
//! A task owns the child, so its pid cannot be signalled after it was reaped and given to another process. The task
//! sleeps until the child exits (SIGCHLD) or a stop is asked for.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::backoff::Backoff;
use crate::datadir::DataDir;
use crate::parent::SUPERVISOR_PID;
use crate::report::{ProcessKind, ProcessState};

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct ChildSpec {
    /// `pool-N` or `target`; also names its log and its socket.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: ProcessKind,
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
}

/// Where a child is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessStatus {
    /// Running, restarting or stopped.
    pub(crate) state: ProcessState,
    /// Its pid while it runs.
    pub(crate) pid: Option<u32>,
    /// Starts so far; changes with every new process.
    pub(crate) starts: u32,
    /// Deaths in a row without a healthy run between them.
    pub(crate) failures: u32,
    /// How it ended the last time.
    pub(crate) last_exit: Option<String>,
}

/// A child under supervision.
pub(crate) struct Process {
    /// What it is.
    pub(crate) spec: ChildSpec,
    status: watch::Receiver<ProcessStatus>,
    stop: watch::Sender<Option<Duration>>,
    task: JoinHandle<()>,
}

impl Process {
    /// Starts supervising `spec`.
    pub(crate) fn start(spec: ChildSpec, dir: DataDir) -> Self {
        let first = ProcessStatus { state: ProcessState::Stopped, pid: None, starts: 0, failures: 0, last_exit: None };
        let (publish, status) = watch::channel(first);
        let (stop, stopped) = watch::channel(None);
        let task = tokio::spawn(Keeper { spec: spec.clone(), dir, publish, stopped }.keep());
        Self { spec, status, stop, task }
    }

    /// Its state, as it changes.
    pub(crate) fn status(&self) -> watch::Receiver<ProcessStatus> {
        self.status.clone()
    }

    /// Ends it: SIGTERM, then SIGKILL when it still runs after `grace`. Returns when it is gone.
    pub(crate) async fn stop(self, grace: Duration) {
        self.stop.send_replace(Some(grace));
        if let Err(error) = self.task.await {
            tracing::error!(process = self.spec.name, %error, "its supervision failed");
        }
    }
}

struct Keeper {
    spec: ChildSpec,
    dir: DataDir,
    publish: watch::Sender<ProcessStatus>,
    stopped: watch::Receiver<Option<Duration>>,
}

impl Keeper {
    async fn keep(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let started = Instant::now();
            let exit = match self.spawn() {
                Ok(mut child) => {
                    let pid = child.id();
                    self.publish.send_modify(|status| {
                        status.state = ProcessState::Running;
                        status.pid = pid;
                        status.starts += 1;
                    });
                    tokio::select! {
                        exit = child.wait() => exit.map_or_else(|error| format!("cannot be waited for: {error}"), describe),
                        grace = wait_for_stop(&mut self.stopped) => {
                            let exit = terminate(&mut child, grace, &self.spec.name).await;
                            return self.publish_stopped(Some(exit));
                        }
                    }
                }
                Err(error) => error,
            };
            let wait = backoff.exited(started.elapsed());
            tracing::warn!(
                process = self.spec.name,
                exit,
                restart_in_ms = wait.as_millis(),
                log = %self.dir.log_file(&self.spec.name).display(),
                "a process ended; it is started again"
            );
            self.publish.send_modify(|status| {
                status.state = ProcessState::Restarting;
                status.pid = None;
                status.failures = backoff.failures();
                status.last_exit = Some(exit);
            });
            if !wait.is_zero() && tokio::time::timeout(wait, wait_for_stop(&mut self.stopped)).await.is_ok() {
                return self.publish_stopped(None);
            }
        }
    }

    fn spawn(&self) -> Result<Child, String> {
        let log = self.dir.open_log(&self.spec.name).map_err(|error| error.to_string())?;
        Command::new(&self.spec.program)
            .args(&self.spec.args)
            .env(SUPERVISOR_PID, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C in a terminal goes to a whole process group; the order of a stop is ours to decide.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", self.spec.program.display()))
    }

    fn publish_stopped(&self, exit: Option<String>) {
        self.publish.send_modify(|status| {
            status.state = ProcessState::Stopped;
            status.pid = None;
            if exit.is_some() {
                status.last_exit = exit;
            }
        });
    }
}

async fn wait_for_stop(stopped: &mut watch::Receiver<Option<Duration>>) -> Duration {
    match stopped.wait_for(Option::is_some).await {
        Ok(grace) => grace.unwrap_or_default(),
        // The owner is gone without a word: stop at once.
        Err(_) => Duration::ZERO,
    }
}

/// Asks the child to stop, then ends it. Says how it ended.
async fn terminate(child: &mut Child, grace: Duration, name: &str) -> String {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, Signal::TERM)
    {
        tracing::warn!(process = name, %error, "cannot ask a process to stop");
    }
    let exit = match tokio::time::timeout(grace, child.wait()).await {
        Ok(exit) => exit,
        Err(_) => {
            tracing::warn!(process = name, grace_s = grace.as_secs(), "a process did not stop in time; killing it");
            if let Err(error) = child.start_kill() {
                tracing::warn!(process = name, %error, "cannot kill a process");
            }
            child.wait().await
        }
    };
    exit.map_or_else(|error| format!("cannot be waited for: {error}"), describe)
}

fn describe(exit: ExitStatus) -> String {
    match (exit.code(), exit.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => exit.to_string(),
    }
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
