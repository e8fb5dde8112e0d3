//! One target's stream on one volume: requests in, answers out as they become ready.
//!
//! One task owns the stream. Writes are proposed in the order they arrive, so overlapping writes of a target keep
//! their order in the log; then they are only waited for.

use std::sync::Arc;

use ballast_api::replica::failure::Code;
use ballast_api::replica::volume_request::Op;
use ballast_api::replica::volume_response::Result as Answer;
use ballast_api::replica::{self as wire, Done, Failure, Opened, ReadData, VolumeRequest, VolumeResponse};
use ballast_api::{BLOCK_SIZE, BlockCount, Epoch, Lba, TargetId, VolumeId};
use ballast_pool::{Admission, PoolError};
use ballast_rpc::busy_poll::{self, Next};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use openraft::errors::ClientWriteError;
use openraft::impls::OneshotResponder;
use tokio::sync::mpsc;

use crate::member::Member;
use crate::members::Members;
use crate::raft::types::Config;
use crate::volume::{Command, MAX_TARGET_STATE, Outcome};

/// Requests of one stream that are worked on at a time; more wait in the stream, which pushes back on the target.
const IN_FLIGHT: usize = 256;

/// Blocks in one request.
const MAX_BLOCKS: u64 = 256;

/// Blocks in one question for extents: a few hundred KiB of map.
const MAX_EXTENT_BLOCKS: u32 = 16_384;

type Pending = BoxFuture<'static, VolumeResponse>;

/// Serves a stream until it ends.
pub(super) async fn serve<S>(
    members: Arc<Members>,
    mut requests: S,
    out: mpsc::Sender<Result<VolumeResponse, tonic::Status>>,
) where
    S: Stream<Item = Result<VolumeRequest, tonic::Status>> + Unpin,
{
    let Some(Ok(first)) = requests.next().await else { return };
    let (member, id, open) = match begin(&members, first) {
        Ok(begun) => begun,
        Err(response) => {
            _ = out.send(Ok(response)).await;
            return;
        }
    };
    let mut pending: FuturesUnordered<Pending> = FuturesUnordered::new();
    let opening = propose(&member, id, open, None).await;
    pending.push(opening);
    let mut open_end = true;
    loop {
        tokio::select! {
            Some(response) = pending.next() => {
                busy_poll::message(if pending.is_empty() { Next::Request } else { Next::Answer });
                if out.send(Ok(response)).await.is_err() {
                    break;
                }
            }
            request = requests.next(), if open_end && pending.len() < IN_FLIGHT => match request {
                Some(Ok(request)) => {
                    let accepted = accept(&member, request).await;
                    pending.push(accepted);
                }
                Some(Err(_)) | None => open_end = false,
            },
            else => break,
        }
    }
    // Nobody listens any more, but what was proposed may still reach the log, and has its room until then.
    if !pending.is_empty() {
        tokio::spawn(async move { while pending.next().await.is_some() {} });
    }
}

fn begin(members: &Members, first: VolumeRequest) -> Result<(Arc<Member>, u64, Command), VolumeResponse> {
    let id = first.id;
    let Some(Op::Open(open)) = first.op else {
        return Err(failure(id, Code::Internal, "the first request of a stream opens the volume"));
    };
    let (volume, target) = match (VolumeId::from_slice(&open.volume), TargetId::from_slice(&open.target)) {
        (Ok(volume), Ok(target)) => (volume, target),
        (Err(error), _) | (_, Err(error)) => return Err(failure(id, Code::Internal, error)),
    };
    let member = members
        .get(volume)
        .ok_or_else(|| failure(id, Code::UnknownVolume, format!("no replica of volume {volume} in this pool")))?;
    Ok((member, id, Command::Open { target, take_over: open.take_over }))
}

