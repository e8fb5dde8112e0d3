//! Three initiators at one logical unit, through CDBs.

use std::sync::Arc;

use futures_util::FutureExt;

use super::state::{MAX_REGISTRATIONS, Register};
use super::*;
use crate::memory::MemoryDevice;
use crate::scsi::{LogicalUnit, execute, opcodes};

const READ: &[u8] = &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const WRITE: &[u8] = &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const READY: &[u8] = &[0];

/// Service actions of PERSISTENT RESERVE OUT.
const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_IGNORE: u8 = 6;
const MOVE: u8 = 7;

const TYPES: [u8; 6] = [1, 3, 5, 6, 7, 8];

fn port(n: u8) -> InitiatorPort {
    InitiatorPort::new(&format!("iqn.2026-01.test:host-{n}"), [0x80, 0, 0, 0, 0, n])
}

struct Rig {
    device: Arc<MemoryDevice>,
    unit: Arc<LogicalUnit<MemoryDevice>>,
}

fn list(key: u64, second: u64, flags: u8) -> Vec<u8> {
    let mut list = [key.to_be_bytes(), second.to_be_bytes(), [0; 8]].concat();
    list[20] = flags;
    list
}

impl Rig {
    fn new() -> Self {
        let device = Arc::new(MemoryDevice::new(1 << 20, "serial", [7; 16]));
        Self { unit: Arc::new(LogicalUnit::new("iqn.2026-01.test:v".into(), device.clone())), device }
    }

    /// Another target serves the device.
    fn restart(&mut self) {
        self.unit = Arc::new(LogicalUnit::new("iqn.2026-01.test:v".into(), self.device.clone()));
    }

    fn run(&self, who: u8, bytes: &[u8], data: &[u8]) -> Completion {
        let mut cdb = [0; 16];
        cdb[..bytes.len()].copy_from_slice(bytes);
        let command = match opcodes::decode(&cdb) {
            Ok(command) => command,
            Err(sense) => return Completion::check(sense),
        };
        let data = Bytes::copy_from_slice(data);
        execute(self.unit.clone(), &port(who), command, data).now_or_never().expect("memory never waits")
    }

    fn status(&self, who: u8, bytes: &[u8]) -> Status {
        self.run(who, bytes, &[0; 512]).status
    }

    fn out(&self, who: u8, action: u8, kind: u8, list: &[u8]) -> Completion {
        let mut cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, 0, 0];
        cdb[5..9].copy_from_slice(&(list.len() as u32).to_be_bytes());
        self.run(who, &cdb, list)
    }

    fn good(&self, who: u8, action: u8, kind: u8, (key, second): (u64, u64)) -> Completion {
        let done = self.out(who, action, kind, &list(key, second, 0));
        assert_eq!(done.status, Status::Good, "action {action} of {who}: {:?}", done.sense);
        done
    }

    fn conflict(&self, who: u8, action: u8, kind: u8, (key, second): (u64, u64)) {
        assert_eq!(self.out(who, action, kind, &list(key, second, 0)).status, Status::ReservationConflict);
    }

    fn register(&self, who: u8, key: u64) {
        self.good(who, REGISTER_IGNORE, 0, (0, key));
    }

    fn ask(&self, who: u8, action: u8) -> Bytes {
        let done = self.run(who, &[0x5e, action, 0, 0, 0, 0, 0, 0x10, 0, 0], &[]);
        assert_eq!(done.status, Status::Good);
        done.data
    }

    fn keys(&self) -> Vec<u64> {
        let data = self.ask(9, 0);
        data[8..].chunks(8).map(|key| u64::from_be_bytes(key.try_into().expect("8 bytes"))).collect()
    }

    /// Key and type of the reservation.
    fn held(&self) -> Option<(u64, u8)> {
        let data = self.ask(9, 1);
        let held = data.get(8..24)?;
        Some((u64::from_be_bytes(held[..8].try_into().expect("8 bytes")), held[13]))
    }

    /// The unit attention that comes next.
    fn attention(&self, who: u8) -> Option<u16> {
        let done = self.run(who, READY, &[]);
        done.sense.filter(|sense| sense.key == SenseKey::UnitAttention).map(|sense| sense.code)
    }

    fn code(&self, who: u8, action: u8, kind: u8, list: &[u8]) -> u16 {
        let done = self.out(who, action, kind, list);
        assert_eq!(done.status, Status::CheckCondition);
        done.sense.expect("sense").code
    }
}

