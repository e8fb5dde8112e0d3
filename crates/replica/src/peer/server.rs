//! The receiving side of a peer connection: hands each message to the member of its group.
//!
//! Appends of one sequence go through one task in their order; everything else is a task of its own, so that a vote
//! never waits behind a flush. Payload checksums are verified before an entry reaches the log: a block that was
//! damaged on the way is refused, and the leader sends it again.

use std::collections::HashMap;
use std::sync::Arc;

use ballast_api::replica::peer_request::Op;
use ballast_api::replica::peer_response::Answer;
use ballast_api::replica::{Append, PeerRequest, PeerResponse};
use ballast_api::{BLOCK_SIZE, ReplicaId, VolumeId};
use ballast_pool::Replica;
use ballast_rpc::busy_poll::{self, Next};
use futures_util::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::answer;
use crate::member::Member;
use crate::members::Members;
use crate::raft::codec::{DecodeError, entry_from_wire, log_id_from_wire, mark_of, vote_from_wire};
use crate::raft::types::Config;
use crate::volume::Command;

/// Appends of one sequence waiting for the Raft core.
const QUEUE: usize = 16;

/// Why a message is answered with an error text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("this pool holds no replica of the volume")]
    UnknownVolume,
    #[error("this pool holds replica {here} of the volume, not {to}")]
    OtherReplica { to: ReplicaId, here: ReplicaId },
    #[error("this replica waits to be added to the group and votes for nobody")]
    Waiting,
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("entry {index}: block {block} does not match its checksum; it was damaged on the way")]
    Damaged { index: u64, block: usize },
    #[error("entry {index}: {blocks} checksums for {bytes} bytes")]
    Lengths { index: u64, blocks: usize, bytes: usize },
    #[error("no room: {0}")]
    NoRoom(ballast_pool::PoolError),
    #[error("the replica has stopped: {0}")]
    Stopped(String),
}

/// Serves one peer connection until it ends.
pub async fn serve<S>(members: Arc<Members>, mut requests: S, out: mpsc::Sender<Result<PeerResponse, tonic::Status>>)
where
    S: Stream<Item = Result<PeerRequest, tonic::Status>> + Unpin,
{
    let mut sequences: HashMap<u64, mpsc::Sender<Append>> = HashMap::new();
    while let Some(Ok(request)) = requests.next().await {
        let (to, stream) = (ReplicaId(request.to), request.stream);
        let reply = Reply { volume: request.volume.clone(), to, stream, out: out.clone() };
        match request.op {
            Some(Op::Append(append)) => {
                busy_poll::message(Next::Answer);
                let sequence = sequences.entry(request.stream).or_insert_with(|| {
                    let (sender, receiver) = mpsc::channel(QUEUE);
                    tokio::spawn(serve_sequence(members.clone(), reply.clone(), receiver));
                    sender
                });
                // A sequence whose task has ended was answered with the reason; the peer opens a new one.
                _ = sequence.send(append).await;
            }
            Some(Op::CloseStream(stream)) => _ = sequences.remove(&stream),
            Some(other) => {
                let members = members.clone();
                tokio::spawn(async move {
                    let result = serve_single(&members, &reply, other).await;
                    reply.send(request.seq, result).await;
                });
            }
            None => {}
        }
        if out.is_closed() {
            break;
        }
    }
}

#[derive(Clone)]
struct Reply {
    volume: bytes::Bytes,
    to: ReplicaId,
    stream: u64,
    out: mpsc::Sender<Result<PeerResponse, tonic::Status>>,
}

impl Reply {
    async fn send(&self, seq: u64, result: Result<Vec<u8>, Refusal>) {
        let answer = match result {
            Ok(bytes) => Answer::Result(bytes.into()),
            Err(refusal) => Answer::Error(refusal.to_string()),
        };
        let response = PeerResponse { volume: self.volume.clone(), stream: self.stream, seq, answer: Some(answer) };
        _ = self.out.send(Ok(response)).await;
    }
}

/// The member that a message is for. A pool may hold another replica of the volume than the sender believes: the one it
/// means was removed, and its successor must not be taken for it.
pub(crate) fn member(members: &Members, volume: &[u8], to: ReplicaId) -> Result<Arc<Member>, Refusal> {
    let volume = VolumeId::from_slice(volume).map_err(|_| Refusal::UnknownVolume)?;
    let member = members.get(volume).ok_or(Refusal::UnknownVolume)?;
    match member.config().replica {
        here if to != ReplicaId(0) && to != here => Err(Refusal::OtherReplica { to, here }),
        _ => Ok(member),
    }
}

async fn serve_sequence(members: Arc<Members>, reply: Reply, mut appends: mpsc::Receiver<Append>) {
    let mut seq = 0;
    let refusal = match member(&members, &reply.volume, reply.to) {
        Err(refusal) => Some(refusal),
        Ok(member) => {
            let (feed, input) = mpsc::channel(QUEUE);
            // Room for each request, in their order, until it is answered. As many as the feed and the core hold.
            let (admit, mut admitted) = mpsc::unbounded_channel();
            let feeder = async {
                while let Some(append) = appends.recv().await {
                    let request = decode_append(append)?;
                    let admission = member.admit(new_blocks(&request, member.store())).map_err(|error| {
                        // What only the log still holds comes back with the next checkpoint.
                        member.store().request_checkpoint();
                        Refusal::NoRoom(error)
                    })?;
                    if admit.send(admission).is_err() || feed.send(request).await.is_err() {
                        break;
                    }
                }
                drop(feed);
                Ok(())
            };
            let answers = async {
                let mut results = std::pin::pin!(member.raft().stream_append(ReceiverStream::new(input)));
                while let Some(result) = results.next().await {
                    _ = admitted.try_recv();
                    match result {
                        Ok(result) => {
                            busy_poll::message(Next::Request);
                            reply.send(seq, Ok(answer::encode_append(result))).await
                        }
                        Err(fatal) => {
                            reply.send(seq, Err(Refusal::Stopped(fatal.to_string()))).await;
                            return;
                        }
                    }
                    seq += 1;
                }
            };
            // `feeder` owns `feed`, so when it ends the answers end too, after the last one was given.
            let (refused, ()) = tokio::join!(feeder, answers);
            refused.err()
        }
    };
    if let Some(refusal) = refusal {
        tracing::warn!(stream = reply.stream, %refusal, "append refused");
        // Everything before the refused append is answered by now, so `seq` is its number. The peer gives up then.
        reply.send(seq, Err(refusal)).await;
    }
}

