//! The table of commands: one line each, from which CDBs are decoded and REPORT SUPPORTED OPERATION CODES
//! (SPC-4 section 6.35) is answered. A command that is not here ends with INVALID COMMAND OPERATION CODE.

use super::command::{self as c, Cdb, Command, ModeForm, ReserveIn, range6, range10, range12, range16};
use super::sense::{Sense, code};

/// One supported command.
pub struct Operation {
    /// Operation code.
    pub opcode: u8,
    /// Service action, when the operation code has such.
    pub action: Option<u8>,
    /// CDB usage data: the operation code, then a bit for every bit that is evaluated; as long as the CDB.
    pub usage: &'static [u8],
    decode: fn(&Cdb) -> Result<Command, Sense>,
}

const fn op(opcode: u8, usage: &'static [u8], decode: fn(&Cdb) -> Result<Command, Sense>) -> Operation {
    Operation { opcode, action: None, usage, decode }
}

const fn act(opcode: u8, action: u8, usage: &'static [u8], decode: fn(&Cdb) -> Result<Command, Sense>) -> Operation {
    Operation { opcode, action: Some(action), usage, decode }
}

const F: u8 = 0xff;
/// The control byte is not evaluated: NACA is not supported.
const CTL: u8 = 0x00;

/// All commands; lines of one operation code stand together.
pub static OPERATIONS: &[Operation] = &[
    // TEST UNIT READY
    op(0x00, &[0x00, 0, 0, 0, 0, CTL], |_| Ok(Command::TestUnitReady)),
    // REQUEST SENSE
    op(0x03, &[0x03, 1, 0, 0, F, CTL], |b| {
        Ok(Command::RequestSense { descriptor: b[1] & 1 != 0, allocation: u32::from(b[4]), pending: None })
    }),
    // READ(6), WRITE(6)
    op(0x08, &[0x08, 0x1f, F, F, F, CTL], |b| {
        let (lba, blocks) = range6(b);
        Ok(Command::Read { lba, blocks })
    }),
    op(0x0a, &[0x0a, 0x1f, F, F, F, CTL], |b| {
        let (lba, blocks) = range6(b);
        Ok(Command::Write { lba, blocks, fua: false })
    }),
    // INQUIRY
    op(0x12, &[0x12, 0x01, F, F, F, CTL], c::inquiry),
    // MODE SELECT(6), MODE SENSE(6)
    op(0x15, &[0x15, 0x11, 0, 0, F, CTL], |b| c::mode_select(b, ModeForm::Six)),
    op(0x1a, &[0x1a, 0x08, F, F, F, CTL], |b| c::mode_sense(b, ModeForm::Six)),
    // RESERVE(6), RELEASE(6)
    op(0x16, &[0x16, 0x11, 0, 0, 0, CTL], |b| c::reserve(b, Command::Reserve)),
    op(0x17, &[0x17, 0x11, 0, 0, 0, CTL], |b| c::reserve(b, Command::Release)),
    // START STOP UNIT
    op(0x1b, &[0x1b, 0x01, 0, 0x0f, 0xf7, CTL], c::start_stop),
    // PREVENT ALLOW MEDIUM REMOVAL
    op(0x1e, &[0x1e, 0, 0, 0, 0x03, CTL], |_| Ok(Command::PreventAllow)),
    // READ CAPACITY(10)
    op(0x25, &[0x25, 0, F, F, F, F, 0, 0, 0x01, CTL], c::read_capacity10),
    // READ(10), WRITE(10), WRITE AND VERIFY(10), VERIFY(10)
    op(0x28, &[0x28, 0xf8, F, F, F, F, 0, F, F, CTL], |b| c::read(b, range10(b))),
    op(0x2a, &[0x2a, 0xf8, F, F, F, F, 0, F, F, CTL], |b| c::write(b, range10(b))),
    op(0x2e, &[0x2e, 0xf6, F, F, F, F, 0, F, F, CTL], |b| c::write_verify(b, range10(b))),
    op(0x2f, &[0x2f, 0xf6, F, F, F, F, 0, F, F, CTL], |b| c::verify(b, range10(b))),
    // PRE-FETCH(10), SYNCHRONIZE CACHE(10)
    op(0x34, &[0x34, 0x02, F, F, F, F, 0, F, F, CTL], |b| prefetch(range10(b))),
    op(0x35, &[0x35, 0x02, F, F, F, F, 0, F, F, CTL], |b| sync(range10(b))),
    // READ DEFECT DATA(10)
    op(0x37, &[0x37, 0, 0x1f, 0, 0, 0, 0, F, F, CTL], |b| {
        Ok(Command::ReadDefects { short: true, lists: b[2] & 0x1f, allocation: c::be16(b, 7) })
    }),
    // WRITE SAME(10)
    op(0x41, &[0x41, 0xf8, F, F, F, F, 0, F, F, CTL], |b| {
        let (lba, blocks) = range10(b);
        c::write_same(b, lba, blocks, false)
    }),
    // UNMAP
    op(0x42, &[0x42, 0x01, 0, 0, 0, 0, 0, F, F, CTL], c::unmap),
    // MODE SELECT(10), MODE SENSE(10)
    op(0x55, &[0x55, 0x11, 0, 0, 0, 0, 0, F, F, CTL], |b| c::mode_select(b, ModeForm::Ten)),
    // LOG SENSE
    op(0x4d, &[0x4d, 0x01, 0xff, F, 0, F, F, F, F, CTL], c::log_sense),
    // RESERVE(10), RELEASE(10)
    op(0x56, &[0x56, 0x11, 0, 0, 0, 0, 0, 0, 0, CTL], |b| c::reserve(b, Command::Reserve)),
    op(0x57, &[0x57, 0x11, 0, 0, 0, 0, 0, 0, 0, CTL], |b| c::reserve(b, Command::Release)),
    op(0x5a, &[0x5a, 0x18, F, F, 0, 0, 0, F, F, CTL], |b| c::mode_sense(b, ModeForm::Ten)),
    // PERSISTENT RESERVE IN: READ KEYS, READ RESERVATION, REPORT CAPABILITIES, READ FULL STATUS
    act(0x5e, 0, &[0x5e, 0, 0, 0, 0, 0, 0, F, F, CTL], |b| c::persistent_reserve_in(b, ReserveIn::Keys)),
    act(0x5e, 1, &[0x5e, 1, 0, 0, 0, 0, 0, F, F, CTL], |b| c::persistent_reserve_in(b, ReserveIn::Reservation)),
    act(0x5e, 2, &[0x5e, 2, 0, 0, 0, 0, 0, F, F, CTL], |b| c::persistent_reserve_in(b, ReserveIn::Capabilities)),
    act(0x5e, 3, &[0x5e, 3, 0, 0, 0, 0, 0, F, F, CTL], |b| c::persistent_reserve_in(b, ReserveIn::FullStatus)),
    // PERSISTENT RESERVE OUT: REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT AND ABORT, REGISTER AND IGNORE EXISTING
    // KEY, REGISTER AND MOVE
    act(0x5f, 0, &[0x5f, 0, 0, 0, 0, F, F, F, F, CTL], c::persistent_reserve_out),
    act(0x5f, 1, &[0x5f, 1, F, 0, 0, F, F, F, F, CTL], c::persistent_reserve_out),
    act(0x5f, 2, &[0x5f, 2, F, 0, 0, F, F, F, F, CTL], c::persistent_reserve_out),
    act(0x5f, 3, &[0x5f, 3, 0, 0, 0, F, F, F, F, CTL], c::persistent_reserve_out),
    act(0x5f, 4, &[0x5f, 4, F, 0, 0, F, F, F, F, CTL], c::persistent_reserve_out),
    act(0x5f, 5, &[0x5f, 5, F, 0, 0, F, F, F, F, CTL], c::persistent_reserve_out),
    act(0x5f, 6, &[0x5f, 6, 0, 0, 0, F, F, F, F, CTL], c::persistent_reserve_out),
    act(0x5f, 7, &[0x5f, 7, 0, 0, 0, F, F, F, F, CTL], c::persistent_reserve_out),
    // EXTENDED COPY(LID1), RECEIVE COPY STATUS(LID1), RECEIVE COPY OPERATING PARAMETERS
    act(0x83, 0, &[0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, CTL], c::extended_copy),
    act(0x84, 0, &[0x84, 0, F, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, CTL], |b| {
        Ok(Command::CopyStatus { list_id: b[2], allocation: c::be32(b, 10) })
    }),
    act(0x84, 3, &[0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, CTL], |b| {
        Ok(Command::CopyParameters { allocation: c::be32(b, 10) })
    }),
    // READ(16), COMPARE AND WRITE, WRITE(16), ORWRITE(16), WRITE AND VERIFY(16), VERIFY(16)
    op(0x88, &[0x88, 0xf8, F, F, F, F, F, F, F, F, F, F, F, F, 0, CTL], |b| c::read(b, range16(b))),
    op(0x89, &[0x89, 0xf8, F, F, F, F, F, F, F, F, 0, 0, 0, F, 0, CTL], c::compare_and_write),
    op(0x8a, &[0x8a, 0xf8, F, F, F, F, F, F, F, F, F, F, F, F, 0, CTL], |b| c::write(b, range16(b))),
    op(0x8b, &[0x8b, 0xf8, F, F, F, F, F, F, F, F, F, F, F, F, 0, CTL], c::or_write),
    op(0x8e, &[0x8e, 0xf6, F, F, F, F, F, F, F, F, F, F, F, F, 0, CTL], |b| c::write_verify(b, range16(b))),
    op(0x8f, &[0x8f, 0xf6, F, F, F, F, F, F, F, F, F, F, F, F, 0, CTL], |b| c::verify(b, range16(b))),
    // PRE-FETCH(16), SYNCHRONIZE CACHE(16)
    op(0x90, &[0x90, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, 0, CTL], |b| prefetch(range16(b))),
    op(0x91, &[0x91, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, 0, CTL], |b| sync(range16(b))),
    // WRITE SAME(16)
    op(0x93, &[0x93, 0xf9, F, F, F, F, F, F, F, F, F, F, F, F, 0, CTL], |b| {
        let (lba, blocks) = range16(b);
        c::write_same(b, lba, blocks, true)
    }),
    // WRITE ATOMIC(16)
    op(0x9c, &[0x9c, 0xf8, F, F, F, F, F, F, F, F, F, F, F, F, 0, CTL], c::write_atomic),
    // READ CAPACITY(16), GET LBA STATUS
    act(0x9e, 0x10, &[0x9e, 0x10, F, F, F, F, F, F, F, F, F, F, F, F, 0x01, CTL], |b| {
        Ok(Command::ReadCapacity16 { allocation: c::be32(b, 10) })
    }),
    act(0x9e, 0x12, &[0x9e, 0x12, F, F, F, F, F, F, F, F, F, F, F, F, 0, CTL], |b| {
        Ok(Command::LbaStatus { lba: c::be64(b, 2), allocation: c::be32(b, 10) })
    }),
    // REPORT LUNS
    op(0xa0, &[0xa0, 0, F, 0, 0, 0, F, F, F, F, 0, CTL], c::report_luns),
    // REPORT TARGET PORT GROUPS, REPORT SUPPORTED OPERATION CODES
    act(0xa3, 0x0a, &[0xa3, 0xea, 0, 0, 0, 0, F, F, F, F, 0, CTL], c::report_port_groups),
    act(0xa3, 0x0c, &[0xa3, 0x0c, 0x87, F, F, F, F, F, F, F, 0, CTL], |b| {
        Ok(Command::ReportOpcodes {
            timeouts: b[2] & 0x80 != 0,
            options: b[2] & 7,
            opcode: b[3],
            action: c::be16(b, 4) as u16,
            allocation: c::be32(b, 6),
        })
    }),
    // READ(12), WRITE(12), WRITE AND VERIFY(12), VERIFY(12)
    op(0xa8, &[0xa8, 0xf8, F, F, F, F, F, F, F, F, 0, CTL], |b| c::read(b, range12(b))),
    op(0xaa, &[0xaa, 0xf8, F, F, F, F, F, F, F, F, 0, CTL], |b| c::write(b, range12(b))),
    op(0xae, &[0xae, 0xf6, F, F, F, F, F, F, F, F, 0, CTL], |b| c::write_verify(b, range12(b))),
    op(0xaf, &[0xaf, 0xf6, F, F, F, F, F, F, F, F, 0, CTL], |b| c::verify(b, range12(b))),
    // READ DEFECT DATA(12)
    op(0xb7, &[0xb7, 0x1f, F, F, F, F, F, F, F, F, 0, CTL], |b| {
        Ok(Command::ReadDefects { short: false, lists: b[1] & 0x1f, allocation: c::be32(b, 6) })
    }),
];

