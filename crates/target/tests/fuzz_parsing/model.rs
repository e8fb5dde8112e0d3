//! What a session owes its initiator, kept beside the session from the headers alone, and compared after every step.
//!
//! The rules are those of RFC 7143, not the session's code: numbers count without gaps, the command window never goes back
//! (section 4.2.2.1), every accepted request has exactly one answer, an aborted command has none (section 11.5.1).

use std::collections::BTreeMap;

use ballast_target::iscsi::pdu::*;
use ballast_target::iscsi::session::{COMMAND_WINDOW, MAX_SESSION_DATA, Session, Work};
use ballast_target::scsi::nexus::is_lun0;
use ballast_target::scsi::{Completion, UnitState};

use crate::random::Tally;
use crate::rig;

/// Requests that may wait for their answer at a time, commands not counted.
const MAX_WAITING: usize = 64;
/// Immediate commands in progress.
const MAX_IMMEDIATE: usize = 16;

/// An R2T as the initiator answers it.
#[derive(Clone, Copy)]
pub struct Asked {
    pub ttt: u32,
    pub offset: u32,
    pub length: u32,
    pub got: u32,
    pub sn: u32,
}

/// A command in progress.
#[derive(Default)]
pub struct Task {
    immediate: bool,
    lun: u64,
    pub expected: u32,
    /// Of that, what the initiator sends.
    offered: u32,
    /// DataSN and offset of the unsolicited data that was announced and has not ended.
    pub unsolicited: Option<(u32, u32)>,
    pub asked: Vec<Asked>,
    asked_to: u32,
    data_sn: u32,
    came: u32,
    running: Option<usize>,
    doomed: bool,
}

/// What an input has to lead to.
enum Foreseen {
    /// Nothing at all.
    Silence,
    /// The end of the session.
    End,
    /// One Reject.
    Reject,
    /// A command: in progress, or answered, or rejected.
    Command,
    /// Data for a command.
    Data,
    /// One answer of this code, now or later, or a Reject.
    Answer(u8),
}

pub struct Model {
    pub exp_cmd_sn: u32,
    stat_sn: u32,
    max_cmd_sn: u32,
    max_send: usize,
    max_burst: u32,
    pub tasks: BTreeMap<u32, Task>,
    /// Answers to requests that are no commands: code and tag.
    owed: Vec<(u8, u32)>,
    /// Target transfer tag of the last text response.
    pub text_ttt: u32,
    closing: bool,
}

impl Model {
    pub fn new(exp_cmd_sn: u32, stat_sn: u32, max_send: u32, max_burst: u32) -> Self {
        let max_cmd_sn = exp_cmd_sn.wrapping_add(COMMAND_WINDOW - 1);
        let (max_send, tasks, owed) = (max_send as usize, BTreeMap::new(), Vec::new());
        let text_ttt = RESERVED_TAG;
        Self { exp_cmd_sn, stat_sn, max_cmd_sn, max_send, max_burst, tasks, owed, text_ttt, closing: false }
    }

    fn windowed(&self) -> u32 {
        self.tasks.values().filter(|t| !t.immediate).count() as u32
    }

    /// Nothing is left to be answered.
    pub fn is_settled(&self) -> bool {
        self.tasks.is_empty() && self.owed.is_empty()
    }

    /// Takes the CmdSN; `None`: accepted.
    fn number(&mut self, immediate: bool, cmd_sn: u32) -> Option<Foreseen> {
        let ahead = cmd_sn.wrapping_sub(self.exp_cmd_sn);
        let window = COMMAND_WINDOW.saturating_sub(self.windowed());
        match ahead {
            _ if immediate => None,
            0 if window > 0 => {
                self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
                None
            }
            _ if ahead < window => Some(Foreseen::End),
            _ => Some(Foreseen::Silence),
        }
    }