fn decode_append(append: Append) -> Result<AppendEntriesRequest<Config>, Refusal> {
    let mut entries = Vec::with_capacity(append.entries.len());
    for entry in append.entries {
        let index = entry.index;
        if entry.payload.len() != entry.crcs.len() * BLOCK_SIZE {
            return Err(Refusal::Lengths { index, blocks: entry.crcs.len(), bytes: entry.payload.len() });
        }
        for (block, (data, expected)) in entry.payload.chunks_exact(BLOCK_SIZE).zip(&entry.crcs).enumerate() {
            if crc32fast::hash(data) != *expected {
                return Err(Refusal::Damaged { index, block });
            }
        }
        entries.push(entry_from_wire(entry)?);
    }
    Ok(AppendEntriesRequest {
        vote: vote_from_wire(append.vote)?,
        prev_log_id: append.prev.map(log_id_from_wire),
        leader_commit: append.committed.map(log_id_from_wire),
        entries,
    })
}

/// Blocks that a request adds to the log. A full pool refuses the request, so that the log never meets an error that
/// would stop the member. Entries that are there already need nothing: a new leader asks for the end of a log with them,
/// and must get its answer also from a full pool.
fn new_blocks(request: &AppendEntriesRequest<Config>, log: &Replica) -> u64 {
    let blocks = request.entries.iter().map(|entry| match &entry.payload {
        EntryPayload::Normal(Command::Write { crcs, .. })
            if log.log_mark(entry.log_id.index) != Some(mark_of(&entry.log_id)) =>
        {
            crcs.len() as u64
        }
        _ => 0,
    });
    blocks.sum()
}

async fn serve_single(members: &Members, reply: &Reply, op: Op) -> Result<Vec<u8>, Refusal> {
    let member = member(members, &reply.volume, reply.to)?;
    // What it knows of the group came with its first entries. Before those it could help a member that was removed long
    // ago, and whose log is newer than none, to a majority that does not exist.
    if matches!(op, Op::Vote(_) | Op::PreVote(_) | Op::TransferLeader(_)) && member.is_waiting() {
        return Err(Refusal::Waiting);
    }
    let raft = member.raft();
    let stopped = |error: String| Refusal::Stopped(error);
    match op {
        Op::Heartbeat(append) => {
            let request = decode_append(append)?;
            let prev = request.prev_log_id;
            let last = request.entries.last().map(RaftEntry::log_id).or(prev);
            let response = raft.append_entries(request).await.map_err(|e| stopped(e.to_string()))?;
            Ok(answer::encode_append(response.into_stream_result(prev, last)))
        }
        Op::Vote(vote) => {
            let response = raft.vote(vote_request(vote)?).await.map_err(|e| stopped(e.to_string()))?;
            Ok(answer::encode_vote(&response))
        }
        Op::PreVote(vote) => {
            let response = raft.pre_vote(vote_request(vote)?).await.map_err(|e| stopped(e.to_string()))?;
            Ok(answer::encode_vote(&response))
        }
        Op::TransferLeader(request) => {
            let last = request.last_log.map(log_id_from_wire);
            let request = TransferLeaderRequest::new(vote_from_wire(request.from)?, request.to, last);
            raft.handle_transfer_leader(request)
                .await
                .map_err(|e| stopped(e.to_string()))?
                .map_err(|e| stopped(e.to_string()))?;
            Ok(Vec::new())
        }
        Op::Append(_) | Op::CloseStream(_) => Ok(Vec::new()),
    }
}

fn vote_request(vote: ballast_api::replica::Vote) -> Result<VoteRequest<Config>, DecodeError> {
    let mut request = VoteRequest::new(vote_from_wire(vote.vote)?, vote.last_log.map(log_id_from_wire));
    request.leadership_transfer = vote.leadership_transfer;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ballast_api::replica::{Entry, RaftVote};

    fn append(crc: u32, payload: Vec<u8>) -> Append {
        let entry = Entry {
            term: 1,
            node: 1,
            index: 1,
            command: [&[1u8][..], &[0; 16]].concat().into(),
            crcs: vec![crc],
            payload: payload.into(),
        };
        let vote = RaftVote { term: 1, node: 1, committed: true };
        Append { vote: Some(vote), prev: None, committed: None, entries: vec![entry] }
    }

    #[test]
    fn damaged_payload_never_reaches_the_log() {
        let payload = vec![3; BLOCK_SIZE];
        let crc = crc32fast::hash(&payload);
        assert!(decode_append(append(crc, payload.clone())).is_ok());
        let mut flipped = payload.clone();
        flipped[100] ^= 1;
        assert!(matches!(decode_append(append(crc, flipped)), Err(Refusal::Damaged { index: 1, block: 0 })));
        assert!(matches!(decode_append(append(crc, payload[1..].to_vec())), Err(Refusal::Lengths { .. })));
    }
}
