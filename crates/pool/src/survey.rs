//! What is on a set of devices: nothing, a pool, a pool whose making was interrupted, or somebody's data.
//!
//! A pool is made in this order, with a flush after each step: a superblock of incarnation 0 on every device, the empty
//! metadata store, then the labels, device by device. *The pool exists when every device has its label.* Nothing can have used
//! it before, so whatever a creation left that did not come so far may be made again. What tells it from damage of a pool that
//! was in use: its superblocks, which say that the pool was never opened. The same is true of a device that a pool was growing
//! by when it had not got its label yet: it counts as blank.
//!
//! Nothing is written here.

use std::sync::Arc;

use ballast_api::PoolId;

use crate::error::{PoolError, Result};
use crate::format::BLOCK;
use crate::format::label::{DATA_START, Found, LABEL_OFFSETS, Label};
use crate::format::superblock::{SUPERBLOCK_OFFSETS, Superblock};
use crate::io::PoolDevice;

/// What a set of devices is.
pub(crate) enum Survey {
    /// Free for a new pool.
    Blank,
    /// All that an interrupted creation left of one pool. Its labels must be cleared before another one is made.
    Unfinished,
    /// At least one is labelled as a pool's. Opening it tells whether these are all of its devices.
    Pool {
        /// The first such device.
        device: String,
        /// What its label says.
        label: String,
        /// What is on each device.
        contents: Vec<Contents>,
    },
}

/// What is on one device.
pub(crate) struct Contents {
    pub(crate) label: Found,
    /// Pools that its superblocks name, if none of those was ever opened.
    never_opened: Vec<PoolId>,
    /// Somebody's data, apart from label and superblocks.
    pub(crate) data: Option<String>,
}

/// Looks at devices that the caller has locked. An error: one of them carries data and none is a pool's.
pub(crate) fn survey(devices: &[Arc<PoolDevice>]) -> Result<Survey> {
    let contents = devices.iter().map(|device| look(device)).collect::<Result<Vec<_>>>()?;
    let label_of = |contents: &Contents| match &contents.label {
        Found::Label(label) => Some(format!("a device of pool {} ({})", label.name, label.pool)),
        Found::OtherVersion(version) => Some(format!("a pool device of format version {version}")),
        Found::Nothing => None,
    };
    let labelled = devices.iter().zip(&contents).find_map(|(device, contents)| Some((device, label_of(contents)?)));
    if let Some((device, label)) = labelled {
        let unfinished = is_unfinished(&contents);
        let pool = || Survey::Pool { device: device.name.clone(), label, contents };
        return Ok(if unfinished { Survey::Unfinished } else { pool() });
    }
    for (device, contents) in devices.iter().zip(contents) {
        if let Some(found) = contents.data {
            return Err(PoolError::ForeignDevice { device: device.name.clone(), found });
        }
    }
    Ok(Survey::Blank)
}

/// Some labels of one pool, not all, and every device says that this pool was never opened.
fn is_unfinished(contents: &[Contents]) -> bool {
    let labels =
        || contents.iter().filter_map(|one| if let Found::Label(label) = &one.label { Some(label) } else { None });
    let Some(first) = labels().next() else { return false };
    labels().count() < contents.len()
        && labels().all(|label| label.pool == first.pool && usize::from(label.devices) == contents.len())
        && contents.iter().all(|one| one.data.is_none() && one.never_opened.contains(&first.pool))
}

fn look(device: &PoolDevice) -> Result<Contents> {
    let mut head = vec![0; DATA_START as usize];
    device.read_at(0, &mut head)?;
    let never_opened = blank_unused_superblocks(&mut head);
    let mut contents = Contents { label: Found::Nothing, never_opened, data: None };
    for at in LABEL_OFFSETS.map(|offset| offset as usize) {
        let block = &mut head[at..at + BLOCK as usize];
        match Label::decode(block) {
            // A torn one: a device's first label comes after its first superblock. When a label is changed, the other copy
            // is good.
            Found::Nothing if contents.never_opened.is_empty() || !Label::is_torn(block) => {}
            Found::Nothing => block.fill(0),
            found => {
                if contents.label == Found::Nothing {
                    contents.label = found;
                }
                block.fill(0);
            }
        }
    }
    contents.data = data(&head);
    Ok(contents)
}

/// Takes the superblocks of a creation, which nobody has used, out of what was read; returns their pools.
fn blank_unused_superblocks(head: &mut [u8]) -> Vec<PoolId> {
    let mut pools = Vec::new();
    for at in SUPERBLOCK_OFFSETS.map(|offset| offset as usize) {
        let block = &mut head[at..at + BLOCK as usize];
        let of_creation = match Superblock::decode(block) {
            Some(superblock) if superblock.incarnation == 0 => {
                pools.push(superblock.pool);
                true
            }
            Some(_) => false,
            None => Superblock::is_torn_first(block),
        };
        if of_creation {
            block.fill(0);
        }
    }
    pools
}

/// What somebody wrote at the start of a device that has no label, apart from what a creation left.
pub(crate) fn foreign(head: &mut [u8]) -> Option<String> {
    blank_unused_superblocks(head);
    data(head)
}

/// What somebody wrote at the start of a device.
fn data(head: &[u8]) -> Option<String> {
    let signatures: [(usize, &[u8], &str); 8] = [
        (0, b"XFSB", "an xfs file system"),
        (0x438, &[0x53, 0xef], "an ext2/3/4 file system"),
        (0x10040, b"_BHRfS_M", "a btrfs file system"),
        (512, b"EFI PART", "a GPT partition table"),
        (512, b"LABELONE", "an LVM physical volume"),
        (0, b"LUKS", "an encrypted device"),
        (4086, b"SWAPSPACE2", "swap space"),
        (510, &[0x55, 0xaa], "a boot sector or partition table"),
    ];
    for (at, magic, name) in signatures {
        if head.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
            return Some(name.to_owned());
        }
    }
    head.iter().any(|byte| *byte != 0).then(|| String::from("unknown bytes in its first MiB"))
}
