use std::sync::Arc;

use super::nexus::MAX_TRANSFER;
use super::sense::{SenseKey, code};
use super::*;
use crate::memory::MemoryDevice;
use bytes::Bytes;
use futures_util::FutureExt;
use proptest::prelude::*;

const BLOCKS: u64 = 2048;

fn unit() -> Arc<LogicalUnit<MemoryDevice>> {
    let device = MemoryDevice::new(BLOCKS * 512, "0123-serial", *b"\xfe123456789abcdef");
    Arc::new(LogicalUnit::new("iqn.2026-01.test:v".into(), Arc::new(device)))
}

fn cdb(bytes: &[u8]) -> [u8; 16] {
    let mut c = [0; 16];
    c[..bytes.len()].copy_from_slice(bytes);
    c
}

fn port() -> InitiatorPort {
    InitiatorPort::new("iqn.2026-01.test:i", [0x80, 0, 0, 0, 0, 1])
}

struct Rig {
    unit: Arc<LogicalUnit<MemoryDevice>>,
    nexus: Nexus,
}

impl Rig {
    fn new() -> Self {
        let mut rig = Self { unit: unit(), nexus: Nexus::new(Attention::PowerOn) };
        assert_eq!(rig.run(&[0], &[]).sense.map(|s| s.code), Some(code::POWER_ON));
        rig
    }

    fn run_at(&mut self, lun: u64, bytes: &[u8], data: &[u8]) -> Completion {
        match self.nexus.admit(lun, &cdb(bytes), self.unit.state()) {
            Ok(command) => {
                execute(self.unit.clone(), &port(), command, Bytes::copy_from_slice(data)).now_or_never().unwrap()
            }
            Err(sense) => Completion::check(sense),
        }
    }

    fn run(&mut self, bytes: &[u8], data: &[u8]) -> Completion {
        self.run_at(0, bytes, data)
    }

    fn good(&mut self, bytes: &[u8], data: &[u8]) -> Bytes {
        let done = self.run(bytes, data);
        assert_eq!(done.status, Status::Good, "{:?}", done.sense);
        done.data
    }

    fn refused(&mut self, bytes: &[u8], data: &[u8]) -> u16 {
        let done = self.run(bytes, data);
        assert_eq!(done.status, Status::CheckCondition);
        done.sense.unwrap().code
    }
}