async fn accept(member: &Arc<Member>, request: VolumeRequest) -> Pending {
    busy_poll::message(Next::Answer);
    let id = request.id;
    match request.op {
        Some(Op::Write(write)) => match check_write(member, write) {
            Ok((command, admission)) => propose(member, id, command, Some(admission)).await,
            Err((code, message)) => ready(failure(id, code, message)),
        },
        Some(Op::Read(read)) => {
            let member = member.clone();
            Box::pin(async move { self::read(&member, id, read).await })
        }
        Some(Op::Extents(extents)) => {
            let member = member.clone();
            Box::pin(async move { self::extents(&member, id, extents).await })
        }
        Some(Op::Unmap(unmap)) => match check_range(member, unmap.lba, unmap.blocks) {
            Ok(()) => {
                let (lba, count) = (Lba(unmap.lba), BlockCount(unmap.blocks));
                propose(member, id, Command::Unmap { epoch: Epoch(unmap.epoch), lba, count }, None).await
            }
            Err((code, message)) => ready(failure(id, code, message)),
        },
        Some(Op::SaveState(save)) if save.state.len() > MAX_TARGET_STATE => {
            let message = format!("{} bytes of state, at most {MAX_TARGET_STATE} are kept", save.state.len());
            ready(failure(id, Code::Internal, message))
        }
        Some(Op::SaveState(save)) => {
            let command = Command::SaveState { epoch: Epoch(save.epoch), state: save.state };
            propose(member, id, command, None).await
        }
        Some(Op::Open(_)) => ready(failure(id, Code::Internal, "the volume is open on this stream already")),
        None => ready(failure(id, Code::Internal, "a request without operation")),
    }
}

fn ready(response: VolumeResponse) -> Pending {
    Box::pin(std::future::ready(response))
}

fn failure(id: u64, code: Code, message: impl ToString) -> VolumeResponse {
    let failure = Failure { code: code.into(), message: message.to_string(), ..Failure::default() };
    VolumeResponse { id, result: Some(Answer::Failure(failure)) }
}

fn not_leader(id: u64, member: &Member) -> VolumeResponse {
    let leader = member.leader_pool();
    let failure = Failure {
        code: Code::NotLeader.into(),
        message: "this replica does not lead the volume".to_owned(),
        leader_pool: leader.map(|pool| pool.to_bytes()).unwrap_or_default(),
        leader_endpoint: leader.and_then(|pool| member.endpoint(pool)).unwrap_or_default(),
    };
    VolumeResponse { id, result: Some(Answer::Failure(failure)) }
}

fn pool_failure(id: u64, error: &PoolError) -> VolumeResponse {
    let code = match error {
        PoolError::NoSpace { .. } => Code::NoSpace,
        PoolError::Corrupt { .. } => Code::Corrupt,
        PoolError::OutOfRange { .. } => Code::OutOfRange,
        _ => Code::Unavailable,
    };
    failure(id, code, error)
}

fn check_range(member: &Member, lba: u64, blocks: u64) -> Result<(), (Code, String)> {
    let capacity = member.blocks().0;
    match lba.checked_add(blocks) {
        Some(end) if blocks > 0 && end <= capacity => Ok(()),
        _ => Err((Code::OutOfRange, format!("blocks {lba}+{blocks} of a volume of {capacity} blocks"))),
    }
}

fn check_write(member: &Member, write: wire::Write) -> Result<(Command, Admission), (Code, String)> {
    let blocks = write.crcs.len() as u64;
    check_range(member, write.lba, blocks)?;
    if blocks > MAX_BLOCKS || write.payload.len() != write.crcs.len() * BLOCK_SIZE {
        let bytes = write.payload.len();
        return Err((Code::Internal, format!("{blocks} checksums for {bytes} bytes, at most {MAX_BLOCKS} blocks")));
    }
    for (n, (data, expected)) in write.payload.chunks_exact(BLOCK_SIZE).zip(&write.crcs).enumerate() {
        let got = crc32fast::hash(data);
        if got != *expected {
            let lba = write.lba + n as u64;
            return Err((Code::BadChecksum, format!("block {lba}: crc32 {got:#010x}, expected {expected:#010x}")));
        }
    }
    let admission = member.admit(blocks).map_err(|error| match error {
        PoolError::NoSpace { .. } => {
            // What only the log still holds comes back with the next checkpoint.
            member.store().request_checkpoint();
            (Code::NoSpace, error.to_string())
        }
        other => (Code::Unavailable, other.to_string()),
    })?;
    let (epoch, lba) = (Epoch(write.epoch), Lba(write.lba));
    Ok((Command::Write { epoch, lba, crcs: write.crcs.into(), payload: write.payload }, admission))
}

