//! Growing a volume: agreed on by the group like a write, so that every replica and every later target knows it at the same
//! place in the log.

use std::time::Duration;

use ballast_api::BlockCount;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::time::timeout;
use tonic::Status;

use super::change::not_leader;
use crate::member::Member;
use crate::volume::Command;

/// An answer comes within this time, also when a majority went away meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes the volume at least this large.
pub(super) async fn grow(member: &Member, blocks: BlockCount) -> Result<(), Status> {
    // Alone the leader knows how large the volume is; the others may lag behind.
    let leads = member.raft().metrics().borrow_watched().state.is_leader();
    if !leads || !member.confirm_leadership().await {
        return Err(not_leader(member, member.leader_pool()));
    }
    let now = member.blocks();
    if blocks < now {
        let text = format!("the volume has {now} blocks and cannot be made smaller: {blocks}");
        return Err(Status::invalid_argument(text));
    }
    if blocks == now {
        return Ok(());
    }
    tracing::info!(volume = %member.volume(), %now, %blocks, "growing the volume");
    match timeout(PATIENCE, member.raft().client_write(Command::Grow { blocks })).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            Err(not_leader(member, forward.leader_node.map(|node| node.pool)))
        }
        Ok(Err(error)) => Err(Status::unavailable(error.to_string())),
        Err(_) => Err(Status::aborted(format!("the group has not agreed within {PATIENCE:?}; ask again"))),
    }
}
