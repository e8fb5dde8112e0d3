//! openraft's network over the peer links: pipelined appends, single calls for the rest.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ballast_api::replica::peer_request::Op;
use ballast_api::{PoolId, ReplicaId, VolumeId, replica as wire};
use futures_util::future::{BoxFuture, Either, select};
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::entry::RaftEntry;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::codec::{entry_to_wire, log_id_to_wire, vote_to_wire};
use super::types::{Config, MemberNode, Snapshot, Vote};
use crate::peer::answer;
use crate::peer::directory::Directory;
use crate::peer::link::{Link, LinkError, StreamReceiver, StreamSender};
use crate::snapshot::{Sending, VolumeImage, send};

/// Appends sent and not yet answered, for one follower of one group. Together with the size of an append this bounds
/// what a follower that stopped answering can hold in memory.
const IN_FLIGHT: usize = 16;

/// How long a follower may wait to be told that what it has is committed. openraft tells at once, with a message of its
/// own, when there is no entry to send along: for one write at a time that doubles the messages. Nobody waits for it:
/// reads go to the leader, and a new leader commits what it has by an entry of its own.
const COMMIT_DELAY: Duration = Duration::from_millis(10);

/// Makes the clients of one group.
#[derive(Clone)]
pub struct Network {
    volume: VolumeId,
    directory: Directory,
    sending: Sending,
    appended: watch::Receiver<u64>,
}

impl Network {
    /// For the group of `volume`. `sending` holds back log purging while a snapshot is under way; `appended` is the last
    /// index of our own log.
    pub fn new(volume: VolumeId, directory: Directory, sending: Sending, appended: watch::Receiver<u64>) -> Self {
        Self { volume, directory, sending, appended }
    }
}

impl RaftNetworkFactory<Config> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &MemberNode) -> Client {
        Client { network: self.clone(), to: ReplicaId(target), pool: node.pool, heartbeat: false }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &MemberNode) -> Client {
        Client { network: self.clone(), to: ReplicaId(target), pool: node.pool, heartbeat: true }
    }
}

/// The way to one member of a group.
pub struct Client {
    network: Network,
    to: ReplicaId,
    pool: PoolId,
    heartbeat: bool,
}

impl Client {
    fn link(&self) -> Result<Arc<Link>, LinkError> {
        self.network.directory.link(self.pool)
    }

    async fn call(&self, op: Op) -> Result<bytes::Bytes, RPCError<Config>> {
        let link = self.link().map_err(rpc_error)?;
        link.call(self.network.volume, self.to, op).await.map_err(rpc_error)
    }
}

fn rpc_error(error: LinkError) -> RPCError<Config> {
    match error {
        // Nothing there: wait with the next try.
        LinkError::Unknown(_) | LinkError::Connect { .. } | LinkError::Refused { .. } => {
            RPCError::Unreachable(Unreachable::new(&error))
        }
        // The peer is there but cannot take this now (starting, full): do not hammer it either.
        LinkError::Peer(_) => RPCError::Unreachable(Unreachable::new(&error)),
        LinkError::Lost => RPCError::Network(NetworkError::new(&error)),
    }
}

fn bad_answer(error: super::codec::DecodeError) -> RPCError<Config> {
    RPCError::Network(NetworkError::new(&error))
}

fn append_to_wire(request: AppendEntriesRequest<Config>) -> wire::Append {
    wire::Append {
        vote: Some(vote_to_wire(&request.vote)),
        prev: request.prev_log_id.as_ref().map(log_id_to_wire),
        committed: request.leader_commit.as_ref().map(log_id_to_wire),
        entries: request.entries.into_iter().map(entry_to_wire).collect(),
    }
}

type AppendResult = Result<StreamAppendResult<Config>, RPCError<Config>>;

/// Keeps [`IN_FLIGHT`] appends under way and yields their answers in order. Ends with the input, or at the first
/// refusal or failure.
struct Pipeline<S> {
    /// The request that was there when the stream was opened.
    first: Option<AppendEntriesRequest<Config>>,
    input: Option<S>,
    sender: Option<StreamSender>,
    receiver: StreamReceiver,
    in_flight: usize,
    /// After entries were sent: the last of them. Until the log has more, or [`COMMIT_DELAY`] is over, the input could
    /// only tell what is committed.
    sent: Option<u64>,
    appended: watch::Receiver<u64>,
    delay: Pin<Box<Sleep>>,
}

