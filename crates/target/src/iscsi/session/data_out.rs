//! Data-Out and R2T (RFC 7143 sections 11.7 and 11.8): unsolicited and solicited data, always in order.
//!
//! A command whose data is broken (DataSN, BufferOffset, length, digest) is not answered at once: the initiator
//! goes on sending what it was asked for. The rest is swallowed up to the F bits, then comes CHECK CONDITION.

use super::Session;
use super::tasks::{Collect, R2t};
use crate::iscsi::pdu::{DataOut, OutPdu, Pdu, RESERVED_TAG, ReadyToTransfer, RejectReason};
use crate::scsi::sense::{SenseKey, code};
use crate::scsi::{Completion, Sense};

const fn aborted(code: u16) -> Sense {
    Sense::new(SenseKey::AbortedCommand, code)
}

impl Session {
    pub(super) fn on_data_out(&mut self, pdu: &Pdu) {
        let d = DataOut::decode(&pdu.bhs);
        let first_burst = self.params.first_burst;
        // Data of a task that was aborted meanwhile is discarded (section 11.5.1).
        let Some(task) = self.tasks.get_mut(d.itt) else { return };
        let expected = task.expected;
        let known = match task.collect.as_deref_mut() {
            Some(c) if d.ttt == RESERVED_TAG => c.take_unsolicited(&d, pdu, first_burst.min(expected)),
            Some(c) => c.take_solicited(&d, pdu),
            None => false,
        };
        if known {
            self.advance(d.itt);
        } else {
            self.reject(RejectReason::Protocol, pdu); // nobody asked for this data
        }
    }

    /// Moves a write on: asks for more data, starts it, or fails it.
    pub(super) fn advance(&mut self, itt: u32) {
        let now = self.now;
        let Some(task) = self.tasks.get_mut(itt) else { return };
        let Some(c) = task.collect.as_deref_mut() else { return };
        if c.unsolicited.is_some() {
            return;
        }
        if let Some(sense) = c.fail {
            if c.open.is_empty()
                && let Some(task) = self.remove_task(itt)
            {
                self.respond(itt, &task, Completion::check(sense));
                self.grant_waiting();
            }
            return;
        }
        if c.buf.len() == c.wanted as usize {
            let data = std::mem::take(&mut c.buf).freeze();
            task.set_ready(data, now);
            self.ready.push_back(itt);
            return;
        }
        if !c.has_grant {
            let need = c.wanted as usize;
            if self.granted > 0 && self.granted + need > super::MAX_SESSION_DATA {
                self.waiting_grant.push_back(itt);
                return;
            }
            self.granted += need;
            c.has_grant = true;
            c.buf.reserve(need - c.buf.len());
            task.set_grant(need);
        }
        self.ask(itt);
    }

    /// Sends R2Ts up to MaxOutstandingR2T, each of at most MaxBurstLength (section 11.8).
    fn ask(&mut self, itt: u32) {
        let (burst, at_a_time) = (self.params.max_burst, self.params.max_outstanding_r2t as usize);
        let numbers = self.numbers();
        let Some(task) = self.tasks.get_mut(itt) else { return };
        let (lun, mut r2t_sn) = (task.lun, task.r2ts_sent);
        let Some(c) = task.collect.as_deref_mut() else { return };
        while c.open.len() < at_a_time && c.asked < c.wanted {
            let length = burst.min(c.wanted - c.asked);
            let ttt = self.next_ttt;
            self.next_ttt = if ttt + 1 == RESERVED_TAG { 0 } else { ttt + 1 };
            c.open.push_back(R2t { ttt, offset: c.asked, length, got: 0, data_sn: 0 });
            let r2t = ReadyToTransfer { lun, itt, ttt, numbers, r2t_sn, offset: c.asked, length };
            self.out.push_back(OutPdu::bare(r2t.encode()));
            c.asked += length;
            r2t_sn += 1;
        }
        task.r2ts_sent = r2t_sn;
    }

    /// Gives memory that came free to the writes that wait for it.
    pub(super) fn grant_waiting(&mut self) {
        while let Some(itt) = self.waiting_grant.pop_front() {
            let before = self.waiting_grant.len();
            self.advance(itt);
            if self.waiting_grant.len() > before {
                // Still no room: back to the front of the queue.
                self.waiting_grant.rotate_right(1);
                return;
            }
        }
    }
}

impl Collect {
    fn take_unsolicited(&mut self, d: &DataOut, pdu: &Pdu, limit: u32) -> bool {
        let Some(sn) = self.unsolicited else { return false };
        self.unsolicited = (!d.last).then_some(sn.wrapping_add(1));
        let len = pdu.data.len() as u32;
        if d.data_sn != sn {
            self.spoil(code::CRC); // section 7.9: a DataSN that is missing counts as a digest error
        } else if d.offset != self.pushed || len > limit.saturating_sub(self.pushed) {
            self.spoil(code::NOT_ENOUGH_DATA);
        } else if !pdu.data_ok {
            self.spoil(code::CRC);
        }
        self.pushed = self.pushed.saturating_add(len);
        if self.fail.is_none() {
            // What goes beyond the command's own length is dropped: residual underflow.
            let room = self.wanted as usize - self.buf.len();
            self.buf.extend_from_slice(&pdu.data[..pdu.data.len().min(room)]);
            self.asked = self.buf.len() as u32;
        }
        true
    }

    fn take_solicited(&mut self, d: &DataOut, pdu: &Pdu) -> bool {
        // DataSequenceInOrder=Yes: R2Ts are answered in the order in which they were sent.
        let Some(r2t) = self.open.front_mut().filter(|r| r.ttt == d.ttt) else { return false };
        let len = pdu.data.len() as u32;
        let wrong = if d.data_sn != r2t.data_sn {
            Some(code::CRC)
        } else if d.offset != r2t.offset.wrapping_add(r2t.got) || len > r2t.length - r2t.got {
            Some(code::NOT_ENOUGH_DATA)
        } else if !pdu.data_ok {
            Some(code::CRC)
        } else if d.last && r2t.got + len < r2t.length {
            Some(code::NOT_ENOUGH_DATA)
        } else {
            None
        };
        r2t.data_sn = d.data_sn.wrapping_add(1);
        r2t.got = r2t.got.saturating_add(len).min(r2t.length);
        let ends = d.last || (r2t.got == r2t.length && self.fail.is_none() && wrong.is_none());
        match wrong {
            Some(code) => self.spoil(code),
            None if self.fail.is_none() => self.buf.extend_from_slice(&pdu.data),
            None => {}
        }
        if ends {
            self.open.pop_front();
        }
        true
    }

    fn spoil(&mut self, code: u16) {
        self.fail.get_or_insert(aborted(code));
        self.buf.clear();
    }
}
