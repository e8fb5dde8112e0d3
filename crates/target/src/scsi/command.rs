//! Decoded commands: what a CDB asks for, before anything is checked against the logical unit.

use super::sense::{Sense, code};

/// A CDB's first 16 bytes; longer CDBs are not supported by any command here.
pub type Cdb = [u8; 16];

/// Longest PERSISTENT RESERVE OUT parameter list: every initiator port that there is room for.
const MAX_RESERVE_LIST: u32 = 64 * 1024;
/// Longest EXTENDED COPY parameter list that is looked at, to say what is wrong with it.
const MAX_COPY_LIST: u32 = 4 * 1024;
const _: () = assert!(super::copy::MAX_LIST <= MAX_COPY_LIST);

/// What a verify compares with (BYTCHK, SBC-3 section 5.29).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// BYTCHK 00b: nothing; the medium is read and its checksums are verified.
    Medium,
    /// BYTCHK 01b: the Data-Out buffer, block by block.
    Data,
    /// BYTCHK 11b: one block of Data-Out, repeated.
    OneBlock,
}

/// Six- or ten-byte form of MODE SENSE and MODE SELECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeForm {
    /// Four-byte header.
    Six,
    /// Eight-byte header.
    Ten,
}

/// What PERSISTENT RESERVE IN asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReserveIn {
    /// READ KEYS.
    Keys,
    /// READ RESERVATION.
    Reservation,
    /// REPORT CAPABILITIES.
    Capabilities,
    /// READ FULL STATUS.
    FullStatus,
}

/// A decoded command.
#[allow(missing_docs)] // field names are those of the standards
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    TestUnitReady,
    RequestSense {
        descriptor: bool,
        allocation: u32,
        pending: Option<Sense>,
    },
    Inquiry {
        page: Option<u8>,
        allocation: u32,
        unit: bool,
    },
    ReadCapacity10,
    ReadCapacity16 {
        allocation: u32,
    },
    ReportLuns {
        select: u8,
        allocation: u32,
    },
    ReportPortGroups {
        extended: bool,
        allocation: u32,
    },
    ReportOpcodes {
        timeouts: bool,
        options: u8,
        opcode: u8,
        action: u16,
        allocation: u32,
    },
    ModeSense {
        form: ModeForm,
        no_descriptor: bool,
        long_lba: bool,
        control: u8,
        page: u8,
        subpage: u8,
        allocation: u32,
    },
    ModeSelect {
        form: ModeForm,
        length: u32,
    },
    ReadDefects {
        short: bool,
        lists: u8,
        allocation: u32,
    },
    StartStop,
    PreventAllow,
    PersistentReserveIn {
        what: ReserveIn,
        allocation: u32,
    },
    PersistentReserveOut {
        action: u8,
        scope_and_type: u8,
        length: u32,
    },
    Reserve,
    Release,
    LogSense {
        page: u8,
        subpage: u8,
        from: u16,
        allocation: u32,
    },
    LbaStatus {
        lba: u64,
        allocation: u32,
    },
    ExtendedCopy {
        length: u32,
    },
    CopyStatus {
        list_id: u8,
        allocation: u32,
    },
    CopyParameters {
        allocation: u32,
    },
    WriteAtomic {
        lba: u64,
        blocks: u32,
    },
    Read {
        lba: u64,
        blocks: u32,
    },
    Write {
        lba: u64,
        blocks: u32,
        fua: bool,
    },
    CompareAndWrite {
        lba: u64,
        blocks: u32,
    },
    OrWrite {
        lba: u64,
        blocks: u32,
    },
    WriteVerify {
        lba: u64,
        blocks: u32,
        compare: Compare,
    },
    Verify {
        lba: u64,
        blocks: u32,
        compare: Compare,
    },
    Prefetch {
        lba: u64,
        blocks: u32,
    },
    SynchronizeCache {
        lba: u64,
        blocks: u32,
    },
    WriteSame {
        lba: u64,
        blocks: u64,
        no_data: bool,
        unmap: bool,
    },
    Unmap {
        length: u32,
    },
}