#[test]
fn unit_attention_comes_once_and_spares_inquiry() {
    let mut rig = Rig { unit: unit(), nexus: Nexus::new(Attention::PowerOn) };
    rig.good(&[0x12, 0, 0, 0, 96], &[]);
    rig.good(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64], &[]);
    assert_eq!(rig.refused(&[0], &[]), code::POWER_ON);
    rig.good(&[0], &[]);
    rig.nexus.attention(Attention::CommandsCleared);
    rig.nexus.attention(Attention::Reset);
    let sense = rig.good(&[0x03, 0, 0, 0, 18], &[]);
    assert_eq!((sense[2], sense[12], sense[13]), (6, 0x29, 0x03));
    assert_eq!(rig.good(&[0x03, 1, 0, 0, 18], &[])[..], [0x72, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn growth_is_reported() {
    let mut nexus = Nexus::new(Attention::PowerOn);
    let state = |blocks| UnitState { blocks, read_only: false };
    assert!(nexus.admit(0, &cdb(&[0]), state(10)).is_err());
    assert!(nexus.admit(0, &cdb(&[0]), state(10)).is_ok());
    assert_eq!(nexus.admit(0, &cdb(&[0]), state(20)).unwrap_err().code, code::CAPACITY_CHANGED);
    assert!(nexus.admit(0, &cdb(&[0]), state(20)).is_ok());
}

#[test]
fn other_luns() {
    let mut rig = Rig::new();
    let lun1 = 1 << 48;
    assert_eq!(rig.run_at(lun1, &[0], &[]).sense.unwrap().code, code::NO_UNIT);
    assert_eq!(rig.run_at(lun1, &[0x12, 0, 0, 0, 36], &[]).data[0], 0x7f);
    assert_eq!(rig.run_at(lun1, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64], &[]).data.len(), 16);
    assert_eq!(rig.run_at(lun1, &[0x03, 0, 0, 0, 18], &[]).data[12], 0x25);
    assert_eq!(rig.run_at(0x4000 << 48, &[0], &[]).status, Status::Good);
}

#[test]
fn inquiry_pages() {
    let mut rig = Rig::new();
    let page = |rig: &mut Rig, p: u8| rig.good(&[0x12, 1, p, 1, 0], &[]);
    let standard = rig.good(&[0x12, 0, 0, 0, 255], &[]);
    assert_eq!(standard.len(), usize::from(standard[4]) + 5);
    let listed = page(&mut rig, 0);
    for p in &listed[4..] {
        let data = page(&mut rig, *p);
        assert_eq!(data[1], *p);
        assert_eq!(data.len() - 4, usize::from(u16::from_be_bytes([data[2], data[3]])));
    }
    assert_eq!(&page(&mut rig, 0x80)[4..], b"0123-serial");
    assert_eq!(page(&mut rig, 0x83)[4..16], *b"\x01\x03\x00\x08\x3e1234567");
    assert_eq!(rig.refused(&[0x12, 1, 0xc0, 0, 255], &[]), code::INVALID_FIELD);
    assert_eq!(rig.refused(&[0x12, 0, 0x80, 0, 255], &[]), code::INVALID_FIELD);
    assert_eq!(rig.good(&[0x12, 0, 0, 0, 5], &[]).len(), 5);
}

#[test]
fn capacity() {
    let mut rig = Rig::new();
    assert_eq!(rig.good(&[0x25], &[])[..], [0, 0, 7, 0xff, 0, 0, 2, 0]);
    let long = rig.good(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32], &[]);
    assert_eq!(long[..16], [0, 0, 0, 0, 0, 0, 7, 0xff, 0, 0, 2, 0, 0, 3, 0xc0, 0]);
    assert_eq!(rig.refused(&[0x25, 0, 0, 0, 0, 1], &[]), code::INVALID_FIELD);
    assert_eq!(capacity::read_capacity10(1 << 40)[..4], [0xff; 4]);
}

#[test]
fn reads_and_writes_and_their_limits() {
    let mut rig = Rig::new();
    let data: Vec<u8> = (0..1024u32).map(|i| (i % 251) as u8).collect();
    rig.good(&[0x2a, 0x08, 0, 0, 0, 7, 0, 0, 2], &data);
    assert_eq!(rig.good(&[0x28, 0x10, 0, 0, 0, 7, 0, 0, 2], &[])[..], data[..]);
    assert_eq!(rig.good(&[0x08, 0, 0, 8, 1], &[])[..], data[512..]);
    assert_eq!(rig.good(&[0x28, 0, 0, 0, 8, 0, 0, 0, 0], &[]).len(), 0);
    assert_eq!(rig.refused(&[0x28, 0, 0, 0, 8, 1, 0, 0, 0], &[]), code::OUT_OF_RANGE);
    assert_eq!(rig.refused(&[0x28, 0, 0, 0, 7, 0xff, 0, 0, 2], &[]), code::OUT_OF_RANGE);
    let far = rig.run(&[0x88, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255], &[]);
    assert_eq!(far.sense.unwrap().code, code::OUT_OF_RANGE);
    let protect = rig.run(&[0x28, 0x20, 0, 0, 0, 0, 0, 0, 1], &[]).sense.unwrap();
    assert_eq!(protect, Sense::bit(1, 7));
    let mut nexus = Nexus::new(Attention::PowerOn);
    let big = UnitState { blocks: 1 << 40, read_only: false };
    let _ = nexus.admit(0, &cdb(&[0]), big);
    let mut long = cdb(&[0xa8]);
    long[6..10].copy_from_slice(&(MAX_TRANSFER + 1).to_be_bytes());
    assert_eq!(nexus.admit(0, &long, big).unwrap_err().code, code::INVALID_FIELD);
}

