//! The session: an initiator that breaks every rule now and then, a device that answers late and in any order.

use std::sync::LazyLock;

use ballast_target::iscsi::digest::Digests;
use ballast_target::iscsi::framing::Deframer;
use ballast_target::iscsi::keys::Params;
use ballast_target::iscsi::pdu::*;
use ballast_target::iscsi::session::{AsyncEvent, Event, Session, Work};
use ballast_target::scsi::sense::code;
use ballast_target::scsi::{Attention, Command, Completion, Sense, UnitState};
use bytes::Bytes;

use crate::framing::{self, LIMIT, deframe, wire};
use crate::model::Model;
use crate::pdus::Maker;
use crate::random::{Rng, Tally};
use crate::rig::{self, Unit};
use crate::{cdb, pdus};

/// The biggest read's data, of which all are parts.
static BIG: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; 16 << 20]));

/// Steps that an honest initiator may need to end everything.
const PATIENCE: usize = 100_000;

struct Story {
    session: Session,
    model: Model,
    maker: Maker,
    /// The device; a big unit has none, its commands are answered without it.
    unit: Option<Unit>,
    /// What commands see of the unit; none in a discovery session.
    state: Option<UnitState>,
    stream: Option<(Deframer, Digests)>,
    running: Vec<Work>,
    tickets: Vec<u64>,
    resets_of_others: Vec<u64>,
}

impl Story {
    fn new(rng: &mut Rng) -> Self {
        let big = rng.percent(15);
        let max_burst = *rng.pick(&[512, 8192, 65536, 262_144, 16_773_120]);
        let params = Params {
            digests: framing::digests(rng),
            max_send_data: if big { 262_144 } else { *rng.pick(&[512, 1000, 8192, 65536]) },
            max_burst: if big { max_burst.max(65536) } else { max_burst },
            first_burst: max_burst.min(*rng.pick(&[512, 2048, 65536, 262_144])),
            initial_r2t: rng.percent(50),
            immediate_data: rng.percent(70),
            max_outstanding_r2t: 1 + rng.below(8) as u32,
            ..Params::default()
        };
        let normal = rng.percent(95);
        let (exp_cmd_sn, stat_sn) = (rng.edge(), rng.edge());
        let unit = (normal && !big).then(|| rig::unit(cdb::BLOCKS, rng.percent(3)));
        let state = match &unit {
            Some(unit) => Some(unit.state()),
            None => normal.then_some(UnitState { blocks: 1 << 20, read_only: false }),
        };
        let wild = *rng.pick(&[0, 3, 10, 30]);
        let stream = rng.percent(25).then(|| {
            let mut deframer = Deframer::new(LIMIT);
            deframer.set_full_feature(params.digests, LIMIT);
            (deframer, params.digests)
        });
        Self {
            model: Model::new(exp_cmd_sn, stat_sn, params.max_send_data, params.max_burst),
            session: rig::session(params.clone(), normal, exp_cmd_sn, stat_sn),
            maker: Maker::new(params, wild, big, rng.edge()),
            unit,
            state,
            stream,
            running: Vec::new(),
            tickets: Vec::new(),
            resets_of_others: Vec::new(),
        }
    }

    /// Gives a PDU to the session, in some stories as bytes; false at the session's end.
    fn send(&mut self, rng: &mut Rng, pdu: Pdu, tally: &mut Tally) -> bool {
        let Some((deframer, digests)) = &mut self.stream else { return self.take(pdu, tally) };
        let mut bytes = wire(&pdu, *digests);
        if self.maker.wild > 0 && rng.percent(2) {
            rng.damage(&mut bytes);
        }
        let mut whole = Vec::new();
        let end = deframe(rng, deframer, &bytes, |pdu| whole.push(pdu));
        whole.into_iter().all(|pdu| self.take(pdu, tally)) && end.is_ok()
    }

    fn take(&mut self, pdu: Pdu, tally: &mut Tally) -> bool {
        self.model.input(&mut self.session, pdu, self.state, tally)
    }

    fn start(&mut self, queued: usize) -> bool {
        let Some(work) = self.session.next_work(queued) else { return false };
        self.model.started(&work);
        self.running.push(work);
        true
    }

    /// The device answers one of its commands; false when the session ends by that.
    fn finish(&mut self, rng: &mut Rng, tally: &mut Tally) -> bool {
        let work = self.running.swap_remove(rng.index(self.running.len()));
        let done = match &self.unit {
            Some(unit) => rig::run(unit, work.command, work.data),
            None => match work.command {
                Command::Read { blocks, .. } => Completion::data(BIG.slice(..blocks as usize * 512)),
                _ => Completion::good(),
            },
        };
        cdb::check(&work.command, &done);
        let done = match rng.below(100) {
            0 => Completion::busy(),
            1 => Completion::check(Sense::illegal(code::OUT_OF_RANGE).at(rng.next())),
            2 if self.maker.wild > 0 => Completion { fenced: true, ..Completion::busy() },
            _ => done,
        };
        self.model.complete(&mut self.session, work.itt, done, tally);
        !self.session.is_fenced()
    }

