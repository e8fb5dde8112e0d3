//! Who may be added to a group, who may vote, and when a change is refused. Pure: the leader's view in, a decision out.
//!
//! Invariants
//! * A change never needs a voter that the leader does not hear, or that lacks much of the log: a group that can answer
//!   writes before a change can answer them after it.
//! * Each decision holds for the membership it was made from; the caller proposes it under that condition, so that of two
//!   changes at a time one is refused.
//! * A change that was left half done (its leader died between the two steps of joint consensus) is finished by asking for
//!   the same voters again, or for the old ones. Until then nobody is added or taken out.

use std::collections::{BTreeMap, BTreeSet};

use ballast_api::{PoolId, ReplicaId};

/// A replica may vote when it has all but this many of the leader's entries. A follower under full load is hundreds
/// behind; a thousand more are sent within a second, and the log keeps several times as many.
pub const CAUGHT_UP: u64 = 1024;

/// One member, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Where it lives.
    pub pool: PoolId,
    /// It votes, in the old set or in the new one.
    pub voter: bool,
    /// The last entry that it certainly has.
    pub matched: u64,
    /// It answered within the last moments.
    pub in_contact: bool,
}

/// The group, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// All members of the newest membership.
    pub members: BTreeMap<ReplicaId, MemberView>,
    /// The voters there are, or that an unfinished change wants.
    pub voters: BTreeSet<ReplicaId>,
    /// A change of voters is half done.
    pub joint: bool,
    /// The newest membership is agreed on.
    pub committed: bool,
    /// The leader's last entry.
    pub last: u64,
}

/// What has to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is so already.
    Nothing,
    /// Propose it.
    Propose,
}

/// Why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An empty set.
    #[error("a group needs at least one voter")]
    NoVoters,
    /// Ids start at 1.
    #[error("0 is no id of a replica; ids count from 1, and none is used twice in a volume")]
    NoId,
    /// A voter that nobody added.
    #[error("replica {0} is no member of the group: make it on its pool and add it with AddLearner first")]
    NotMember(ReplicaId),
    /// A voter that lacks too much.
    #[error(
        "replica {replica} has not caught up: it has entry {matched} of {last}, at most {CAUGHT_UP} may be missing; \
         wait and ask again"
    )]
    Behind {
        /// Which.
        replica: ReplicaId,
        /// What it has.
        matched: u64,
        /// What the leader has.
        last: u64,
    },
    /// A new voter that does not answer.
    #[error("replica {0} does not answer the leader and cannot become a voter: look at its pool, then ask again")]
    Silent(ReplicaId),
    /// The group would stand still.
    #[error(
        "only {in_contact} of the {wanted} wanted voters answer the leader, a majority is needed: bring their pools back \
         or choose other voters"
    )]
    NoMajority {
        /// How many answer.
        in_contact: usize,
        /// How many are wanted.
        wanted: usize,
    },
    /// The id is taken.
    #[error(
        "replica {replica} is a member of the group already, on pool {pool}: give the new one an id that was never used"
    )]
    OtherPool {
        /// Which.
        replica: ReplicaId,
        /// Where it lives.
        pool: PoolId,
    },
    /// The pool is taken.
    #[error("pool {pool} holds replica {replica} of the volume: choose another pool, or remove that replica first")]
    SamePool {
        /// Who lives there.
        replica: ReplicaId,
        /// Where.
        pool: PoolId,
    },
    /// A voter is taken out by a change of voters.
    #[error("replica {0} votes: take it out with ChangeVoters")]
    Voter(ReplicaId),
    /// Not now.
    #[error("a change of the voters to {} is unfinished: finish it with ChangeVoters first", list(.0))]
    Unfinished(BTreeSet<ReplicaId>),
}