#[test]
fn read_only_units() {
    let mut nexus = Nexus::new(Attention::PowerOn);
    let state = UnitState { blocks: 100, read_only: true };
    let _ = nexus.admit(0, &cdb(&[0]), state);
    for op in [0x0a, 0x2a, 0x41, 0x42] {
        let sense = nexus.admit(0, &cdb(&[op, 0, 0, 0, 0, 0, 0, 0, 1]), state).unwrap_err();
        assert_eq!((sense.key, sense.code), (SenseKey::DataProtect, code::WRITE_PROTECTED));
    }
    assert!(nexus.admit(0, &cdb(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1]), state).is_ok());
}

#[test]
fn verify_finds_the_block_that_differs() {
    let mut rig = Rig::new();
    let data = vec![7; 4 * 512];
    rig.good(&[0x2e, 0x02, 0, 0, 0, 4, 0, 0, 4], &data);
    rig.good(&[0x2f, 0x02, 0, 0, 0, 4, 0, 0, 4], &data);
    rig.good(&[0x2f, 0x06, 0, 0, 0, 4, 0, 0, 4], &data[..512]);
    rig.good(&[0x2f, 0, 0, 0, 0, 0, 0, 8, 0], &[]);
    let mut other = data.clone();
    other[1100] = 8;
    let sense = rig.run(&[0x2f, 0x02, 0, 0, 0, 4, 0, 0, 4], &other).sense.unwrap();
    assert_eq!((sense.key, sense.code, sense.information), (SenseKey::Miscompare, code::MISCOMPARE, Some(6)));
    assert_eq!(rig.refused(&[0x2f, 0x04, 0, 0, 0, 4, 0, 0, 4], &[]), code::INVALID_FIELD);
}

#[test]
fn write_same_pattern_zero_and_unmap() {
    let mut rig = Rig::new();
    let block: Vec<u8> = (0..512).map(|i| i as u8).collect();
    rig.good(&[0x41, 0, 0, 0, 0, 1, 0, 0, 9], &block);
    let all = rig.good(&[0x28, 0, 0, 0, 0, 0, 0, 0, 11], &[]);
    assert!(all[..512].iter().all(|b| *b == 0) && all[5120..].iter().all(|b| *b == 0));
    assert!(all[512..5120].chunks(512).all(|c| c == block));
    rig.good(&[0x41, 8, 0, 0, 0, 2, 0, 0, 1], &[0; 512]);
    rig.good(&[0x93, 1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1], &[]);
    let all = rig.good(&[0x28, 0, 0, 0, 0, 1, 0, 0, 3], &[]);
    assert!(all[..512] == block && all[512..].iter().all(|b| *b == 0));
    assert_eq!(rig.refused(&[0x41, 0, 0, 0, 0, 1, 0, 0, 0], &block), code::INVALID_FIELD);
    assert_eq!(rig.refused(&[0x41, 0x10, 0, 0, 0, 1, 0, 0, 1], &block), code::INVALID_FIELD);
    assert_eq!(rig.refused(&[0x41, 0x01, 0, 0, 0, 1, 0, 0, 1], &[]), code::INVALID_FIELD);
    assert_eq!(rig.refused(&[0x41, 0, 0, 0, 0, 1, 0, 0, 1], &[]), code::INVALID_FIELD_IN_IU);
}

#[test]
fn unmap_zeroes_its_ranges() {
    let mut rig = Rig::new();
    rig.good(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 16], &[1; 16 * 512]);
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend([0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0, 0]);
    rig.good(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24], &list);
    let all = rig.good(&[0x28, 0, 0, 0, 0, 0, 0, 0, 16], &[]);
    for (i, block) in all.chunks(512).enumerate() {
        assert_eq!(block[0], u8::from(!(3..12).contains(&i)), "block {i}");
    }
    assert_eq!(rig.refused(&[0x42, 1], &[]), code::INVALID_FIELD);
}