    fn events(&mut self) {
        while let Some(event) = self.session.next_event() {
            match event {
                Event::ResetOthers { ticket, .. } => self.tickets.push(ticket),
                Event::ResetDone(ticket) => {
                    let at = self.resets_of_others.iter().position(|t| *t == ticket);
                    self.resets_of_others.swap_remove(at.expect("a reset that was asked for, once"));
                }
            }
        }
    }

    /// One thing that is no PDU; false at the session's end.
    fn surprise(&mut self, rng: &mut Rng, tally: &mut Tally) -> bool {
        match rng.below(8) {
            0 => {
                self.session.ping();
            }
            1 => self.session.announce(AsyncEvent::RequestLogout(3)),
            2 if self.state.is_some() => {
                let attention = *rng.pick(&[Some(Attention::Reset), Some(Attention::CommandsCleared), None]);
                let ticket = rng.next();
                self.resets_of_others.push(ticket);
                self.model.doom(|_, _| true);
                self.session.reset_by_other(attention, ticket);
            }
            3 if !self.tickets.is_empty() => {
                let ticket = self.tickets.swap_remove(rng.index(self.tickets.len()));
                self.session.on_others_done(ticket);
            }
            _ if !self.running.is_empty() => return self.finish(rng, tally),
            _ => {}
        }
        self.model.take_outputs(&mut self.session, tally);
        true
    }

    /// The initiator ends all it has begun; then nothing may be left.
    fn settle(&mut self, rng: &mut Rng, tally: &mut Tally) {
        for _ in 0..PATIENCE {
            while self.start(0) {}
            self.events();
            if let Some(ticket) = self.tickets.pop() {
                self.session.on_others_done(ticket);
                self.model.take_outputs(&mut self.session, tally);
            } else if !self.running.is_empty() {
                if !self.finish(rng, tally) {
                    return tally.count("session: fenced");
                }
            } else if let Some(end) = self.end_of_data() {
                assert!(self.take(end, tally), "data does not end a session");
            } else {
                break;
            }
            if self.session.is_closing() {
                return tally.count("session: logged out");
            }
        }
        assert!(self.model.is_settled(), "not answered in the end: {:?}", self.model.tasks.keys());
        assert!(self.resets_of_others.is_empty());
        tally.count("session: all answered in the end");
    }

    /// An empty Data-Out with the F bit for the first data that is still announced or asked for.
    fn end_of_data(&self) -> Option<Pdu> {
        self.model.tasks.iter().find_map(|(itt, task)| {
            let (ttt, data_sn, offset) = match (task.unsolicited, task.asked.first()) {
                (Some((sn, at)), _) => (RESERVED_TAG, sn, at),
                (None, Some(a)) => (a.ttt, a.sn, a.offset + a.got),
                (None, None) => return None,
            };
            let end = DataOut { last: true, lun: 0, itt: *itt, ttt, exp_stat_sn: 0, data_sn, offset };
            Some(Pdu { bhs: end.encode(), ahs: Bytes::new(), data: pdus::zeroes(0), data_ok: true })
        })
    }
}

pub fn run(rng: &mut Rng, tally: &mut Tally) {
    let mut story = Story::new(rng);
    // A flood is one kind of request again and again, mostly while the device does not move.
    let flood = rng.percent(3).then(|| rng.below(6));
    let steps = if flood.is_some() { 300 } else { 3 + rng.below(40) };
    let pace = if flood.is_some() { 1 } else { 10 + rng.below(40) };
    for _ in 0..steps {
        let Story { maker, model, .. } = &mut story;
        let pdu = match flood {
            Some(0) => maker.command(rng, model),
            Some(1) => maker.nop(rng, model),
            Some(2) => maker.text(rng, model),
            Some(3) => maker.task_management(rng, model),
            Some(4) if rng.percent(70) => maker.logout(rng, model),
            _ => maker.any(rng, model),
        };
        if !story.send(rng, pdu, tally) {
            return tally.count("session: ended");
        }
        if rng.percent(50) {
            story.start(rng.below(1000) as usize);
        }
        story.events();
        if rng.percent(pace) && !story.surprise(rng, tally) {
            return tally.count("session: ended");
        }
        if story.session.is_closing() {
            return tally.count("session: logged out");
        }
    }
    story.settle(rng, tally);
}
