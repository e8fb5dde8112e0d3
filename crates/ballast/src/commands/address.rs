//! What `ballast up` prints when it is ready: the addresses, and what to type next.

use std::fmt::Write as _;
use std::path::Path;

use crate::report::StatusReport;
use crate::size::ByteSize;

/// The address block.
pub(super) fn address_block(report: &StatusReport, data_dir: &Path, default_dir: bool) -> String {
    // As it was typed: the program need not be on the PATH.
    let program = std::env::args().next().unwrap_or_else(|| "ballast".to_owned());
    let portal = &report.portal;
    let mut text = String::new();
    let mut line = |line: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    };
    line(String::new());
    let (pools, volumes) = (counted(report.pools.len(), "pool"), counted(report.volumes.len(), "volume"));
    line(format!("Ballast is up: {pools}, {volumes}."));
    line(format!("  target   {portal}"));
    line(format!("  data     {}", data_dir.display()));
    for volume in &report.volumes {
        let size = ByteSize(volume.size_bytes);
        line(format!(
            "  volume   {}  {size}  {}  {}",
            volume.name,
            counted(volume.replicas.len(), "replica"),
            volume.iqn
        ));
    }
    line(String::new());
    line("Next, in another terminal:".to_owned());
    line(format!("  iscsi-ls --show-luns iscsi://{portal}"));
    let example = report.volumes.first();
    if let Some(volume) = example {
        line(format!("  qemu-img info iscsi://{portal}/{}/0", volume.iqn));
    }
    line(format!("  iscsiadm --mode discovery --type sendtargets --portal {portal}      # as root, from here on"));
    if let Some(volume) = example {
        line(format!("  iscsiadm --mode node --targetname {} --portal {portal} --login", volume.iqn));
    }
    let option = if default_dir { String::new() } else { format!(" --data-dir {}", data_dir.display()) };
    line(format!("  {program} status{option}"));
    line(format!("  {program} volume create NAME SIZE{option}"));
    line(String::new());
    line("Ctrl-C stops it; the data stays.".to_owned());
    text
}

/// `1 pool`, `2 pools`
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
