//! SCSI Data-Out, SCSI Data-In and Ready To Transfer (RFC 7143 sections 11.7 and 11.8).

use super::{Bhs, Numbers, RESERVED_TAG, blank, get32, get64, opcode, put32, put64};

/// SCSI Data-Out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataOut {
    /// F: last PDU of this sequence.
    pub last: bool,
    /// Logical unit number.
    pub lun: u64,
    /// Initiator task tag.
    pub itt: u32,
    /// Target transfer tag of the R2T this answers, or [`RESERVED_TAG`] for unsolicited data.
    pub ttt: u32,
    /// ExpStatSN.
    pub exp_stat_sn: u32,
    /// Number of this PDU within its sequence.
    pub data_sn: u32,
    /// Offset of the data within the command's transfer.
    pub offset: u32,
}

impl DataOut {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        Self {
            last: b[1] & 0x80 != 0,
            lun: get64(b, 8),
            itt: get32(b, 16),
            ttt: get32(b, 20),
            exp_stat_sn: get32(b, 28),
            data_sn: get32(b, 36),
            offset: get32(b, 40),
        }
    }

    /// Writes a header.
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::DATA_OUT);
        b[1] = u8::from(self.last) << 7;
        put64(&mut b, 8, self.lun);
        put32(&mut b, 16, self.itt);
        put32(&mut b, 20, self.ttt);
        put32(&mut b, 28, self.exp_stat_sn);
        put32(&mut b, 36, self.data_sn);
        put32(&mut b, 40, self.offset);
        b
    }
}

/// SCSI Data-In. With `status` set it also is the command's response (phase collapse, section 11.7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataIn {
    /// F: last PDU of this sequence.
    pub last: bool,
    /// O: residual overflow; only with status.
    pub overflow: bool,
    /// U: residual underflow; only with status.
    pub underflow: bool,
    /// S: the SCSI status, when this PDU ends the command.
    pub status: Option<u8>,
    /// Initiator task tag.
    pub itt: u32,
    /// StatSN (only with status), ExpCmdSN, MaxCmdSN.
    pub numbers: Numbers,
    /// Number of this PDU within the command.
    pub data_sn: u32,
    /// Offset of the data within the command's transfer.
    pub offset: u32,
    /// Residual count; only with status.
    pub residual: u32,
}

impl DataIn {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        Self {
            last: b[1] & 0x80 != 0,
            overflow: b[1] & 4 != 0,
            underflow: b[1] & 2 != 0,
            status: (b[1] & 1 != 0).then_some(b[3]),
            itt: get32(b, 16),
            numbers: Numbers::get(b),
            data_sn: get32(b, 36),
            offset: get32(b, 40),
            residual: get32(b, 44),
        }
    }

    /// Writes a header.
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::DATA_IN);
        b[1] = u8::from(self.last) << 7
            | u8::from(self.overflow) << 2
            | u8::from(self.underflow) << 1
            | u8::from(self.status.is_some());
        b[3] = self.status.unwrap_or(0);
        put32(&mut b, 16, self.itt);
        put32(&mut b, 20, RESERVED_TAG); // no A bit at error recovery level 0, so no transfer tag
        self.numbers.put(&mut b);
        put32(&mut b, 36, self.data_sn);
        put32(&mut b, 40, self.offset);
        put32(&mut b, 44, self.residual);
        b
    }
}

/// Ready To Transfer: the target asks for a part of the command's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadyToTransfer {
    /// Logical unit number.
    pub lun: u64,
    /// Initiator task tag.
    pub itt: u32,
    /// Target transfer tag that the Data-Out PDUs have to carry.
    pub ttt: u32,
    /// StatSN (not consumed), ExpCmdSN, MaxCmdSN.
    pub numbers: Numbers,
    /// Number of this R2T within the command.
    pub r2t_sn: u32,
    /// Offset of the wanted data.
    pub offset: u32,
    /// Length of the wanted data.
    pub length: u32,
}

impl ReadyToTransfer {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        Self {
            lun: get64(b, 8),
            itt: get32(b, 16),
            ttt: get32(b, 20),
            numbers: Numbers::get(b),
            r2t_sn: get32(b, 36),
            offset: get32(b, 40),
            length: get32(b, 44),
        }
    }

    /// Writes a header.
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::R2T);
        b[1] = 0x80;
        put64(&mut b, 8, self.lun);
        put32(&mut b, 16, self.itt);
        put32(&mut b, 20, self.ttt);
        self.numbers.put(&mut b);
        put32(&mut b, 36, self.r2t_sn);
        put32(&mut b, 40, self.offset);
        put32(&mut b, 44, self.length);
        b
    }
}