    fn foresee(&mut self, pdu: &Pdu, normal: bool) -> Foreseen {
        let (op, itt) = (opcode_of(&pdu.bhs), itt_of(&pdu.bhs));
        let cmd_sn = ScsiRequest::decode(&pdu.bhs).cmd_sn; // in the same place in all requests
        if self.closing {
            return Foreseen::Silence;
        }
        if !pdu.data_ok && op != opcode::DATA_OUT {
            return Foreseen::End;
        }
        let answer = match op {
            opcode::DATA_OUT if normal && !self.tasks.contains_key(&itt) => return Foreseen::Silence,
            opcode::DATA_OUT if normal => return Foreseen::Data,
            opcode::SCSI_COMMAND if normal => opcode::SCSI_RESPONSE,
            opcode::TASK_REQUEST if normal => opcode::TASK_RESPONSE,
            opcode::NOP_OUT if itt == RESERVED_TAG => return Foreseen::Silence,
            opcode::NOP_OUT => opcode::NOP_IN,
            opcode::TEXT_REQUEST => opcode::TEXT_RESPONSE,
            opcode::LOGOUT_REQUEST => opcode::LOGOUT_RESPONSE,
            opcode::LOGIN_REQUEST => return Foreseen::End,
            _ => return Foreseen::Reject,
        };
        match self.number(is_immediate(&pdu.bhs), cmd_sn) {
            Some(other) => other,
            None if answer != opcode::SCSI_RESPONSE => Foreseen::Answer(answer),
            None if itt == RESERVED_TAG || self.tasks.contains_key(&itt) => Foreseen::Reject,
            None => Foreseen::Command,
        }
    }

    /// Gives one PDU to the session; false when the session has to end.
    pub fn input(&mut self, session: &mut Session, pdu: Pdu, unit: Option<UnitState>, tally: &mut Tally) -> bool {
        let foreseen = self.foresee(&pdu, unit.is_some());
        let (bhs, itt, pushed) = (pdu.bhs, itt_of(&pdu.bhs), pdu.data.len() as u32);
        let most = 1 + 8 * (self.tasks.len() + 1);
        let result = rig::feed(session, pdu, unit);
        let out = drain(session);
        assert!(out.len() <= most, "{} PDUs in answer to one", out.len());
        let rejected = out.iter().filter(|p| opcode_of(&p.bhs) == opcode::REJECT).count();
        assert!(rejected <= 1 && out.iter().all(|p| opcode_of(&p.bhs) != opcode::REJECT || p.data[..] == bhs));
        assert_eq!(result.is_err(), matches!(foreseen, Foreseen::End), "{result:?}");
        match foreseen {
            Foreseen::Silence => assert!(out.is_empty()),
            Foreseen::Reject => assert_eq!(rejected, 1),
            Foreseen::Data => self.data_came(&bhs, pushed),
            Foreseen::Command => {
                let request = ScsiRequest::decode(&bhs);
                let immediate = self.tasks.values().filter(|t| t.immediate).count();
                assert!(rejected == 0 || request.immediate && immediate >= MAX_IMMEDIATE);
                if rejected == 0 {
                    self.tasks.insert(itt, Task::new(&request, pushed));
                }
            }
            Foreseen::Answer(code) if rejected == 0 => {
                self.owed.push((code, itt));
                let before = self.tasks.len();
                self.abort(&bhs);
                if self.tasks.len() < before {
                    tally.count("session: aborted before it ran");
                }
            }
            Foreseen::Answer(_) | Foreseen::End => {}
        }
        if rejected > 0 {
            tally.count("session: rejected");
        }
        self.outputs(out, Some(itt), tally);
        if result.is_err() {
            tally.count("session: ended by an error");
            return false;
        }
        self.compare(session);
        true
    }

    /// The initiator's side of a Data-Out: how far it is, and what it ends.
    fn data_came(&mut self, bhs: &Bhs, len: u32) {
        let d = DataOut::decode(bhs);
        let Some(task) = self.tasks.get_mut(&d.itt) else { return };
        let next = d.data_sn.wrapping_add(1);
        if d.ttt == RESERVED_TAG {
            task.unsolicited = task.unsolicited.filter(|_| !d.last).map(|(_, at)| (next, at.saturating_add(len)));
        } else if let Some(asked) = task.asked.first_mut().filter(|a| a.ttt == d.ttt) {
            (asked.sn, asked.got) = (next, asked.got.saturating_add(len).min(asked.length));
            if d.last {
                task.asked.remove(0);
            }
        }
    }

