//! The I_T nexus: what a command has to pass before it reaches the device. Order of the checks: LUN, operation
//! code, unit attention, fields, write protection, range (SAM-5 sections 5.7-5.14, SPC-4 section 5.6).

use super::command::{Cdb, Command, Compare};
use super::opcodes;
use super::sense::{Sense, SenseKey, code};
use super::unit::UnitState;
use crate::block_device::ATOMIC;

/// Longest transfer of one command in blocks (16 MiB); VPD B0h says so. Bounds the memory of one command.
pub const MAX_TRANSFER: u32 = 32_768;
/// Longest WRITE SAME in blocks; VPD B0h says so. Bounds how long an abort has to wait.
pub const MAX_WRITE_SAME: u64 = MAX_TRANSFER as u64;
/// Longest COMPARE AND WRITE in blocks: what its one byte can say; VPD B0h says so.
pub const MAX_COMPARE: u8 = u8::MAX;
/// Longest WRITE ATOMIC in blocks; VPD B0h says so.
pub const MAX_ATOMIC: u32 = (ATOMIC / 512) as u32;
/// Longest VERIFY without data in blocks (128 MiB), for the same reason.
const MAX_SCAN: u64 = 262_144;

/// Events that an initiator has to be told with its next command (SAM-5 section 5.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// First command of a new nexus.
    PowerOn,
    /// The session was replaced by a new one of the same initiator port.
    NexusLoss,
    /// A logical unit or target reset.
    Reset,
    /// Another initiator's CLEAR TASK SET.
    CommandsCleared,
    /// The volume grew.
    CapacityChanged,
}

impl Attention {
    fn sense(self) -> Sense {
        let code = match self {
            Self::PowerOn => code::POWER_ON,
            Self::NexusLoss => code::NEXUS_LOSS,
            Self::Reset => code::RESET,
            Self::CommandsCleared => code::COMMANDS_CLEARED,
            Self::CapacityChanged => code::CAPACITY_CHANGED,
        };
        Sense::new(SenseKey::UnitAttention, code)
    }
}

/// One initiator port's view of LUN 0.
#[derive(Debug)]
pub struct Nexus {
    pending: Vec<Attention>,
    blocks: Option<u64>,
}

impl Nexus {
    /// A new nexus with its first unit attention.
    pub fn new(first: Attention) -> Self {
        Self { pending: vec![first], blocks: None }
    }

    /// Queues a unit attention. One of a kind is kept; a reset makes earlier ones pointless.
    pub fn attention(&mut self, attention: Attention) {
        if attention == Attention::Reset {
            self.pending.clear();
        }
        if !self.pending.contains(&attention) {
            self.pending.push(attention);
        }
    }

    /// Checks a command; what comes back may be started.
    pub fn admit(&mut self, lun: u64, cdb: &Cdb, unit: UnitState) -> Result<Command, Sense> {
        if !is_lun0(lun) {
            return elsewhere(cdb);
        }
        if self.blocks.replace(unit.blocks).is_some_and(|old| old != unit.blocks) {
            self.attention(Attention::CapacityChanged);
        }
        let command = opcodes::decode(cdb);
        match command {
            // SAM-5 section 5.14: these do not report a unit attention; REQUEST SENSE carries it as data.
            Ok(Command::Inquiry { .. } | Command::ReportLuns { .. }) => return command,
            Ok(Command::RequestSense { descriptor, allocation, .. }) => {
                let pending = self.next_attention();
                return Ok(Command::RequestSense { descriptor, allocation, pending });
            }
            Err(sense) if sense.code == code::INVALID_OPCODE => return Err(sense),
            _ => {}
        }
        if let Some(sense) = self.next_attention() {
            return Err(sense);
        }
        let command = command?;
        check(&command, unit)?;
        Ok(command)
    }

    fn next_attention(&mut self) -> Option<Sense> {
        (!self.pending.is_empty()).then(|| self.pending.remove(0).sense())
    }
}

/// LUN 0 in peripheral or flat addressing (SAM-5 section 4.7.7).
pub fn is_lun0(lun: u64) -> bool {
    lun == 0 || lun == 0x4000 << 48
}

/// Commands to a logical unit that does not exist (SPC-4 section 5.9 and table for incorrect LUNs).
fn elsewhere(cdb: &Cdb) -> Result<Command, Sense> {
    match opcodes::decode(cdb) {
        Ok(Command::Inquiry { page, allocation, .. }) => Ok(Command::Inquiry { page, allocation, unit: false }),
        Ok(command @ Command::ReportLuns { .. }) => Ok(command),
        Ok(Command::RequestSense { descriptor, allocation, .. }) => {
            let pending = Some(Sense::illegal(code::NO_UNIT));
            Ok(Command::RequestSense { descriptor, allocation, pending })
        }
        _ => Err(Sense::illegal(code::NO_UNIT)),
    }
}

fn check(command: &Command, unit: UnitState) -> Result<(), Sense> {
    let (lba, blocks, limit, writes) = match *command {
        Command::Read { lba, blocks } => (lba, blocks.into(), MAX_TRANSFER.into(), false),
        Command::Verify { lba, blocks, compare: Compare::Data } => (lba, blocks.into(), MAX_TRANSFER.into(), false),
        Command::Verify { lba, blocks, .. } => (lba, blocks.into(), MAX_SCAN, false),
        Command::Write { lba, blocks, .. }
        | Command::OrWrite { lba, blocks }
        | Command::WriteVerify { lba, blocks, .. } => (lba, blocks.into(), MAX_TRANSFER.into(), true),
        Command::WriteAtomic { lba, blocks } => (lba, blocks.into(), MAX_ATOMIC.into(), true),
        // One block of it has to be there.
        Command::LbaStatus { lba, .. } => (lba, 1, u64::MAX, false),
        Command::CompareAndWrite { lba, blocks } => (lba, blocks.into(), MAX_COMPARE.into(), true),
        Command::WriteSame { lba, blocks, .. } => (lba, blocks, MAX_WRITE_SAME, true),
        // Whatever the length: nothing is fetched, everything is synchronized.
        Command::Prefetch { lba, blocks } | Command::SynchronizeCache { lba, blocks } => {
            (lba, blocks.into(), u64::MAX, false)
        }
        Command::Unmap { .. } | Command::ExtendedCopy { .. } => (0, 0, u64::MAX, true),
        _ => return Ok(()),
    };
    if writes && unit.read_only {
        return Err(Sense::new(SenseKey::DataProtect, code::WRITE_PROTECTED));
    }
    // SBC-3 section 4.5: also a command without blocks must not point beyond the end.
    if lba > unit.blocks || blocks > unit.blocks - lba {
        return Err(Sense::illegal(code::OUT_OF_RANGE).at(lba.max(unit.blocks)));
    }
    if blocks > limit {
        return Err(Sense::illegal(code::INVALID_FIELD));
    }
    if blocks == 0 && matches!(command, Command::WriteSame { .. }) {
        return Err(Sense::illegal(code::INVALID_FIELD)); // WSNZ=1 in VPD B0h
    }
    Ok(())
}