fn prefetch((lba, blocks): (u64, u32)) -> Result<Command, Sense> {
    Ok(Command::Prefetch { lba, blocks })
}

fn sync((lba, blocks): (u64, u32)) -> Result<Command, Sense> {
    Ok(Command::SynchronizeCache { lba, blocks })
}

const ABSENT: u8 = 0xff;

/// First line of each operation code.
static INDEX: [u8; 256] = {
    let mut index = [ABSENT; 256];
    let mut i = OPERATIONS.len();
    while i > 0 {
        i -= 1;
        index[OPERATIONS[i].opcode as usize] = i as u8;
    }
    index
};

/// The lines of an operation code; empty when it is not supported.
pub fn lines(opcode: u8) -> &'static [Operation] {
    let first = INDEX[usize::from(opcode)];
    if first == ABSENT {
        return &[];
    }
    let rest = &OPERATIONS[usize::from(first)..];
    let n = rest.iter().take_while(|o| o.opcode == opcode).count();
    &rest[..n]
}

/// Decodes a CDB.
pub fn decode(cdb: &Cdb) -> Result<Command, Sense> {
    let lines = lines(cdb[0]);
    let line = match lines {
        [] => return Err(Sense::illegal(code::INVALID_OPCODE)),
        [only] if only.action.is_none() => only,
        // SPC-4 section 4.2.5.2: the service action stands in the low five bits of byte 1.
        _ => lines.iter().find(|o| o.action == Some(cdb[1] & 0x1f)).ok_or(Sense::bit(1, 4))?,
    };
    (line.decode)(cdb)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn usage_data_is_well_formed() {
        for o in OPERATIONS {
            assert_eq!(o.usage[0], o.opcode);
            let len = match o.opcode >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                _ => 12,
            };
            assert_eq!(o.usage.len(), len, "opcode {:02x}", o.opcode);
            if let Some(action) = o.action {
                assert_eq!(o.usage[1] & 0x1f, action);
            }
        }
    }

    #[test]
    fn lines_of_one_opcode_stand_together() {
        let mut codes: Vec<u8> = OPERATIONS.iter().map(|o| o.opcode).collect();
        codes.dedup();
        let n = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), n);
    }

    #[test]
    fn ranges_of_all_widths() {
        let cdb = |bytes: &[u8]| {
            let mut c = [0; 16];
            c[..bytes.len()].copy_from_slice(bytes);
            decode(&c).unwrap()
        };
        assert_eq!(cdb(&[0x08, 0xff, 2, 3, 0]), Command::Read { lba: 0x1f_0203, blocks: 256 });
        assert_eq!(cdb(&[0x28, 0x18, 1, 2, 3, 4, 0, 5, 6]), Command::Read { lba: 0x0102_0304, blocks: 0x0506 });
        assert_eq!(
            cdb(&[0xaa, 8, 1, 2, 3, 4, 5, 6, 7, 8]),
            Command::Write { lba: 0x0102_0304, blocks: 0x0506_0708, fua: true }
        );
        assert_eq!(
            cdb(&[0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
            Command::Read { lba: 0x0102_0304_0506_0708, blocks: 0x090a_0b0c }
        );
    }

    #[test]
    fn unknown_commands_are_refused() {
        // SANITIZE, variable length
        for opcode in [0x48, 0x7f] {
            let mut cdb = [0; 16];
            cdb[0] = opcode;
            assert_eq!(decode(&cdb), Err(Sense::illegal(code::INVALID_OPCODE)));
        }
        let mut cdb = [0; 16];
        (cdb[0], cdb[1]) = (0x9e, 0x13);
        assert_eq!(decode(&cdb), Err(Sense::bit(1, 4)));
    }

    proptest! {
        #[test]
        fn arbitrary_cdbs_never_panic(cdb: [u8; 16]) {
            if let Ok(command) = decode(&cdb) {
                let _ = (command.data_out(), command.data_in());
            }
        }
    }
}
