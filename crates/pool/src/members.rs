//! Which devices make a pool, and in which order: what their labels say, and the labels' way from one number of devices to
//! the next one (see `format/label.rs`).

use std::sync::Arc;

use ballast_api::PoolId;

use crate::error::{PoolError, Result};
use crate::format::BLOCK;
use crate::format::label::{Found, LABEL_OFFSETS, Label, roster};
use crate::format::superblock::{SUPERBLOCK_OFFSETS, Superblock};
use crate::io::{PoolDevice, Purpose};

/// A pool's devices in order, with labels and superblocks.
pub(crate) struct Members {
    pub(crate) devices: Vec<Arc<PoolDevice>>,
    pub(crate) labels: Vec<Label>,
    pub(crate) supers: Vec<Superblock>,
}

pub(crate) fn read_label(device: &PoolDevice) -> Result<Label> {
    let mut other = None;
    for offset in LABEL_OFFSETS {
        let mut bytes = vec![0; BLOCK as usize];
        device.read_at(offset, &mut bytes)?;
        match Label::decode(&bytes) {
            Found::Label(label) => return Ok(label),
            Found::OtherVersion(version) => other = Some(version),
            Found::Nothing => {}
        }
    }
    Err(match other {
        Some(found) => {
            PoolError::WrongVersion { device: device.name.clone(), found, supported: crate::format::FORMAT_VERSION }
        }
        None => PoolError::BadLabel { device: device.name.clone(), why: String::from("it has no pool label") },
    })
}

pub(crate) fn read_superblock(device: &PoolDevice, label: &Label) -> Result<Superblock> {
    let mut best: Option<Superblock> = None;
    for offset in SUPERBLOCK_OFFSETS {
        let mut bytes = vec![0; BLOCK as usize];
        device.read_at(offset, &mut bytes)?;
        if let Some(found) = Superblock::decode(&bytes).filter(|sb| sb.pool == label.pool)
            && best.as_ref().is_none_or(|best| best.generation < found.generation)
        {
            best = Some(found);
        }
    }
    best.ok_or_else(|| PoolError::BadLabel {
        device: device.name.clone(),
        why: String::from("both superblocks are damaged"),
    })
}

/// Reads the labels and puts the devices in order. Labels that the last growth did not reach are fine; [`settle`] is for
/// those.
pub(crate) fn members(devices: Vec<Arc<PoolDevice>>) -> Result<Members> {
    let mut found = Vec::new();
    for device in devices {
        let label = read_label(&device)?;
        let superblock = read_superblock(&device, &label)?;
        if device.raw().len() < label.layout.size {
            let why = format!("it has {} bytes, its label says {}", device.raw().len(), label.layout.size);
            return Err(PoolError::BadLabel { device: device.name.clone(), why });
        }
        found.push((label, superblock, device));
    }
    found.sort_by_key(|(label, ..)| label.index);
    let Some((first, ..)) = found.first() else { return Err(PoolError::invalid("no devices given")) };
    let pool = first.pool;
    let count = found.iter().map(|(label, ..)| label.devices).max().unwrap_or(0);
    for (at, (label, _, device)) in found.iter().enumerate() {
        if label.pool != pool {
            let why = format!("it belongs to pool {}, the others to pool {pool}", label.pool);
            return Err(PoolError::BadLabel { device: device.name.clone(), why });
        }
        if usize::from(label.index) > at {
            return Err(PoolError::DeviceMissing { pool: pool.to_string(), index: at as u8, count });
        }
        if usize::from(label.index) < at {
            let why = format!("it says it is device {}, and so does another", label.index);
            return Err(PoolError::BadLabel { device: device.name.clone(), why });
        }
    }
    if found.len() < usize::from(count) {
        return Err(PoolError::DeviceMissing { pool: pool.to_string(), index: found.len() as u8, count });
    }
    let mut members = Members { devices: Vec::new(), labels: Vec::new(), supers: Vec::new() };
    for (label, superblock, device) in found {
        members.labels.push(label);
        members.supers.push(superblock);
        members.devices.push(device);
    }
    members.check_roster(pool)?;
    Ok(members)
}

impl Members {
    /// The ids of the devices, in order.
    pub(crate) fn ids(&self) -> Vec<[u8; 16]> {
        self.labels.iter().map(|label| label.device).collect()
    }

    /// A device that the pool began to grow by, was started without, and has given the place to another since: its label
    /// is of this pool and has an index that is wanted, but the pool's data is on the other one.
    fn check_roster(&self, pool: PoolId) -> Result<()> {
        let ids = self.ids();
        let count = ids.len();
        let fits = |label: &Label| {
            // A pool grows by one device at a time: who is further behind was not there.
            let behind = usize::from(label.devices) + 1 < count;
            let known = label.roster == 0 || label.roster == roster(&ids[..usize::from(label.devices)]);
            !behind && known
        };
        if self.labels.iter().all(fits) {
            return Ok(());
        }
        // Its label is still the one that it began with, and it came before others that are like that.
        let began = |label: &&Label| label.index > 0 && label.devices == label.index + 1;
        let at = self.labels.iter().find(began).map_or(count - 1, |label| usize::from(label.index));
        let why = format!(
            "its label does not fit the others': pool {pool} has grown with another device as number {at}. \
             Give that one instead"
        );
        Err(PoolError::BadLabel { device: self.devices[at].name.clone(), why })
    }
}

/// Makes all labels say the same, where a growth was interrupted, and writes copies again that cannot be read. Writes
/// nothing when nothing is wrong.
pub(crate) fn settle(members: &mut Members) -> Result<()> {
    let ids = members.ids();
    let (count, roster) = (ids.len() as u8, roster(&ids));
    let known = members.labels.iter().any(|label| label.roster != 0 || label.devices != count);
    for (label, device) in members.labels.iter_mut().zip(&members.devices) {
        label.devices = count;
        if known {
            label.roster = roster;
        }
        write_label(device, label)?;
    }
    Ok(())
}

/// Writes those copies of a label that say something else, those that say nothing first, so that one is good at any time.
fn write_label(device: &PoolDevice, label: &Label) -> Result<()> {
    let wanted = label.encode();
    let (mut unreadable, mut others) = (Vec::new(), Vec::new());
    for offset in LABEL_OFFSETS {
        let mut bytes = vec![0; BLOCK as usize];
        device.read_at(offset, &mut bytes)?;
        match Label::decode(&bytes) {
            _ if bytes == wanted => {}
            Found::Label(_) => others.push(offset),
            Found::Nothing => unreadable.push(offset),
            // Of a program that knows more; it is not for this one to undo.
            Found::OtherVersion(_) => {}
        }
    }
    for offset in unreadable.into_iter().chain(others) {
        device.write_at(offset, &wanted, Purpose::Superblock)?;
        device.flush()?;
    }
    Ok(())
}
