//! Adding devices to a pool that is not open.
//!
//! One device at a time, with a flush after each step (`format/label.rs` says what labels may look like meanwhile):
//!
//! 1. The new device gets a superblock that says "never opened". Until it has its label it counts as blank, and is begun
//!    with again.
//! 2. It gets its label. The pool is still whole without it: no other device knows it.
//! 3. The old devices get their labels, copy by copy. From the first one on the pool does not open without the new device.
//! 4. At the opening the journal is replayed from the rings that the last checkpoint knows, and a checkpoint is made that
//!    knows all of them. Only behind it is anything written to the new device (`Journal::add_rings`).
//!
//! Steps 3 and 4 are those of every opening (`recover`), so a growth that was interrupted there needs no creation to finish.

use std::sync::Arc;

use ballast_api::PoolId;

use crate::create::{check_count, first_label, first_superblock, layout};
use crate::error::{PoolError, Result};
use crate::format::label::{Found, Label, Layout, roster};
use crate::io::PoolDevice;
use crate::members::{Members, members, settle};
use crate::meta::region_len;
use crate::survey::Contents;
use crate::types::PoolConfig;

/// A pool with all its devices, and blank ones beside it.
pub(crate) struct Growth {
    members: Members,
    blank: Vec<Arc<PoolDevice>>,
}

impl Growth {
    /// What a set of devices with a pool can grow by; perhaps nothing. `None`: opening the pool tells what is wrong.
    /// An error: the pool is not whole, or one of the other devices carries data.
    pub(crate) fn of(devices: &[Arc<PoolDevice>], contents: &[Contents]) -> Result<Option<Self>> {
        let (blank, labelled): (Vec<_>, Vec<_>) =
            devices.iter().zip(contents).partition(|(_, contents)| contents.label == Found::Nothing);
        let foreign = blank.iter().find_map(|(device, contents)| Some((device, contents.data.clone()?)));
        let members = match members(labelled.into_iter().map(|(device, _)| Arc::clone(device)).collect()) {
            // Perhaps the one with unknown data is the missing one, and its label is damaged. Nobody is told to wipe it.
            Err(PoolError::DeviceMissing { .. }) if foreign.is_some() => return Ok(None),
            members => members?,
        };
        if let Some((device, found)) = foreign {
            return Err(PoolError::ForeignDevice { device: device.name.clone(), found });
        }
        Ok(Some(Self { members, blank: blank.into_iter().map(|(device, _)| Arc::clone(device)).collect() }))
    }

    /// Adds the blank devices. Writes nothing when one of them cannot be added.
    pub(crate) fn run(self, config: &PoolConfig) -> Result<()> {
        let Self { mut members, blank } = self;
        if blank.is_empty() {
            return Ok(());
        }
        check_count(members.devices.len() + blank.len())?;
        let mut layouts: Vec<Layout> = members.labels.iter().map(|label| label.layout).collect();
        for device in &blank {
            layouts.push(layout(device, metadata_for(device, &layouts, config), config)?);
        }
        // What an earlier growth has left to do.
        settle(&mut members)?;
        let pool = members.labels[0].pool;
        let added = layouts.split_off(members.devices.len());
        for (device, layout) in blank.into_iter().zip(added) {
            let name = device.name.clone();
            add(&mut members, device, layout, pool)?;
            tracing::info!(%pool, device = name, devices = members.devices.len(), "a device was added to the pool");
        }
        Ok(())
    }
}

/// What a new device adds to the room for metadata: as much as a pool of the new size would have more, but not too much
/// of a small device beside large ones.
fn metadata_for(device: &PoolDevice, old: &[Layout], config: &PoolConfig) -> u64 {
    let size = device.raw().len();
    let has: u64 = old.iter().map(|layout| layout.meta_bytes).sum();
    let total = old.iter().map(|layout| layout.size).sum::<u64>() + size;
    match config.meta_bytes {
        Some(wanted) => wanted.saturating_sub(has),
        None => region_len(total).saturating_sub(has).min(size / 16),
    }
}

fn add(members: &mut Members, device: Arc<PoolDevice>, layout: Layout, pool: PoolId) -> Result<()> {
    let superblock = first_superblock(&device, pool, &layout)?.get();
    let index = members.devices.len();
    let id = *PoolId::random().as_bytes();
    let mut ids = members.ids();
    ids.push(id);
    let label = Label {
        pool,
        device: id,
        index: index as u8,
        devices: index as u8 + 1,
        layout,
        name: members.labels[0].name.clone(),
        roster: roster(&ids),
    };
    first_label(&device, &label)?;
    members.devices.push(device);
    members.labels.push(label);
    members.supers.push(superblock);
    settle(members)
}
