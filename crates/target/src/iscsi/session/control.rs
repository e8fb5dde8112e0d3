//! NOP, text and asynchronous messages (RFC 7143 sections 11.9-11.11, 11.18, 11.19).

use bytes::Bytes;

use super::{Session, SessionError, TargetList};
use crate::iscsi::pdu::{
    AsyncMessage, NopIn, NopOut, OutPdu, Pdu, RESERVED_TAG, RejectReason, TextRequest, TextResponse,
};
use crate::iscsi::text::{self, number};

/// Text of one exchange; more is refused.
const MAX_TEXT: usize = 64 * 1024;
/// Largest text segment we send, whatever the initiator takes.
const MAX_TEXT_SEGMENT: usize = 32 * 1024;

/// A text exchange that goes on: the request by its C bit, or the response because it is long.
pub(super) struct TextExchange {
    itt: u32,
    ttt: u32,
    request: Vec<u8>,
    response: Bytes,
}

/// Asynchronous events (section 11.9.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsyncEvent {
    /// The initiator shall log out within so many seconds.
    RequestLogout(u16),
    /// The target drops the session; reconnect not before so many seconds.
    DropSession(u16),
}

impl Session {
    pub(super) fn on_nop_out(&mut self, pdu: &Pdu) -> Result<(), SessionError> {
        let nop = NopOut::decode(&pdu.bhs);
        if nop.ttt != RESERVED_TAG && self.ping == Some(nop.ttt) {
            self.ping = None;
        }
        if nop.itt == RESERVED_TAG {
            return Ok(()); // section 11.18.1: an answer or a mere acknowledgement; takes no CmdSN
        }
        if !self.take_cmd_sn(nop.immediate, nop.cmd_sn)? {
            return Ok(());
        }
        // A copy: the data is a slice of a read buffer, and an initiator that takes no answers could make each of them keep
        // a whole buffer for its one byte.
        let n = pdu.data.len().min(self.params.max_send_data as usize);
        let data = Bytes::copy_from_slice(&pdu.data[..n]);
        let numbers = self.take_numbers();
        let answer = NopIn { lun: nop.lun, itt: nop.itt, ttt: RESERVED_TAG, numbers };
        self.send(OutPdu::new(answer.encode(), data));
        Ok(())
    }

    /// Pings the initiator; false when it has not answered the last one.
    pub fn ping(&mut self) -> bool {
        if self.ping.is_some() {
            return false;
        }
        let ttt = self.new_ttt();
        self.ping = Some(ttt);
        // Section 11.19.2: a ping carries the next StatSN and does not take it.
        let ping = NopIn { lun: 0, itt: RESERVED_TAG, ttt, numbers: self.numbers() };
        self.send(OutPdu::bare(ping.encode()));
        true
    }

    /// Tells the initiator what is about to happen.
    pub fn announce(&mut self, event: AsyncEvent) {
        let numbers = self.take_numbers();
        let (event, parameter2, parameter3) = match event {
            AsyncEvent::RequestLogout(seconds) => (1, 0, seconds),
            AsyncEvent::DropSession(seconds) => (3, seconds, 0),
        };
        let message = AsyncMessage { lun: 0, event, numbers, parameter1: 0, parameter2, parameter3 };
        self.send(OutPdu::bare(message.encode()));
    }

    pub(super) fn on_text(&mut self, pdu: &Pdu, targets: &dyn TargetList) -> Result<(), SessionError> {
        let request = TextRequest::decode(&pdu.bhs);
        if !self.take_cmd_sn(request.immediate, request.cmd_sn)? {
            return Ok(());
        }
        let mut exchange = match self.text.take() {
            Some(e) if request.ttt == e.ttt && request.itt == e.itt => e,
            // A new exchange ends an unfinished one (section 11.10.4).
            _ if request.ttt == RESERVED_TAG => {
                let ttt = self.new_ttt();
                TextExchange { itt: request.itt, ttt, request: Vec::new(), response: Bytes::new() }
            }
            _ => {
                self.reject(RejectReason::InvalidField, pdu);
                return Ok(());
            }
        };
        if exchange.request.len() + pdu.data.len() > MAX_TEXT || (request.more && request.last) {
            self.reject(RejectReason::Protocol, pdu);
            return Ok(());
        }
        exchange.request.extend_from_slice(&pdu.data);
        if exchange.response.is_empty() && !request.more {
            match text::parse(&std::mem::take(&mut exchange.request)) {
                Ok(pairs) => exchange.response = self.answer_text(&pairs, targets),
                Err(_) => {
                    self.reject(RejectReason::Protocol, pdu);
                    return Ok(());
                }
            }
        }
        let limit = (self.params.max_send_data as usize).min(MAX_TEXT_SEGMENT);
        let n = exchange.response.len().min(limit);
        let segment = exchange.response.split_to(n);
        let more = !exchange.response.is_empty();
        let last = request.last && !more;
        let ttt = if last { RESERVED_TAG } else { exchange.ttt };
        let numbers = self.take_numbers();
        let response = TextResponse { last, more, lun: request.lun, itt: request.itt, ttt, numbers };
        self.send(OutPdu::new(response.encode(), segment));
        self.text = (!last).then_some(exchange);
        Ok(())
    }

    fn answer_text(&mut self, pairs: &[(String, String)], targets: &dyn TargetList) -> Bytes {
        let mut out = Vec::new();
        for (key, value) in pairs {
            match key.as_str() {
                // Appendix C: in a normal session only the session's own target is told.
                "SendTargets" => {
                    let found = match (&self.target, value.as_str()) {
                        (None, "All") => targets.send_targets(None),
                        (None, name) => targets.send_targets(Some(name)),
                        (Some(own), "") => targets.send_targets(Some(own)),
                        (Some(own), name) if own == name => targets.send_targets(Some(own)),
                        (Some(_), "All") => {
                            text::put(&mut out, key, "Reject");
                            continue;
                        }
                        _ => Vec::new(),
                    };
                    for (name, address) in found {
                        text::put(&mut out, "TargetName", &name);
                        text::put(&mut out, "TargetAddress", &address);
                    }
                }
                // Section 13.12: the one key that may change in the full feature phase; it is declarative.
                "MaxRecvDataSegmentLength" => match number(value).filter(|n| (512..1 << 24).contains(n)) {
                    Some(n) => self.params.max_send_data = n,
                    None => text::put(&mut out, key, "Reject"),
                },
                _ => text::put(&mut out, key, "NotUnderstood"),
            }
        }
        Bytes::from(out)
    }

    fn new_ttt(&mut self) -> u32 {
        let ttt = self.next_ttt;
        self.next_ttt = if ttt + 1 == RESERVED_TAG { 0 } else { ttt + 1 };
        ttt
    }
}
