//! A logical unit: a device with its identity, as the SCSI layer sees it.

use std::sync::Arc;

use super::copy::CopyResults;
use super::reservations::Reservations;
use crate::block_device::{BlockDevice, Geometry};

/// What command checks need to know of a unit at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitState {
    /// Capacity in logical blocks.
    pub blocks: u64,
    /// Writes are refused.
    pub read_only: bool,
}

/// A device and its identity.
#[derive(Debug)]
pub struct LogicalUnit<D> {
    /// The device.
    pub device: Arc<D>,
    /// The target's name; part of the port designators.
    pub target: String,
    /// Identity; its capacity is the one at start, see [`LogicalUnit::state`] for the current one.
    pub geometry: Geometry,
    /// Who may use it.
    pub reservations: Reservations,
    /// What came of EXTENDED COPY commands.
    pub(super) copies: CopyResults,
}

impl<D: BlockDevice> LogicalUnit<D> {
    /// A unit of a target.
    pub fn new(target: String, device: Arc<D>) -> Self {
        let geometry = device.geometry();
        Self { device, target, geometry, reservations: Reservations::default(), copies: CopyResults::default() }
    }

    /// Capacity and protection now; a volume may grow while it is in use.
    pub fn state(&self) -> UnitState {
        UnitState { blocks: self.device.blocks512(), read_only: self.geometry.read_only }
    }
}
