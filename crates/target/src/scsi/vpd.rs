//! Vital product data (SPC-4 section 7.8, SBC-3 section 6.6): pages 00h 80h 83h B0h B1h B2h.

use super::inquiry::VENDOR;
use super::nexus::{MAX_ATOMIC, MAX_COMPARE, MAX_TRANSFER, MAX_WRITE_SAME};
use super::report::RELATIVE_PORT;
use super::sense::Sense;
use super::unmap::{MAX_BLOCKS, MAX_DESCRIPTORS};
use crate::block_device::Geometry;
use crate::iscsi::login::PORTAL_GROUP;

const PAGES: [u8; 6] = [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2];
/// Blocks of the pool's 4 KiB block: the granularity of transfers and unmaps.
const GRANULARITY: u16 = 8;
/// Optimal transfer: 1 MiB, one entry of the replicated log.
const OPTIMAL: u32 = 2048;

pub(super) fn page(page: u8, peripheral: u8, target: &str, geometry: &Geometry) -> Result<Vec<u8>, Sense> {
    let body = match page {
        0x00 => PAGES.to_vec(),
        0x80 => geometry.serial.as_bytes().to_vec(),
        0x83 => designators(target, geometry),
        0xb0 => block_limits(),
        0xb1 => characteristics(),
        0xb2 => provisioning(),
        _ => return Err(Sense::field(2)),
    };
    let mut out = vec![peripheral, page];
    out.extend((body.len() as u16).to_be_bytes());
    out.extend(body);
    Ok(out)
}

/// Device identification (SPC-4 section 7.8.6). The names derive from the volume's uuid alone, so that they are the
/// same on every target, node and after every move.
fn designators(target: &str, geometry: &Geometry) -> Vec<u8> {
    let mut out = Vec::new();
    // Designator header: protocol and code set; PIV, association and type; reserved; length.
    let mut put = |code: u8, kind: u8, body: &[u8]| {
        out.extend([code, kind, 0, body.len() as u8]);
        out.extend(body);
    };
    put(0x01, 0x03, &naa(geometry));
    // T10 vendor id based: vendor and serial.
    let mut t10 = VENDOR.to_vec();
    t10.extend(geometry.serial.bytes().take(64));
    put(0x02, 0x01, &t10);
    // Relative target port, and the target port group that it is in (SPC-4 section 7.8.6.7, 7.8.6.8).
    put(0x51, 0x94, &[0, 0, 0, RELATIVE_PORT]);
    put(0x51, 0x95, &[0, 0, 0, PORTAL_GROUP as u8]);
    // Target port name, "iqn...,t,0x0001", NUL-terminated and padded to words (SPC-4 section 7.6.4.4.4).
    let mut name = format!("{target},t,0x{PORTAL_GROUP:04x}").into_bytes();
    name.resize((name.len() + 4) & !3, 0);
    put(0x53, 0x98, &name);
    out
}

/// NAA 3h, locally assigned: there is no registered OUI. 60 bits of the uuid.
pub(super) fn naa(geometry: &Geometry) -> [u8; 8] {
    let mut naa = [0; 8];
    naa.copy_from_slice(&geometry.naa[..8]);
    naa[0] = 0x30 | naa[0] & 0x0f;
    naa
}

/// Block limits (SBC-3 section 6.6.3).
fn block_limits() -> Vec<u8> {
    let mut b = vec![0; 0x3c];
    b[0] = 0x01; // WSNZ: WRITE SAME of zero blocks is refused
    b[1] = MAX_COMPARE;
    b[2..4].copy_from_slice(&GRANULARITY.to_be_bytes());
    b[4..8].copy_from_slice(&MAX_TRANSFER.to_be_bytes());
    b[8..12].copy_from_slice(&OPTIMAL.to_be_bytes());
    b[16..20].copy_from_slice(&MAX_BLOCKS.to_be_bytes());
    b[20..24].copy_from_slice(&MAX_DESCRIPTORS.to_be_bytes());
    b[24..28].copy_from_slice(&u32::from(GRANULARITY).to_be_bytes());
    b[28] = 0x80; // UGAVALID, alignment 0
    b[32..40].copy_from_slice(&MAX_WRITE_SAME.to_be_bytes());
    b[40..44].copy_from_slice(&MAX_ATOMIC.to_be_bytes()); // alignment and granularity 0: any; no boundaries
    b
}

/// Block device characteristics (SBC-3 section 6.6.2): not rotating, so that schedulers do not sort for a disk arm.
fn characteristics() -> Vec<u8> {
    let mut b = vec![0; 0x3c];
    b[1] = 0x01;
    b
}

/// Logical block provisioning (SBC-3 section 6.6.4): UNMAP and both WRITE SAME unmap, unmapped reads as zeroes, thin.
fn provisioning() -> Vec<u8> {
    vec![0, 0x80 | 0x40 | 0x20 | 0x04, 0x02, 0]
}