#[test]
fn each_type_keeps_out_whom_it_should() {
    for kind in TYPES {
        let rig = Rig::new();
        rig.register(1, 0xa);
        rig.register(2, 0xb);
        rig.good(1, RESERVE, kind, (0xa, 0));
        let (others_read, registrants) = (matches!(kind, 1 | 5 | 7), kind > 3);
        assert_eq!((rig.status(1, READ), rig.status(1, WRITE)), (Status::Good, Status::Good));
        let said = |good| if good { Status::Good } else { Status::ReservationConflict };
        assert_eq!(rig.status(2, READ), said(others_read || registrants), "type {kind}");
        assert_eq!(rig.status(2, WRITE), said(registrants), "type {kind}");
        assert_eq!(rig.status(3, READ), said(others_read), "type {kind}");
        for changes in
            [WRITE, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &[0x35], &[0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]]
        {
            assert_eq!(rig.status(3, changes), Status::ReservationConflict, "type {kind} {changes:02x?}");
        }
        for allowed in [READY, &[0x12, 0, 0, 0, 36], &[0x03, 0, 0, 0, 18], &[0x25], &[0x5e, 0, 0, 0, 0, 0, 0, 0, 8]] {
            assert_eq!(rig.status(3, allowed), Status::Good, "type {kind} {allowed:02x?}");
        }
        assert_eq!(rig.held(), Some((if kind > 6 { 0 } else { 0xa }, kind)));
    }
}

#[test]
fn registering() {
    let rig = Rig::new();
    rig.conflict(1, REGISTER, 0, (5, 0xa)); // not registered, so the key has to be 0
    rig.good(1, REGISTER, 0, (0, 0)); // nothing to unregister
    assert_eq!(rig.ask(9, 0)[..4], [0; 4], "no change, no generation");
    rig.good(1, REGISTER, 0, (0, 0xa));
    rig.conflict(1, REGISTER, 0, (0, 0xc)); // registered, so the key has to be known
    rig.good(1, REGISTER, 0, (0xa, 0xc));
    assert_eq!(rig.keys(), [0xc]);
    assert_eq!(rig.ask(9, 0)[..4], [0, 0, 0, 2]);
    rig.conflict(2, RESERVE, 1, (0xc, 0)); // another's key is no registration
    rig.good(1, REGISTER, 0, (0xc, 0));
    assert!(rig.keys().is_empty());
    rig.conflict(1, RESERVE, 1, (0xc, 0));
    assert_eq!(rig.code(1, REGISTER, 0, &[0; 23]), code::LIST_LENGTH);
    assert_eq!(rig.code(1, RESERVE, 0x11, &list(0, 0, 0)), code::INVALID_FIELD); // scope
    assert_eq!(rig.code(1, RESERVE, 2, &list(0, 0, 0)), code::INVALID_FIELD); // type
}

#[test]
fn a_reservation_is_its_holders() {
    let rig = Rig::new();
    rig.register(1, 0xa);
    rig.register(2, 0xb);
    rig.good(1, RESERVE, 5, (0xa, 0));
    rig.good(1, RESERVE, 5, (0xa, 0)); // once more changes nothing
    rig.conflict(1, RESERVE, 6, (0xa, 0));
    rig.conflict(2, RESERVE, 5, (0xb, 0));
    rig.good(2, RELEASE, 5, (0xb, 0)); // not its own: no error, no effect
    assert_eq!(rig.held(), Some((0xa, 5)));
    assert_eq!(rig.code(1, RELEASE, 6, &list(0xa, 0, 0)), code::INVALID_RELEASE);
    rig.conflict(1, RELEASE, 5, (0xff, 0));
    rig.good(1, RELEASE, 5, (0xa, 0));
    assert_eq!((rig.held(), rig.attention(2), rig.attention(2)), (None, Some(code::RESERVATIONS_RELEASED), None));
    assert_eq!(rig.attention(1), None);
    // With its registration goes the reservation.
    rig.good(1, RESERVE, 3, (0xa, 0));
    rig.good(1, REGISTER, 0, (0xa, 0));
    assert_eq!((rig.held(), rig.attention(2)), (None, None));
}

#[test]
fn all_registrants_hold_it_together() {
    let rig = Rig::new();
    rig.register(1, 0xa);
    rig.register(2, 0xb);
    rig.good(1, RESERVE, 7, (0xa, 0));
    rig.good(2, RESERVE, 7, (0xb, 0));
    rig.good(1, REGISTER, 0, (0xa, 0)); // the other one still holds it
    assert_eq!(rig.held(), Some((0, 7)));
    assert_eq!((rig.status(2, WRITE), rig.status(1, WRITE)), (Status::Good, Status::ReservationConflict));
    rig.good(2, REGISTER, 0, (0xb, 0));
    assert_eq!(rig.held(), None);
}

