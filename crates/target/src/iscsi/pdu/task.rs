//! Task Management Function Request and Response (RFC 7143 sections 11.5 and 11.6).

use super::{Bhs, Numbers, blank, get32, get64, opcode, put32, put64};

/// Task management functions (RFC 7143 section 11.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskFunction {
    /// Abort one task.
    AbortTask,
    /// Abort all tasks of this session on the logical unit.
    AbortTaskSet,
    /// Clear an auto contingent allegiance; not supported here (NORMACA is 0).
    ClearAca,
    /// Abort all tasks of all sessions on the logical unit.
    ClearTaskSet,
    /// Reset the logical unit.
    LogicalUnitReset,
    /// Reset the target, keep its sessions.
    TargetWarmReset,
    /// Reset the target and drop its sessions.
    TargetColdReset,
    /// Move a task to another connection; not supported at error recovery level 0.
    TaskReassign,
    /// A code the RFC does not define.
    Unknown(u8),
}

impl TaskFunction {
    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::AbortTask,
            2 => Self::AbortTaskSet,
            3 => Self::ClearAca,
            4 => Self::ClearTaskSet,
            5 => Self::LogicalUnitReset,
            6 => Self::TargetWarmReset,
            7 => Self::TargetColdReset,
            8 => Self::TaskReassign,
            other => Self::Unknown(other),
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::AbortTask => 1,
            Self::AbortTaskSet => 2,
            Self::ClearAca => 3,
            Self::ClearTaskSet => 4,
            Self::LogicalUnitReset => 5,
            Self::TargetWarmReset => 6,
            Self::TargetColdReset => 7,
            Self::TaskReassign => 8,
            Self::Unknown(other) => other & 0x7f,
        }
    }
}

/// Task Management Function Request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskRequest {
    /// I bit.
    pub immediate: bool,
    /// What to do.
    pub function: TaskFunction,
    /// Logical unit number.
    pub lun: u64,
    /// Initiator task tag of this request.
    pub itt: u32,
    /// Initiator task tag of the task to abort.
    pub referenced: u32,
    /// CmdSN of this request.
    pub cmd_sn: u32,
    /// ExpStatSN.
    pub exp_stat_sn: u32,
    /// CmdSN of the task to abort.
    pub ref_cmd_sn: u32,
}

impl TaskRequest {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        Self {
            immediate: b[0] & 0x40 != 0,
            function: TaskFunction::from_code(b[1] & 0x7f),
            lun: get64(b, 8),
            itt: get32(b, 16),
            referenced: get32(b, 20),
            cmd_sn: get32(b, 24),
            exp_stat_sn: get32(b, 28),
            ref_cmd_sn: get32(b, 32),
        }
    }

    /// Writes a header.
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::TASK_REQUEST | u8::from(self.immediate) << 6);
        b[1] = 0x80 | self.function.code();
        put64(&mut b, 8, self.lun);
        put32(&mut b, 16, self.itt);
        put32(&mut b, 20, self.referenced);
        put32(&mut b, 24, self.cmd_sn);
        put32(&mut b, 28, self.exp_stat_sn);
        put32(&mut b, 32, self.ref_cmd_sn);
        b
    }
}

/// Outcome of a task management function (RFC 7143 section 11.6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TaskResponseCode {
    /// Function complete.
    Complete = 0,
    /// Task does not exist.
    NoTask = 1,
    /// LUN does not exist.
    NoLun = 2,
    /// Task allegiance reassignment not supported.
    NoReassign = 4,
    /// Task management function not supported.
    Unsupported = 5,
    /// Function rejected.
    Rejected = 255,
}

/// Task Management Function Response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskResponse {
    /// Response code, see [`TaskResponseCode`].
    pub response: u8,
    /// Initiator task tag of the request.
    pub itt: u32,
    /// StatSN, ExpCmdSN, MaxCmdSN.
    pub numbers: Numbers,
}

impl TaskResponse {
    /// Reads a header.
    pub fn decode(b: &Bhs) -> Self {
        Self { response: b[2], itt: get32(b, 16), numbers: Numbers::get(b) }
    }

    /// Writes a header.
    pub fn encode(&self) -> Bhs {
        let mut b = blank(opcode::TASK_RESPONSE);
        b[1] = 0x80;
        b[2] = self.response;
        put32(&mut b, 16, self.itt);
        self.numbers.put(&mut b);
        b
    }
}
