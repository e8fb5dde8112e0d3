//! Task management and logout (RFC 7143 sections 11.5, 11.6, 11.14): what ends tasks.
//!
//! A [`Barrier`] is an answer that waits: for device calls of aborted tasks, and for other sessions.

use super::{Event, Session, SessionError};
use crate::iscsi::pdu::{
    LogoutRequest, LogoutResponse, OutPdu, Pdu, RejectReason, TaskFunction, TaskRequest, TaskResponse, TaskResponseCode,
};
use crate::scsi::Attention;
use crate::scsi::nexus::is_lun0;

/// Task management and logout requests that may wait at a time; initiators send one after the other.
const MAX_BARRIERS: usize = 64;

#[derive(Debug)]
enum Answer {
    Task {
        itt: u32,
        close: bool,
    },
    Logout {
        itt: u32,
        response: u8,
    },
    /// Another session's reset waits for this one.
    Other(u64),
}

/// An answer that has to wait.
#[derive(Debug)]
pub(super) struct Barrier {
    waiting: Vec<u32>,
    /// Ticket of the reset of other sessions that is under way.
    others: Option<u64>,
    answer: Answer,
}

impl Session {
    pub(super) fn on_task_request(&mut self, pdu: &Pdu) -> Result<(), SessionError> {
        let request = TaskRequest::decode(&pdu.bhs);
        if !self.take_cmd_sn(request.immediate, request.cmd_sn)? {
            return Ok(());
        }
        if self.barriers.len() >= MAX_BARRIERS {
            self.reject(RejectReason::TooManyImmediate, pdu);
            return Ok(());
        }
        use TaskFunction as F;
        let on_lun = matches!(request.function, F::AbortTaskSet | F::ClearTaskSet | F::LogicalUnitReset);
        if on_lun && !is_lun0(request.lun) {
            self.answer_task(request.itt, TaskResponseCode::NoLun);
            return Ok(());
        }
        match request.function {
            F::AbortTask if self.tasks.contains(request.referenced) => {
                let tags = vec![request.referenced];
                self.barrier(tags, None, Answer::Task { itt: request.itt, close: false });
            }
            // Section 11.5.1: on one connection every command before this request has arrived; what is not here has
            // been answered.
            F::AbortTask => self.answer_task(request.itt, TaskResponseCode::NoTask),
            F::AbortTaskSet => {
                let tags = self.tasks.tags(|t| is_lun0(t.lun));
                self.barrier(tags, None, Answer::Task { itt: request.itt, close: false });
            }
            F::ClearTaskSet => self.reset(request.itt, Attention::CommandsCleared, false),
            F::LogicalUnitReset | F::TargetWarmReset => self.reset(request.itt, Attention::Reset, false),
            F::TargetColdReset => self.reset(request.itt, Attention::Reset, true),
            F::TaskReassign => self.answer_task(request.itt, TaskResponseCode::NoReassign),
            F::ClearAca => self.answer_task(request.itt, TaskResponseCode::Unsupported), // NORMACA=0
            F::Unknown(_) => self.answer_task(request.itt, TaskResponseCode::Rejected),
        }
        Ok(())
    }

    /// Ends all tasks of all sessions. A reset leaves a unit attention on every nexus, CLEAR TASK SET on all others
    /// (SAM-5 sections 6.3.3 and 7.5).
    fn reset(&mut self, itt: u32, attention: Attention, drop_sessions: bool) {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        if attention == Attention::Reset {
            self.nexus.attention(attention);
        }
        self.events.push_back(Event::ResetOthers { ticket, attention, drop_sessions });
        let tags = self.tasks.tags(|_| true);
        self.barrier(tags, Some(ticket), Answer::Task { itt, close: drop_sessions });
    }

    /// The reset of the other sessions is done.
    pub fn on_others_done(&mut self, ticket: u64) {
        for barrier in &mut self.barriers {
            if barrier.others == Some(ticket) {
                barrier.others = None;
            }
        }
        self.settle_barriers(None);
    }

    /// Another session ends all tasks of this one; [`Event::ResetDone`] with the ticket follows.
    pub fn reset_by_other(&mut self, attention: Option<Attention>, ticket: u64) {
        if let Some(attention) = attention {
            self.nexus.attention(attention);
        }
        let tags = self.tasks.tags(|_| true);
        self.barrier(tags, None, Answer::Other(ticket));
    }

    pub(super) fn on_logout(&mut self, pdu: &Pdu) -> Result<(), SessionError> {
        let request = LogoutRequest::decode(&pdu.bhs);
        if !self.take_cmd_sn(request.immediate, request.cmd_sn)? {
            return Ok(());
        }
        if self.barriers.len() >= MAX_BARRIERS {
            self.reject(RejectReason::TooManyImmediate, pdu);
            return Ok(());
        }
        let response = match request.reason {
            0 => 0,
            1 if request.cid == self.cid => 0,
            1 => 1, // CID not found
            2 => 2, // recovery is not supported at level 0
            _ => {
                self.reject(RejectReason::InvalidField, pdu);
                return Ok(());
            }
        };
        let tags = if response == 0 { self.tasks.tags(|_| true) } else { Vec::new() };
        self.barrier(tags, None, Answer::Logout { itt: request.itt, response });
        Ok(())
    }

    fn barrier(&mut self, tags: Vec<u32>, others: Option<u64>, answer: Answer) {
        let waiting = tags.into_iter().filter(|itt| self.abort(*itt)).collect();
        self.barriers.push(Barrier { waiting, others, answer });
        self.settle_barriers(None);
        self.grant_waiting();
    }

    /// True when the device still works on the task.
    fn abort(&mut self, itt: u32) -> bool {
        if self.tasks.get_mut(itt).is_some_and(|t| t.doom()) {
            return true;
        }
        self.remove_task(itt);
        self.ready.retain(|i| *i != itt);
        self.waiting_grant.retain(|i| *i != itt);
        false
    }

    pub(super) fn settle_barriers(&mut self, gone: Option<u32>) {
        let mut done = Vec::new();
        self.barriers.retain_mut(|b| {
            if let Some(itt) = gone {
                b.waiting.retain(|i| *i != itt);
            }
            let open = !b.waiting.is_empty() || b.others.is_some();
            if !open {
                done.push(std::mem::replace(&mut b.answer, Answer::Other(0)));
            }
            open
        });
        for answer in done {
            match answer {
                Answer::Other(ticket) => self.events.push_back(Event::ResetDone(ticket)),
                Answer::Task { itt, close } => {
                    self.answer_task(itt, TaskResponseCode::Complete);
                    self.closing |= close;
                }
                Answer::Logout { itt, response } => {
                    let numbers = self.take_numbers();
                    let (time2wait, time2retain) = (self.params.time2wait, 0);
                    let logout = LogoutResponse { response, itt, numbers, time2wait, time2retain };
                    self.send(OutPdu::bare(logout.encode()));
                    self.closing |= response == 0;
                }
            }
        }
    }

    fn answer_task(&mut self, itt: u32, code: TaskResponseCode) {
        let numbers = self.take_numbers();
        self.send(OutPdu::bare(TaskResponse { response: code as u8, itt, numbers }.encode()));
    }
}
