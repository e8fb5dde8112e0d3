//! Header and data digests: CRC32C (RFC 7143 section 13.1, polynomial 0x11edc6f41).
//!
//! The CRC goes on the wire least significant byte first, so that the bit order of section 13.1's definition holds.

use crc_fast::{CrcAlgorithm, Digest, checksum};

/// Which digests a connection uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digests {
    /// CRC32C over the header and its additional segments.
    pub header: bool,
    /// CRC32C over the data segment and its padding.
    pub data: bool,
}

/// CRC32C of one piece, as it stands on the wire.
pub fn crc32c(data: &[u8]) -> [u8; 4] {
    (checksum(CrcAlgorithm::Crc32Iscsi, data) as u32).to_le_bytes()
}

/// CRC32C over a data segment and `pad` zero bytes.
pub fn crc32c_padded(data: &[u8], pad: usize) -> [u8; 4] {
    if pad == 0 {
        return crc32c(data);
    }
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(data);
    digest.update(&[0; 3][..pad.min(3)]);
    (digest.finalize() as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_examples_of_rfc_7143_appendix_a() {
        assert_eq!(crc32c(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(crc32c(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
        let up: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&up), [0x4e, 0x79, 0xdd, 0x46]);
    }

    #[test]
    fn padding_counts() {
        assert_eq!(crc32c_padded(&[1, 2, 3, 4, 5], 3), crc32c(&[1, 2, 3, 4, 5, 0, 0, 0]));
        assert_eq!(crc32c_padded(&[1, 2, 3, 4], 0), crc32c(&[1, 2, 3, 4]));
    }
}