fn list(ids: &BTreeSet<ReplicaId>) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl GroupView {
    /// To have `wanted`, and nobody else, vote.
    pub fn change_voters(&self, wanted: &BTreeSet<ReplicaId>) -> Result<Plan, Refusal> {
        if wanted.is_empty() {
            return Err(Refusal::NoVoters);
        }
        if !self.joint && self.committed && *wanted == self.voters {
            return Ok(Plan::Nothing);
        }
        let mut in_contact = 0;
        for id in wanted {
            let member = self.members.get(id).ok_or(Refusal::NotMember(*id))?;
            in_contact += usize::from(member.in_contact);
            if member.voter {
                continue;
            }
            if !member.in_contact {
                return Err(Refusal::Silent(*id));
            }
            if member.matched.saturating_add(CAUGHT_UP) < self.last {
                return Err(Refusal::Behind { replica: *id, matched: member.matched, last: self.last });
            }
        }
        if in_contact * 2 <= wanted.len() {
            return Err(Refusal::NoMajority { in_contact, wanted: wanted.len() });
        }
        Ok(Plan::Propose)
    }

    /// To fill a new member.
    pub fn add_learner(&self, replica: ReplicaId, pool: PoolId) -> Result<Plan, Refusal> {
        if replica.0 == 0 {
            return Err(Refusal::NoId);
        }
        match self.members.get(&replica) {
            Some(member) if member.pool == pool => {
                return Ok(if self.committed { Plan::Nothing } else { Plan::Propose });
            }
            Some(member) => return Err(Refusal::OtherPool { replica, pool: member.pool }),
            None => {}
        }
        if let Some((replica, _)) = self.members.iter().find(|(_, member)| member.pool == pool) {
            return Err(Refusal::SamePool { replica: *replica, pool });
        }
        self.finished()
    }

    /// To take a member out that does not vote.
    pub fn remove_learner(&self, replica: ReplicaId) -> Result<Plan, Refusal> {
        match self.members.get(&replica) {
            None if self.committed => Ok(Plan::Nothing),
            None => Ok(Plan::Propose),
            Some(member) if member.voter => Err(Refusal::Voter(replica)),
            Some(_) => self.finished(),
        }
    }

    /// openraft would finish a half done change along with another one, in a way that keeps the voters which drop out.
    fn finished(&self) -> Result<Plan, Refusal> {
        if self.joint { Err(Refusal::Unfinished(self.voters.clone())) } else { Ok(Plan::Propose) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: u64 = 10_000;

    fn ids<const N: usize>(ids: [u64; N]) -> BTreeSet<ReplicaId> {
        ids.map(ReplicaId).into()
    }

    fn pool(id: u64) -> PoolId {
        PoolId::from_bytes([id as u8; 16])
    }

    /// Voters 1, 2, 3 and learner 4, all well.
    fn group() -> GroupView {
        let member =
            |id: u64| MemberView { pool: pool(id), voter: id < 4, matched: LAST - CAUGHT_UP / 2, in_contact: true };
        GroupView {
            members: (1..=4).map(|id| (ReplicaId(id), member(id))).collect(),
            voters: ids([1, 2, 3]),
            joint: false,
            committed: true,
            last: LAST,
        }
    }

    fn silence(group: &mut GroupView, ids: &[u64]) {
        for id in ids {
            group.members.get_mut(&ReplicaId(*id)).unwrap().in_contact = false;
        }
    }

    #[test]
    fn what_is_so_already_is_not_proposed_again() {
        let mut group = group();
        assert_eq!(group.change_voters(&ids([1, 2, 3])), Ok(Plan::Nothing));
        assert_eq!(group.add_learner(ReplicaId(4), pool(4)), Ok(Plan::Nothing));
        assert_eq!(group.add_learner(ReplicaId(2), pool(2)), Ok(Plan::Nothing));
        assert_eq!(group.remove_learner(ReplicaId(9)), Ok(Plan::Nothing));
        // What is not agreed on may still be lost with its leader.
        group.committed = false;
        assert_eq!(group.change_voters(&ids([1, 2, 3])), Ok(Plan::Propose));
        assert_eq!(group.add_learner(ReplicaId(4), pool(4)), Ok(Plan::Propose));
        assert_eq!(group.remove_learner(ReplicaId(9)), Ok(Plan::Propose));
    }

    #[test]
    fn a_new_voter_must_be_there_and_nearly_complete() {
        let mut group = group();
        assert_eq!(group.change_voters(&ids([1, 2, 4])), Ok(Plan::Propose));
        assert_eq!(group.change_voters(&ids([1, 2, 5])), Err(Refusal::NotMember(ReplicaId(5))));
        let four = ReplicaId(4);
        group.members.get_mut(&four).unwrap().matched = LAST - CAUGHT_UP - 1;
        let behind = Refusal::Behind { replica: four, matched: LAST - CAUGHT_UP - 1, last: LAST };
        assert_eq!(group.change_voters(&ids([1, 2, 4])), Err(behind));
        // Nobody asks for what a voter has: it counts already.
        group.members.get_mut(&ReplicaId(2)).unwrap().matched = 0;
        assert_eq!(group.change_voters(&ids([1, 2])), Ok(Plan::Propose));
        silence(&mut group, &[4]);
        assert_eq!(group.change_voters(&ids([1, 2, 4])), Err(Refusal::Silent(four)));
    }

    #[test]
    fn a_group_is_never_changed_into_one_that_stands_still() {
        let mut group = group();
        assert_eq!(group.change_voters(&ids([])), Err(Refusal::NoVoters));
        silence(&mut group, &[3]);
        assert_eq!(group.change_voters(&ids([1, 2, 4])), Ok(Plan::Propose), "a dead voter is replaced");
        assert_eq!(group.change_voters(&ids([1, 3])), Err(Refusal::NoMajority { in_contact: 1, wanted: 2 }));
        assert_eq!(group.change_voters(&ids([3])), Err(Refusal::NoMajority { in_contact: 0, wanted: 1 }));
        assert_eq!(group.change_voters(&ids([1, 3, 4])), Ok(Plan::Propose));
    }

    #[test]
    fn a_half_done_change_is_finished_or_taken_back_first() {
        let mut group = group();
        group.joint = true;
        group.members.get_mut(&ReplicaId(4)).unwrap().voter = true;
        group.voters = ids([2, 3, 4]);
        assert_eq!(group.change_voters(&ids([2, 3, 4])), Ok(Plan::Propose));
        assert_eq!(group.change_voters(&ids([1, 2, 3])), Ok(Plan::Propose));
        let unfinished = Refusal::Unfinished(ids([2, 3, 4]));
        assert!(unfinished.to_string().contains("2, 3, 4"));
        assert_eq!(group.add_learner(ReplicaId(5), pool(5)), Err(unfinished.clone()));
        group.members.get_mut(&ReplicaId(4)).unwrap().voter = false;
        assert_eq!(group.remove_learner(ReplicaId(4)), Err(unfinished));
    }

    #[test]
    fn ids_and_pools_are_not_shared() {
        let group = group();
        let taken = Refusal::OtherPool { replica: ReplicaId(4), pool: pool(4) };
        assert_eq!(group.add_learner(ReplicaId(4), pool(5)), Err(taken));
        let taken = Refusal::SamePool { replica: ReplicaId(4), pool: pool(4) };
        assert_eq!(group.add_learner(ReplicaId(5), pool(4)), Err(taken));
        assert_eq!(group.add_learner(ReplicaId(0), pool(5)), Err(Refusal::NoId));
        assert_eq!(group.add_learner(ReplicaId(5), pool(5)), Ok(Plan::Propose));
        assert_eq!(group.remove_learner(ReplicaId(4)), Ok(Plan::Propose));
        assert_eq!(group.remove_learner(ReplicaId(3)), Err(Refusal::Voter(ReplicaId(3))));
    }
}
