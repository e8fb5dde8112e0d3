//! SCSI Command PDUs (RFC 7143 section 11.3): admission, immediate data, the way to Data-Out or to the device.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::tasks::{Collect, Task};
use super::{Env, MAX_IMMEDIATE, Session, SessionError};
use crate::iscsi::pdu::{Pdu, RESERVED_TAG, RejectReason, ScsiRequest};
use crate::scsi::sense::{SenseKey, code};
use crate::scsi::{Command, Completion, Sense};

/// Task attribute ORDERED (section 11.3.1). HEAD OF QUEUE needs nothing: commands are started as they come.
const ORDERED: u8 = 2;

impl Session {
    pub(super) fn on_command(&mut self, pdu: Pdu, env: &Env<'_>) -> Result<(), SessionError> {
        let request = ScsiRequest::decode(&pdu.bhs);
        if !self.take_cmd_sn(request.immediate, request.cmd_sn)? {
            return Ok(());
        }
        let Some(unit) = env.unit else { return Ok(()) };
        if request.itt == RESERVED_TAG {
            self.reject(RejectReason::InvalidField, &pdu);
            return Ok(());
        }
        if self.tasks.contains(request.itt) {
            self.reject(RejectReason::TaskInProgress, &pdu);
            return Ok(());
        }
        if request.immediate && self.tasks.immediate() >= MAX_IMMEDIATE {
            self.reject(RejectReason::TooManyImmediate, &pdu);
            return Ok(());
        }
        let admitted = self.nexus.admit(request.lun, &request.cdb, unit);
        let fault = self.pushed_data_fault(&request, pdu.data.len());
        let (command, fail) = match (admitted, fault) {
            (Ok(command), None) => {
                let offered = if request.write { request.expected } else { 0 };
                let wrong = command.exact_data_out().filter(|n| *n != offered).map(|wanted| match wanted {
                    // The CDB says "no blocks": its one byte for them was too small for what the initiator meant.
                    0 => Sense::illegal(code::INVALID_FIELD),
                    _ => Sense::illegal(code::INVALID_FIELD_IN_IU),
                });
                (command, wrong)
            }
            (Ok(command), Some(sense)) => (command, Some(sense)),
            (Err(sense), _) => (Command::TestUnitReady, Some(sense)),
        };
        let mut task = Task::new(command, request.lun, request.immediate);
        task.read = request.read;
        task.write = request.write;
        task.ordered = request.attribute == ORDERED;
        task.expected = if request.read || request.write { request.expected } else { 0 };
        let wanted = if request.write { command.data_out().min(u64::from(request.expected)) as u32 } else { 0 };
        let more = request.write && !request.last;
        self.accept(request.itt, task, wanted, more, fail, pdu.data);
        Ok(())
    }

    /// Data pushed against what login agreed on (sections 13.10, 13.11, 13.14). The command fails, the session
    /// goes on (section 11.4.7.2 names the sense codes).
    fn pushed_data_fault(&self, request: &ScsiRequest, immediate: usize) -> Option<Sense> {
        let fault = |code| Some(Sense::new(SenseKey::AbortedCommand, code));
        let limit = self.params.first_burst.min(request.expected) as usize;
        if immediate > 0 && (!request.write || !self.params.immediate_data) {
            return fault(code::UNEXPECTED_DATA);
        }
        if request.write && !request.last && self.params.initial_r2t {
            return fault(code::UNEXPECTED_DATA);
        }
        if immediate > limit {
            return fault(code::NOT_ENOUGH_DATA);
        }
        None
    }

    fn accept(&mut self, itt: u32, mut task: Task, wanted: u32, more: bool, fail: Option<Sense>, mut data: Bytes) {
        let pushed = data.len() as u32;
        data.truncate(wanted as usize);
        if !more && fail.is_none() && data.len() == wanted as usize {
            task.set_ready(data, self.now);
            self.tasks.insert(itt, task);
            self.ready.push_back(itt);
            return;
        }
        if let (false, Some(sense)) = (more, fail) {
            // Inserted and removed, so that the numbers of the response count it like any other.
            self.respond(itt, &task, Completion::check(sense));
            return;
        }
        let mut buf = BytesMut::new();
        if fail.is_none() {
            buf.reserve(wanted.min(self.params.first_burst) as usize);
            buf.extend_from_slice(&data);
        }
        let asked = data.len() as u32;
        let unsolicited = more.then_some(0);
        let collect =
            Collect { buf, wanted, unsolicited, pushed, open: VecDeque::new(), asked, fail, has_grant: false };
        task.collect = Some(Box::new(collect));
        self.tasks.insert(itt, task);
        self.advance(itt);
    }
}