#[test]
fn preempting_takes_over() {
    for (action, aborts) in [(PREEMPT, vec![]), (PREEMPT_AND_ABORT, vec![port(1)])] {
        let rig = Rig::new();
        (1..=3).for_each(|who| rig.register(who, u64::from(who)));
        rig.good(1, RESERVE, 1, (1, 0));
        rig.conflict(4, action, 1, (1, 1)); // not registered
        rig.conflict(2, action, 1, (2, 99)); // nobody has this key
        assert_eq!(rig.code(2, action, 1, &list(2, 0, 0)), code::INVALID_PARAMETER);
        assert_eq!(rig.good(2, action, 3, (2, 1)).abort, aborts);
        assert_eq!((rig.keys(), rig.held()), (vec![2, 3], Some((2, 3))));
        assert_eq!(rig.attention(1), Some(code::REGISTRATIONS_PREEMPTED));
        assert_eq!(rig.attention(3), Some(code::RESERVATIONS_RELEASED), "the type changed");
        assert_eq!(rig.attention(2), None);
        assert_eq!(rig.status(1, WRITE), Status::ReservationConflict);
        // Who does not hold it only loses the registration.
        rig.good(2, action, 3, (2, 3));
        assert_eq!((rig.keys(), rig.held()), (vec![2], Some((2, 3))));
        // The holder may change the type of its own.
        rig.good(2, action, 1, (2, 2));
        assert_eq!((rig.keys(), rig.held()), (vec![2], Some((2, 1))));
    }
}

#[test]
fn preempting_all_registrants() {
    let rig = Rig::new();
    (1..=3).for_each(|who| rig.register(who, u64::from(who)));
    rig.good(1, RESERVE, 8, (1, 0));
    rig.good(2, PREEMPT, 8, (2, 3)); // one registration; the reservation stays with the others
    assert_eq!((rig.keys(), rig.held()), (vec![1, 2], Some((0, 8))));
    rig.good(2, PREEMPT, 1, (2, 0)); // 0: all others, and the reservation
    assert_eq!((rig.keys(), rig.held()), (vec![2], Some((2, 1))));
    assert_eq!(rig.attention(1), Some(code::REGISTRATIONS_PREEMPTED));
}

#[test]
fn clearing() {
    let rig = Rig::new();
    rig.register(1, 1);
    rig.register(2, 2);
    rig.good(1, RESERVE, 3, (1, 0));
    rig.conflict(3, CLEAR, 0, (3, 0));
    rig.good(2, CLEAR, 0, (2, 0));
    assert_eq!((rig.keys(), rig.held()), (vec![], None));
    assert_eq!((rig.attention(1), rig.attention(2)), (Some(code::RESERVATIONS_PREEMPTED), None));
}

fn move_list(key: u64, new: u64, flags: u8, to: u8) -> Vec<u8> {
    let mut list = list(key, new, 0);
    (list[17], list[19]) = (flags, 1);
    let id = port(to).transport_id();
    list[20..24].copy_from_slice(&(id.len() as u32).to_be_bytes());
    list.extend(id);
    list
}

#[test]
fn a_reservation_moves() {
    let rig = Rig::new();
    rig.register(1, 1);
    assert_eq!(rig.out(1, MOVE, 0, &move_list(1, 2, 0, 2)).status, Status::ReservationConflict, "nothing to move");
    rig.good(1, RESERVE, 3, (1, 0));
    assert_eq!(rig.code(1, MOVE, 0, &move_list(1, 0, 0, 2)), code::INVALID_PARAMETER);
    assert_eq!(rig.code(1, MOVE, 0, &move_list(1, 2, 0, 1)), code::INVALID_PARAMETER, "to itself");
    assert_eq!(rig.out(1, MOVE, 0, &move_list(1, 2, 0, 2)).status, Status::Good);
    assert_eq!((rig.keys(), rig.held()), (vec![1, 2], Some((2, 3))));
    assert_eq!((rig.status(1, READ), rig.status(2, READ)), (Status::ReservationConflict, Status::Good));
    assert_eq!(rig.out(2, MOVE, 0, &move_list(2, 7, 2, 1)).status, Status::Good);
    assert_eq!((rig.keys(), rig.held()), (vec![7], Some((7, 3))), "moved back, unregistered");
}

#[test]
fn others_are_registered_with_it() {
    let rig = Rig::new();
    let with = |ports: &[u8]| {
        let ids: Vec<u8> = ports.iter().flat_map(|n| port(*n).transport_id()).collect();
        let mut all = list(0, 5, 0x08);
        all.extend((ids.len() as u32).to_be_bytes());
        all.extend(ids);
        all
    };
    assert_eq!(rig.code(1, REGISTER_IGNORE, 0, &with(&[2])), code::INVALID_PARAMETER);
    assert_eq!(rig.code(1, REGISTER, 0, &with(&[2, 2])), code::INVALID_PARAMETER);
    assert_eq!(rig.code(1, REGISTER, 0, &with(&[1])), code::INVALID_PARAMETER, "itself");
    assert_eq!(rig.code(1, REGISTER, 0, &list(0, 5, 0x08)), code::LIST_LENGTH);
    assert_eq!(rig.out(1, REGISTER, 0, &with(&[2, 3])).status, Status::Good);
    assert_eq!(rig.keys(), [5, 5, 5]);
    rig.good(3, RESERVE, 1, (5, 0));
    let status = rig.ask(9, 3);
    let first = 24 + port(1).transport_id().len();
    assert_eq!(status[8 + 24..8 + first], port(1).transport_id());
    assert_eq!(status[8 + 2 * first + 12], 1, "the third holds it");
}

