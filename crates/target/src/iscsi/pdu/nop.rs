//! NOP-Out and NOP-In (RFC 7143 sections 11.18 and 11.19): ping both ways.

use super::{Bhs, Numbers, blank, get32, get64, opcode, put32, put64};

/// NOP-Out: a ping by the initiator, or its answer to a ping by the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NopOut {
    /// I bit.
    pub immediate: bool,
    /// Logical unit number; an echo of the NOP-In when it answers one.
    pub lun: u64,
    /// Initiator task tag; [`super::RESERVED_TAG`] asks for no answer.
    pub itt: u32,
    /// Target transfer tag of the NOP-In this answers.
    pub ttt: u32,
    /// CmdSN.
    pub cmd_sn: u32,
    /// ExpStatSN.
    pub exp_stat_sn: u32,
}

impl NopOut {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        Self {
            immediate: b[0] & 0x40 != 0,
            lun: get64(b, 8),
            itt: get32(b, 16),
            ttt: get32(b, 20),
            cmd_sn: get32(b, 24),
            exp_stat_sn: get32(b, 28),
        }
    }

    /// Writes a header.
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::NOP_OUT | u8::from(self.immediate) << 6);
        b[1] = 0x80;
        put64(&mut b, 8, self.lun);
        put32(&mut b, 16, self.itt);
        put32(&mut b, 20, self.ttt);
        put32(&mut b, 24, self.cmd_sn);
        put32(&mut b, 28, self.exp_stat_sn);
        b
    }
}

/// NOP-In: a ping by the target, or its answer to a ping by the initiator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NopIn {
    /// Logical unit number.
    pub lun: u64,
    /// Initiator task tag; [`super::RESERVED_TAG`] when the target pings.
    pub itt: u32,
    /// Target transfer tag; not [`super::RESERVED_TAG`] when an answer is wanted.
    pub ttt: u32,
    /// StatSN, ExpCmdSN, MaxCmdSN.
    pub numbers: Numbers,
}

impl NopIn {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        Self { lun: get64(b, 8), itt: get32(b, 16), ttt: get32(b, 20), numbers: Numbers::get(b) }
    }

    /// Writes a header.
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::NOP_IN);
        b[1] = 0x80;
        put64(&mut b, 8, self.lun);
        put32(&mut b, 16, self.itt);
        put32(&mut b, 20, self.ttt);
        self.numbers.put(&mut b);
        b
    }
}
