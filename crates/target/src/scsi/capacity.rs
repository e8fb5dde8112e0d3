//! READ CAPACITY and READ DEFECT DATA parameter data (SBC-3 sections 5.15-5.18).

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
