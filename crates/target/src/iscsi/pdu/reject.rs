//! Reject (RFC 7143 section 11.17); its data segment is the header of the PDU that was rejected.

use super::{Bhs, Numbers, RESERVED_TAG, blank, opcode, put32};

/// Why a PDU was rejected (RFC 7143 section 11.17.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RejectReason {
    /// Data (payload) digest error.
    DataDigest = 0x02,
    /// SNACK reject: no recovery within commands at level 0.
    Snack = 0x03,
    /// Protocol error.
    Protocol = 0x04,
    /// Command not supported.
    Unsupported = 0x05,
    /// Too many immediate commands.
    TooManyImmediate = 0x06,
    /// Task in progress: the tag is in use.
    TaskInProgress = 0x07,
    /// Invalid PDU field.
    InvalidField = 0x09,
    /// Out of resources: no transfer tag could be given.
    OutOfResources = 0x0a,
    /// Waiting for logout.
    WaitingForLogout = 0x0c,
}

/// Reject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reject {
    /// Reason code, see [`RejectReason`].
    pub reason: u8,
    /// StatSN, ExpCmdSN, MaxCmdSN.
    pub numbers: Numbers,
}

impl Reject {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        Self { reason: b[2], numbers: Numbers::get(b) }
    }

    /// Writes a header.
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::REJECT);
        b[1] = 0x80;
        b[2] = self.reason;
        put32(&mut b, 16, RESERVED_TAG);
        self.numbers.put(&mut b);
        b
    }
}
