//! MODE SENSE and MODE SELECT (SPC-4 sections 6.11-6.14): pages 01h, 08h, 0Ah, 1Ch. Nothing is changeable.

use super::command::{Command, ModeForm};
use super::sense::{Sense, code};
use super::unit::UnitState;

/// Read-write error recovery (SBC-3 section 6.5.9): all defaults.
const RECOVERY: [u8; 12] = [0x01, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Caching (SBC-3 section 6.5.5): WCE=0, writes are durable when they are answered.
const CACHING: [u8; 20] = [0x08, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Control (SPC-4 section 7.5.8): one task set, commands may be reordered, fixed sense, no busy limit.
const CONTROL: [u8; 12] = [0x0a, 0x0a, 0, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
/// Informational exceptions control (SPC-4 section 7.5.14): DEXCPT, none are reported.
const EXCEPTIONS: [u8; 12] = [0x1c, 0x0a, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0];

const PAGES: [&[u8]; 4] = [&RECOVERY, &CACHING, &CONTROL, &EXCEPTIONS];
const ALL: u8 = 0x3f;

/// SWP (software write protect) stands in the control page's byte 4, WP in the header.
fn current(page: &[u8], state: UnitState) -> Vec<u8> {
    let mut out = page.to_vec();
    if page[0] == 0x0a && state.read_only {
        out[4] |= 0x08;
    }
    out
}

pub(super) fn sense(command: &Command, state: UnitState) -> Result<Vec<u8>, Sense> {
    let Command::ModeSense { form, no_descriptor, long_lba, control, page, subpage, .. } = *command else {
        return Err(Sense::illegal(code::INVALID_OPCODE));
    };
    if control == 3 {
        return Err(Sense::illegal(code::NO_SAVING));
    }
    // Only subpage 00h exists; FFh asks for all subpages.
    if subpage != 0 && subpage != 0xff {
        return Err(Sense::field(3));
    }
    let mut pages = Vec::new();
    for p in PAGES.iter().filter(|p| page == ALL || p[0] == page) {
        match control {
            1 => pages.extend(p[..2].iter().copied().chain(std::iter::repeat_n(0, p.len() - 2))), // changeable
            _ => pages.extend(current(p, state)),
        }
    }
    if pages.is_empty() {
        return Err(Sense::bit(2, 5));
    }
    let descriptor = match (no_descriptor, long_lba) {
        (true, _) => Vec::new(),
        (false, false) => short_descriptor(state.blocks),
        (false, true) => {
            let mut d = state.blocks.to_be_bytes().to_vec();
            d.extend([0; 4]);
            d.extend(512u32.to_be_bytes());
            d
        }
    };
    // WP, and DPOFUA: both bits are accepted.
    let specific = u8::from(state.read_only) << 7 | 0x10;
    let mut out = match form {
        ModeForm::Six => vec![(3 + descriptor.len() + pages.len()) as u8, 0, specific, descriptor.len() as u8],
        ModeForm::Ten => {
            let len = ((6 + descriptor.len() + pages.len()) as u16).to_be_bytes();
            vec![len[0], len[1], 0, specific, u8::from(long_lba), 0, 0, descriptor.len() as u8]
        }
    };
    out.extend(descriptor);
    out.extend(pages);
    Ok(out)
}

fn short_descriptor(blocks: u64) -> Vec<u8> {
    let count = u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes();
    [count, 512u32.to_be_bytes()].concat()
}

/// MODE SELECT: a list that says what is already so is accepted, anything else refused.
pub(super) fn select(form: ModeForm, length: u32, list: &[u8], state: UnitState) -> Result<(), Sense> {
    if length == 0 {
        return Ok(());
    }
    let (header, descriptors) = match form {
        ModeForm::Six if list.len() >= 4 => (4, usize::from(list[3])),
        ModeForm::Ten if list.len() >= 8 => (8, usize::from(u16::from_be_bytes([list[6], list[7]]))),
        _ => return Err(Sense::illegal(code::LIST_LENGTH)),
    };
    let wrong = |at: usize| Sense::parameter(u16::try_from(at).unwrap_or(0));
    let mut rest = list.get(header + descriptors..).ok_or(Sense::illegal(code::LIST_LENGTH))?;
    if !matches!(descriptors, 0 | 8 | 16) {
        return Err(wrong(header - 1));
    }
    if descriptors > 0 {
        let size = header + descriptors - 3; // the low 24 bits of the block length
        if list[size..size + 3] != [0, 2, 0] {
            return Err(wrong(size));
        }
    }
    while let Some(first) = rest.first() {
        let at = list.len() - rest.len();
        let page = PAGES.iter().find(|p| p[0] == first & 0x7f).ok_or(wrong(at))?;
        let now = current(page, state);
        let asked = rest.get(..now.len()).ok_or(Sense::illegal(code::LIST_LENGTH))?;
        if let Some(i) = (1..now.len()).find(|i| asked[*i] != now[*i]) {
            return Err(wrong(at + i));
        }
        rest = &rest[now.len()..];
    }
    Ok(())
}
