//! Parameter data of PERSISTENT RESERVE IN (SPC-4 section 6.15) and OUT (section 6.16).
//!
//! ```text
//! OUT, all but REGISTER AND MOVE           REGISTER AND MOVE
//!  0  reservation key                       0  reservation key
//!  8  service action reservation key        8  service action reservation key
//! 20  SPEC_I_PT 08h | ALL_TG_PT 04h         17  UNREG 02h | APTPL 01h
//!     | APTPL 01h                           18  relative target port
//! 24  length, TransportIDs (SPEC_I_PT)      20  length of the TransportID
//!                                           24  TransportID
//! ```

use super::state::{Kind, MAX_REGISTRATIONS, Move, Register, State};
use crate::scsi::command::ReserveIn;
use crate::scsi::port::InitiatorPort;
use crate::scsi::report::RELATIVE_PORT;
use crate::scsi::sense::{Sense, code};

/// Length of a list without TransportIDs.
const BASIC: usize = 24;
const SPEC_I_PT: u8 = 0x08;

/// A parsed PERSISTENT RESERVE OUT.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReserveOut {
    Register(Register),
    Reserve { key: u64, kind: Kind },
    Release { key: u64, kind: Kind },
    Clear { key: u64 },
    Preempt { key: u64, victims: u64, kind: Kind, abort: bool },
    Move(Move),
}

fn be64(list: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&list[at..at + 8]);
    u64::from_be_bytes(bytes)
}

fn be32(list: &[u8], at: usize) -> usize {
    list[at..at + 4].iter().fold(0, |n, byte| n << 8 | usize::from(*byte))
}

/// Takes CDB and list apart; `length` is what the CDB says of the list.
pub(super) fn parse(action: u8, scope_and_type: u8, length: u32, list: &[u8]) -> Result<ReserveOut, Sense> {
    let wrong_length = || Sense::illegal(code::LIST_LENGTH);
    if list.len() < BASIC || list.len() != length as usize {
        return Err(wrong_length());
    }
    let (key, second) = (be64(list, 0), be64(list, 8));
    if action == 7 {
        return parse_move(key, second, list).map(ReserveOut::Move);
    }
    let flags = list[20];
    if flags & SPEC_I_PT != 0 && action != 0 {
        return Err(Sense::parameter(20));
    }
    if flags & SPEC_I_PT == 0 && list.len() != BASIC {
        return Err(wrong_length());
    }
    let kind = || Kind::from_cdb(scope_and_type);
    Ok(match action {
        0 | 6 => ReserveOut::Register(Register {
            key,
            new: second,
            ignore: action == 6,
            all_ports: flags & 0x04 != 0,
            persist: flags & 0x01 != 0,
            also: if flags & SPEC_I_PT != 0 { ports(&list[BASIC..])? } else { Vec::new() },
        }),
        1 => ReserveOut::Reserve { key, kind: kind()? },
        2 => ReserveOut::Release { key, kind: kind()? },
        3 => ReserveOut::Clear { key },
        4 | 5 => ReserveOut::Preempt { key, victims: second, kind: kind()?, abort: action == 5 },
        _ => return Err(Sense::bit(1, 4)),
    })
}

/// The TransportIDs behind a basic list.
fn ports(bytes: &[u8]) -> Result<Vec<InitiatorPort>, Sense> {
    let wrong = || Sense::parameter(BASIC as u16);
    let (_, mut rest) = bytes.split_at_checked(4).ok_or(Sense::illegal(code::LIST_LENGTH))?;
    if be32(bytes, 0) != rest.len() {
        return Err(wrong());
    }
    let mut ports = Vec::new();
    while !rest.is_empty() {
        let (port, length) = InitiatorPort::from_transport_id(rest).ok_or_else(wrong)?;
        if ports.contains(&port) || ports.len() >= MAX_REGISTRATIONS {
            return Err(wrong());
        }
        ports.push(port);
        rest = &rest[length..];
    }
    Ok(ports)
}

fn parse_move(key: u64, new: u64, list: &[u8]) -> Result<Move, Sense> {
    if list[18..20] != [0, RELATIVE_PORT] {
        return Err(Sense::parameter(18));
    }
    let id = &list[BASIC..];
    if be32(list, 20) != id.len() {
        return Err(Sense::illegal(code::LIST_LENGTH));
    }
    let (to, length) = InitiatorPort::from_transport_id(id).ok_or(Sense::parameter(BASIC as u16))?;
    if length != id.len() {
        return Err(Sense::illegal(code::LIST_LENGTH));
    }
    Ok(Move { key, new, unregister: list[17] & 0x02 != 0, persist: list[17] & 0x01 != 0, to })
}

/// What PERSISTENT RESERVE IN answers.
pub(super) fn report(state: &State, what: ReserveIn) -> Vec<u8> {
    if what == ReserveIn::Capabilities {
        // CRH=0; SIP_C, ATP_C, PTPL_C; TMV, PTPL_A; all types.
        return vec![0, 8, 0x08 | 0x04 | 0x01, 0x80 | u8::from(state.persist), 0xea, 0x01, 0, 0];
    }
    let mut out = state.generation.to_be_bytes().to_vec();
    out.extend([0; 4]);
    match what {
        ReserveIn::Keys => state.registrations.iter().for_each(|r| out.extend(r.key.to_be_bytes())),
        ReserveIn::Reservation => {
            if let Some(reservation) = &state.reservation {
                out.extend(state.holders_key().to_be_bytes());
                out.extend([0, 0, 0, 0, 0, reservation.kind as u8, 0, 0]);
            }
        }
        ReserveIn::FullStatus => {
            for r in &state.registrations {
                let held = state.reservation.as_ref().filter(|_| state.holds(&r.port));
                out.extend(r.key.to_be_bytes());
                out.extend([0, 0, 0, 0, u8::from(r.all_ports) << 1 | u8::from(held.is_some())]);
                out.push(held.map_or(0, |reservation| reservation.kind as u8));
                out.extend([0, 0, 0, 0, 0, RELATIVE_PORT]);
                let id = r.port.transport_id();
                out.extend((id.len() as u32).to_be_bytes());
                out.extend(id);
            }
        }
        ReserveIn::Capabilities => {}
    }
    let length = (out.len() - 8) as u32;
    out[4..8].copy_from_slice(&length.to_be_bytes());
    out
}
