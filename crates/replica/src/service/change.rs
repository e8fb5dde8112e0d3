//! Changes of a group's members: asked of its leader, decided by [`crate::membership`], agreed on by the group.
//!
//! A change runs in a task of its own, so that it goes on when the asker hangs up: given up between the two steps of joint
//! consensus it would leave the group with two sets of voters until somebody asks again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ballast_api::{PoolId, ReplicaId};
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, ForwardToLeader, RaftError};
use openraft::raft::Precondition;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::member::{CONTACT, Member, group_view};
use crate::membership::{GroupView, Plan, Refusal};
use crate::raft::types::{Config, LogId, MemberNode};

/// The trailer that names the leader's pool: its 16 bytes.
pub const LEADER: &str = "ballast-leader-bin";

/// An answer comes within this time, also when a majority went away meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

type Change = ChangeMembers<u64, MemberNode>;

/// Fills a new member.
pub(super) async fn add_learner(member: &Member, replica: ReplicaId, pool: PoolId) -> Result<(), Status> {
    let (view, at) = leaders_view(member, Instant::now())?;
    if decide(view.add_learner(replica, pool))? == Plan::Nothing {
        return Ok(());
    }
    let nodes = BTreeMap::from([(replica.0, MemberNode { pool })]);
    propose(member, Change::AddNodes(nodes), true, at).await
}

/// Makes these members, and nobody else, the voters.
pub(super) async fn change_voters(member: &Member, voters: BTreeSet<ReplicaId>) -> Result<(), Status> {
    // Who died a moment ago has answered a moment ago, so all are asked now.
    let asked = Instant::now();
    _ = member.raft().trigger().heartbeat().await;
    let mut metrics = member.raft().metrics();
    let at = loop {
        let (view, at) = leaders_view(member, asked)?;
        match view.change_voters(&voters) {
            Err(Refusal::Silent(_) | Refusal::NoMajority { .. }) if asked.elapsed() < CONTACT => {
                if let Ok(Err(_)) = timeout_at(asked + CONTACT, metrics.changed()).await {
                    return Err(stopped());
                }
            }
            plan => match decide(plan)? {
                Plan::Nothing => return Ok(()),
                Plan::Propose => break at,
            },
        }
    };
    let voters = voters.into_iter().map(|id| id.0).collect();
    // Who drops out leaves the group: as a learner it would be fed for ever.
    propose(member, Change::ReplaceAllVoters(voters), false, at).await
}

/// Takes out a member that does not vote.
pub(super) async fn remove_learner(member: &Member, replica: ReplicaId) -> Result<(), Status> {
    let (view, at) = leaders_view(member, Instant::now())?;
    if decide(view.remove_learner(replica))? == Plan::Nothing {
        return Ok(());
    }
    propose(member, Change::RemoveNodes(BTreeSet::from([replica.0])), false, at).await
}

/// The group as this member sees it, and the entry that this view is of. In contact is who answered since `asked`.
fn leaders_view(member: &Member, asked: Instant) -> Result<(GroupView, Option<LogId>), Status> {
    let metrics = member.raft().metrics();
    let metrics = metrics.borrow_watched();
    match group_view(&metrics, asked) {
        Some(view) => Ok((view, *metrics.membership_config.log_id())),
        None => {
            drop(metrics);
            Err(not_leader(member, member.leader_pool()))
        }
    }
}

fn decide(plan: Result<Plan, Refusal>) -> Result<Plan, Status> {
    plan.map_err(|refusal| match refusal {
        Refusal::NoVoters | Refusal::NoId => Status::invalid_argument(refusal.to_string()),
        _ => Status::failed_precondition(refusal.to_string()),
    })
}

fn stopped() -> Status {
    Status::unavailable("the replica has stopped; ask the group's new leader")
}

pub(super) fn not_leader(member: &Member, leader: Option<PoolId>) -> Status {
    let volume = member.volume();
    let Some(leader) = leader else {
        return Status::unavailable(format!("volume {volume} has no leader right now; ask again"));
    };
    let text = format!("this pool does not lead volume {volume}; ask its leader, on pool {leader}");
    let mut status = Status::new(Code::FailedPrecondition, text);
    status.metadata_mut().insert_bin(LEADER, MetadataValue::from_bytes(leader.as_bytes()));
    status
}

/// Proposes a change of the membership that was agreed on with entry `at`, and waits until the group has it.
async fn propose(member: &Member, change: Change, retain: bool, at: Option<LogId>) -> Result<(), Status> {
    tracing::info!(volume = %member.volume(), %change, "changing the members of the group");
    let raft = member.raft().clone();
    let unchanged = [Precondition::LastMembershipLogId { last_membership_log_id: at }];
    let change = tokio::spawn(async move { raft.change_membership_if(change, retain, unchanged).await });
    let under_way = |what: String| Status::aborted(format!("{what}; ask again"));
    let result = match tokio::time::timeout(PATIENCE, change).await {
        Err(_) => return Err(under_way(format!("the change has taken more than {PATIENCE:?} and goes on"))),
        Ok(Err(_)) => return Err(stopped()),
        Ok(Ok(result)) => result,
    };
    let error = match result {
        Ok(_) => return Ok(()),
        Err(RaftError::APIError(error)) => error,
        Err(RaftError::Fatal(fatal)) => return Err(Status::unavailable(fatal.to_string())),
    };
    tracing::info!(volume = %member.volume(), %error, "the members of the group were not changed");
    Err(status_of(member, error, under_way))
}

fn status_of(member: &Member, error: ClientWriteError<Config>, under_way: impl Fn(String) -> Status) -> Status {
    match error {
        ClientWriteError::ForwardToLeader(ForwardToLeader { leader_node, .. }) => {
            not_leader(member, leader_node.map(|node| node.pool))
        }
        ClientWriteError::LogEntryDiscarded(_) => under_way("the leader changed meanwhile".to_owned()),
        ClientWriteError::PreconditionFailed(_)
        | ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => {
            under_way("another change of the group is under way".to_owned())
        }
        ClientWriteError::ChangeMembershipError(other) => Status::failed_precondition(other.to_string()),
    }
}
