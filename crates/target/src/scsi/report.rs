//! REPORT LUNS (SPC-4 section 6.33), REPORT SUPPORTED OPERATION CODES (section 6.35) and REPORT TARGET PORT GROUPS
//! (section 6.37).

use super::opcodes::{OPERATIONS, Operation, lines};
use super::sense::Sense;
use crate::iscsi::login::PORTAL_GROUP;

/// The relative port identifier of the one target port.
pub(super) const RELATIVE_PORT: u8 = 1;

/// LUN 0, or nothing when only well known units are asked for.
pub(super) fn luns(select: u8) -> Vec<u8> {
    let mut out = vec![0; if select == 1 { 8 } else { 16 }];
    out[3] = (out.len() - 8) as u8;
    out
}

/// The one group with its one port: active/optimized, the only state there is. Whether the volume can be used at the moment is
/// the group's matter and no path's: another portal of this target leads to the same place.
pub(super) fn port_groups(extended: bool) -> Vec<u8> {
    let mut out = vec![0; 4];
    if extended {
        out.extend([0x10, 0, 0, 0]); // format 001b, no implicit transition time
    }
    // State 0h; AO_SUP; group; no status code; one port.
    out.extend([0x00, 0x01, 0, PORTAL_GROUP as u8, 0, 0x00, 0, 1]);
    out.extend([0, 0, 0, RELATIVE_PORT]);
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// Command timeouts descriptor: no limits are told (SPC-4 section 6.35.4).
const TIMEOUTS: [u8; 12] = [0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub(super) fn opcodes(timeouts: bool, options: u8, opcode: u8, action: u16) -> Result<Vec<u8>, Sense> {
    let found = lines(opcode);
    let has_actions = found.iter().any(|o| o.action.is_some());
    let with_action = || found.iter().find(|o| o.action.map(u16::from) == Some(action));
    match options {
        0 => Ok(all(timeouts)),
        1 if has_actions => Err(Sense::bit(2, 2)),
        1 => Ok(one(found.first(), timeouts)),
        2 if !found.is_empty() && !has_actions => Err(Sense::bit(2, 2)),
        2 => Ok(one(with_action(), timeouts)),
        // 3: with a service action where the code has such, without (and 0) where it has none
        3 if has_actions => Ok(one(with_action(), timeouts)),
        3 => Ok(one(found.first().filter(|_| action == 0), timeouts)),
        _ => Err(Sense::bit(2, 2)),
    }
}

fn all(timeouts: bool) -> Vec<u8> {
    let mut out = vec![0; 4];
    for o in OPERATIONS {
        let flags = u8::from(o.action.is_some()) | u8::from(timeouts) << 1; // SERVACTV, CTDP
        out.extend([o.opcode, 0, 0, o.action.unwrap_or(0), 0, flags, 0, o.usage.len() as u8]);
        if timeouts {
            out.extend(TIMEOUTS);
        }
    }
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

fn one(found: Option<&Operation>, timeouts: bool) -> Vec<u8> {
    let Some(o) = found else { return vec![0, 0x01, 0, 0] }; // SUPPORT 001b: not supported
    let mut out = vec![0, 0x03 | u8::from(timeouts) << 7, 0, o.usage.len() as u8]; // 011b: as the standard says
    out.extend(o.usage);
    if timeouts {
        out.extend(TIMEOUTS);
    }
    out
}
