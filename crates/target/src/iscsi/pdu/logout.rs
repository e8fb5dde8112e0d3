//! Logout Request and Logout Response (RFC 7143 sections 11.14 and 11.15).

use super::{Bhs, Numbers, blank, get16, get32, opcode, put16, put32};

/// Logout Request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogoutRequest {
    /// I bit.
    pub immediate: bool,
    /// 0 close the session, 1 close the connection, 2 remove the connection for recovery.
    pub reason: u8,
    /// Initiator task tag.
    pub itt: u32,
    /// Connection id.
    pub cid: u16,
    /// CmdSN.
    pub cmd_sn: u32,
    /// ExpStatSN.
    pub exp_stat_sn: u32,
}

impl LogoutRequest {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        Self {
            immediate: b[0] & 0x40 != 0,
            reason: b[1] & 0x7f,
            itt: get32(b, 16),
            cid: get16(b, 20),
            cmd_sn: get32(b, 24),
            exp_stat_sn: get32(b, 28),
        }
    }

    /// Writes a header.
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::LOGOUT_REQUEST | u8::from(self.immediate) << 6);
        b[1] = 0x80 | self.reason & 0x7f;
        put32(&mut b, 16, self.itt);
        put16(&mut b, 20, self.cid);
        put32(&mut b, 24, self.cmd_sn);
        put32(&mut b, 28, self.exp_stat_sn);
        b
    }
}

/// Logout Response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogoutResponse {
    /// 0 closed, 1 CID not found, 2 recovery not supported, 3 cleanup failed.
    pub response: u8,
    /// Initiator task tag.
    pub itt: u32,
    /// StatSN, ExpCmdSN, MaxCmdSN.
    pub numbers: Numbers,
    /// Time2Wait in seconds.
    pub time2wait: u16,
    /// Time2Retain in seconds.
    pub time2retain: u16,
}

impl LogoutResponse {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        Self {
            response: b[2],
            itt: get32(b, 16),
            numbers: Numbers::get(b),
            time2wait: get16(b, 40),
            time2retain: get16(b, 42),
        }
    }

    /// Writes a header.
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::LOGOUT_RESPONSE);
        b[1] = 0x80;
        b[2] = self.response;
        put32(&mut b, 16, self.itt);
        self.numbers.put(&mut b);
        put16(&mut b, 40, self.time2wait);
        put16(&mut b, 42, self.time2retain);
        b
    }
}
