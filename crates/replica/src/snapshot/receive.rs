//! The receiving side of a snapshot: blocks go into the pool as they arrive, beside the volume's old contents; the
//! old ones are replaced in one step at the end, or not at all.

use ballast_api::replica::snapshot_chunk::Part;
use ballast_api::replica::{SnapshotChunk, SnapshotHeader};
use ballast_api::{BLOCK_SIZE, BlockCount, Lba};
use ballast_pool::{PoolError, Replica};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::VolumeImage;
use crate::raft::codec::{DecodeError, decode_state, log_id_from_wire, mark_of, vote_from_wire};
use crate::raft::types::{Snapshot, SnapshotMeta, Vote};

/// Why a snapshot was not taken. The old contents are untouched.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The stream broke or the sender gave up.
    #[error("the snapshot stream ended early: {0}")]
    Stream(String),
    /// Parts out of order, or lengths that do not fit.
    #[error("malformed snapshot: {0}")]
    Malformed(&'static str),
    /// A block does not match its checksum.
    #[error(
        "block {lba} of the snapshot is damaged (crc32 {got:#010x}, expected {expected:#010x}); it will be sent again"
    )]
    Damaged {
        /// Which block.
        lba: u64,
        /// Its checksum as sent.
        expected: u32,
        /// As computed here.
        got: u32,
    },
    /// A field does not parse.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The pool did not take it.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// Writes the blocks of a snapshot into the pool. The result is handed to openraft, which installs it.
pub async fn receive<S>(
    replica: &Replica,
    header: SnapshotHeader,
    mut chunks: S,
) -> Result<(Vote, Snapshot), ReceiveError>
where
    S: Stream<Item = Result<SnapshotChunk, tonic::Status>> + Unpin,
{
    let vote = vote_from_wire(header.vote)?;
    let at = log_id_from_wire(header.last_log.ok_or(ReceiveError::Malformed("no log id"))?);
    let (_, membership) = decode_state(&header.state)?;
    // The sender has applied a growth, so it was agreed on.
    replica.grow(BlockCount(header.capacity));
    if header.capacity != replica.config().blocks.0 {
        return Err(ReceiveError::Malformed("it is of a volume of another size"));
    }
    let mut installer = replica.begin_install(mark_of(&at), header.state.clone())?;
    let mut received = 0;
    loop {
        let chunk = match chunks.next().await {
            Some(Ok(chunk)) => chunk,
            Some(Err(status)) => return Err(ReceiveError::Stream(status.message().to_owned())),
            None => return Err(ReceiveError::Stream("no end mark".to_owned())),
        };
        match chunk.part {
            Some(Part::Blocks(blocks)) => {
                if blocks.crcs.len() != blocks.births.len() || blocks.payload.len() != blocks.crcs.len() * BLOCK_SIZE {
                    return Err(ReceiveError::Malformed("lengths of a chunk do not fit together"));
                }
                check(blocks.lba, &blocks.crcs, &blocks.payload)?;
                received += blocks.crcs.len() as u64;
                installer.write(Lba(blocks.lba), &blocks.births, &blocks.crcs, blocks.payload).await?;
            }
            Some(Part::End(end)) if end.blocks == received => break,
            Some(Part::End(_)) => return Err(ReceiveError::Malformed("blocks are missing")),
            Some(Part::Header(_)) | None => return Err(ReceiveError::Malformed("parts out of order")),
        }
    }
    tracing::info!(blocks = received, at = at.index, "snapshot received");
    let meta = SnapshotMeta { last_log_id: Some(at), last_membership: membership };
    Ok((vote, Snapshot { meta, snapshot: VolumeImage::Received { installer, state: header.state } }))
}

fn check(lba: u64, crcs: &[u32], payload: &Bytes) -> Result<(), ReceiveError> {
    for (n, (block, expected)) in payload.chunks_exact(BLOCK_SIZE).zip(crcs).enumerate() {
        let got = crc32fast::hash(block);
        if got != *expected {
            return Err(ReceiveError::Damaged { lba: lba + n as u64, expected: *expected, got });
        }
    }
    Ok(())
}
