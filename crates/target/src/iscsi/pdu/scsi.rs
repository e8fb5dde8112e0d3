//! SCSI Command and SCSI Response (RFC 7143 sections 11.3 and 11.4).

use super::{Bhs, Numbers, blank, get32, get64, opcode, put32, put64};

/// SCSI Command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScsiRequest {
    /// I bit.
    pub immediate: bool,
    /// F: no unsolicited Data-Out PDUs follow.
    pub last: bool,
    /// R: data is expected from the target.
    pub read: bool,
    /// W: data is sent to the target.
    pub write: bool,
    /// Task attribute (0 untagged, 1 simple, 2 ordered, 3 head of queue, 4 ACA).
    pub attribute: u8,
    /// Logical unit number.
    pub lun: u64,
    /// Initiator task tag.
    pub itt: u32,
    /// Expected data transfer length.
    pub expected: u32,
    /// CmdSN.
    pub cmd_sn: u32,
    /// ExpStatSN.
    pub exp_stat_sn: u32,
    /// The first 16 bytes of the CDB.
    pub cdb: [u8; 16],
}

impl ScsiRequest {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        let mut cdb = [0; 16];
        cdb.copy_from_slice(&b[32..48]);
        Self {
            immediate: b[0] & 0x40 != 0,
            last: b[1] & 0x80 != 0,
            read: b[1] & 0x40 != 0,
            write: b[1] & 0x20 != 0,
            attribute: b[1] & 7,
            lun: get64(b, 8),
            itt: get32(b, 16),
            expected: get32(b, 20),
            cmd_sn: get32(b, 24),
            exp_stat_sn: get32(b, 28),
            cdb,
        }
    }

    /// Writes a header.
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::SCSI_COMMAND | u8::from(self.immediate) << 6);
        b[1] = u8::from(self.last) << 7 | u8::from(self.read) << 6 | u8::from(self.write) << 5 | self.attribute & 7;
        put64(&mut b, 8, self.lun);
        put32(&mut b, 16, self.itt);
        put32(&mut b, 20, self.expected);
        put32(&mut b, 24, self.cmd_sn);
        put32(&mut b, 28, self.exp_stat_sn);
        b[32..48].copy_from_slice(&self.cdb);
        b
    }
}

/// SCSI Response; sense data goes into the data segment behind a two-byte length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScsiResponse {
    /// O: the command had more data than the initiator expected.
    pub overflow: bool,
    /// U: the command had less data than the initiator expected.
    pub underflow: bool,
    /// iSCSI response code: 0 command completed at target, 1 target failure.
    pub response: u8,
    /// SCSI status byte.
    pub status: u8,
    /// Initiator task tag.
    pub itt: u32,
    /// StatSN, ExpCmdSN, MaxCmdSN.
    pub numbers: Numbers,
    /// ExpDataSN: number of Data-In and R2T PDUs sent for the command.
    pub exp_data_sn: u32,
    /// Residual count.
    pub residual: u32,
}

impl ScsiResponse {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        Self {
            overflow: b[1] & 4 != 0,
            underflow: b[1] & 2 != 0,
            response: b[2],
            status: b[3],
            itt: get32(b, 16),
            numbers: Numbers::get(b),
            exp_data_sn: get32(b, 36),
            residual: get32(b, 44),
        }
    }

    /// Writes a header.
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::SCSI_RESPONSE);
        b[1] = 0x80 | u8::from(self.overflow) << 2 | u8::from(self.underflow) << 1;
        b[2] = self.response;
        b[3] = self.status;
        put32(&mut b, 16, self.itt);
        self.numbers.put(&mut b);
        put32(&mut b, 36, self.exp_data_sn);
        put32(&mut b, 44, self.residual);
        b
    }
}
