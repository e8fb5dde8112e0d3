//! Initiator ports: who a command, a registration or a reservation belongs to.

use serde::{Deserialize, Serialize};

/// Protocol identifier of iSCSI (SPC-4 section 7.6.1).
const ISCSI: u8 = 0x05;
/// TransportID format 01b: a name with an ISID.
const WITH_ISID: u8 = 0x40;
/// What stands between name and ISID.
const SEPARATOR: &[u8] = b",i,0x";
/// Longest iSCSI name (RFC 7143 section 4.2.7.2).
const MAX_NAME: usize = 223;

/// An iSCSI initiator port. With the one target port it makes the I_T nexus, which outlives sessions: a session of the same
/// name and ISID is the same nexus (RFC 7143 section 4.4.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InitiatorPort {
    /// InitiatorName.
    pub name: String,
    /// Initiator session id.
    pub isid: [u8; 6],
}

impl InitiatorPort {
    /// A port.
    pub fn new(name: &str, isid: [u8; 6]) -> Self {
        Self { name: name.to_owned(), isid }
    }

    /// The iSCSI TransportID (SPC-4 section 7.6.4.6):
    ///
    /// ```text
    /// 45h | 0 | length of the rest, be16 | NAME ",i,0x" ISID in 12 hexadecimal digits, NUL, padded to words
    /// ```
    pub(super) fn transport_id(&self) -> Vec<u8> {
        let mut out = vec![ISCSI | WITH_ISID, 0, 0, 0];
        out.extend(self.name.bytes());
        out.extend(SEPARATOR);
        out.extend(data_encoding::HEXLOWER.encode(&self.isid).bytes());
        out.resize((out.len() + 4) & !3, 0);
        let length = (out.len() - 4) as u16;
        out[2..4].copy_from_slice(&length.to_be_bytes());
        out
    }

    /// The first TransportID of a list, and its length. `None`: not one of an iSCSI initiator port. A name without ISID
    /// (format 00b) means all ports of a device, which nobody could log in as.
    pub(super) fn from_transport_id(bytes: &[u8]) -> Option<(Self, usize)> {
        let (head, rest) = bytes.split_at_checked(4)?;
        if head[0] != ISCSI | WITH_ISID {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let text = rest.get(..length)?;
        let text = &text[..text.iter().position(|b| *b == 0)?];
        let at = text.windows(SEPARATOR.len()).position(|w| w.eq_ignore_ascii_case(SEPARATOR))?;
        let name = std::str::from_utf8(&text[..at]).ok().filter(|name| !name.is_empty() && name.len() <= MAX_NAME)?;
        let isid = data_encoding::HEXLOWER_PERMISSIVE.decode(&text[at + SEPARATOR.len()..]).ok()?;
        Some((Self::new(name, isid.try_into().ok()?), 4 + length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transport_ids_survive_a_round_trip() {
        let port = InitiatorPort::new("iqn.2026-01.example:host", [0x80, 0, 0, 0xab, 0xcd, 1]);
        let mut bytes = port.transport_id();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(&bytes[..2], [0x45, 0]);
        assert!(bytes.ends_with(b",i,0x80000000abcd01\0") || bytes.ends_with(&[0, 0]));
        let length = bytes.len();
        bytes.extend([1, 2, 3]);
        assert_eq!(InitiatorPort::from_transport_id(&bytes), Some((port, length)));
    }

    #[test]
    fn what_is_no_initiator_port_is_refused() {
        let good = InitiatorPort::new("iqn.x:y", [1; 6]).transport_id();
        for cut in 0..good.len() {
            assert_eq!(InitiatorPort::from_transport_id(&good[..cut]), None, "cut at {cut}");
        }
        let mut other = good.clone();
        other[0] = 0x05; // a device's name
        assert_eq!(InitiatorPort::from_transport_id(&other), None);
        other[0] = 0x06; // SAS
        assert_eq!(InitiatorPort::from_transport_id(&other), None);
    }
}
