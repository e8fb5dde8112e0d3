//! Text Request and Text Response (RFC 7143 sections 11.10 and 11.11).

use super::{Bhs, Numbers, blank, get32, get64, opcode, put32, put64};

/// Text Request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextRequest {
    /// I bit.
    pub immediate: bool,
    /// F: the initiator has nothing more to say.
    pub last: bool,
    /// C: the text goes on in the next request.
    pub more: bool,
    /// Logical unit number; an echo when it goes on.
    pub lun: u64,
    /// Initiator task tag.
    pub itt: u32,
    /// Target transfer tag of the response this goes on from, or [`super::RESERVED_TAG`] for a new exchange.
    pub ttt: u32,
    /// CmdSN.
    pub cmd_sn: u32,
    /// ExpStatSN.
    pub exp_stat_sn: u32,
}

impl TextRequest {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        Self {
            immediate: b[0] & 0x40 != 0,
            last: b[1] & 0x80 != 0,
            more: b[1] & 0x40 != 0,
            lun: get64(b, 8),
            itt: get32(b, 16),
            ttt: get32(b, 20),
            cmd_sn: get32(b, 24),
            exp_stat_sn: get32(b, 28),
        }
    }

    /// Writes a header.
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::TEXT_REQUEST | u8::from(self.immediate) << 6);
        b[1] = u8::from(self.last) << 7 | u8::from(self.more) << 6;
        put64(&mut b, 8, self.lun);
        put32(&mut b, 16, self.itt);
        put32(&mut b, 20, self.ttt);
        put32(&mut b, 24, self.cmd_sn);
        put32(&mut b, 28, self.exp_stat_sn);
        b
    }
}

/// Text Response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextResponse {
    /// F: the exchange is over.
    pub last: bool,
    /// C: the text goes on in the next response.
    pub more: bool,
    /// Logical unit number.
    pub lun: u64,
    /// Initiator task tag.
    pub itt: u32,
    /// Target transfer tag: [`super::RESERVED_TAG`] when F is set.
    pub ttt: u32,
    /// StatSN, ExpCmdSN, MaxCmdSN.
    pub numbers: Numbers,
}

impl TextResponse {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        Self {
            last: b[1] & 0x80 != 0,
            more: b[1] & 0x40 != 0,
            lun: get64(b, 8),
            itt: get32(b, 16),
            ttt: get32(b, 20),
            numbers: Numbers::get(b),
        }
    }

    /// Writes a header.
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::TEXT_RESPONSE);
        b[1] = u8::from(self.last) << 7 | u8::from(self.more) << 6;
        put64(&mut b, 8, self.lun);
        put32(&mut b, 16, self.itt);
        put32(&mut b, 20, self.ttt);
        self.numbers.put(&mut b);
        b
    }
}
