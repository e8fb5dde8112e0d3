//! The types that openraft is instantiated with.

use std::fmt;

use ballast_api::PoolId;
use openraft::impls::{BoxedErrorSource, InlineBatch, OneshotResponder, leader_id_adv};
use openraft::{EntryPayload, OptionalSend, RaftTypeConfig};

use crate::volume::{Command, Outcome};

/// Where a member lives. Its address may change; the pool's id does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberNode {
    /// The pool that holds the replica.
    pub pool: PoolId,
}

impl Default for MemberNode {
    fn default() -> Self {
        Self { pool: PoolId::from_bytes([0; 16]) }
    }
}

impl fmt::Display for MemberNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pool.fmt(f)
    }
}

/// openraft's parameters for a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Config {}

// By hand, because `declare_raft_types!` cannot override a generic associated type (`Responder<T>`).
impl RaftTypeConfig for Config {
    type D = Command;
    type R = Outcome;
    type NodeId = u64;
    type Node = MemberNode;
    type Term = u64;
    type LeaderId = leader_id_adv::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Command, u64, MemberNode>;
    type Entry = openraft::impls::Entry<Self::LeaderId, Self::Payload>;
    type AsyncRuntime = openraft_rt_tokio::TokioRuntime;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// A running member of a volume's group.
pub type Raft = openraft::Raft<Config, super::state_machine::StateMachine>;
/// Term, leader and index of an entry.
pub type LogId = openraft::impls::LogId<LeaderId>;
/// Term and candidate.
pub type LeaderId = leader_id_adv::LeaderId<u64, u64>;
/// A vote as it is stored and sent.
pub type Vote = openraft::impls::Vote<LeaderId>;
/// A log entry.
pub type Entry = <Config as RaftTypeConfig>::Entry;
/// Who is in the group.
pub type Membership = openraft::Membership<u64, MemberNode>;
/// Who is in the group, and since which entry.
pub type StoredMembership = openraft::StoredMembership<LeaderId, u64, MemberNode>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::storage::SnapshotMeta<LeaderId, u64, MemberNode>;
/// A snapshot on its way.
pub type Snapshot = openraft::storage::Snapshot<LeaderId, u64, MemberNode, crate::snapshot::VolumeImage>;

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::Write { epoch, lba, crcs, .. } => write!(f, "write {lba}+{} (epoch {epoch})", crcs.len()),
            Command::Unmap { epoch, lba, count } => write!(f, "unmap {lba}+{count} (epoch {epoch})"),
            Command::Open { target, take_over } => write!(f, "open by {target} (take over: {take_over})"),
            Command::Grow { blocks } => write!(f, "grow to {blocks} blocks"),
            Command::SaveState { epoch, state } => {
                write!(f, "save {} bytes of target state (epoch {epoch})", state.len())
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
