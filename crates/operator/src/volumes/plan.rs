//! The next step towards the replicas that a volume shall have: a pure function of the volume as it is.
//!
//! One step at a time; each is safe to repeat, and the next look at the volume decides anew. The rules:
//!
//! * A replica leaves the voters only when enough others that are caught up stay: never fewer voters than wanted because
//!   of a repair, never a majority of members that do not answer. (The leader refuses the latter as well.)
//! * A replica's object goes only after the replica has left the group.
//! * A replica id is used for one replica. One that has lost its data is replaced by one with a new id: under the old one it
//!   could vote a second time in a term (Raft, section 5.2), or miss entries that it has acknowledged.

use std::collections::BTreeSet;
use std::time::Duration;

use super::view::{State, View};

/// Something to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the object of another replica in a pool to be chosen.
    AddReplica,
    /// Make the replica in its pool, without members, and let the leader fill it.
    Join {
        /// Its Raft id.
        replica: u64,
    },
    /// Make these the voters.
    ChangeVoters {
        /// Raft ids.
        voters: Vec<u64>,
    },
    /// Take a member out that never voted.
    RemoveLearner {
        /// Its Raft id.
        replica: u64,
    },
    /// Delete the object of a replica that is in the group no more.
    Drop {
        /// Its Raft id.
        replica: u64,
    },
}

/// What the volume is doing, for its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The next step, if one can be taken.
    pub step: Option<Step>,
    /// What is waited for, for people.
    pub waiting: Option<String>,
}

fn step(step: Step) -> Plan {
    Plan { step: Some(step), waiting: None }
}

fn waiting(text: impl Into<String>) -> Plan {
    Plan { step: None, waiting: Some(text.into()) }
}

/// The next step of a volume whose group was formed, towards `wanted` replicas. A replica that is away for `grace` is
/// replaced.
pub fn plan(view: &View, wanted: usize, grace: Duration) -> Plan {
    let stays = |replica: &&super::view::Replica| !replica.deleting && !replica.lost(grace);
    let good: Vec<u64> = view.replicas.iter().filter(stays).map(|replica| replica.id).collect();
    let Some(group) = &view.group else {
        // Without a leader nothing can be changed. It comes back with a majority of the voters.
        let away = view.replicas.iter().filter(|replica| !replica.here()).count();
        return match away {
            0 => waiting("the replicas elect a leader"),
            _ => waiting(format!(
                "{away} of {} replicas do not answer and the others are no majority: bring their pools back",
                view.replicas.len()
            )),
        };
    };
    let is_member = |id: u64| group.member(id).is_some();
    let voters: BTreeSet<u64> =
        group.members.iter().filter(|member| member.voter).map(|member| member.replica).collect();

    // Objects of replicas that have left the group, or never came in and are not wanted.
    // (Those that left because fewer are wanted are good ones: see below.)
    if let Some(gone) = view.replicas.iter().find(|replica| !is_member(replica.id) && !good.contains(&replica.id)) {
        return step(Step::Drop { replica: gone.id });
    }
    // Members that do not vote and are not wanted.
    let unwanted = group.members.iter().find(|member| !member.voter && !good.contains(&member.replica));
    if let Some(member) = unwanted
        && !group.changing
    {
        return step(Step::RemoveLearner { replica: member.replica });
    }
    if let Some(new) = view.replicas.iter().rev().find(|replica| good.contains(&replica.id) && !is_member(replica.id)) {
        if good.len() > wanted {
            return step(Step::Drop { replica: new.id });
        }
        return match new.state {
            State::Absent | State::Here { .. } => step(Step::Join { replica: new.id }),
            _ => waiting(format!("the pool {} of a new replica does not answer yet", new.pool)),
        };
    }

    // The voters there shall be: the good ones that are caught up, voters first, not more than wanted; the leader stays.
    let mut ready: Vec<u64> = good.iter().copied().filter(|id| group.caught_up(*id)).collect();
    ready.sort_by_key(|id| (*id != group.leader, !voters.contains(id), *id));
    let behind: Vec<u64> = good.iter().copied().filter(|id| !ready.contains(id)).collect();
    ready.truncate(wanted);
    let mut next: BTreeSet<u64> = ready.iter().copied().collect();
    // While too few are caught up, those that vote now keep their vote: good ones first, lost ones only while they must.
    let rank = |id: &u64| (!good.contains(id), *id);
    let mut rest: Vec<u64> = voters.difference(&next).copied().collect();
    rest.sort_by_key(rank);
    for id in rest {
        if next.len() < wanted {
            next.insert(id);
        }
    }
    if next != voters || group.changing {
        return step(Step::ChangeVoters { voters: next.into_iter().collect() });
    }
    if good.len() < wanted {
        return step(Step::AddReplica);
    }
    if good.len() > wanted {
        // Learners beyond the wanted number; voters were cut above.
        if let Some(extra) = good.iter().rev().find(|id| !voters.contains(id)) {
            return step(Step::RemoveLearner { replica: *extra });
        }
    }
    match behind.first() {
        Some(id) => waiting(format!("replica {id} is being filled")),
        None => Plan::default(),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
