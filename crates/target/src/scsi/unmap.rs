//! UNMAP's parameter list (SBC-3 section 5.28).
//!
//! ```text
//! 0..2 data length | 2..4 block descriptor data length | 4..8 reserved | 16-byte descriptors: LBA 8, blocks 4, 4
//! ```

use super::sense::{Sense, code};

/// Most blocks of one UNMAP (512 MiB), told in VPD B0h; bounds how long one command takes.
pub(super) const MAX_BLOCKS: u32 = 1024 * 1024;
/// Most descriptors of one UNMAP, told in VPD B0h; one 4 KiB page of them.
pub(super) const MAX_DESCRIPTORS: u32 = 255;

/// The ranges to unmap; all are checked before the first is touched.
pub(super) fn ranges(list: &[u8], capacity: u64) -> Result<Vec<(u64, u32)>, Sense> {
    if list.is_empty() {
        return Ok(Vec::new()); // a list length of zero is not an error
    }
    if list.len() < 8 {
        return Err(Sense::illegal(code::LIST_LENGTH));
    }
    let length = usize::from(u16::from_be_bytes([list[2], list[3]]));
    let descriptors = list.get(8..8 + length).ok_or(Sense::illegal(code::LIST_LENGTH))?;
    let mut out = Vec::with_capacity(descriptors.len() / 16);
    let mut total = 0u64;
    // A last descriptor that is not whole is ignored.
    for d in descriptors.chunks_exact(16) {
        let word = |at: usize| u32::from_be_bytes([d[at], d[at + 1], d[at + 2], d[at + 3]]);
        let lba = u64::from(word(0)) << 32 | u64::from(word(4));
        let blocks = word(8);
        if lba > capacity || u64::from(blocks) > capacity - lba {
            return Err(Sense::illegal(code::OUT_OF_RANGE).at(lba));
        }
        total += u64::from(blocks);
        if blocks > 0 {
            out.push((lba, blocks));
        }
    }
    if total > u64::from(MAX_BLOCKS) || descriptors.len() / 16 > MAX_DESCRIPTORS as usize {
        return Err(Sense::parameter(8));
    }
    Ok(merged(out))
}

/// Ranges that touch or overlap become one: initiators send many neighbours, and each costs an entry of the log.
fn merged(mut ranges: Vec<(u64, u32)>) -> Vec<(u64, u32)> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let (start, end) = (next.0, next.0 + u64::from(next.1));
        let touches = start <= last.0 + u64::from(last.1);
        if touches {
            // At most MAX_BLOCKS in all.
            last.1 = last.1.max((end - last.0) as u32);
        }
        touches
    });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(ranges: &[(u64, u32)]) -> Vec<u8> {
        let n = ranges.len() as u16 * 16;
        let mut out = Vec::new();
        out.extend((n + 6).to_be_bytes());
        out.extend(n.to_be_bytes());
        out.extend([0; 4]);
        for (lba, blocks) in ranges {
            out.extend(lba.to_be_bytes());
            out.extend(blocks.to_be_bytes());
            out.extend([0; 4]);
        }
        out
    }

    #[test]
    fn lists() {
        assert_eq!(ranges(&[], 100), Ok(vec![]));
        assert_eq!(ranges(&[0; 7], 100), Err(Sense::illegal(code::LIST_LENGTH)));
        assert_eq!(ranges(&list(&[(0, 8), (5, 0), (92, 8)]), 100), Ok(vec![(0, 8), (92, 8)]));
        assert_eq!(ranges(&list(&[(8, 8), (90, 1), (0, 8), (4, 2), (16, 1)]), 100), Ok(vec![(0, 17), (90, 1)]));
        assert_eq!(ranges(&list(&[(0, 8), (93, 8)]), 100), Err(Sense::illegal(code::OUT_OF_RANGE).at(93)));
        assert_eq!(ranges(&list(&[(u64::MAX, 1)]), 100), Err(Sense::illegal(code::OUT_OF_RANGE).at(u64::MAX)));
        assert_eq!(ranges(&list(&[(0, MAX_BLOCKS), (0, 1)]), 1 << 40), Err(Sense::parameter(8)));
        let mut cut = list(&[(0, 8), (8, 8)]);
        cut.truncate(30);
        assert_eq!(ranges(&cut, 100), Err(Sense::illegal(code::LIST_LENGTH)));
    }

    proptest! {
        #[test]
        fn arbitrary_lists_never_leave_the_unit(bytes in prop::collection::vec(any::<u8>(), 0..200), capacity: u64) {
            for (lba, blocks) in ranges(&bytes, capacity).unwrap_or_default() {
                prop_assert!(lba.checked_add(blocks.into()).is_some_and(|end| end <= capacity));
            }
        }
    }
}
