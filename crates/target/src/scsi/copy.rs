//! EXTENDED COPY(LID1) within the unit (SPC-4 sections 6.4, 5.16.7) and RECEIVE COPY RESULTS (section 6.24).
//!
//! ```text
//!  0  list id | 1 STR, list id usage, priority | 2 length of CSCD descriptors | 8 length of segment descriptors
//! 12  length of inline data
//! 16  CSCD descriptors, 32 bytes each:     E4h | type | port | designator (4) | .. | 28 block length
//!     segment descriptors, 28 bytes each:  02h | DC, CAT | 24 | source, destination | blocks | 12 LBA | 20 LBA
//! ```
//! The only copy source and destination is the unit itself, named by its NAA designator; that is what a hypervisor uses to
//! clone and move disks of one volume without carrying the data. A copy is done when its command is answered; what came of
//! the newest ones is held, once, for RECEIVE COPY STATUS.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::port::InitiatorPort;
use super::sense::{Sense, SenseKey, code};

const HEADER: usize = 16;
const CSCD: usize = 32;
const SEGMENT: usize = 28;
/// Identification descriptor CSCD descriptor.
const BY_DESIGNATOR: u8 = 0xe4;
/// Copy from block device to block device.
const BLOCK_TO_BLOCK: u8 = 0x02;
const MAX_CSCD: usize = 4;
const MAX_SEGMENTS: usize = 16;
/// Longest list of descriptors.
const MAX_DESCRIPTORS: usize = MAX_CSCD * CSCD + MAX_SEGMENTS * SEGMENT;
/// Longest parameter list; without inline data.
pub(super) const MAX_LIST: u32 = (HEADER + MAX_DESCRIPTORS) as u32;
/// Blocks of one segment: its field has 16 bits.
const MAX_SEGMENT_BLOCKS: u32 = u16::MAX as u32;

/// Results held for all initiators together.
const MAX_HELD: usize = 64;

/// A parsed list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) segments: Vec<Segment>,
    /// The list id under which the result is held, if it is.
    pub(super) held: Option<u8>,
}

/// How far a copy came.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Progress {
    pub(super) segments: u16,
    pub(super) bytes: u64,
}

/// Results of copies, for RECEIVE COPY STATUS (SPC-4 section 6.24.2).
#[derive(Debug, Default)]
pub(super) struct CopyResults(Mutex<VecDeque<Held>>);

#[derive(Debug)]
struct Held {
    port: InitiatorPort,
    list_id: u8,
    good: bool,
    done: Progress,
}

impl CopyResults {
    /// Holds a result; an older one of the same list id is forgotten.
    pub(super) fn hold(&self, port: &InitiatorPort, list_id: u8, good: bool, done: Progress) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|old| (&old.port, old.list_id) != (port, list_id));
        if held.len() >= MAX_HELD {
            held.pop_front();
        }
        held.push_back(Held { port: port.clone(), list_id, good, done });
    }

    /// Tells a result, once.
    pub(super) fn take(&self, port: &InitiatorPort, list_id: u8) -> Option<Vec<u8>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = held.iter().position(|old| (&old.port, old.list_id) == (port, list_id))?;
        let result = held.remove(at)?;
        let mut out = vec![0, 0, 0, 8, if result.good { 0x01 } else { 0x02 }];
        out.extend(result.done.segments.to_be_bytes());
        out.push(0x01); // transfer count in KiB
        out.extend(u32::try_from(result.done.bytes / 1024).unwrap_or(u32::MAX).to_be_bytes());
        Some(out)
    }
}

/// One run to copy, in logical blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) blocks: u32,
}

fn be16(b: &[u8], at: usize) -> usize {
    usize::from(b[at]) << 8 | usize::from(b[at + 1])
}

