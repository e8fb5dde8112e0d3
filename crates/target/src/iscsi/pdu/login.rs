//! Login Request and Login Response (RFC 7143 sections 11.12 and 11.13).

use super::{Bhs, Numbers, blank, get16, get32, opcode, put16, put32};

/// Login stages as CSG/NSG encode them (RFC 7143 section 11.12.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// SecurityNegotiation.
    Security,
    /// LoginOperationalNegotiation.
    Operational,
    /// FullFeaturePhase.
    FullFeature,
}

impl Stage {
    /// The stage of a two-bit code; code 2 is reserved.
    pub fn from_code(code: u8) -> Option<Self> {
        match code & 3 {
            0 => Some(Self::Security),
            1 => Some(Self::Operational),
            3 => Some(Self::FullFeature),
            _ => None,
        }
    }

    /// The two-bit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Security => 0,
            Self::Operational => 1,
            Self::FullFeature => 3,
        }
    }
}

/// Login Request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginRequest {
    /// T: ready to go to the next stage.
    pub transit: bool,
    /// C: the text goes on in the next request.
    pub more: bool,
    /// CSG, raw.
    pub csg: u8,
    /// NSG, raw.
    pub nsg: u8,
    /// Highest version supported.
    pub version_max: u8,
    /// Lowest version supported.
    pub version_min: u8,
    /// Initiator session id.
    pub isid: [u8; 6],
    /// Target session handle, 0 for a new session.
    pub tsih: u16,
    /// Initiator task tag.
    pub itt: u32,
    /// Connection id.
    pub cid: u16,
    /// CmdSN; the first one starts the session's numbering.
    pub cmd_sn: u32,
    /// ExpStatSN.
    pub exp_stat_sn: u32,
}

impl LoginRequest {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        let mut isid = [0; 6];
        isid.copy_from_slice(&b[8..14]);
        Self {
            transit: b[1] & 0x80 != 0,
            more: b[1] & 0x40 != 0,
            csg: b[1] >> 2 & 3,
            nsg: b[1] & 3,
            version_max: b[2],
            version_min: b[3],
            isid,
            tsih: get16(b, 14),
            itt: get32(b, 16),
            cid: get16(b, 20),
            cmd_sn: get32(b, 24),
            exp_stat_sn: get32(b, 28),
        }
    }

    /// Writes a header.
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::LOGIN_REQUEST | 0x40); // a Login Request is always immediate
        b[1] = u8::from(self.transit) << 7 | u8::from(self.more) << 6 | (self.csg & 3) << 2 | self.nsg & 3;
        b[2] = self.version_max;
        b[3] = self.version_min;
        b[8..14].copy_from_slice(&self.isid);
        put16(&mut b, 14, self.tsih);
        put32(&mut b, 16, self.itt);
        put16(&mut b, 20, self.cid);
        put32(&mut b, 24, self.cmd_sn);
        put32(&mut b, 28, self.exp_stat_sn);
        b
    }
}

/// Login Response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginResponse {
    /// T: the target agrees to go to the next stage.
    pub transit: bool,
    /// C: the text goes on in the next response.
    pub more: bool,
    /// CSG, raw.
    pub csg: u8,
    /// NSG, raw.
    pub nsg: u8,
    /// Initiator session id.
    pub isid: [u8; 6],
    /// Target session handle.
    pub tsih: u16,
    /// Initiator task tag.
    pub itt: u32,
    /// StatSN, ExpCmdSN, MaxCmdSN.
    pub numbers: Numbers,
    /// Status-Class in the high byte, Status-Detail in the low one.
    pub status: u16,
}

impl LoginResponse {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        let mut isid = [0; 6];
        isid.copy_from_slice(&b[8..14]);
        Self {
            transit: b[1] & 0x80 != 0,
            more: b[1] & 0x40 != 0,
            csg: b[1] >> 2 & 3,
            nsg: b[1] & 3,
            isid,
            tsih: get16(b, 14),
            itt: get32(b, 16),
            numbers: Numbers::get(b),
            status: get16(b, 36),
        }
    }

    /// Writes a header; version-max and version-active are 0 (RFC 7143 section 11.13.2).
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::LOGIN_RESPONSE);
        b[1] = u8::from(self.transit) << 7 | u8::from(self.more) << 6 | (self.csg & 3) << 2 | self.nsg & 3;
        b[8..14].copy_from_slice(&self.isid);
        put16(&mut b, 14, self.tsih);
        put32(&mut b, 16, self.itt);
        self.numbers.put(&mut b);
        put16(&mut b, 36, self.status);
        b
    }
}