async fn propose(member: &Arc<Member>, id: u64, command: Command, admission: Option<Admission>) -> Pending {
    let written = match &command {
        Command::Write { lba, payload, .. } => Some((*lba, payload.clone())),
        _ => None,
    };
    let (responder, answer) = OneshotResponder::<Config, _>::new_pair();
    if let Err(fatal) = member.raft().client_write_ff(command, Some(responder)).await {
        return ready(failure(id, Code::Unavailable, fatal));
    }
    let member = member.clone();
    Box::pin(async move {
        let answer = answer.await;
        drop(admission);
        match answer {
            Ok(Ok(response)) => match response.data {
                Outcome::Done => {
                    if let Some((lba, payload)) = written {
                        member.store().remember(lba, response.log_id.index, &payload);
                    }
                    VolumeResponse { id, result: Some(Answer::Done(Done {})) }
                }
                Outcome::Saved | Outcome::Grown { .. } => VolumeResponse { id, result: Some(Answer::Done(Done {})) },
                Outcome::Opened { epoch, state } => {
                    let opened = Opened { epoch: epoch.0, blocks: member.blocks().0, state };
                    VolumeResponse { id, result: Some(Answer::Opened(opened)) }
                }
                Outcome::Fenced { epoch } => {
                    failure(id, Code::Fenced, format!("a newer target owns the volume, epoch {epoch}"))
                }
            },
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => not_leader(id, &member),
            Ok(Err(other)) => failure(id, Code::Unavailable, other),
            Err(_) => failure(id, Code::Unavailable, "the replica has stopped"),
        }
    })
}

async fn read(member: &Member, id: u64, read: wire::Read) -> VolumeResponse {
    if let Err((code, message)) = check_range(member, read.lba, u64::from(read.blocks)) {
        return failure(id, code, message);
    }
    let data = match member.store().read(Lba(read.lba), BlockCount(u64::from(read.blocks))).await {
        Ok(data) => data,
        Err(error) => return pool_failure(id, &error),
    };
    if let Err(refused) = still_current(member, id, read.epoch).await {
        return refused;
    }
    VolumeResponse { id, result: Some(Answer::Data(ReadData { crcs: data.crcs, payload: data.payload })) }
}

async fn extents(member: &Member, id: u64, asked: wire::Extents) -> VolumeResponse {
    if let Err((code, message)) = check_range(member, asked.lba, u64::from(asked.blocks)) {
        return failure(id, code, message);
    }
    let count = BlockCount(u64::from(asked.blocks.min(MAX_EXTENT_BLOCKS)));
    let found = match member.store().extents(Lba(asked.lba), count).await {
        Ok(found) => found,
        Err(error) => return pool_failure(id, &error),
    };
    if let Err(refused) = still_current(member, id, asked.epoch).await {
        return refused;
    }
    let runs = wire::ExtentRuns { mapped_first: found.mapped_first, runs: found.runs };
    VolumeResponse { id, result: Some(Answer::Extents(runs)) }
}

/// Whether what was read before may be answered. Asked after the data was read, so that a pause of this process in between
/// cannot make an old value look current. The epoch last: a new leader knows the newest one only when it has applied what
/// came before its term.
async fn still_current(member: &Member, id: u64, epoch: u64) -> Result<(), VolumeResponse> {
    if !member.confirm_leadership().await {
        return Err(not_leader(id, member));
    }
    let newest = member.view().epoch();
    if newest != Epoch(epoch) {
        return Err(failure(id, Code::Fenced, format!("a newer target owns the volume, epoch {newest}")));
    }
    Ok(())
}
