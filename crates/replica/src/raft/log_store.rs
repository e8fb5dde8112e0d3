//! openraft's log on the pool's journal.
//!
//! The rules a log store has to keep (each has a test in `tests/log_store.rs`), and who keeps them:
//! * Entries can be read as soon as `append` returns: the pool keeps the payloads of undurable entries in memory.
//! * `io_completed` is a watermark: the pool calls back in append order, after the flush that covers the entries.
//! * Votes and entries are written in the order they came: both go through the pool's one journal.
//! * No holes: the pool refuses an append that does not follow the last entry.
//! * A vote is durable before it is answered; the committed index rides along with the next batch.
//! * The payload is stored once: `append` hands its `Bytes` to the pool, which writes them to the blocks where the
//!   volume's map will point after `apply`.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use ballast_pool::{LogOp, LogRecord, PoolError, Replica};
use futures_util::stream::{self, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::watch;

use super::codec::{decode_vote, encode_vote, entry_of, growth_in, log_id_of, mark_of, record_of};
use super::types::{Config, Entry, LogId, Vote};

/// Bytes of payload in one message to a follower: large enough to fill the pipe, small enough that a slow follower
/// never holds much memory.
const REPLICATE_BYTES: usize = 1 << 20;

/// The log of one volume on this pool. Cloned for each reader.
#[derive(Clone)]
pub struct LogStore {
    replica: Replica,
    appended: Arc<watch::Sender<u64>>,
}

impl LogStore {
    /// The log of `replica`.
    pub fn new(replica: Replica) -> Self {
        let state = replica.log_state();
        let last = state.last.map_or(0, |mark| mark.index);
        let first = state.purged.map_or(0, |mark| mark.index + 1);
        // Writes that follow a growth in the log may name its blocks, whether it is agreed on or not.
        for record in replica.records_without_data(first..last + 1) {
            expect_growth(&replica, &record);
        }
        Self { replica, appended: Arc::new(watch::Sender::new(last)) }
    }

    /// The index of the entry that was appended last.
    pub fn appended(&self) -> watch::Receiver<u64> {
        self.appended.subscribe()
    }

    fn bounds(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let state = self.replica.log_state();
        let first = state.purged.map_or(0, |mark| mark.index + 1);
        let next = state.last.map_or(0, |mark| mark.index + 1);
        (start.max(first), end.min(next))
    }

    async fn read(&self, start: u64, end: u64, bytes: usize) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        let records = self.replica.read_log(start..end, bytes).await.map_err(to_io)?;
        records.into_iter().map(|record| entry_of(record).map_err(io::Error::other)).collect()
    }
}

fn expect_growth(replica: &Replica, record: &LogRecord) {
    if let Some(blocks) = growth_in(record) {
        replica.expect_capacity(blocks);
    }
}

/// The pool's errors as openraft takes them. They stop the group's member on this pool: a log that cannot be read or
/// written must not answer.
pub fn to_io(error: PoolError) -> io::Error {
    io::Error::other(error)
}

impl RaftLogReader<Config> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (mut start, end) = self.bounds(&range);
        let mut entries = Vec::new();
        while start < end {
            let part = self.read(start, end, REPLICATE_BYTES).await?;
            let Some(last) = part.last() else { break };
            start = last.log_id.index + 1;
            entries.extend(part);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = self.bounds(&(start..end));
        self.read(start, end, REPLICATE_BYTES).await
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // In pieces: a replica that catches up applies tens of thousands of entries in one go.
        let (start, end) = self.bounds(&range);
        let log = self.clone();
        stream::try_unfold(start, move |start| {
            let log = log.clone();
            async move {
                let part = log.read(start, end, REPLICATE_BYTES).await?;
                let next = part.last().map(|entry| entry.log_id.index + 1);
                Ok::<_, io::Error>(next.map(|next| (stream::iter(part.into_iter().map(Ok)), next)))
            }
        })
        .flat_map(|part| match part {
            Ok(entries) => entries.left_stream(),
            Err(error) => stream::iter([Err(error)]).right_stream(),
        })
        .boxed()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.replica.hard_state().map(|bytes| decode_vote(&bytes).map_err(io::Error::other)).transpose()
    }
}

impl RaftLogStorage<Config> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Config>, io::Error> {
        let state = self.replica.log_state();
        Ok(LogState {
            last_purged_log_id: state.purged.as_ref().map(log_id_of),
            last_log_id: state.last.as_ref().map(log_id_of),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.replica.save_hard_state(encode_vote(vote)).await.map_err(to_io)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.replica.note_committed(mark_of(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        // What was applied before a restart was committed, also where the newest note of it got lost.
        let committed = self.replica.committed().max_by_index(self.replica.applied());
        Ok(committed.as_ref().map(log_id_of))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Config>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records: Vec<LogRecord> = entries.into_iter().map(record_of).collect();
        records.iter().for_each(|record| expect_growth(&self.replica, record));
        let last = records.last().map(|record| record.mark.index);
        let done = Box::new(move |result: Result<(), PoolError>| callback.io_completed(result.map_err(to_io)));
        if self.replica.has_room_now(records.iter().map(blocks_of).sum()) {
            self.replica.append(records, done).map_err(to_io)?;
        } else {
            // The pool has to prepare or free space first. Other groups and their heartbeats need this thread meanwhile.
            let replica = self.replica.clone();
            let append = tokio::task::spawn_blocking(move || replica.append(records, done));
            append.await.map_err(io::Error::other)?.map_err(to_io)?;
        }
        last.into_iter().for_each(|last| _ = self.appended.send_replace(last));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.replica.truncate_after(last.map(|id| id.index)).await.map_err(to_io)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.replica.purge(mark_of(&upto)).map_err(to_io)
    }
}

fn blocks_of(record: &LogRecord) -> u64 {
    match &record.op {
        LogOp::Write { crcs, .. } => crcs.len() as u64,
        LogOp::None | LogOp::Unmap { .. } => 0,
    }
}

trait MaxByIndex {
    fn max_by_index(self, other: Self) -> Self;
}

impl MaxByIndex for Option<ballast_pool::LogMark> {
    fn max_by_index(self, other: Self) -> Self {
        match (self, other) {
            (Some(a), Some(b)) => Some(if a.index >= b.index { a } else { b }),
            (a, b) => a.or(b),
        }
    }
}
