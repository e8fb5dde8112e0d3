//! Directories and network namespaces that carry the pid of the test they belong to.
//!
//! A test that is killed cannot tidy up. The next one does: what bears the pid of a process that is gone is removed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::process::{self, Signal};

const DIRECTORY: &str = "ballast-test-";
const NETWORK: &str = "ballast-test-";

/// A directory of this process, removed when dropped. Its path is short: unix sockets below it may have 107 bytes.
pub fn directory() -> Result<TempDir> {
    let prefix = format!("{DIRECTORY}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir().context("cannot make a directory for the test's files")
}

/// The name of this process' network namespace.
pub fn network_name() -> String {
    format!("{NETWORK}{}", std::process::id())
}

fn owner_is_gone(name: &str, prefix: &str) -> bool {
    let digits = name.strip_prefix(prefix).map(|rest| rest.split('-').next().unwrap_or(rest));
    digits.and_then(|digits| digits.parse::<u32>().ok()).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Removes what killed tests have left behind.
pub fn sweep() {
    let names = |directory: &Path| -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let temporary = std::env::temp_dir();
    for name in names(&temporary).iter().filter(|name| owner_is_gone(name, DIRECTORY)) {
        let directory = temporary.join(name);
        // A guest's processes outlive its first one.
        process::mentioning(&directory).into_iter().for_each(|pid| process::signal(pid, Signal::KILL));
        let _best_effort = fs::remove_dir_all(directory);
    }
    for name in names(Path::new("/run/netns")).iter().filter(|name| owner_is_gone(name, NETWORK)) {
        let _best_effort = Command::new("ip").args(["netns", "delete", name]).status();
    }
}
