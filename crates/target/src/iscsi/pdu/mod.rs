//! The PDU codec (RFC 7143 section 11): one file per PDU family, plain functions between structs and the 48-byte
//! basic header segment (BHS). No I/O, no allocation: a header is a `[u8; 48]`, the data segment is a `Bytes`.
//!
//! ```text
//! byte 0      |.|I| opcode   |   I = immediate delivery
//! byte 1      |F| opcode-specific flags
//! byte 4      TotalAHSLength (4-byte words)
//! byte 5..8   DataSegmentLength (bytes, without padding)
//! byte 8..16  LUN or opcode-specific
//! byte 16..20 Initiator Task Tag (ITT)
//! byte 20..48 opcode-specific: TTT, CmdSN/StatSN, ExpStatSN/ExpCmdSN, MaxCmdSN ...
//! ```
//! The rule for every `decode`: reserved bits are ignored, fields are taken as they stand; meaning is checked by
//! the login and session state machines, so that arbitrary bytes can never make a codec fail or panic.

mod async_message;
mod data;
mod login;
mod logout;
mod nop;
mod reject;
mod scsi;
mod task;
mod text;

pub use async_message::AsyncMessage;
pub use data::{DataIn, DataOut, ReadyToTransfer};
pub use login::{LoginRequest, LoginResponse, Stage};
pub use logout::{LogoutRequest, LogoutResponse};
pub use nop::{NopIn, NopOut};
pub use reject::{Reject, RejectReason};
pub use scsi::{ScsiRequest, ScsiResponse};
pub use task::{TaskFunction, TaskRequest, TaskResponse, TaskResponseCode};
pub use text::{TextRequest, TextResponse};

use bytes::Bytes;

/// Length of the basic header segment.
pub const BHS_LEN: usize = 48;
/// The tag value that means "no tag" (RFC 7143 sections 11.2.1.8 and 11.7.4).
pub const RESERVED_TAG: u32 = 0xffff_ffff;

/// A basic header segment as it stands on the wire.
pub type Bhs = [u8; BHS_LEN];

/// Operation codes (RFC 7143 section 11.2.1.2); initiator codes are below 0x20, target codes above.
#[allow(missing_docs)] // the names are the RFC's own
pub mod opcode {
    pub const NOP_OUT: u8 = 0x00;
    pub const SCSI_COMMAND: u8 = 0x01;
    pub const TASK_REQUEST: u8 = 0x02;
    pub const LOGIN_REQUEST: u8 = 0x03;
    pub const TEXT_REQUEST: u8 = 0x04;
    pub const DATA_OUT: u8 = 0x05;
    pub const LOGOUT_REQUEST: u8 = 0x06;
    pub const SNACK: u8 = 0x10;
    pub const NOP_IN: u8 = 0x20;
    pub const SCSI_RESPONSE: u8 = 0x21;
    pub const TASK_RESPONSE: u8 = 0x22;
    pub const LOGIN_RESPONSE: u8 = 0x23;
    pub const TEXT_RESPONSE: u8 = 0x24;
    pub const DATA_IN: u8 = 0x25;
    pub const LOGOUT_RESPONSE: u8 = 0x26;
    pub const R2T: u8 = 0x31;
    pub const ASYNC_MESSAGE: u8 = 0x32;
    pub const REJECT: u8 = 0x3f;
}

/// The operation code of a header.
pub fn opcode_of(bhs: &Bhs) -> u8 {
    bhs[0] & 0x3f
}

/// The I bit: the PDU is for immediate delivery (RFC 7143 section 11.2.1.1).
pub fn is_immediate(bhs: &Bhs) -> bool {
    bhs[0] & 0x40 != 0
}

/// Length of the additional header segments in bytes.
pub fn ahs_len(bhs: &Bhs) -> usize {
    usize::from(bhs[4]) * 4
}

/// DataSegmentLength in bytes, without padding.
pub fn data_len(bhs: &Bhs) -> usize {
    usize::from(bhs[5]) << 16 | usize::from(bhs[6]) << 8 | usize::from(bhs[7])
}

/// Padding that follows `len` bytes up to the next 4-byte word (RFC 7143 section 11.1).
pub fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// The initiator task tag of a header.
pub fn itt_of(bhs: &Bhs) -> u32 {
    get32(bhs, 16)
}

/// A PDU that was received whole, digests already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pdu {
    /// The basic header segment.
    pub bhs: Bhs,
    /// Additional header segments, raw.
    pub ahs: Bytes,
    /// The data segment without padding.
    pub data: Bytes,
    /// False when the data digest did not match; the header can be trusted, the data cannot.
    pub data_ok: bool,
}

/// A PDU to send; its DataSegmentLength is filled in by [`OutPdu::new`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutPdu {
    /// The basic header segment.
    pub bhs: Bhs,
    /// The data segment without padding.
    pub data: Bytes,
}

impl OutPdu {
    /// A PDU of a header and its data segment.
    pub fn new(mut bhs: Bhs, data: Bytes) -> Self {
        let len = (data.len() as u32).to_be_bytes();
        bhs[5..8].copy_from_slice(&len[1..]);
        Self { bhs, data }
    }

    /// A PDU without data segment.
    pub fn bare(bhs: Bhs) -> Self {
        Self { bhs, data: Bytes::new() }
    }
}

/// The sequence numbers a target puts into every PDU that carries status (RFC 7143 section 4.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Numbers {
    /// StatSN.
    pub stat: u32,
    /// ExpCmdSN.
    pub exp_cmd: u32,
    /// MaxCmdSN.
    pub max_cmd: u32,
}

impl Numbers {
    fn put(self, bhs: &mut Bhs) {
        put32(bhs, 24, self.stat);
        put32(bhs, 28, self.exp_cmd);
        put32(bhs, 32, self.max_cmd);
    }

    fn get(bhs: &Bhs) -> Self {
        Self { stat: get32(bhs, 24), exp_cmd: get32(bhs, 28), max_cmd: get32(bhs, 32) }
    }
}

fn blank(op: u8) -> Bhs {
    let mut bhs = [0; BHS_LEN];
    bhs[0] = op;
    bhs
}

fn get16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

fn get32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn get64(b: &[u8], at: usize) -> u64 {
    u64::from(get32(b, at)) << 32 | u64::from(get32(b, at + 4))
}

fn put16(b: &mut [u8], at: usize, v: u16) {
    b[at..at + 2].copy_from_slice(&v.to_be_bytes());
}

fn put32(b: &mut [u8], at: usize, v: u32) {
    b[at..at + 4].copy_from_slice(&v.to_be_bytes());
}

fn put64(b: &mut [u8], at: usize, v: u64) {
    b[at..at + 8].copy_from_slice(&v.to_be_bytes());
}

#[cfg(test)]
mod tests;