    /// What a request that was accepted aborts: nothing of that may be answered from now on.
    fn abort(&mut self, bhs: &Bhs) {
        let all = |_: u32, _: &Task| true;
        match opcode_of(bhs) {
            opcode::TASK_REQUEST => {
                let request = TaskRequest::decode(bhs);
                use TaskFunction as F;
                match request.function {
                    F::AbortTask => self.doom(|itt, _| itt == request.referenced),
                    F::AbortTaskSet if is_lun0(request.lun) => self.doom(|_, t| is_lun0(t.lun)),
                    F::ClearTaskSet | F::LogicalUnitReset if is_lun0(request.lun) => self.doom(all),
                    F::TargetWarmReset | F::TargetColdReset => self.doom(all),
                    _ => {}
                }
            }
            opcode::LOGOUT_REQUEST => {
                let request = LogoutRequest::decode(bhs);
                if request.reason == 0 || request.reason == 1 && request.cid == rig::CID {
                    self.doom(all);
                }
            }
            _ => {}
        }
    }

    /// Another session's reset, too, comes here.
    pub fn doom(&mut self, which: impl Fn(u32, &Task) -> bool) {
        for (itt, task) in &mut self.tasks {
            task.doomed |= which(*itt, task);
        }
        self.tasks.retain(|_, t| !t.doomed || t.running.is_some());
    }

    /// The session hands out a command.
    pub fn started(&mut self, work: &Work) {
        let task = self.tasks.get_mut(&work.itt).expect("a command that is in progress");
        assert!(!task.doomed && task.running.is_none(), "a command that was aborted or runs already");
        let whole = work.command.data_out().min(task.offered.into());
        assert_eq!(work.data.len() as u64, whole, "{:?} with a part of its data", work.command);
        task.running = Some(work.command.data_in());
        let running: Vec<usize> = self.tasks.values().filter_map(|t| t.running).filter(|n| *n > 0).collect();
        assert!(running.iter().sum::<usize>() <= MAX_SESSION_DATA || running.len() == 1, "{running:?}");
    }

    /// The device is done with a command.
    pub fn complete(&mut self, session: &mut Session, itt: u32, done: Completion, tally: &mut Tally) {
        let task = &self.tasks[&itt];
        let (doomed, fenced) = (task.doomed, done.fenced);
        let most = 1 + done.data.len().div_ceil(self.max_send.min(self.max_burst as usize)) * 2 + 8 * self.tasks.len();
        tally.count(match (task.doomed, task.asked_to > 0) {
            (true, _) => "session: aborted while it ran",
            (false, true) => "session: solicited write",
            (false, false) => "session: answered",
        });
        session.on_completion(itt, done);
        if doomed || fenced {
            self.tasks.remove(&itt);
        }
        let out = drain(session);
        assert!(out.len() <= most + MAX_WAITING, "{} PDUs in answer to one", out.len());
        self.outputs(out, None, tally);
        assert!(!self.tasks.contains_key(&itt), "no answer to {itt:x}");
        self.compare(session);
    }

    /// What the session says besides.
    pub fn take_outputs(&mut self, session: &mut Session, tally: &mut Tally) {
        let out = drain(session);
        self.outputs(out, None, tally);
        self.compare(session);
    }

    /// `now`: the tag of the request that was just taken.
    fn outputs(&mut self, out: Vec<OutPdu>, now: Option<u32>, tally: &mut Tally) {
        for pdu in out {
            self.output(&pdu, now, tally);
        }
    }