impl Command {
    /// Bytes of Data-Out that the command takes.
    pub fn data_out(&self) -> u64 {
        match *self {
            Self::Write { blocks, .. }
            | Self::WriteAtomic { blocks, .. }
            | Self::OrWrite { blocks, .. }
            | Self::WriteVerify { blocks, .. } => u64::from(blocks) * 512,
            // What is compared, then what is written.
            Self::CompareAndWrite { blocks, .. } => 2 * u64::from(blocks) * 512,
            Self::Verify { blocks, compare: Compare::Data, .. } => u64::from(blocks) * 512,
            Self::Verify { blocks, compare: Compare::OneBlock, .. } => u64::from(blocks.min(1)) * 512,
            Self::WriteSame { no_data: false, .. } => 512,
            Self::ModeSelect { length, .. }
            | Self::Unmap { length }
            | Self::ExtendedCopy { length }
            | Self::PersistentReserveOut { length, .. } => u64::from(length),
            _ => 0,
        }
    }

    /// The length that Data-Out must have, where less would be something else: WRITE SAME takes exactly one logical block
    /// (SBC-3 section 5.43), and any other length means that the initiator has another block size in mind; with COMPARE AND
    /// WRITE nobody could say what is to be compared and what written.
    pub fn exact_data_out(&self) -> Option<u32> {
        match *self {
            Self::WriteSame { no_data: false, .. } => Some(512),
            Self::CompareAndWrite { blocks, .. } => Some(2 * blocks * 512),
            // A part of it would not be the whole.
            Self::WriteAtomic { blocks, .. } => Some(blocks * 512),
            _ => None,
        }
    }

    /// Upper bound of the memory that answering takes, for admission to the session's budget.
    pub fn data_in(&self) -> usize {
        match *self {
            Self::Read { blocks, .. } | Self::OrWrite { blocks, .. } | Self::CompareAndWrite { blocks, .. } => {
                blocks as usize * 512
            }
            // Runs through the range in pieces of at most 1 MiB.
            Self::Verify { .. } | Self::WriteVerify { .. } | Self::WriteSame { .. } | Self::ExtendedCopy { .. } => {
                1 << 20
            }
            // All that these can have to say.
            Self::LbaStatus { .. } | Self::PersistentReserveIn { .. } => 64 << 10,
            _ => 4096,
        }
    }
}

/// Big-endian fields of a CDB.
pub(super) fn be16(cdb: &Cdb, at: usize) -> u32 {
    u32::from(cdb[at]) << 8 | u32::from(cdb[at + 1])
}

pub(super) fn be24(cdb: &Cdb, at: usize) -> u32 {
    u32::from(cdb[at]) << 16 | be16(cdb, at + 1)
}

pub(super) fn be32(cdb: &Cdb, at: usize) -> u32 {
    be16(cdb, at) << 16 | be16(cdb, at + 2)
}

pub(super) fn be64(cdb: &Cdb, at: usize) -> u64 {
    u64::from(be32(cdb, at)) << 32 | u64::from(be32(cdb, at + 4))
}

/// LBA and length of the six-byte commands: 21 bits, and 0 means 256 (READ(6) of SBC-2).
pub(super) fn range6(cdb: &Cdb) -> (u64, u32) {
    let blocks = if cdb[4] == 0 { 256 } else { u32::from(cdb[4]) };
    (u64::from(be24(cdb, 1) & 0x1f_ffff), blocks)
}

pub(super) fn range10(cdb: &Cdb) -> (u64, u32) {
    (u64::from(be32(cdb, 2)), be16(cdb, 7))
}

pub(super) fn range12(cdb: &Cdb) -> (u64, u32) {
    (u64::from(be32(cdb, 2)), be32(cdb, 6))
}

pub(super) fn range16(cdb: &Cdb) -> (u64, u32) {
    (be64(cdb, 2), be32(cdb, 10))
}

/// RDPROTECT, WRPROTECT, VRPROTECT: without protection information any value but 0 is refused
/// (SBC-3 section 4.21.2, table 26 note).
pub(super) fn unprotected(cdb: &Cdb) -> Result<(), Sense> {
    if cdb[1] & 0xe0 == 0 { Ok(()) } else { Err(Sense::bit(1, 7)) }
}

/// READ 10/12/16; DPO and FUA are accepted: there is no cache that they could bypass.
pub(super) fn read(cdb: &Cdb, (lba, blocks): (u64, u32)) -> Result<Command, Sense> {
    unprotected(cdb)?;
    Ok(Command::Read { lba, blocks })
}

pub(super) fn write(cdb: &Cdb, (lba, blocks): (u64, u32)) -> Result<Command, Sense> {
    unprotected(cdb)?;
    Ok(Command::Write { lba, blocks, fua: cdb[1] & 0x08 != 0 })
}

