//! Processes: started so that they die with us, looked up in /proc, ended by pid.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// How long anything may take that normally takes seconds; the machine may be very busy.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A command that is killed when the test's process dies, be it by Ctrl-C or `kill -9`.
pub fn bound(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null());
    command
}

/// Runs a command to its end, at most for `limit`, and returns what it printed. An exit status that is not 0 is an error.
pub fn run(command: &mut Command, limit: Duration) -> Result<String> {
    let shown = format!("{command:?}");
    let output = run_any(command, limit)?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{shown}: {}\n{stdout}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(stdout)
}

/// Like [`run`], but any exit status will do.
pub fn run_any(command: &mut Command, limit: Duration) -> Result<Output> {
    let shown = format!("{command:?}");
    // `timeout` rather than a thread that kills: it also ends what the command has started.
    let mut limited = Command::new("timeout");
    limited
        .arg("--kill-after=5")
        .arg(format!("{}", limit.as_secs()))
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(key, value),
            None => limited.env_remove(key),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        limited.current_dir(directory);
    }
    let output = limited.stdin(Stdio::null()).output().with_context(|| format!("cannot run {shown}"))?;
    if matches!(output.status.code(), Some(124 | 137)) {
        bail!("{shown}: no end within {} s\n{}", limit.as_secs(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output)
}

/// Sends a signal; a process that is gone already is fine.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _gone_is_fine = kill_process(pid, signal);
    }
}

/// Is the process there and not a zombie?
pub fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| !rest.starts_with(['Z', 'X'])))
        .unwrap_or(false)
}

/// Polls until `done` is true; false when it was not within `limit`.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

/// The pids of all processes whose command line mentions `path`: how a test finds what its own directory belongs to.
pub fn mentioning(path: &Path) -> Vec<u32> {
    let wanted = path.to_string_lossy();
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid| pid != own && alive(pid))
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(&*wanted))
        })
        .collect()
}

/// CPU time used by a process so far (user and system, all threads).
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<u64>().ok()).context("odd /proc/PID/stat");
    // utime and stime are fields 14 and 15 of proc(5); the state, field 3, is the first one here.
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / rustix::param::clock_ticks_per_second()))
}

/// Bytes that a process has given to disks so far.
pub fn bytes_written(pid: u32) -> Result<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).with_context(|| format!("no /proc/{pid}/io"))?;
    let line =
        io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("no write_bytes in /proc/PID/io")?;
    line.parse().context("odd write_bytes")
}

/// Memory of a process that is its own or shared, resident, in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc/PID/status")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("odd VmRSS")?;
    Ok(kib * 1024)
}

/// The last `lines` lines of a file, under a heading; empty when there is none. Long lines are cut.
pub fn tail(path: &Path, lines: usize) -> String {
    const WIDTH: usize = 300;
    let Ok(bytes) = fs::read(path) else { return String::new() };
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<String> = text.lines().map(|line| line.chars().take(WIDTH).collect()).collect();
    let from = all.len().saturating_sub(lines);
    format!(
        "---- {} (last {} of {} lines) ----\n{}",
        path.display(),
        all.len() - from,
        all.len(),
        all[from..].join("\n")
    )
}
