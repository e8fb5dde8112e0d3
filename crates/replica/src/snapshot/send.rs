//! The sending side of a snapshot.

use ballast_api::replica::replica_client::ReplicaClient;
use ballast_api::replica::snapshot_chunk::Part;
use ballast_api::replica::{SnapshotBlocks, SnapshotChunk, SnapshotEnd, SnapshotHeader};
use ballast_api::{Lba, VolumeId};
use ballast_pool::{PoolError, Replica};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Transfer, VolumeImage};
use crate::peer::answer;
use crate::peer::link::{Link, LinkError};
use crate::raft::codec::{DecodeError, log_id_to_wire, vote_to_wire};
use crate::raft::types::{Snapshot, Vote};

/// Blocks in one message: 1 MiB, large enough that the cost of a message vanishes beside its payload.
const CHUNK_BLOCKS: u32 = 256;

/// Messages between the disk and the wire.
const QUEUE: usize = 4;

/// Why a snapshot did not arrive. openraft tries again with its back-off.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The local volume could not be read.
    #[error("reading the volume for a snapshot: {0}")]
    Read(#[from] PoolError),
    /// The receiver ended the transfer.
    #[error("the receiving replica refused the snapshot: {0}")]
    Refused(Box<tonic::Status>),
    /// Its answer does not parse.
    #[error(transparent)]
    Answer(#[from] DecodeError),
    /// Only local images can be sent.
    #[error("a received snapshot cannot be passed on before it is installed")]
    NotLocal,
}

/// Sends the whole volume to a peer. Returns the receiver's vote once it has installed it.
pub async fn send(
    link: &Link,
    volume: VolumeId,
    transfer: &Transfer,
    vote: Vote,
    snapshot: Snapshot,
) -> Result<Vote, SendError> {
    let VolumeImage::Local { replica, state } = snapshot.snapshot else { return Err(SendError::NotLocal) };
    let at = snapshot.meta.last_log_id;
    tracing::info!(%volume, to = %link.endpoint(), at = at.map_or(0, |id| id.index), "sending snapshot");
    let header = SnapshotHeader {
        volume: volume.to_bytes(),
        vote: Some(vote_to_wire(&vote)),
        last_log: at.as_ref().map(log_id_to_wire),
        state,
        capacity: replica.config().blocks.0,
        to: transfer.to().0,
    };
    let channel = link.bulk_channel().await?;
    let mut client = ReplicaClient::new(channel).max_encoding_message_size(ballast_rpc::MAX_MESSAGE);
    let (chunks, stream) = mpsc::channel(QUEUE);
    let read = read_volume(replica, Progress::new(volume, transfer), header, chunks);
    let call = client.install_snapshot(ReceiverStream::new(stream));
    let (read, answer) = tokio::join!(read, call);
    // A refusal of the receiver also ends the reading, so its reason comes first.
    let answer = answer.map_err(|status| SendError::Refused(Box::new(status)))?;
    read?;
    Ok(answer::decode_snapshot(&answer.into_inner().result)?)
}

async fn read_volume(
    replica: Replica,
    mut progress: Progress<'_>,
    header: SnapshotHeader,
    chunks: mpsc::Sender<SnapshotChunk>,
) -> Result<(), SendError> {
    progress.begin(replica.allocated_blocks());
    if chunks.send(SnapshotChunk { part: Some(Part::Header(header)) }).await.is_err() {
        return Ok(());
    }
    let mut next = Lba(0);
    let mut sent = 0;
    while let Some(chunk) = replica.export(next, CHUNK_BLOCKS).await? {
        let count = chunk.crcs.len() as u64;
        next = Lba(chunk.lba.0 + count);
        sent += count;
        progress.step(sent);
        let blocks = SnapshotBlocks {
            lba: chunk.lba.0,
            births: chunk.births,
            crcs: chunk.crcs,
            payload: Bytes::clone(&chunk.payload),
        };
        if chunks.send(SnapshotChunk { part: Some(Part::Blocks(blocks)) }).await.is_err() {
            return Ok(());
        }
    }
    _ = chunks.send(SnapshotChunk { part: Some(Part::End(SnapshotEnd { blocks: sent })) }).await;
    Ok(())
}

/// Told to the status, and one log line for each tenth of the way.
struct Progress<'a> {
    volume: VolumeId,
    transfer: &'a Transfer,
    total: u64,
    tenth: u64,
}

impl<'a> Progress<'a> {
    fn new(volume: VolumeId, transfer: &'a Transfer) -> Self {
        Self { volume, transfer, total: 0, tenth: 0 }
    }

    fn begin(&mut self, total: u64) {
        self.total = total;
        self.transfer.note(0, total);
    }

    fn step(&mut self, sent: u64) {
        self.transfer.note(sent, self.total);
        let tenth = (sent * 10).checked_div(self.total).unwrap_or(10);
        if tenth > self.tenth {
            self.tenth = tenth;
            tracing::info!(volume = %self.volume, sent, total = self.total, "snapshot blocks sent");
        }
    }
}