#[test]
fn mode_pages() {
    let mut rig = Rig::new();
    let all = rig.good(&[0x1a, 0, 0x3f, 0, 255], &[]);
    assert_eq!(usize::from(all[0]) + 1, all.len());
    assert_eq!(all[2..12], [0x10, 8, 0, 0, 8, 0, 0, 0, 2, 0]);
    let caching = rig.good(&[0x5a, 0x08, 0x08, 0, 0, 0, 0, 0, 255], &[]);
    assert_eq!((caching[8], caching[9], caching[10] & 4), (8, 0x12, 0)); // WCE=0
    let long = rig.good(&[0x5a, 0x10, 0x0a, 0, 0, 0, 0, 0, 255], &[]);
    assert_eq!((long[4], long[7], long.len()), (1, 16, 8 + 16 + 12));
    assert!(rig.good(&[0x1a, 8, 0x4a, 0, 255], &[])[6..].iter().all(|b| *b == 0));
    assert_eq!(rig.refused(&[0x1a, 0, 0xca, 0, 255], &[]), code::NO_SAVING);
    assert_eq!(rig.refused(&[0x1a, 0, 0x05, 0, 255], &[]), code::INVALID_FIELD);
    assert_eq!(rig.refused(&[0x1a, 0, 0x08, 1, 255], &[]), code::INVALID_FIELD);
    // What MODE SENSE said can be selected again; a change is refused.
    let mut list = all.to_vec();
    list[0] = 0;
    rig.good(&[0x15, 0x10, 0, 0, list.len() as u8], &list);
    let at = list.len() - 30;
    list[at] ^= 0xff;
    assert_eq!(rig.refused(&[0x15, 0x10, 0, 0, list.len() as u8], &list), code::INVALID_PARAMETER);
    assert_eq!(rig.refused(&[0x15, 0x10, 0, 0, 3], &list[..3]), code::LIST_LENGTH);
    assert_eq!(rig.refused(&[0x15, 0x11, 0, 0, 3], &list[..3]), code::INVALID_FIELD);
}

#[test]
fn opcodes_are_reported_from_the_table() {
    let mut rig = Rig::new();
    let all = rig.good(&[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 255, 255], &[]);
    assert_eq!((all.len() - 4) / 8, opcodes::OPERATIONS.len());
    let timed = rig.good(&[0xa3, 0x0c, 0x80, 0, 0, 0, 0, 0, 255, 255], &[]);
    assert_eq!((timed.len() - 4) / 20, opcodes::OPERATIONS.len());
    let one = |rig: &mut Rig, options, op, action| rig.good(&[0xa3, 0x0c, options, op, 0, action, 0, 0, 255, 255], &[]);
    assert_eq!(one(&mut rig, 1, 0x28, 0)[..5], [0, 3, 0, 10, 0x28]);
    assert_eq!(one(&mut rig, 1, 0x48, 0)[1], 1);
    assert_eq!(one(&mut rig, 2, 0x9e, 0x10)[..5], [0, 3, 0, 16, 0x9e]);
    assert_eq!(one(&mut rig, 3, 0x9e, 0x13)[1], 1);
    assert_eq!(one(&mut rig, 3, 0x28, 0)[1], 3);
    assert_eq!(rig.refused(&[0xa3, 0x0c, 1, 0x9e, 0, 0, 0, 0, 255, 255], &[]), code::INVALID_FIELD);
    assert_eq!(rig.refused(&[0xa3, 0x0c, 2, 0x28, 0, 0, 0, 0, 255, 255], &[]), code::INVALID_FIELD);
}

