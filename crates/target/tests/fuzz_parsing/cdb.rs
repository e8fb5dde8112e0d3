//! Commands: CDBs of the table bent, and any sixteen bytes, through admission and onto the device.

use ballast_target::scsi::opcodes::{OPERATIONS, decode};
use ballast_target::scsi::{Attention, Command, Completion, Status, UnitState};
use bytes::Bytes;

use crate::random::{Rng, Tally};
use crate::rig;

/// Blocks of the device: 1 MiB, so that small numbers reach its end.
pub const BLOCKS: u64 = 2048;

/// A CDB that is likely to be understood: known codes, small numbers.
pub fn any(rng: &mut Rng) -> [u8; 16] {
    let mut cdb = [0; 16];
    let operation = rng.pick(OPERATIONS);
    for (at, byte) in cdb.iter_mut().enumerate() {
        *byte = match rng.below(12) {
            0 => rng.byte(),
            1..4 => rng.below(9) as u8,
            _ => 0,
        };
        // Bits that are not evaluated are mostly left alone; some of them are checked to be zero.
        if rng.percent(90) {
            *byte &= operation.usage.get(at).copied().unwrap_or(0);
        }
    }
    cdb[0] = if rng.percent(97) { operation.opcode } else { rng.byte() };
    if let Some(action) = operation.action {
        cdb[1] = cdb[1] & 0xe0 | action;
    }
    cdb
}

/// Data-Out of so many bytes, as this command might get it.
pub fn data_for(rng: &mut Rng, command: &Command, len: usize) -> Bytes {
    let mut data = vec![if rng.percent(50) { 0 } else { rng.byte() }; len];
    match command {
        Command::Unmap { .. } if len >= 8 => {
            let (said, all) = ((len - 8) as u16, len as u16);
            data[..2].copy_from_slice(&all.to_be_bytes());
            data[2..4].copy_from_slice(&said.to_be_bytes());
            data[4..].fill(0);
            for descriptor in data[8..].chunks_exact_mut(16) {
                descriptor[6..8].copy_from_slice(&(rng.below(BLOCKS + 8) as u16).to_be_bytes());
                descriptor[11] = rng.byte();
            }
        }
        // Whole mode pages are sent by `run`.
        Command::ModeSelect { .. } => data = rng.bytes(len),
        _ => {}
    }
    if rng.percent(10) {
        rng.damage(&mut data);
    }
    Bytes::from(data)
}

/// What came back fits together and fits into what was admitted.
pub fn check(command: &Command, done: &Completion) {
    assert_eq!(done.sense.is_some(), done.status == Status::CheckCondition, "{command:?}: {done:?}");
    assert!(done.data.is_empty() || done.status == Status::Good, "{command:?}: {done:?}");
    assert!(done.data.len() <= command.data_in(), "{command:?}: {} bytes", done.data.len());
    if let Some(sense) = &done.sense {
        assert!(sense.descriptors().len() >= 8 && sense.fixed()[0] & 0x7f == 0x70);
    }
}

pub fn run(rng: &mut Rng, tally: &mut Tally) {
    let unit = rig::unit(BLOCKS, rng.percent(10));
    let mut nexus = rig::nexus();
    let mut pages: Option<Bytes> = None;
    for _ in 0..=rng.below(10) {
        let cdb = if rng.percent(90) { any(rng) } else { rng.bytes(16).try_into().expect("sixteen bytes") };
        let lun = match rng.below(20) {
            0 => rng.next(),
            1 => 0x4000 << 48,
            2 => 1 << 48,
            _ => 0,
        };
        if rng.percent(5) {
            nexus.attention(*rng.pick(&[Attention::Reset, Attention::NexusLoss, Attention::CommandsCleared]));
        }
        // A unit that was smaller when the command came in than it is when the command runs.
        let blocks = if rng.percent(5) { rng.below(BLOCKS + 1) } else { BLOCKS };
        let state = UnitState { blocks, read_only: unit.state().read_only };
        let decoded = decode(&cdb).is_ok();
        let mut command = match rig::admit(&mut nexus, lun, &cdb, state) {
            Ok(command) => command,
            Err(sense) => {
                assert!(sense.descriptors().len() >= 8);
                tally.count(if decoded { "cdb: not admitted" } else { "cdb: not decoded" });
                continue;
            }
        };
        let most = command.data_out().min(1 << 20) as usize;
        let len = match command.exact_data_out() {
            Some(exact) => exact as usize,
            None if rng.percent(80) => most,
            None => rng.index(most + 1),
        };
        let mut data = data_for(rng, &command, len);
        // Mode pages go back as they were told, bent a little.
        if let (Command::ModeSelect { form, .. }, Some(pages)) = (&command, &pages) {
            let mut list = pages.to_vec();
            if rng.percent(50) {
                rng.damage(&mut list);
            }
            command = Command::ModeSelect { form: *form, length: list.len() as u32 };
            data = Bytes::from(list);
        }
        let done = rig::run(&unit, command, data);
        check(&command, &done);
        if matches!(command, Command::ModeSense { .. }) && done.status == Status::Good {
            pages = Some(done.data.clone());
        }
        tally.count(match done.status {
            Status::Good => "cdb: good",
            Status::CheckCondition => "cdb: check condition",
            _ => "cdb: another status",
        });
    }
}
