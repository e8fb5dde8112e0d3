//! Where the time of a command goes: one histogram for each kind and stage, for each volume.
//!
//! ```text
//! read ----queue----> started ----send----> sent ----replicate----> answered ----answer----> written
//!  '-------------------------------------- total ---------------------------------------------'
//! ```
//! | moment | exactly | its clock is read |
//! |---|---|---|
//! | read | the last byte of the command and its data came out of the socket | once for each read of the socket |
//! | started | the session gave the command out to run | once for all that start in the same turn |
//! | sent | the volume's actor handed the request to the stream to the leader | was read before, for deadlines |
//! | answered | the actor had the leader's answer | was read before, for deadlines |
//! | written | the socket has taken the last byte of the response | once for each write of the socket |
//!
//! * `queue`: parsing; waiting for older commands (ORDERED) and for memory. Waiting for data that the initiator was asked
//!   for (R2T) is before it: that is the initiator's and the network's time.
//! * `send`: reservations, the range lock, the old contents of partial blocks, checksums, the actor's channel; while there
//!   is no leader, the wait for one; and all tries before the one that was answered.
//! * `replicate`: HTTP/2 both ways and all that the leader does: for a write its followers and the flushes of a majority, for
//!   a read the medium.
//! * `answer`: the way back to the session, the checksums of what was read, what is sent before it, an initiator or a
//!   network that takes no more.
//! * `total`: from read to written. It is the sum of the four others.
//!
//! A command in several requests (more than 1 MiB, a partial block, COMPARE AND WRITE) has the moments of the one that
//! was answered last. What asks the leader nothing (INQUIRY, SYNCHRONIZE CACHE), or got no answer of one within the time that I/O
//! waits, is only in `queue` and `total`. Commands that are not answered (aborted, the session ended) are nowhere.
//!
//! Cost for each command: three readings of the clock when it comes alone, shared with its neighbours when many are under
//! way; ten atomic additions, all at the end, in the session's task; two words kept beside its future. No lock, no allocation.
//! The moments between are told from below by a task-local value: what stands behind the trait `BlockDevice` may say when it
//! asked and was answered ([`leader_answered`]) and need not.

mod histogram;
mod wire;

use std::cell::Cell;
use std::future::Future;
use std::time::Instant;

pub use histogram::{Bucket, Histogram, Snapshot};

use crate::scsi::Command;

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// READ.
    Read,
    /// WRITE and its variants that carry data.
    Write,
    /// Everything else: UNMAP, WRITE SAME, VERIFY, EXTENDED COPY, SYNCHRONIZE CACHE, reservations, INQUIRY ...
    Other,
}

impl Kind {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Other];

    /// Of a command.
    pub fn of(command: &Command) -> Self {
        match command {
            Command::Read { .. } => Self::Read,
            Command::Write { .. }
            | Command::WriteAtomic { .. }
            | Command::WriteVerify { .. }
            | Command::CompareAndWrite { .. }
            | Command::OrWrite { .. } => Self::Write,
            _ => Self::Other,
        }
    }

    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Other => "other",
        }
    }
}

/// A part of a command's time; see the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// read -> started
    Queue,
    /// started -> sent
    Send,
    /// sent -> answered
    Replicate,
    /// answered -> written
    Answer,
    /// read -> written
    Total,
}

impl Stage {
    /// All, in order.
    pub const ALL: [Self; 5] = [Self::Queue, Self::Send, Self::Replicate, Self::Answer, Self::Total];

    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Send => "send",
            Self::Replicate => "replicate",
            Self::Answer => "answer",
            Self::Total => "total",
        }
    }
}

/// A question to the leader that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// When it was sent, the last time.
    pub sent: Instant,
    /// When the answer was there.
    pub answered: Instant,
}

/// The moments of a command, up to its answer.
#[derive(Debug, Clone, Copy)]
pub struct Trace {
    /// What it does.
    pub kind: Kind,
    /// See the module's text.
    pub read: Instant,
    /// See the module's text.
    pub started: Instant,
    /// The last answer of the leader, if it was asked.
    pub exchange: Option<Exchange>,
}

tokio::task_local! {
    /// Of the command whose future is being polled.
    static EXCHANGE: Cell<Option<Exchange>>;
}

/// Runs a command; tells also which answer of the leader came last.
pub async fn traced<F: Future>(command: F) -> (F::Output, Option<Exchange>) {
    let noted = async {
        let output = command.await;
        (output, EXCHANGE.with(Cell::get))
    };
    EXCHANGE.scope(Cell::new(None), noted).await
}

/// The command that is being polled was answered by the leader. Does nothing outside of [`traced`].
pub fn leader_answered(exchange: Exchange) {
    _ = EXCHANGE.try_with(|last| {
        if last.get().is_none_or(|last| last.answered <= exchange.answered) {
            last.set(Some(exchange));
        }
    });
}

/// The histograms of one volume.
#[derive(Debug, Default)]
pub struct Latency {
    histograms: [[Histogram; Stage::ALL.len()]; Kind::ALL.len()],
}

impl Latency {
    /// A command's response is written.
    pub fn record(&self, trace: &Trace, written: Instant) {
        let Trace { kind, read, started, exchange } = *trace;
        let count = |stage: Stage, from: Instant, to: Instant| {
            // Of one clock, but taken by different threads.
            self.histograms[kind as usize][stage as usize].record(to.saturating_duration_since(from));
        };
        count(Stage::Queue, read, started);
        if let Some(Exchange { sent, answered }) = exchange {
            count(Stage::Send, started, sent);
            count(Stage::Replicate, sent, answered);
            count(Stage::Answer, answered, written);
        }
        count(Stage::Total, read, written);
    }

    /// What was recorded so far.
    pub fn snapshot(&self, kind: Kind, stage: Stage) -> Snapshot {
        self.histograms[kind as usize][stage as usize].snapshot()
    }
}

#[cfg(test)]
mod tests;
