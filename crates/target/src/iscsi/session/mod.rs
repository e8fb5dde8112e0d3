//! The full feature phase of one session (RFC 7143 sections 4.2.2-4.2.5 and 11) as a state machine.
//!
//! ```text
//! on_pdu ---> tasks ---> next_work ---> (the shell runs it on the device) ---> on_completion ---> next_output
//!               ^  Data-Out / R2T                                                   |
//!               '------------------------------- barriers (abort, reset, logout) <--'
//! ```
//! Invariants:
//! * StatSN, ExpCmdSN and MaxCmdSN are put into a PDU when it is queued, and PDUs are sent in queue order.
//! * MaxCmdSN = ExpCmdSN + window - 1 - tasks in progress: it never goes back (section 4.2.2.1).
//! * A task whose device call is under way is never forgotten: abort, reset and logout are answered, and the
//!   session ends, only after the call has returned. So no write can land after the initiator believes it dead.
//! * Memory: write buffers are granted within [`MAX_SESSION_DATA`], reads are started within it too.

mod commands;
mod control;
mod data_out;
mod respond;
mod tasks;
#[cfg(test)]
mod tests;
mod tmf;

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::framing::FrameError;
use super::keys::Params;
use super::login::LoginOutcome;
use super::pdu::{Numbers, OutPdu, Pdu, Reject, RejectReason, opcode, opcode_of};
use crate::scsi::{Attention, Command, Completion, Nexus, UnitState};
pub use control::AsyncEvent;
use control::TextExchange;
use tasks::{Task, Tasks};
use tmf::Barrier;

/// Commands in progress per session: open-iscsi asks for 32 to 128, more only queues.
pub const COMMAND_WINDOW: u32 = 128;
/// Immediate commands in progress; they bypass the window (section 4.2.2.1 wants at least two).
const MAX_IMMEDIATE: usize = 16;
/// Data in memory per session, each way: a full window of 512 KiB requests. One command may always go on.
pub const MAX_SESSION_DATA: usize = 64 * 1024 * 1024;

/// A command for the device.
#[derive(Debug)]
pub struct Work {
    /// The task; give it back to [`Session::on_completion`].
    pub itt: u32,
    /// What to do.
    pub command: Command,
    /// Its Data-Out.
    pub data: Bytes,
    /// When the last of it had come.
    pub read: Instant,
}

/// What the shell has to do beyond sending and running commands.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Abort the tasks of all other sessions of this target, leave them this attention, then call
    /// [`Session::on_others_done`] with the ticket.
    ResetOthers {
        /// Ticket of the barrier that waits.
        ticket: u64,
        /// What the others are told.
        attention: Attention,
        /// Also drop their sessions (and this one, after the answer): TARGET COLD RESET.
        drop_sessions: bool,
    },
    /// Tasks that another session asked to abort are gone.
    ResetDone(u64),
}

/// The names and addresses that SendTargets tells (RFC 7143 appendix C).
pub trait TargetList {
    /// TargetName and TargetAddress (with portal group) of all targets, or of the one of that name.
    fn send_targets(&self, name: Option<&str>) -> Vec<(String, String)>;
}

/// What a session sees of its surroundings while it takes a PDU.
pub struct Env<'a> {
    /// State of LUN 0; `None` in a discovery session.
    pub unit: Option<UnitState>,
    /// For SendTargets.
    pub targets: &'a dyn TargetList,
}

/// Why a session has to end. What is queued is still sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The byte stream is lost.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The initiator broke the protocol in a way that error recovery level 0 cannot repair.
    #[error("protocol error: {0}; the session is closed so that the initiator starts over")]
    Protocol(&'static str),
}

/// One session.
pub struct Session {
    params: Params,
    /// `None` in a discovery session.
    target: Option<String>,
    cid: u16,
    exp_cmd_sn: u32,
    stat_sn: u32,
    nexus: Nexus,
    tasks: Tasks,
    /// Tasks whose data is complete, in order of arrival.
    ready: VecDeque<u32>,
    /// Data-In bytes of the commands that run.
    reading: usize,
    /// Data-Out bytes granted to tasks.
    granted: usize,
    waiting_grant: VecDeque<u32>,
    next_ttt: u32,
    barriers: Vec<Barrier>,
    next_ticket: u64,
    text: Option<TextExchange>,
    ping: Option<u32>,
    out: VecDeque<OutPdu>,
    events: VecDeque<Event>,
    closing: bool,
    fenced: bool,
    /// When what is being taken was read from the socket.
    now: Instant,
}

impl Session {
    /// The session that a login opened; `attention` is the first unit attention of the nexus.
    pub fn new(login: &LoginOutcome, attention: Attention) -> Self {
        Self {
            params: login.params.clone(),
            target: login.target.clone(),
            cid: login.cid,
            exp_cmd_sn: login.exp_cmd_sn,
            stat_sn: login.stat_sn,
            nexus: Nexus::new(attention),
            tasks: Tasks::default(),
            ready: VecDeque::new(),
            reading: 0,
            granted: 0,
            waiting_grant: VecDeque::new(),
            next_ttt: 0,
            barriers: Vec::new(),
            next_ticket: 0,
            text: None,
            ping: None,
            out: VecDeque::new(),
            events: VecDeque::new(),
            closing: false,
            fenced: false,
            now: Instant::now(),
        }
    }