/// COMPARE AND WRITE (SBC-3 section 5.2): the number of blocks is one byte. DPO and FUA as with WRITE.
pub(super) fn compare_and_write(cdb: &Cdb) -> Result<Command, Sense> {
    unprotected(cdb)?;
    Ok(Command::CompareAndWrite { lba: be64(cdb, 2), blocks: u32::from(cdb[13]) })
}

/// ORWRITE(16) (SBC-3 section 5.5).
pub(super) fn or_write(cdb: &Cdb) -> Result<Command, Sense> {
    unprotected(cdb)?;
    let (lba, blocks) = range16(cdb);
    Ok(Command::OrWrite { lba, blocks })
}

/// REPORT TARGET PORT GROUPS (SPC-4 section 6.37): parameter data format 000b or 001b.
pub(super) fn report_port_groups(cdb: &Cdb) -> Result<Command, Sense> {
    match cdb[1] >> 5 {
        format @ (0 | 1) => Ok(Command::ReportPortGroups { extended: format == 1, allocation: be32(cdb, 6) }),
        _ => Err(Sense::bit(1, 7)),
    }
}

fn compare(cdb: &Cdb) -> Result<Compare, Sense> {
    match cdb[1] >> 1 & 3 {
        0 => Ok(Compare::Medium),
        1 => Ok(Compare::Data),
        3 => Ok(Compare::OneBlock),
        _ => Err(Sense::bit(1, 2)),
    }
}

pub(super) fn verify(cdb: &Cdb, (lba, blocks): (u64, u32)) -> Result<Command, Sense> {
    unprotected(cdb)?;
    Ok(Command::Verify { lba, blocks, compare: compare(cdb)? })
}

pub(super) fn write_verify(cdb: &Cdb, (lba, blocks): (u64, u32)) -> Result<Command, Sense> {
    unprotected(cdb)?;
    let compare = compare(cdb)?;
    if compare == Compare::OneBlock {
        return Err(Sense::bit(1, 2)); // 11b is VERIFY's alone (SBC-3 section 5.37)
    }
    Ok(Command::WriteVerify { lba, blocks, compare })
}

/// WRITE SAME 10/16. ANCHOR is refused: blocks are mapped or deallocated here (ANC_SUP=0 in VPD B2h); LBDATA and
/// PBDATA are obsolete.
pub(super) fn write_same(cdb: &Cdb, lba: u64, blocks: u32, may_omit: bool) -> Result<Command, Sense> {
    unprotected(cdb)?;
    if cdb[1] & 0x10 != 0 {
        return Err(Sense::bit(1, 4));
    }
    if cdb[1] & 0x06 != 0 {
        return Err(Sense::bit(1, 2));
    }
    let no_data = cdb[1] & 0x01 != 0;
    if no_data && !may_omit {
        return Err(Sense::bit(1, 0));
    }
    Ok(Command::WriteSame { lba, blocks: u64::from(blocks), no_data, unmap: cdb[1] & 0x08 != 0 })
}

pub(super) fn unmap(cdb: &Cdb) -> Result<Command, Sense> {
    if cdb[1] & 1 != 0 {
        return Err(Sense::bit(1, 0)); // ANCHOR
    }
    Ok(Command::Unmap { length: be16(cdb, 7) })
}

pub(super) fn inquiry(cdb: &Cdb) -> Result<Command, Sense> {
    let vital = cdb[1] & 1 != 0;
    if cdb[1] & 2 != 0 {
        return Err(Sense::bit(1, 1)); // CMDDT, obsolete
    }
    if !vital && cdb[2] != 0 {
        return Err(Sense::field(2)); // SPC-4 section 6.6.1: a page code needs EVPD
    }
    Ok(Command::Inquiry { page: vital.then_some(cdb[2]), allocation: be16(cdb, 3), unit: true })
}

pub(super) fn mode_sense(cdb: &Cdb, form: ModeForm) -> Result<Command, Sense> {
    let (long_lba, allocation) = match form {
        ModeForm::Six => (false, u32::from(cdb[4])),
        ModeForm::Ten => (cdb[1] & 0x10 != 0, be16(cdb, 7)),
    };
    Ok(Command::ModeSense {
        form,
        no_descriptor: cdb[1] & 0x08 != 0,
        long_lba,
        control: cdb[2] >> 6,
        page: cdb[2] & 0x3f,
        subpage: cdb[3],
        allocation,
    })
}

