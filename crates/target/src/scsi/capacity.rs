//! READ CAPACITY, READ DEFECT DATA and GET LBA STATUS parameter data (SBC-3 sections 5.4, 5.15-5.18).

use crate::block_device::Extent;

/// Physical blocks are 4 KiB: 2^3 logical ones.
pub(super) const PHYSICAL_EXPONENT: u8 = 3;

pub(super) fn read_capacity10(blocks: u64) -> Vec<u8> {
    // A last LBA that does not fit is FFFFFFFFh: the initiator then asks with READ CAPACITY(16).
    let last = u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    [last.to_be_bytes(), 512u32.to_be_bytes()].concat()
}

pub(super) fn read_capacity16(blocks: u64) -> Vec<u8> {
    let mut b = vec![0; 32];
    b[..8].copy_from_slice(&blocks.saturating_sub(1).to_be_bytes());
    b[8..12].copy_from_slice(&512u32.to_be_bytes());
    b[13] = PHYSICAL_EXPONENT; // P_I_EXPONENT 0
    b[14] = 0xc0; // LBPME: thin provisioned; LBPRZ: unmapped blocks read as zeroes; aligned at LBA 0
    b
}

/// Empty defect lists, in the format that was asked for: defects are the pool's business.
pub(super) fn read_defects(short: bool, lists: u8) -> Vec<u8> {
    if short { vec![0, lists, 0, 0] } else { vec![0, lists, 0, 0, 0, 0, 0, 0] }
}

/// LBA status descriptors (SBC-3 section 5.4.2): LBA, blocks, provisioning status 0h mapped or 1h deallocated.
pub(super) fn lba_status<'a>(mut lba: u64, extents: impl Iterator<Item = &'a Extent>) -> Vec<u8> {
    let mut out = vec![0; 8];
    for extent in extents {
        // A descriptor may tell less than there is; the initiator asks again from its end.
        let blocks = u32::try_from(extent.len / 512).unwrap_or(!7);
        out.extend(lba.to_be_bytes());
        out.extend(blocks.to_be_bytes());
        out.extend([u8::from(!extent.mapped), 0, 0, 0]);
        lba += u64::from(blocks);
        if u64::from(blocks) * 512 != extent.len {
            break;
        }
    }
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}
