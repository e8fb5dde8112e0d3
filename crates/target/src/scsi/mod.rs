//! SCSI (SAM-5, SPC-4, SBC-3): CDB -> [`Command`] -> device action -> [`Completion`].
//!
//! * [`opcodes`]: the one table of commands; it decodes CDBs and answers REPORT SUPPORTED OPERATION CODES.
//! * [`nexus`]: what stands between an initiator and a logical unit: LUN, unit attentions, limits, write protection.
//! * [`reservations`]: who may use the unit besides; kept with the device.
//! * [`mod@execute`]: runs an admitted command on a [`crate::BlockDevice`]; the only asynchronous part.
//! * the rest builds parameter data: pure functions of identity and geometry to bytes.
//!
//! One logical unit, LUN 0: thin provisioned, 512-byte logical blocks in 4 KiB physical ones, no volatile cache.

pub mod command;
pub mod execute;
pub mod nexus;
pub mod opcodes;
pub mod port;
pub mod reservations;
pub mod sense;

mod capacity;
mod copy;
mod inquiry;
mod log;
mod mode;
mod report;
mod unit;
mod unmap;
mod vpd;

pub use command::Command;
pub use execute::execute;
pub use nexus::{Attention, Nexus};
pub use port::InitiatorPort;
pub use sense::Sense;
pub use unit::{LogicalUnit, UnitState};

use bytes::Bytes;

/// SCSI status (SAM-5 section 5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// GOOD.
    Good = 0x00,
    /// CHECK CONDITION; sense data says more.
    CheckCondition = 0x02,
    /// BUSY; the initiator retries.
    Busy = 0x08,
    /// RESERVATION CONFLICT.
    ReservationConflict = 0x18,
    /// TASK SET FULL; the initiator retries with fewer commands.
    TaskSetFull = 0x28,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// Status byte.
    pub status: Status,
    /// Sense data, with CHECK CONDITION.
    pub sense: Option<Sense>,
    /// Data for the initiator; empty unless GOOD.
    pub data: Bytes,
    /// The device belongs to another target now: the session ends and the command is not answered. The initiator
    /// reconnects to the new target and sends it again; an answer, whatever it says, could fail a file system.
    pub fenced: bool,
    /// The tasks of these initiators have to end before the answer is sent (PREEMPT AND ABORT).
    pub abort: Vec<InitiatorPort>,
}

impl Completion {
    /// GOOD without data.
    pub fn good() -> Self {
        Self { status: Status::Good, sense: None, data: Bytes::new(), fenced: false, abort: Vec::new() }
    }

    /// GOOD with data.
    pub fn data(data: Bytes) -> Self {
        Self { data, ..Self::good() }
    }

    /// GOOD with parameter data, cut to the allocation length (SPC-4 section 4.2.5.6).
    pub fn parameters(mut data: Vec<u8>, allocation: u32) -> Self {
        data.truncate(allocation as usize);
        Self::data(Bytes::from(data))
    }

    /// CHECK CONDITION.
    pub fn check(sense: Sense) -> Self {
        Self { status: Status::CheckCondition, sense: Some(sense), ..Self::good() }
    }

    /// BUSY.
    pub fn busy() -> Self {
        Self { status: Status::Busy, ..Self::good() }
    }
}

#[cfg(test)]
mod tests;
