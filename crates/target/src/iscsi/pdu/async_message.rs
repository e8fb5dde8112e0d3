//! Asynchronous Message (RFC 7143 section 11.9).

use super::{Bhs, Numbers, RESERVED_TAG, blank, get16, get64, opcode, put16, put32, put64};

/// Asynchronous Message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsyncMessage {
    /// Logical unit number.
    pub lun: u64,
    /// Event: 1 the target asks for logout within Parameter3 seconds, 2 it will drop the connection, 3 it will drop
    /// the session.
    pub event: u8,
    /// StatSN, ExpCmdSN, MaxCmdSN.
    pub numbers: Numbers,
    /// Parameter1: the connection id where the event names one.
    pub parameter1: u16,
    /// Parameter2: seconds to wait before a reconnect.
    pub parameter2: u16,
    /// Parameter3: seconds until the target acts, or to keep the tasks.
    pub parameter3: u16,
}

impl AsyncMessage {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        Self {
            lun: get64(b, 8),
            event: b[36],
            numbers: Numbers::get(b),
            parameter1: get16(b, 38),
            parameter2: get16(b, 40),
            parameter3: get16(b, 42),
        }
    }

    /// Writes a header.
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::ASYNC_MESSAGE);
        b[1] = 0x80;
        put64(&mut b, 8, self.lun);
        put32(&mut b, 16, RESERVED_TAG);
        self.numbers.put(&mut b);
        b[36] = self.event;
        put16(&mut b, 38, self.parameter1);
        put16(&mut b, 40, self.parameter2);
        put16(&mut b, 42, self.parameter3);
        b
    }
}
