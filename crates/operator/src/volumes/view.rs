//! A volume as it is now, put together from its objects and from what the pools say. Input of [`super::status`] and
//! [`super::plan`]; plain data.

use ballast_api::control::MemberStatus;
use ballast_api::k8s::{CStorVolume, CStorVolumeReplica, labels};
use ballast_api::{PoolId, VolumeId};
use kube::ResourceExt as _;
use std::time::Duration;

use crate::observe::Observations;

/// Identity of a volume that cannot be known yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the CStorVolume {0} has no uid that is a UUID: was it written by hand?")]
pub struct NoId(String);

/// The volume's id, also of its Raft group: the uid of its object.
pub fn volume_id(volume: &CStorVolume) -> Result<VolumeId, NoId> {
    volume.uid().and_then(|uid| uid.parse().ok()).ok_or_else(|| NoId(volume.name_any()))
}

/// Which pool a replica's object belongs to.
pub fn pool_of(replica: &CStorVolumeReplica) -> String {
    replica.labels().get(labels::REPLICA_POOL_NAME).cloned().unwrap_or_default()
}

/// A replica: its object, and what its pool says about it.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Name of its CStorVolumeReplica.
    pub name: String,
    /// Name of its CStorPool.
    pub pool: String,
    /// Its Raft id.
    pub id: u64,
    /// The pool that it was made in.
    pub pool_id: Option<PoolId>,
    /// Whether it was among those that formed the group.
    pub founding: bool,
    /// Whether it was made once: then its pool must have it, and its id is never used for an empty one.
    pub made: bool,
    /// Whether its object is being deleted.
    pub deleting: bool,
    /// What its pool knows of it now.
    pub state: State,
}

/// What is known of a replica now.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Its pool answers and has it.
    Here {
        /// "leader", "follower", "learner", "candidate", "failed".
        role: String,
        /// Bytes that it takes.
        allocated: u64,
        /// Why it failed.
        detail: String,
        /// The last log index it has.
        last_index: u64,
    },
    /// Its pool answers and does not have it.
    Absent,
    /// Another pool is where it was: on new devices, or the pool was made anew.
    PoolReplaced,
    /// Its pool does not exist any more.
    PoolGone,
    /// Its pool does not answer, for so long.
    Silent {
        /// How long.
        since: Duration,
        /// What the last question ended with.
        error: String,
    },
    /// Its pool was not asked yet.
    NotAsked,
}

/// The group as its leader sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// Raft id of the leader.
    pub leader: u64,
    /// Name of its CStorPool.
    pub pool: String,
    /// The last log index.
    pub last_index: u64,
    /// The newest target's number.
    pub epoch: u64,
    /// Capacity in blocks.
    pub blocks: u64,
    /// All members.
    pub members: Vec<MemberStatus>,
    /// Whether a change of voters is unfinished.
    pub changing: bool,
}

/// What is known of the target now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// It serves the volume.
    #[default]
    Serves,
    /// It does not, and why; but it did a moment ago, or nobody has asked it before.
    Late(String),
    /// It has not for longer than a moment, and why.
    Away(String),
}

/// All of a volume.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Its replicas, by Raft id.
    pub replicas: Vec<Replica>,
    /// The group, when it has a leader that answers.
    pub group: Option<Group>,
    /// The target.
    pub target: Target,
}

impl Replica {
    /// Whether it is lost for good, or for long enough to be replaced.
    pub fn lost(&self, grace: Duration) -> bool {
        match &self.state {
            State::PoolGone | State::PoolReplaced => true,
            State::Silent { since, .. } => *since >= grace,
            State::Here { role, .. } => role == "failed",
            State::Absent => self.made,
            State::NotAsked => false,
        }
    }

    /// Whether its pool answers and has it.
    pub fn here(&self) -> bool {
        matches!(&self.state, State::Here { role, .. } if role != "failed")
    }
}

impl Group {
    /// A member by its Raft id.
    pub fn member(&self, id: u64) -> Option<&MemberStatus> {
        self.members.iter().find(|member| member.replica == id)
    }

    /// Whether a member has nearly everything that the leader has, and answers it.
    pub fn caught_up(&self, id: u64) -> bool {
        /// Entries that a member may be behind under load.
        const LAG: u64 = 1000;
        id == self.leader
            || self.member(id).is_some_and(|member| {
                member.in_contact == Some(true)
                    && member.snapshot.is_none()
                    && member.matched_index.is_some_and(|index| index.saturating_add(LAG) >= self.last_index)
            })
    }
}

/// Puts a volume together. `formed`: its group was formed. `exists` says whether a CStorPool of that name is there.
pub fn view(
    id: VolumeId,
    formed: bool,
    replicas: &[CStorVolumeReplica],
    pools: &Observations,
    exists: &dyn Fn(&str) -> bool,
) -> View {
    let mut view = View::default();
    let mut best: Option<(u64, Group)> = None;
    for object in replicas {
        let pool = pool_of(object);
        let pool_id: Option<PoolId> = object.spec.pool_id.parse().ok();
        let heard = pools.fresh(&pool);
        let state = match (&heard, pool_id) {
            _ if !exists(&pool) => State::PoolGone,
            (Some(heard), Some(expected)) if heard.id != expected => State::PoolReplaced,
            (Some(_), _) => match pools.replica(&pool, id) {
                Some(status) => {
                    if status.role == "leader" && best.as_ref().is_none_or(|(term, _)| *term < status.term) {
                        let group = Group {
                            leader: status.replica,
                            pool: pool.clone(),
                            last_index: status.last_index,
                            epoch: status.epoch,
                            blocks: status.blocks,
                            members: status.members.clone(),
                            changing: status.changing,
                        };
                        best = Some((status.term, group));
                    }
                    // One that could not be started has no number.
                    if status.replica == 0 || object.spec.replicaid == status.replica.to_string() {
                        State::Here {
                            role: status.role,
                            allocated: status.allocated_bytes,
                            detail: status.detail,
                            last_index: status.last_index,
                        }
                    } else {
                        State::Absent // another one of this volume is in its place
                    }
                }
                None => State::Absent,
            },
            (None, _) => match pools.silence(&pool) {
                Some((since, error)) => State::Silent { since, error },
                None => State::NotAsked,
            },
        };
        view.replicas.push(Replica {
            name: object.name_any(),
            pool,
            id: object.spec.replicaid.parse().unwrap_or(0),
            pool_id,
            founding: object.spec.founding,
            made: (formed && object.spec.founding) || object.status.as_ref().is_some_and(|status| status.made),
            deleting: object.metadata.deletion_timestamp.is_some(),
            state,
        });
    }
    view.replicas.sort_by_key(|replica| replica.id);
    view.group = best.map(|(_, group)| group);
    view
}