    /// What [`Self::on_pdu`] takes from now on was read from the socket at this time; only for the commands' [`Work::read`].
    pub fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// Takes one PDU.
    pub fn on_pdu(&mut self, pdu: Pdu, env: &Env<'_>) -> Result<(), SessionError> {
        if self.closing {
            return Ok(()); // after the logout response nothing counts (section 11.15)
        }
        let op = opcode_of(&pdu.bhs);
        if !pdu.data_ok && op != opcode::DATA_OUT {
            // Section 7.8: reject, discard; with the PDU its CmdSN is lost, and with it the session at level 0.
            self.reject(RejectReason::DataDigest, &pdu);
            return Err(SessionError::Protocol("data digest mismatch in a PDU that is not Data-Out"));
        }
        match op {
            opcode::SCSI_COMMAND if env.unit.is_some() => self.on_command(pdu, env),
            opcode::DATA_OUT if env.unit.is_some() => {
                self.on_data_out(&pdu);
                Ok(())
            }
            opcode::TASK_REQUEST if env.unit.is_some() => self.on_task_request(&pdu),
            opcode::NOP_OUT => self.on_nop_out(&pdu),
            opcode::TEXT_REQUEST => self.on_text(&pdu, env.targets),
            opcode::LOGOUT_REQUEST => self.on_logout(&pdu),
            opcode::SNACK => {
                self.reject(RejectReason::Snack, &pdu); // section 11.16: level 0 has no SNACK
                Ok(())
            }
            opcode::LOGIN_REQUEST => {
                self.reject(RejectReason::Protocol, &pdu);
                Err(SessionError::Protocol("login request in the full feature phase"))
            }
            // Unknown codes, target codes, and commands in a discovery session (section 4.3: only text and logout).
            _ => {
                self.reject(RejectReason::Unsupported, &pdu);
                Ok(())
            }
        }
    }

    /// The next command to run, if memory allows: `queued` is what waits in the socket's send queue.
    pub fn next_work(&mut self, queued: usize) -> Option<Work> {
        // The first one, but for ORDERED tasks that wait for older ones.
        let at = self.ready.iter().position(|itt| self.tasks.may_start(*itt))?;
        let itt = self.ready[at];
        let task = self.tasks.get_mut(itt)?;
        let need = task.command.data_in();
        let held = self.reading + queued;
        if held > 0 && held + need > MAX_SESSION_DATA {
            return None;
        }
        self.ready.remove(at);
        self.reading += need;
        task.start();
        let read = task.complete().unwrap_or(self.now);
        Some(Work { itt, command: task.command, data: std::mem::take(&mut task.data), read })
    }

    /// A command is done. Whether it is answered: then its PDUs are among those that [`Self::next_output`] gives now.
    pub fn on_completion(&mut self, itt: u32, completion: Completion) -> bool {
        let Some(task) = self.remove_task(itt) else { return false };
        self.reading = self.reading.saturating_sub(task.command.data_in());
        let answered = !task.is_doomed() && !completion.fenced;
        if answered {
            self.respond(itt, &task, completion);
        } else if task.is_doomed() {
            self.settle_barriers(Some(itt));
        } else {
            self.fenced = true;
        }
        self.grant_waiting();
        answered
    }

    /// The next PDU to send.
    pub fn next_output(&mut self) -> Option<OutPdu> {
        self.out.pop_front()
    }

    /// The next thing to do for the shell.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Logout is done: send what is queued, then close.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// The device belongs to another target: drop the session. Commands that met that stay unanswered.
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Commands in progress, aborted ones included.
    pub fn in_progress(&self) -> usize {
        self.tasks.len()
    }

    fn remove_task(&mut self, itt: u32) -> Option<Task> {
        let task = self.tasks.remove(itt)?;
        self.granted -= task.grant();
        Some(task)
    }

    /// Sequence numbers of a PDU that carries status: it takes a StatSN.
    fn take_numbers(&mut self) -> Numbers {
        let numbers = self.numbers();
        self.stat_sn = self.stat_sn.wrapping_add(1);
        numbers
    }

    /// Sequence numbers of a PDU without status.
    fn numbers(&self) -> Numbers {
        Numbers { stat: self.stat_sn, exp_cmd: self.exp_cmd_sn, max_cmd: self.max_cmd_sn() }
    }

    fn max_cmd_sn(&self) -> u32 {
        self.exp_cmd_sn.wrapping_add(COMMAND_WINDOW - 1).wrapping_sub(self.tasks.windowed())
    }

    fn send(&mut self, pdu: OutPdu) {
        self.out.push_back(pdu);
    }

    fn reject(&mut self, reason: RejectReason, pdu: &Pdu) {
        let numbers = self.take_numbers();
        let bhs = Reject { reason: reason as u8, numbers }.encode();
        self.send(OutPdu::new(bhs, Bytes::copy_from_slice(&pdu.bhs)));
    }

    /// CmdSN rules (section 4.2.2.1); true when the request is to be served.
    fn take_cmd_sn(&mut self, immediate: bool, cmd_sn: u32) -> Result<bool, SessionError> {
        if immediate {
            return Ok(true); // carries the CmdSN of the next command, does not take it
        }
        let ahead = cmd_sn.wrapping_sub(self.exp_cmd_sn);
        let window = COMMAND_WINDOW.saturating_sub(self.tasks.windowed());
        match ahead {
            0 if window > 0 => {
                self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
                Ok(true)
            }
            // On the only connection of a session commands are sent in order (section 4.2.2.1), so that a gap can
            // only be a PDU that is lost for good; at level 0 nobody will send it again.
            _ if ahead < window => Err(SessionError::Protocol("gap in CmdSN")),
            _ => Ok(false), // outside the window, or a duplicate: silently ignored
        }
    }
}