fn be64(b: &[u8], at: usize) -> u64 {
    b[at..at + 8].iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

const fn aborted(code: u16) -> Sense {
    Sense::new(SenseKey::CopyAborted, code)
}

/// Takes a parameter list apart; `naa` is the unit's own designator.
pub(super) fn parse(list: &[u8], length: u32, naa: &[u8; 8], capacity: u64) -> Result<Copy, Sense> {
    if length == 0 {
        return Ok(Copy::default()); // nothing to do, and no error
    }
    let wrong_length = Sense::illegal(code::LIST_LENGTH);
    let (header, descriptors) = list.split_at_checked(HEADER).ok_or(wrong_length)?;
    let (targets, segments) = (be16(header, 2), be16(header, 10));
    if header[8..10] != [0, 0] || header[12..16] != [0; 4] || list.len() != length as usize {
        return Err(wrong_length);
    }
    let held = match header[1] >> 3 & 3 {
        0 | 2 => Some(header[0]),
        3 => None,
        _ => return Err(Sense::parameter(1)),
    };
    let whole = targets.is_multiple_of(CSCD);
    if !whole || targets + segments > descriptors.len() || targets + segments > MAX_DESCRIPTORS {
        return Err(wrong_length);
    }
    let (targets, segments) = (&descriptors[..targets], &descriptors[targets..targets + segments]);
    if targets.len() > MAX_CSCD * CSCD {
        return Err(Sense::illegal(code::TOO_MANY_TARGETS));
    }
    let usable = targets.chunks(CSCD).map(|target| is_this_unit(target, naa)).collect::<Result<Vec<_>, _>>()?;
    let mut found = Vec::new();
    let mut rest = segments;
    while !rest.is_empty() {
        if found.len() >= MAX_SEGMENTS {
            return Err(Sense::illegal(code::TOO_MANY_SEGMENTS));
        }
        if rest[0] != BLOCK_TO_BLOCK {
            return Err(Sense::illegal(code::UNKNOWN_SEGMENT));
        }
        let (segment, after) = rest.split_at_checked(SEGMENT).ok_or(wrong_length)?;
        if be16(segment, 2) != SEGMENT - 4 {
            return Err(Sense::parameter((list.len() - rest.len() + 2) as u16));
        }
        found.push((be16(segment, 4), be16(segment, 6), segment));
        rest = after;
    }
    let copies = found.into_iter().map(|(source, destination, segment)| {
        if !(usable.get(source) == Some(&true) && usable.get(destination) == Some(&true)) {
            return Err(aborted(code::COPY_TARGET_UNREACHABLE));
        }
        let copy = Segment { blocks: be16(segment, 10) as u32, from: be64(segment, 12), to: be64(segment, 20) };
        let fits = |lba: u64| lba.checked_add(copy.blocks.into()).is_some_and(|end| end <= capacity);
        if fits(copy.from) && fits(copy.to) { Ok(copy) } else { Err(aborted(code::NONE)) }
    });
    Ok(Copy { segments: copies.collect::<Result<_, _>>()?, held })
}

/// Whether a CSCD descriptor names this unit. One that names another one is no error until a segment uses it. LU ID TYPE and
/// NUL, in byte 1, are obsolete.
fn is_this_unit(target: &[u8], naa: &[u8; 8]) -> Result<bool, Sense> {
    if target[0] != BY_DESIGNATOR {
        return Err(Sense::illegal(code::UNKNOWN_TARGET));
    }
    let by_naa = target[4] & 0x0f == 1 && target[5] & 0x3f == 3 && target[7] == 8;
    Ok(by_naa && target[8..16] == naa[..] && target[29..32] == [0, 2, 0])
}

/// Operating parameters (SPC-4 section 6.24.4).
pub(super) fn operating_parameters() -> Vec<u8> {
    let mut b = vec![0; 44];
    b[4] = 0x01; // SNLID: the list id is not needed
    b[8..10].copy_from_slice(&(MAX_CSCD as u16).to_be_bytes());
    b[10..12].copy_from_slice(&(MAX_SEGMENTS as u16).to_be_bytes());
    b[12..16].copy_from_slice(&(MAX_DESCRIPTORS as u32).to_be_bytes());
    b[16..20].copy_from_slice(&(MAX_SEGMENT_BLOCKS * 512).to_be_bytes());
    // No inline data, no held data; as many copies at a time as there are commands (255 says the field).
    b[34..36].copy_from_slice(&255u16.to_be_bytes());
    b[36] = 255;
    b[37] = 9; // data segment granularity: 2^9
    b[43] = 2;
    b.extend([BLOCK_TO_BLOCK, BY_DESIGNATOR]);
    let length = (b.len() - 4) as u32;
    b[..4].copy_from_slice(&length.to_be_bytes());
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAA: [u8; 8] = [0x35, 1, 2, 3, 4, 5, 6, 7];

    fn list(targets: &[u8], segments: &[(u8, u64, u64, u16)]) -> Vec<u8> {
        let mut out = vec![0; HEADER];
        out[2..4].copy_from_slice(&((targets.len() * CSCD) as u16).to_be_bytes());
        out[10..12].copy_from_slice(&((segments.len() * SEGMENT) as u16).to_be_bytes());
        for kind in targets {
            let mut t = [0; CSCD];
            (t[0], t[4], t[5], t[7], t[30]) = (*kind, 1, 3, 8, 2);
            t[8..16].copy_from_slice(&NAA);
            out.extend(t);
        }
        for (destination, from, to, blocks) in segments {
            let mut s = [0; SEGMENT];
            (s[0], s[3], s[7]) = (2, 24, *destination);
            s[10..12].copy_from_slice(&blocks.to_be_bytes());
            s[12..20].copy_from_slice(&from.to_be_bytes());
            s[20..28].copy_from_slice(&to.to_be_bytes());
            out.extend(s);
        }
        out
    }

    fn parsed(list: &[u8]) -> Result<Vec<Segment>, (SenseKey, u16)> {
        let parsed = parse(list, list.len() as u32, &NAA, 1000);
        parsed.map(|copy| copy.segments).map_err(|sense| (sense.key, sense.code))
    }

    const US: u8 = BY_DESIGNATOR;

    #[test]
    fn segments_of_the_unit_itself() {
        let good = list(&[US], &[(0, 10, 500, 100), (0, 0, 999, 1)]);
        let copy = |from, to, blocks| Segment { from, to, blocks };
        assert_eq!(parsed(&good), Ok(vec![copy(10, 500, 100), copy(0, 999, 1)]));
        assert_eq!(parsed(&[]), Ok(vec![]));
    }

    #[test]
    fn everything_else_is_refused() {
        let illegal = |code| Err((SenseKey::IllegalRequest, code));
        let good = list(&[US], &[(0, 10, 500, 100)]);
        for cut in 1..good.len() {
            assert_eq!(parsed(&good[..cut]), illegal(code::LIST_LENGTH), "cut at {cut}");
        }
        assert_eq!(parsed(&list(&[US; MAX_CSCD + 1], &[(0, 0, 1, 1)])), illegal(code::TOO_MANY_TARGETS));
        assert_eq!(parsed(&list(&[US], &[(0, 0, 1, 1); MAX_SEGMENTS + 1])), illegal(code::TOO_MANY_SEGMENTS));
        let both = list(&[US; MAX_CSCD + 1], &[(0, 0, 1, 1); MAX_SEGMENTS + 1]);
        assert_eq!(parsed(&both), illegal(code::LIST_LENGTH));
        assert_eq!(parsed(&list(&[0xe0], &[(0, 0, 1, 1)])), illegal(code::UNKNOWN_TARGET));
        let mut other = good.clone();
        other[HEADER + CSCD] = 0x03;
        assert_eq!(parsed(&other), illegal(code::UNKNOWN_SEGMENT));
    }

    #[test]
    fn what_cannot_be_copied_aborts_the_copy() {
        let unreachable = Err((SenseKey::CopyAborted, code::COPY_TARGET_UNREACHABLE));
        assert_eq!(parsed(&list(&[US], &[(1, 0, 1, 1)])), unreachable);
        let mut other = list(&[US], &[(0, 0, 1, 1)]);
        other[HEADER + 9] ^= 1; // another unit
        assert_eq!(parsed(&other), unreachable);
        for (from, to) in [(999, 0), (0, 999), (u64::MAX, 0)] {
            assert_eq!(parsed(&list(&[US], &[(0, from, to, 2)])), Err((SenseKey::CopyAborted, code::NONE)));
        }
    }
}
