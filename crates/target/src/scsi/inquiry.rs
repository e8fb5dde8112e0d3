//! INQUIRY (SPC-4 section 6.6): standard data; vital product data is in `vpd`.

use super::sense::Sense;
use super::vpd;
use crate::block_device::Geometry;

/// T10 vendor identification.
pub(super) const VENDOR: &[u8; 8] = b"BALLAST ";
const PRODUCT: &[u8; 16] = b"VOLUME          ";
const REVISION: &[u8; 4] = b"0001";

/// Version descriptors (SPC-4 table 146): SAM-5, iSCSI, SPC-4, SBC-3.
const VERSIONS: [u16; 4] = [0x00a0, 0x0960, 0x0460, 0x04c0];

pub(super) fn inquiry(page: Option<u8>, exists: bool, target: &str, geometry: &Geometry) -> Result<Vec<u8>, Sense> {
    // A LUN without a unit: qualifier 011b, type 1Fh.
    let peripheral = if exists { 0x00 } else { 0x7f };
    match page {
        None => Ok(standard(peripheral)),
        Some(page) => vpd::page(page, peripheral, target, geometry),
    }
}

fn standard(peripheral: u8) -> Vec<u8> {
    let mut b = vec![0; 96];
    b[0] = peripheral;
    b[2] = 0x06; // SPC-4
    b[3] = 0x12; // HISUP, response data format 2
    b[4] = (96 - 5) as u8;
    // TPGS 01b: asymmetric access is implicit, REPORT TARGET PORT GROUPS tells it; 3PC: EXTENDED COPY
    b[5] = 0x10 | 0x08;
    b[7] = 0x02; // CMDQUE
    b[8..16].copy_from_slice(VENDOR);
    b[16..32].copy_from_slice(PRODUCT);
    b[32..36].copy_from_slice(REVISION);
    for (i, version) in VERSIONS.iter().enumerate() {
        b[58 + 2 * i..60 + 2 * i].copy_from_slice(&version.to_be_bytes());
    }
    b
}