pub(super) fn mode_select(cdb: &Cdb, form: ModeForm) -> Result<Command, Sense> {
    if cdb[1] & 0x10 == 0 {
        return Err(Sense::bit(1, 4)); // PF: only the standard page format
    }
    if cdb[1] & 0x01 != 0 {
        return Err(Sense::bit(1, 0)); // SP: nothing is saved
    }
    let length = if form == ModeForm::Six { u32::from(cdb[4]) } else { be16(cdb, 7) };
    Ok(Command::ModeSelect { form, length })
}

/// READ CAPACITY(10): PMI is obsolete, and without it the LBA has to be 0 (SBC-3 section 5.15.1).
pub(super) fn read_capacity10(cdb: &Cdb) -> Result<Command, Sense> {
    if cdb[8] & 1 == 0 && be32(cdb, 2) != 0 {
        return Err(Sense::field(2));
    }
    Ok(Command::ReadCapacity10)
}

/// START STOP UNIT (SBC-3 section 5.25): the unit cannot be ejected and has no power states of its own, so every
/// allowed request is already fulfilled; loading and ejecting are refused.
pub(super) fn start_stop(cdb: &Cdb) -> Result<Command, Sense> {
    if cdb[4] & 0x02 != 0 && cdb[4] & 0xf0 == 0 {
        return Err(Sense::bit(4, 1));
    }
    Ok(Command::StartStop)
}

/// LOG SENSE: nothing is saved, and there is nothing that a parameter pointer could leave out.
pub(super) fn log_sense(cdb: &Cdb) -> Result<Command, Sense> {
    if cdb[1] & 0x01 != 0 {
        return Err(Sense::bit(1, 0)); // SP
    }
    let (page, subpage) = (cdb[2] & 0x3f, cdb[3]);
    Ok(Command::LogSense { page, subpage, from: be16(cdb, 5) as u16, allocation: be16(cdb, 7) })
}

/// WRITE ATOMIC(16) (SBC-4 section 5.48): the boundary has to be 0, because a smaller one is never needed here.
pub(super) fn write_atomic(cdb: &Cdb) -> Result<Command, Sense> {
    unprotected(cdb)?;
    if be16(cdb, 10) != 0 {
        return Err(Sense::field(10));
    }
    Ok(Command::WriteAtomic { lba: be64(cdb, 2), blocks: be16(cdb, 12) })
}

/// EXTENDED COPY(LID1): a list that could not be taken is refused before it is sent.
pub(super) fn extended_copy(cdb: &Cdb) -> Result<Command, Sense> {
    let length = be32(cdb, 10);
    if length > MAX_COPY_LIST { Err(Sense::illegal(code::LIST_LENGTH)) } else { Ok(Command::ExtendedCopy { length }) }
}

pub(super) fn persistent_reserve_in(cdb: &Cdb, what: ReserveIn) -> Result<Command, Sense> {
    Ok(Command::PersistentReserveIn { what, allocation: be16(cdb, 7) })
}

/// PERSISTENT RESERVE OUT: the list is taken apart when it is there, and a long one is refused before (SPC-4 section 6.16).
pub(super) fn persistent_reserve_out(cdb: &Cdb) -> Result<Command, Sense> {
    let length = be32(cdb, 5);
    if !(24..=MAX_RESERVE_LIST).contains(&length) {
        return Err(Sense::illegal(code::LIST_LENGTH));
    }
    Ok(Command::PersistentReserveOut { action: cdb[1] & 0x1f, scope_and_type: cdb[2], length })
}

/// RESERVE and RELEASE (SPC-2 sections 7.21, 7.22): only for the whole unit, and for the initiator that asks.
pub(super) fn reserve(cdb: &Cdb, command: Command) -> Result<Command, Sense> {
    match cdb[1] {
        b if b & 0x01 != 0 => Err(Sense::bit(1, 0)), // EXTENT
        b if b & 0x10 != 0 => Err(Sense::bit(1, 4)), // 3RDPTY
        _ => Ok(command),
    }
}

pub(super) fn report_luns(cdb: &Cdb) -> Result<Command, Sense> {
    if cdb[2] > 2 {
        return Err(Sense::field(2));
    }
    let allocation = be32(cdb, 6);
    if allocation < 16 {
        return Err(Sense::field(6)); // SPC-4 section 6.33
    }
    Ok(Command::ReportLuns { select: cdb[2], allocation })
}