impl<S: Stream<Item = AppendEntriesRequest<Config>> + Unpin + Send> Pipeline<S> {
    async fn next(&mut self) -> Option<AppendResult> {
        if let Some(first) = self.first.take()
            && let Err(error) = self.send(first).await
        {
            return Some(Err(error));
        }
        loop {
            let room = self.input.is_some() && self.in_flight < IN_FLIGHT;
            let held = room && self.sent.is_some_and(|sent| *self.appended.borrow_and_update() <= sent);
            tokio::select! {
                biased;
                answer = self.receiver.next(), if self.in_flight > 0 => {
                    self.in_flight -= 1;
                    let answer = answer.map_err(rpc_error);
                    return Some(answer.and_then(|bytes| answer::decode_append(&bytes).map_err(bad_answer)));
                }
                request = next_of(&mut self.input), if room && !held => match request {
                    Some(request) => {
                        if let Err(error) = self.send(request).await {
                            return Some(Err(error));
                        }
                    }
                    None => self.input = None,
                },
                // An error says that the log is gone, and with it this stream: nothing is held any more.
                changed = self.appended.changed(), if held => {
                    if changed.is_err() {
                        self.sent = None;
                    }
                }
                () = self.delay.as_mut(), if held => self.sent = None,
                // The input has ended and everything is answered. openraft's probing relies on this clean end.
                else => return None,
            }
        }
    }

    async fn send(&mut self, request: AppendEntriesRequest<Config>) -> Result<(), RPCError<Config>> {
        let Some(sender) = self.sender.as_mut() else { return Ok(()) };
        self.sent = request.entries.last().map(RaftEntry::index);
        if self.sent.is_some() {
            self.delay.as_mut().reset(Instant::now() + COMMIT_DELAY);
        }
        sender.send(append_to_wire(request)).await.map_err(rpc_error)?;
        self.in_flight += 1;
        Ok(())
    }

    fn stop(&mut self) {
        (self.input, self.sender, self.in_flight) = (None, None, 0);
    }
}

async fn next_of<S: Stream + Unpin>(input: &mut Option<S>) -> Option<S::Item> {
    match input {
        Some(input) => input.next().await,
        None => None,
    }
}

impl NetStreamAppend<Config> for Client {
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendResult>, RPCError<Config>>>
    where
        S: Stream<Item = AppendEntriesRequest<Config>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            if self.heartbeat {
                // A single message; it must not wait behind a pipeline of payloads.
                let Some(request) = input.next().await else { return Ok(stream::empty().boxed()) };
                let bytes = self.call(Op::Heartbeat(append_to_wire(request))).await?;
                let answer = answer::decode_append(&bytes).map_err(bad_answer)?;
                return Ok(stream::iter([Ok(answer)]).boxed());
            }
            // openraft waits with its back-off inside the input, so a request must be taken before anything can fail:
            // else it would try an unreachable peer again without any pause.
            let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
            let link = self.link().map_err(rpc_error)?;
            let (sender, receiver) = link.open_stream(self.network.volume, self.to).await.map_err(rpc_error)?;
            let (first, input, sender) = (Some(first), Some(input), Some(sender));
            let appended = self.network.appended.clone();
            let delay = Box::pin(tokio::time::sleep(COMMIT_DELAY));
            let pipeline = Pipeline { first, input, sender, receiver, in_flight: 0, sent: None, appended, delay };
            Ok(stream::unfold(pipeline, |mut pipeline| async move {
                let answer = pipeline.next().await?;
                if !matches!(answer, Ok(Ok(_))) {
                    pipeline.stop();
                }
                Some((answer, pipeline))
            })
            .boxed())
        })
    }
}

impl NetVote<Config> for Client {
    async fn vote(
        &mut self,
        rpc: VoteRequest<Config>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Config>, RPCError<Config>> {
        let bytes = self.call(Op::Vote(vote_request_to_wire(&rpc))).await?;
        answer::decode_vote(&bytes).map_err(bad_answer)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Config>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Config>, RPCError<Config>> {
        let bytes = self.call(Op::PreVote(vote_request_to_wire(&rpc))).await?;
        answer::decode_vote(&bytes).map_err(bad_answer)
    }
}

fn vote_request_to_wire(rpc: &VoteRequest<Config>) -> wire::Vote {
    wire::Vote {
        vote: Some(vote_to_wire(&rpc.vote)),
        last_log: rpc.last_log_id.as_ref().map(log_id_to_wire),
        leadership_transfer: rpc.leadership_transfer,
    }
}

impl NetSnapshot<Config> for Client {
    type SnapshotData = VolumeImage;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Config>, StreamingError<Config>> {
        let link = self.link().map_err(rpc_error)?;
        // While it lives the log is held, and the status shows it.
        let transfer = self.network.sending.begin(self.to);
        let transfer = std::pin::pin!(send(&link, self.network.volume, &transfer, vote, snapshot));
        match select(transfer, std::pin::pin!(cancel)).await {
            Either::Left((Ok(vote), _)) => Ok(SnapshotResponse::new(vote)),
            Either::Left((Err(error), _)) => Err(RPCError::Unreachable(Unreachable::new(&error)).into()),
            Either::Right((closed, _)) => Err(closed.into()),
        }
    }
}

impl NetTransferLeader<Config> for Client {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Config>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Config>, RPCError<Config>> {
        let request = wire::TransferLeader {
            from: Some(vote_to_wire(req.from_leader())),
            to: *req.to_node_id(),
            last_log: req.last_log_id().map(log_id_to_wire),
        };
        self.call(Op::TransferLeader(request)).await?;
        Ok(Ok(()))
    }
}

impl NetBackoff<Config> for Client {
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}
