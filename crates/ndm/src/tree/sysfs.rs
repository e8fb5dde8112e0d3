//! `/sys/class/block`: one directory for each device (Documentation/ABI/stable/sysfs-block of the kernel).

use std::collections::BTreeMap;
use std::path::Path;

use super::{Block, TreeError};

/// The kernel counts in sectors of 512 bytes, whatever the device's own are.
const SECTOR: u64 = 512;

pub(super) fn read(sys: &Path) -> Result<BTreeMap<String, Block>, TreeError> {
    let path = sys.join("class/block");
    let failed = |source| TreeError::Sys { path: path.clone(), source };
    let mut blocks = BTreeMap::new();
    for entry in std::fs::read_dir(&path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // A device may go while we look: then it is not there.
        if let Some(block) = block(&entry.path(), name) {
            blocks.insert(block.name.clone(), block);
        }
    }
    Ok(blocks)
}

fn block(link: &Path, name: String) -> Option<Block> {
    let dir = link.canonicalize().ok()?;
    let (major, minor) =
        text(&dir, "dev")?.split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))?;
    let partition = number(&dir, "partition").and_then(|n| u32::try_from(n).ok());
    // The directory of a partition lies in that of its disk; the disk has queue and device.
    let disk = match partition {
        Some(_) => dir.parent()?.to_owned(),
        None => dir.clone(),
    };
    let parent = partition.and_then(|_| disk.file_name()?.to_str().map(str::to_owned));
    let queue = |name: &str| number(&disk, &format!("queue/{name}"));
    let sector = |name: &str| queue(name).and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    let logical = sector("logical_block_size").unwrap_or(512);
    let device = |name: &str| text(&disk, &format!("device/{name}")).unwrap_or_default();
    let first = |values: [Option<String>; 4]| values.into_iter().flatten().find(|v| !v.is_empty()).unwrap_or_default();
    Some(Block {
        devno: (major, minor),
        size: number(&dir, "size")?.saturating_mul(SECTOR),
        read_only: number(&dir, "ro") == Some(1),
        removable: number(&disk, "removable") == Some(1),
        hidden: number(&disk, "hidden") == Some(1),
        partition,
        parent,
        holders: names(&dir, "holders"),
        slaves: names(&dir, "slaves"),
        rotational: queue("rotational").map(|n| n == 1),
        logical_sector: logical,
        physical_sector: sector("physical_block_size").unwrap_or(logical),
        hardware_sector: sector("hw_sector_size").unwrap_or(logical),
        mapper: text(&dir, "dm/name").map(|name| (name, text(&dir, "dm/uuid").unwrap_or_default())),
        raid: dir.join("md").is_dir().then(|| text(&dir, "md/uuid").unwrap_or_default()),
        backing_file: text(&dir, "loop/backing_file"),
        vendor: device("vendor"),
        model: device("model"),
        serial: first([text(&disk, "serial"), text(&disk, "device/serial"), vpd_serial(&disk), None]),
        wwid: first([text(&disk, "wwid"), text(&disk, "device/wwid"), None, None]),
        revision: first([text(&disk, "device/firmware_rev"), text(&disk, "device/rev"), None, None]),
        scsi_type: number(&disk, "device/type").and_then(|n| u32::try_from(n).ok()),
        name,
        udev: None,
    })
}

/// The unit serial number page of a SCSI device: four bytes of header, then the text (SPC-4 section 7.8.15).
fn vpd_serial(disk: &Path) -> Option<String> {
    let page = std::fs::read(disk.join("device/vpd_pg80")).ok()?;
    Some(clean(page.get(4..)?))
}

fn text(dir: &Path, name: &str) -> Option<String> {
    std::fs::read(dir.join(name)).ok().map(|bytes| clean(&bytes))
}

/// Devices pad with spaces and zeroes, and some send bytes that are no text.
fn clean(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(|c: char| c.is_control() && c != '\n', "").trim().to_owned()
}

fn number(dir: &Path, name: &str) -> Option<u64> {
    text(dir, name)?.parse().ok()
}

fn names(dir: &Path, name: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir.join(name)) else { return Vec::new() };
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}