#[test]
fn lba_status_tells_what_is_mapped() {
    let mut rig = Rig::new();
    let status = |rig: &mut Rig, lba: u8, allocation: u8| {
        rig.good(&[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, allocation, 0, 0], &[])
    };
    rig.good(&[0x2a, 0, 0, 0, 0, 8, 0, 0, 16, 0], &[1; 16 * 512]);
    let all = status(&mut rig, 1, 255);
    assert_eq!(all[..4], (4 + 3 * 16u32).to_be_bytes());
    assert_eq!(all[8..24], [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 7, 1, 0, 0, 0]);
    assert_eq!(all[24..40], [0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0, 0, 0]);
    assert_eq!(all[40..56], [0, 0, 0, 0, 0, 0, 0, 24, 0, 0, 0x07, 0xe8, 1, 0, 0, 0]);
    assert_eq!(status(&mut rig, 10, 24)[8..24], [0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 14, 0, 0, 0, 0]);
    let beyond = [0x9e, 0x12, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 24, 0, 0];
    assert_eq!(rig.refused(&beyond, &[]), code::OUT_OF_RANGE);
}

#[test]
fn blocks_are_copied_within_the_unit() {
    let mut rig = Rig::new();
    let page = rig.good(&[0x12, 1, 0x83, 0, 255, 0], &[]);
    let at = page.windows(4).position(|w| w == [1, 3, 0, 8]).expect("an NAA designator");
    let data: Vec<u8> = (0..8192).map(|i| (i / 7) as u8).collect();
    rig.good(&[0x2a, 0, 0, 0, 0, 3, 0, 0, 16, 0], &data);
    let mut list = vec![0; 16 + 32 + 28];
    (list[3], list[11]) = (32, 28);
    list[16] = 0xe4;
    list[20..32].copy_from_slice(&page[at..at + 12]);
    list[46] = 2;
    (list[48], list[51], list[59], list[67], list[75]) = (2, 24, 16, 3, 101);
    let copy = [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0, 0];
    rig.good(&copy, &list);
    assert_eq!(rig.good(&[0x28, 0, 0, 0, 0, 101, 0, 0, 16, 0], &[])[..], data[..]);
    let status = [0x84, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0];
    assert_eq!(rig.good(&status, &[])[..], [0, 0, 0, 8, 1, 0, 1, 1, 0, 0, 0, 8]);
    assert_eq!(rig.refused(&status, &[]), code::INVALID_FIELD, "told once");
    let operating = rig.good(&[0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[]);
    assert_eq!((operating.len(), &operating[44..]), (46, &[2, 0xe4][..]));
}

#[test]
fn atomic_writes_have_their_limits() {
    let mut rig = Rig::new();
    let limits = rig.good(&[0x12, 1, 0xb0, 0, 255, 0], &[]);
    let longest = u32::from_be_bytes(limits[44..48].try_into().expect("4 bytes"));
    let atomic = |boundary: u8, blocks: u32| {
        let [_, _, high, low] = blocks.to_be_bytes();
        [0x9c, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, boundary, high, low, 0, 0]
    };
    let data = vec![9; longest as usize * 512];
    rig.good(&atomic(0, longest), &data);
    assert_eq!(rig.good(&[0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0], &[])[..], data[..512]);
    assert_eq!(rig.refused(&atomic(0, longest + 1), &[]), code::INVALID_FIELD);
    assert_eq!(rig.refused(&atomic(8, 8), &[]), code::INVALID_FIELD);
}

#[test]
fn log_pages() {
    let mut rig = Rig::new();
    assert_eq!(rig.good(&[0x4d, 0, 0x40, 0, 0, 0, 0, 0, 255, 0], &[])[..], [0, 0, 0, 2, 0, 0x2f]);
    assert_eq!(rig.good(&[0x4d, 0, 0x40, 0xff, 0, 0, 0, 0, 255, 0], &[])[..4], [0x40, 0xff, 0, 6]);
    assert_eq!(rig.good(&[0x4d, 0, 0x6f, 0, 0, 0, 0, 0, 255, 0], &[])[..4], [0x2f, 0, 0, 8]);
    for wrong in [[0x4d, 1, 0x40, 0], [0x4d, 0, 0x42, 0], [0x4d, 0, 0x6f, 1]] {
        assert_eq!(rig.refused(&wrong, &[]), code::INVALID_FIELD, "{wrong:02x?}");
    }
}

proptest! {
    #[test]
    fn arbitrary_commands_never_panic(c: [u8; 16], data in prop::collection::vec(any::<u8>(), 0..3000), lun in 0u64..2) {
        let mut rig = Rig::new();
        let _ = rig.run_at(lun << 48, &c, &data);
    }

    #[test]
    fn arbitrary_parameters_of_known_commands_never_panic(
        which in 0..opcodes::OPERATIONS.len(), mut c: [u8; 16], data in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let op = &opcodes::OPERATIONS[which];
        c[0] = op.opcode;
        c[1] = op.action.unwrap_or(c[1] & 0x1f);
        let mut rig = Rig::new();
        let _ = rig.run(&c, &data);
    }
}

/// COMPARE AND WRITE or ORWRITE(16) at LBA 8.
fn at_8(opcode: u8, blocks: u8) -> [u8; 16] {
    let mut c = cdb(&[opcode]);
    (c[9], c[13]) = (8, blocks);
    c
}

#[test]
fn compare_and_write() {
    let mut rig = Rig::new();
    rig.good(&[0x2a, 0, 0, 0, 0, 8, 0, 0, 2], &[1; 1024]);
    let halves = |compared: u8, written: u8| [[compared; 1024], [written; 1024]].concat();
    assert_eq!(Command::data_out(&opcodes::decode(&at_8(0x89, 2)).unwrap()), 2048);
    rig.good(&at_8(0x89, 2), &halves(1, 2));
    assert_eq!(rig.good(&[0x28, 0, 0, 0, 0, 8, 0, 0, 2], &[])[..], [2; 1024]);
    // The first byte that differs is told, and nothing is written.
    let mut almost = halves(2, 3);
    almost[700] = 9;
    let done = rig.run(&at_8(0x89, 2), &almost);
    let sense = done.sense.unwrap();
    assert_eq!((sense.key, sense.code, sense.information), (SenseKey::Miscompare, code::MISCOMPARE, Some(700)));
    assert_eq!(rig.good(&[0x28, 0, 0, 0, 0, 8, 0, 0, 2], &[])[..], [2; 1024]);
    rig.good(&at_8(0x89, 0), &[]);
    let mut beyond = at_8(0x89, 2);
    beyond[8..10].copy_from_slice(&(BLOCKS as u16 - 1).to_be_bytes());
    assert_eq!(rig.refused(&beyond, &halves(0, 1)), code::OUT_OF_RANGE);
    let limits = rig.good(&[0x12, 1, 0xb0, 0, 64], &[]);
    assert_eq!(limits[5], 255);
}

#[test]
fn or_write() {
    let mut rig = Rig::new();
    rig.good(&[0x2a, 0, 0, 0, 0, 8, 0, 0, 2], &[0x0f; 1024]);
    rig.good(&at_8(0x8b, 2), &[0x31; 1024]);
    assert_eq!(rig.good(&[0x28, 0, 0, 0, 0, 8, 0, 0, 3], &[])[..], [&[0x3f; 1024][..], &[0; 512]].concat());
    rig.good(&at_8(0x8b, 0), &[]);
}

#[test]
fn port_groups() {
    let mut rig = Rig::new();
    let group = [0x00, 0x01, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1];
    let told = rig.good(&[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 64], &[]);
    assert_eq!(told[..], [&[0, 0, 0, 12][..], &group].concat());
    let told = rig.good(&[0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 0, 64], &[]);
    assert_eq!(told[..], [&[0, 0, 0, 16, 0x10, 0, 0, 0][..], &group].concat());
    assert_eq!(rig.refused(&[0xa3, 0x4a, 0, 0, 0, 0, 0, 0, 0, 64], &[]), code::INVALID_FIELD);
    // The standard INQUIRY data says that there is such a thing, and page 83h which group the port is in.
    assert_eq!(rig.good(&[0x12, 0, 0, 0, 96], &[])[5] & 0x30, 0x10);
    let ids = rig.good(&[0x12, 1, 0x83, 0, 255], &[]);
    assert!(ids.windows(8).any(|d| d == [0x51, 0x95, 0, 4, 0, 0, 0, 1]));
}