    fn output(&mut self, pdu: &OutPdu, now: Option<u32>, tally: &mut Tally) {
        let (op, itt) = (opcode_of(&pdu.bhs), itt_of(&pdu.bhs));
        let numbers = NopIn::decode(&pdu.bhs).numbers; // in the same place in all answers
        assert!(pdu.data.len() <= self.max_send.max(48) && data_len(&pdu.bhs) == pdu.data.len());
        let data = (op == opcode::DATA_IN).then(|| DataIn::decode(&pdu.bhs));
        let status = data.is_none_or(|d| d.status.is_some());
        if status {
            assert_eq!(numbers.stat, self.stat_sn, "StatSN of {op:02x}");
        }
        let takes = status && op != opcode::R2T && !(op == opcode::NOP_IN && itt == RESERVED_TAG);
        self.stat_sn = self.stat_sn.wrapping_add(u32::from(takes));
        assert_eq!(numbers.exp_cmd, self.exp_cmd_sn, "ExpCmdSN of {op:02x}");
        assert!(numbers.max_cmd.wrapping_sub(self.max_cmd_sn) as i32 >= 0, "MaxCmdSN went back");
        assert!(numbers.max_cmd.wrapping_sub(numbers.exp_cmd).wrapping_add(1) <= COMMAND_WINDOW);
        self.max_cmd_sn = numbers.max_cmd;
        match op {
            opcode::DATA_IN | opcode::R2T | opcode::SCSI_RESPONSE => {
                let task = self.tasks.get_mut(&itt).unwrap_or_else(|| panic!("{op:02x}: nobody waits for {itt:x}"));
                assert!(!task.doomed, "an answer to an aborted command");
                if op == opcode::R2T && task.asked_to == 0 && Some(itt) != now {
                    tally.count("session: waited for memory");
                }
                let ended = match data {
                    Some(d) => task.data_in(&d, pdu.data.len() as u32),
                    None if op == opcode::R2T => task.r2t(&ReadyToTransfer::decode(&pdu.bhs), self.max_burst),
                    None => true,
                };
                if ended && self.tasks.remove(&itt).is_some_and(|t| t.running.is_none() && t.asked_to > 0) {
                    tally.count("session: broken write");
                }
            }
            opcode::REJECT | opcode::ASYNC_MESSAGE => {}
            opcode::NOP_IN if itt == RESERVED_TAG => {}
            _ => {
                let at = self.owed.iter().position(|o| *o == (op, itt));
                self.owed.swap_remove(at.unwrap_or_else(|| panic!("{op:02x}: nobody asked as {itt:x}")));
                if op == opcode::TEXT_RESPONSE {
                    self.text_ttt = TextResponse::decode(&pdu.bhs).ttt;
                    tally.count("session: text answered");
                }
            }
        }
    }

    fn compare(&mut self, session: &Session) {
        self.closing = session.is_closing();
        assert_eq!(session.in_progress(), self.tasks.len());
        assert!(self.tasks.len() <= COMMAND_WINDOW as usize + MAX_IMMEDIATE);
        assert!(self.owed.len() <= MAX_WAITING, "{} requests wait for an answer", self.owed.len());
        let asked: Vec<usize> = self.tasks.values().map(|t| t.asked_to as usize).filter(|n| *n > 0).collect();
        assert!(asked.iter().sum::<usize>() <= MAX_SESSION_DATA || asked.len() == 1, "asked for {asked:?}");
    }
}

impl Task {
    fn new(request: &ScsiRequest, pushed: u32) -> Self {
        let expected = if request.read || request.write { request.expected } else { 0 };
        let offered = if request.write { request.expected } else { 0 };
        let unsolicited = (request.write && !request.last).then_some((0, pushed));
        Self { immediate: request.immediate, lun: request.lun, expected, offered, unsolicited, ..Self::default() }
    }

    /// Offsets and numbers go on without gaps, up to what the initiator has room for; true at the end.
    fn data_in(&mut self, d: &DataIn, len: u32) -> bool {
        assert_eq!((d.offset, d.data_sn), (self.came, self.data_sn));
        self.came += len;
        self.data_sn += 1;
        assert!(len > 0 && self.came <= self.expected, "{} bytes for {}", self.came, self.expected);
        d.status.is_some()
    }

    fn r2t(&mut self, r: &ReadyToTransfer, max_burst: u32) -> bool {
        assert!(r.length > 0 && r.length <= max_burst && r.ttt != RESERVED_TAG);
        assert!(r.offset >= self.asked_to && r.length <= self.expected - r.offset);
        assert!(self.unsolicited.is_none() && self.running.is_none());
        self.asked_to = r.offset + r.length;
        self.asked.push(Asked { ttt: r.ttt, offset: r.offset, length: r.length, got: 0, sn: 0 });
        false
    }
}

fn drain(session: &mut Session) -> Vec<OutPdu> {
    std::iter::from_fn(|| session.next_output()).collect()
}
