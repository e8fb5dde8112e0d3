//! The full feature phase of a connection in one task: read, run, write, without hand-over to other tasks.
//!
//! One turn: take what the device finished, start what is admitted, send all answers in one gathered write, read
//! once, parse everything that came. Turns go on until nothing moves; then the task sleeps until the socket, the
//! device, a control message or the timer wakes it.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, Sleep, interval_at, sleep, timeout};

use super::connection::Ended;
use super::registry::{Control, Portal, Registration, Shared, Target};
use super::writer::Writer;
use crate::block_device::BlockDevice;
use crate::iscsi::framing::Deframer;
use crate::iscsi::session::{AsyncEvent, Env, Event, MAX_SESSION_DATA, Session, Work};
use crate::latency::{Kind, Trace, traced};
use crate::scsi::{Completion, InitiatorPort, LogicalUnit, execute};

/// Seconds an initiator should wait before it comes back to a target that dropped it.
const RECONNECT_AFTER: u16 = 1;

/// Who talks to whom.
pub(super) struct Ends {
    pub(super) local: SocketAddr,
    pub(super) initiator: String,
}

/// A connection in the full feature phase.
pub(super) struct Engine<D> {
    shared: Arc<Shared<D>>,
    stream: TcpStream,
    ends: Ends,
    deframer: Deframer,
    writer: Writer,
    session: Session,
    place: Option<Registration<D>>,
    control: Option<mpsc::UnboundedReceiver<Control>>,
    ticks: Interval,
    heard: bool,
    /// Set when the session has to end whatever the initiator does.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Send what is queued, then end with this.
    ending: Option<Ended>,
    /// End with this at once: the initiator takes nothing any more.
    cut: Option<Ended>,
    /// Resets of other sessions under way; yield their ticket.
    resets: FuturesUnordered<BoxFuture<'static, u64>>,
    /// Other sessions that wait for ours, by ticket.
    acks: Vec<(u64, oneshot::Sender<()>)>,
    next_ack: u64,
    /// Commands whose response waits for the socket, and where in the stream it ends; in order.
    answering: VecDeque<(u64, Trace)>,
}

impl<D: BlockDevice> Engine<D> {
    pub(super) fn new(
        shared: Arc<Shared<D>>,
        stream: TcpStream,
        ends: Ends,
        deframer: Deframer,
        writer: Writer,
        session: Session,
        place: Option<(Registration<D>, mpsc::UnboundedReceiver<Control>)>,
    ) -> Self {
        let every = shared.config.nop_interval;
        let mut ticks = interval_at(tokio::time::Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (place, control) = place.unzip();
        Self {
            shared,
            stream,
            ends,
            deframer,
            writer,
            session,
            place,
            control,
            ticks,
            heard: false,
            deadline: None,
            ending: None,
            cut: None,
            resets: FuturesUnordered::new(),
            acks: Vec::new(),
            next_ack: 0,
            answering: VecDeque::new(),
        }
    }
}

async fn start<D: BlockDevice>(
    target: Arc<Target<D>>,
    port: Arc<InitiatorPort>,
    started: Instant,
    work: Work,
) -> (u32, Completion, Trace) {
    let Work { itt, command, data, read } = work;
    let (mut completion, exchange) = traced(execute(target.unit.clone(), &port, command, data)).await;
    if !completion.abort.is_empty() {
        let preempted = std::mem::take(&mut completion.abort);
        // However long the device takes: GOOD says that nothing of the preempted can land any more, and others rely on it. The
        // device ends each of its calls.
        for ack in target.abort_tasks(&preempted) {
            let _ = ack.await;
        }
    }
    (itt, completion, Trace { kind: Kind::of(&command), read, started, exchange })
}

/// Runs a connection to its end; returns when no device call of it is left.
pub(super) async fn run<D: BlockDevice>(mut engine: Engine<D>) -> Ended {
    let target = engine.place.as_ref().map(|place| (place.target.clone(), place.port.clone()));
    let unit = target.as_ref().map(|(target, _)| target.unit.clone());
    let mut running = FuturesUnordered::new();
    let reason = std::future::poll_fn(|cx| {
        let begin = |started, work| target.clone().map(|(target, port)| start(target, port, started, work));
        engine.poll(cx, &mut running, begin, unit.as_deref())
    })
    .await;
    // The initiator is told at once; its place stays taken until the device is done with its commands.
    let Engine { stream, place, acks, writer, .. } = engine;
    drop((stream, writer));
    while running.next().await.is_some() {}
    drop(acks);
    drop(place);
    reason
}

impl<D: BlockDevice> Engine<D> {
    fn poll<F: Future<Output = (u32, Completion, Trace)>>(
        &mut self,
        cx: &mut Context<'_>,
        running: &mut FuturesUnordered<F>,
        begin: impl Fn(Instant, Work) -> Option<F>,
        unit: Option<&LogicalUnit<D>>,
    ) -> Poll<Ended> {
        self.poll_control(cx);
        self.poll_timers(cx);
        if let Some(reason) = self.cut.take() {
            return Poll::Ready(reason);
        }
        loop {
            while let Poll::Ready(Some((itt, completion, trace))) = running.poll_next_unpin(cx) {
                if self.session.on_completion(itt, completion) {
                    self.queue_output();
                    self.answering.push_back((self.writer.end(), trace));
                }
            }
            if self.session.is_fenced() && self.ending.is_none() {
                self.session.announce(AsyncEvent::DropSession(RECONNECT_AFTER));
                self.end(Ended::Told("another target has taken over the volume"));
            }
            self.queue_output(); // counts for the memory that the next commands may take
            let mut started = None;
            while self.ending.is_none()
                && let Some(work) = self.session.next_work(self.writer.backlog())
            {
                running.extend(begin(*started.get_or_insert_with(Instant::now), work));
            }
            self.take_events(); // before the poll: a reset that just began has to know whom to wake
            while let Poll::Ready(Some(ticket)) = self.resets.poll_next_unpin(cx) {
                self.session.on_others_done(ticket);
            }
            if started.is_some() {
                continue; // poll what was started: much of it is done at once, and its answers share a write
            }
            self.queue_output();
            let before = self.writer.backlog();
            if let Poll::Ready(Err(error)) = self.writer.poll_flush(cx, &mut self.stream) {
                return Poll::Ready(Ended::Io(error));
            }
            self.note_written();
            if self.writer.is_empty() {
                if let Some(reason) = self.ending.take() {
                    return Poll::Ready(reason);
                }
                if self.session.is_closing() {
                    return Poll::Ready(Ended::Logout);
                }
            }
            let room = self.writer.backlog() < before;
            match self.poll_input(cx, unit) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(reason)) => return Poll::Ready(reason),
                Poll::Pending if room => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Reads once and takes all PDUs that are whole. Pending also while the initiator does not take our answers.
    fn poll_input(&mut self, cx: &mut Context<'_>, unit: Option<&LogicalUnit<D>>) -> Poll<Result<(), Ended>> {
        if self.ending.is_some() || self.session.is_closing() || self.writer.backlog() > MAX_SESSION_DATA {
            return Poll::Pending;
        }
        let n = {
            let mut space = self.deframer.space();
            let mut read = pin!(self.stream.read_buf(&mut space));
            match read.poll_unpin(cx) {
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Ended::Io(error))),
                Poll::Pending => return Poll::Pending,
            }
        };
        if n == 0 {
            return Poll::Ready(Err(Ended::Closed));
        }
        self.heard = true;
        self.session.set_now(Instant::now());
        let Ends { local, initiator } = &self.ends;
        let portal = Portal { shared: &*self.shared, initiator, local: *local };
        let env = Env { unit: unit.map(LogicalUnit::state), targets: &portal };
        let taken = loop {
            match self.deframer.next_pdu() {
                Ok(None) => break Ok(()),
                Ok(Some(pdu)) => match self.session.on_pdu(pdu, &env) {
                    Ok(()) => {}
                    Err(error) => break Err(error.into()),
                },
                Err(error) => break Err(error.into()),
            }
        };
        if let Err(reason) = taken {
            // What is queued, a Reject among it, is still sent.
            self.end(reason);
        }
        Poll::Ready(Ok(()))
    }

