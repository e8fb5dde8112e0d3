//! Ready-made initiators: qemu-img and libiscsi's command line tools.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process::{self, PATIENCE};
use crate::tools;

/// What `iscsi-ls` prints of a portal: its targets and their units.
pub fn list(portal: SocketAddr) -> Result<String> {
    process::run(Command::new("iscsi-ls").arg("-s").arg(format!("iscsi://{portal}")), PATIENCE)
}

/// What `iscsi-ls` prints of the portal at a URL, which may hold an account for discovery: its targets.
pub fn discover(url: &str) -> Result<String> {
    process::run(Command::new("iscsi-ls").arg(url), PATIENCE)
}

/// Logs in to a unit and asks what it is; what `iscsi-inq` prints.
pub fn inquire(url: &str) -> Result<String> {
    process::run(Command::new("iscsi-inq").arg(url), PATIENCE)
}

fn qemu_img(arguments: &[&OsStr]) -> Result<String> {
    let mut command = tools::qemu_img().context("no qemu-img that knows iSCSI")?;
    process::run(command.args(arguments), 2 * PATIENCE)
}

#[derive(Deserialize)]
struct Info {
    #[serde(rename = "virtual-size")]
    virtual_size: u64,
}

/// The capacity of a unit as qemu sees it.
pub fn capacity(url: &str) -> Result<u64> {
    let text = qemu_img(&["info", "--output=json", "-f", "raw", url].map(OsStr::new))?;
    Ok(serde_json::from_str::<Info>(&text).with_context(|| text.clone())?.virtual_size)
}

/// Writes a file over the start of a unit.
pub fn write_file(file: &Path, url: &str) -> Result<()> {
    let arguments = ["convert", "-n", "-f", "raw", "-O", "raw"].map(OsStr::new);
    qemu_img(&[&arguments[..], &[file.as_os_str(), OsStr::new(url)]].concat()).map(drop)
}

/// Reads a whole unit into a file and compares that file with what was written, byte by byte.
pub fn expect_same(file: &Path, url: &str, scratch: &Path) -> Result<()> {
    let back = scratch.join("read-back.img");
    let arguments = ["convert", "-f", "raw", "-O", "raw"].map(OsStr::new);
    qemu_img(&[&arguments[..], &[OsStr::new(url), back.as_os_str()]].concat())?;
    let differs = first_difference(file, &back)?;
    std::fs::remove_file(&back)?;
    match differs {
        Some(offset) => bail!("{url} does not read back what was written: first difference at byte {offset}"),
        None => Ok(()),
    }
}

fn first_difference(one: &Path, other: &Path) -> Result<Option<u64>> {
    const PIECE: usize = 1 << 20;
    let (mut one, mut other) = (BufReader::new(File::open(one)?), BufReader::new(File::open(other)?));
    let (mut left, mut right) = (Vec::with_capacity(PIECE), Vec::with_capacity(PIECE));
    let mut offset = 0;
    loop {
        left.clear();
        right.clear();
        one.by_ref().take(PIECE as u64).read_to_end(&mut left)?;
        other.by_ref().take(PIECE as u64).read_to_end(&mut right)?;
        if let Some(at) = left.iter().zip(&right).position(|(a, b)| a != b) {
            return Ok(Some(offset + at as u64));
        }
        if left.len() != right.len() {
            return Ok(Some(offset + left.len().min(right.len()) as u64));
        }
        if left.is_empty() {
            return Ok(None);
        }
        offset += left.len() as u64;
    }
}
