//! How much memory this process may use, and the part of it that is for the pools' caches.

use std::path::Path;

use crate::size::{ByteSize, SizeError};

/// The share of the memory that is for recently written blocks when nothing is said: what a file server's page cache
/// would take at least, and little enough for a machine that does other work.
const CACHE_SHARE: u64 = 8;

/// When the kernel does not tell how much memory there is.
const FALLBACK: u64 = 1 << 30;

/// An eighth of the memory: of the machine's, or of the control group's where that has less.
pub(crate) fn default_cache() -> u64 {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let group = read(Path::new("/proc/self/cgroup")).and_then(|text| limit_file(&text)).and_then(|path| read(&path));
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| total(&text));
    let limit = group.and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(limit).min().unwrap_or(FALLBACK) / CACHE_SHARE
}

/// `MemTotal` of /proc/meminfo, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Where the limit of a version 2 control group stands (`max` when it has none).
fn limit_file(cgroup: &str) -> Option<std::path::PathBuf> {
    let group = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(Path::new("/sys/fs/cgroup").join(group.trim_start_matches('/')).join("memory.max"))
}

/// A size, or `0` for none.
pub(crate) fn parse_cache(text: &str) -> Result<u64, SizeError> {
    if text.trim() == "0" { Ok(0) } else { text.parse::<ByteSize>().map(|size| size.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_understood() {
        assert_eq!(total("MemTotal:       24576 kB\nMemFree: 1 kB\n"), Some(24 << 20));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        let path = limit_file("12:cpu:/x\n0::/kubepods/pod7\n").unwrap();
        assert_eq!(path, Path::new("/sys/fs/cgroup/kubepods/pod7/memory.max"));
        assert_eq!(limit_file("0::/\n").unwrap(), Path::new("/sys/fs/cgroup/memory.max"));
        assert_eq!(limit_file("3:memory:/x\n"), None);
        let cache = default_cache();
        assert!(cache > 1 << 20, "{cache}");
    }

    #[test]
    fn cache_sizes() {
        assert_eq!(parse_cache("0"), Ok(0));
        assert_eq!(parse_cache("64Mi"), Ok(64 << 20));
        assert!(parse_cache("much").is_err());
    }
}