    fn queue_output(&mut self) {
        while let Some(pdu) = self.session.next_output() {
            self.writer.push(pdu);
        }
    }

    /// Commands whose response the socket has taken are done.
    fn note_written(&mut self) {
        let written = self.writer.written();
        let done = self.answering.iter().take_while(|(end, _)| *end <= written).count();
        if done == 0 {
            return;
        }
        let now = Instant::now();
        for (_, trace) in self.answering.drain(..done) {
            if let Some(place) = &self.place {
                place.target.latency.record(&trace, now);
            }
        }
    }

    fn end(&mut self, reason: Ended) {
        self.ending.get_or_insert(reason);
        self.deadline.get_or_insert_with(|| Box::pin(sleep(self.shared.config.logout_grace)));
    }

    fn poll_control(&mut self, cx: &mut Context<'_>) {
        let Some(mut control) = self.control.take() else { return };
        while let Poll::Ready(Some(message)) = control.poll_recv(cx) {
            match message {
                Control::Close(why) => self.end(Ended::Told(why)),
                Control::RequestLogout => {
                    let grace = self.shared.config.logout_grace;
                    let seconds = u16::try_from(grace.as_secs()).unwrap_or(u16::MAX).max(1);
                    self.session.announce(AsyncEvent::RequestLogout(seconds));
                    self.deadline.get_or_insert_with(|| Box::pin(sleep(grace)));
                }
                Control::Drop => {
                    self.session.announce(AsyncEvent::DropSession(RECONNECT_AFTER));
                    self.end(Ended::Told("dropped by the target"));
                }
                Control::Reset(attention, ack) => {
                    self.next_ack += 1;
                    self.acks.push((self.next_ack, ack));
                    self.session.reset_by_other(attention, self.next_ack);
                }
            }
        }
        self.control = Some(control);
    }

    fn poll_timers(&mut self, cx: &mut Context<'_>) {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.deadline = None;
            self.cut = self.ending.take().or(Some(Ended::Told("the target shuts down")));
        }
        while self.ticks.poll_tick(cx).is_ready() {
            if !std::mem::take(&mut self.heard) && !self.session.ping() {
                self.cut = Some(Ended::Silent);
            }
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.session.next_event() {
            match event {
                Event::ResetDone(ticket) => {
                    if let Some(i) = self.acks.iter().position(|(t, _)| *t == ticket) {
                        let _ = self.acks.swap_remove(i).1.send(());
                    }
                }
                Event::ResetOthers { ticket, attention, drop_sessions } => {
                    let acks = match &self.place {
                        Some(place) => place.target.reset_others(place, attention, drop_sessions),
                        None => Vec::new(),
                    };
                    let bound = self.shared.config.drain_timeout;
                    self.resets.push(
                        async move {
                            // A session that ends meanwhile drops its end: that is done as well.
                            for ack in acks {
                                let _ = timeout(bound, ack).await;
                            }
                            ticket
                        }
                        .boxed(),
                    );
                }
            }
        }
    }
}