#[test]
fn what_is_kept_outlives_the_target() {
    let mut rig = Rig::new();
    rig.register(1, 1);
    rig.register(2, 2);
    rig.good(1, RESERVE, 5, (1, 0));
    rig.good(1, RELEASE, 5, (1, 0));
    rig.good(1, RESERVE, 3, (1, 0));
    let generation = rig.ask(9, 0);
    rig.restart();
    assert_eq!(rig.status(3, READ), Status::ReservationConflict, "also of who never asked for anything");
    assert_eq!((rig.keys(), rig.held()), (vec![1, 2], Some((1, 3))));
    assert_eq!(rig.ask(9, 0), generation);
    assert_eq!(rig.attention(2), Some(code::RESERVATIONS_RELEASED), "not reported before");
    rig.good(2, PREEMPT, 3, (2, 1));
    rig.restart();
    assert_eq!(rig.held(), Some((2, 3)));
}

#[test]
fn what_a_newer_target_kept_is_not_guessed_at() {
    let rig = Rig::new();
    rig.device.save_state(Bytes::from_static(&[9, 1, 2])).now_or_never().expect("at once").expect("kept");
    let done = rig.run(1, READ, &[]);
    assert_eq!((done.status, done.sense.map(|s| s.code)), (Status::CheckCondition, Some(code::INTERNAL)));
}

#[test]
fn the_largest_state_fits_into_what_a_volume_keeps() {
    let name = |n: usize| format!("{:a<223}", format!("iqn.2026-01.test:{n}-"));
    let port = |n: usize| InitiatorPort::new(&name(n), [0xff; 6]);
    let mut state = State::default();
    for n in 0..MAX_REGISTRATIONS {
        let what = Register { key: 0, new: u64::MAX, ignore: true, all_ports: true, persist: true, also: vec![] };
        state.register(&port(n), &what).expect("room");
    }
    let what = Register { key: 0, new: 1, ignore: true, all_ports: true, persist: true, also: vec![] };
    assert_eq!(state.register(&port(MAX_REGISTRATIONS), &what), Err(Sense::illegal(code::NO_REGISTRATION_ROOM).into()));
    state.reserve(&port(0), u64::MAX, super::state::Kind::WriteExclusiveRegistrants).expect("free");
    state.release(&port(0), u64::MAX, super::state::Kind::WriteExclusiveRegistrants).expect("held");
    state.reserve(&port(0), u64::MAX, super::state::Kind::WriteExclusiveRegistrants).expect("free");
    state.generation = u32::MAX;
    let bytes = encode(&state);
    assert!(bytes.len() <= 48 * 1024, "{} bytes", bytes.len());
    assert_eq!(decode(&bytes), Ok(state));
}

#[test]
fn reserve_and_release_of_the_whole_unit() {
    let (reserve, release): (&[u8], &[u8]) = (&[0x16], &[0x57]);
    let rig = Rig::new();
    assert_eq!((rig.status(1, reserve), rig.status(1, reserve)), (Status::Good, Status::Good));
    for kept_out in [READ, WRITE, READY, &[0x1a, 0, 0x3f, 0, 255], reserve, &[0x5e, 0, 0, 0, 0, 0, 0, 0, 8]] {
        assert_eq!(rig.status(2, kept_out), Status::ReservationConflict, "{kept_out:02x?}");
    }
    assert_eq!(rig.status(2, &[0x12, 0, 0, 0, 36]), Status::Good);
    assert_eq!(rig.status(1, WRITE), Status::Good);
    assert_eq!(rig.status(2, release), Status::Good, "no error, no effect");
    assert_eq!(rig.status(2, READ), Status::ReservationConflict);
    rig.conflict(1, REGISTER, 0, (0, 1)); // the two kinds do not mix
    rig.unit.reservations.nexus_lost(&port(2));
    assert_eq!(rig.status(2, READ), Status::ReservationConflict);
    rig.unit.reservations.nexus_lost(&port(1));
    assert_eq!(rig.status(2, READ), Status::Good);
    assert_eq!(rig.status(2, reserve), Status::Good);
    rig.unit.reservations.reset();
    assert_eq!(rig.status(1, READ), Status::Good);
    rig.register(1, 1);
    assert_eq!(rig.status(1, reserve), Status::ReservationConflict);
}
