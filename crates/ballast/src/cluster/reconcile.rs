//! What is known about volumes against what the pools hold: a pure function from both to the corrections.
//!
//! The pools are right. The table (the registry's contents) adds only what a pool cannot know: that a volume was being
//! made, and that one was deleted while a pool was away.
//!
//! ```text
//! table     on the pools                             result
//! Deleting  some replicas                            delete them
//! Deleting  none, and all members' pools answered    forget it
//! Creating  some or no replicas, all pools answered  make the missing ones, form the group
//! Ready     none, and all members' pools answered    forget it: the table is older than the pools
//! Ready     some                                     name, size and members as the pools say
//! (none)    replicas, group formed                   take it in
//! (none)    replicas, group not formed               take it in as Creating: complete it
//! ```
//! Invariants: a replica is never made again in a group that was formed, since it would come back with an empty log
//! under an id that has voted. A replica is deleted only for a tombstone. Nothing is concluded from a pool that has
//! not answered.

use std::collections::{BTreeMap, BTreeSet};

use ballast_api::{PoolId, VolumeId};

use super::model::{Member, Phase, Table, Volume};
use crate::names::VolumeName;

/// What one pool holds, as it said just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolScan {
    /// The pool.
    pub(crate) pool: PoolId,
    /// Its replicas.
    pub(crate) replicas: Vec<FoundReplica>,
}

/// A replica in a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundReplica {
    /// Of which volume.
    pub(crate) volume: VolumeId,
    /// The volume's name.
    pub(crate) name: String,
    /// The volume's size in blocks.
    pub(crate) blocks: u64,
    /// The volume's members.
    pub(crate) members: Vec<Member>,
    /// Whether it has taken part in its Raft group.
    pub(crate) formed: bool,
}

/// Something to ask of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make the replicas in `missing`, then form the group; then the volume is ready.
    Complete {
        /// Which volume.
        volume: VolumeId,
        /// Pools that do not have their replica yet.
        missing: Vec<PoolId>,
    },
    /// Delete the replica of a deleted volume.
    Delete {
        /// Which volume.
        volume: VolumeId,
        /// Where.
        pool: PoolId,
    },
}

/// The corrections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Volumes that are new or changed.
    pub(crate) changed: Vec<Volume>,
    /// Volumes that are gone.
    pub(crate) forgotten: Vec<VolumeId>,
    /// What to ask of the pools.
    pub(crate) actions: Vec<Action>,
    /// What to tell the user.
    pub(crate) notes: Vec<String>,
}

/// Compares the table with what the pools hold.
pub(crate) fn reconcile(table: &Table, scans: &[PoolScan]) -> Plan {
    let answered: BTreeSet<PoolId> = scans.iter().map(|scan| scan.pool).collect();
    let mut found: BTreeMap<VolumeId, Vec<(PoolId, &FoundReplica)>> = BTreeMap::new();
    for scan in scans {
        for replica in &scan.replicas {
            found.entry(replica.volume).or_default().push((scan.pool, replica));
        }
    }
    let mut plan = Plan::default();
    for volume in table.volumes.values() {
        let replicas = found.remove(&volume.id).unwrap_or_default();
        known_volume(volume, &replicas, &answered, &mut plan);
    }
    let mut names: BTreeSet<VolumeName> = table.live().map(|volume| volume.name.clone()).collect();
    for (id, replicas) in found {
        new_volume(id, &replicas, &answered, &mut names, &mut plan);
    }
    plan
}

fn known_volume(volume: &Volume, replicas: &[(PoolId, &FoundReplica)], answered: &BTreeSet<PoolId>, plan: &mut Plan) {
    let all_answered = volume.members.iter().all(|member| answered.contains(&member.pool));
    match volume.phase {
        Phase::Deleting if replicas.is_empty() && all_answered => plan.forgotten.push(volume.id),
        Phase::Deleting => {
            plan.actions.extend(replicas.iter().map(|(pool, _)| Action::Delete { volume: volume.id, pool: *pool }));
        }
        Phase::Creating => creating(volume, replicas, all_answered, plan),
        Phase::Ready if replicas.is_empty() && all_answered => {
            plan.notes.push(format!("volume {} is on none of its pools any more; it is no longer listed", volume.name));
            plan.forgotten.push(volume.id);
        }
        Phase::Ready => {
            let Some((_, witness)) = replicas.first() else { return };
            let mut corrected = volume.clone();
            corrected.blocks = blocks(replicas).unwrap_or(volume.blocks);
            corrected.members.clone_from(&witness.members);
            if corrected != *volume {
                plan.changed.push(corrected);
            }
        }
    }
}

fn creating(volume: &Volume, replicas: &[(PoolId, &FoundReplica)], all_answered: bool, plan: &mut Plan) {
    if replicas.iter().any(|(_, replica)| replica.formed) {
        // The group was formed; only the note of it was lost.
        let blocks = blocks(replicas).unwrap_or(volume.blocks);
        plan.changed.push(Volume { phase: Phase::Ready, blocks, ..volume.clone() });
    } else if all_answered {
        let has = |pool: PoolId| replicas.iter().any(|(p, _)| *p == pool);
        let missing = volume.members.iter().map(|member| member.pool).filter(|pool| !has(*pool)).collect();
        plan.actions.push(Action::Complete { volume: volume.id, missing });
    }
}

/// The capacity of a volume: some replicas may not know yet that it has grown.
fn blocks(replicas: &[(PoolId, &FoundReplica)]) -> Option<u64> {
    replicas.iter().map(|(_, replica)| replica.blocks).max()
}

/// A volume that only the pools know.
fn new_volume(
    id: VolumeId,
    replicas: &[(PoolId, &FoundReplica)],
    answered: &BTreeSet<PoolId>,
    names: &mut BTreeSet<VolumeName>,
    plan: &mut Plan,
) {
    let Some((_, first)) = replicas.first() else { return };
    let name = free_name(&first.name, id, names);
    if name.as_str() != first.name {
        plan.notes.push(format!("the name '{}' of volume {id} cannot be used; it is listed as {name}", first.name));
    }
    names.insert(name.clone());
    let blocks = blocks(replicas).unwrap_or(first.blocks);
    let volume = Volume { id, name, blocks, members: first.members.clone(), phase: Phase::Creating };
    if replicas.iter().any(|(_, replica)| replica.formed) {
        plan.changed.push(Volume { phase: Phase::Ready, ..volume });
    } else {
        plan.changed.push(volume.clone());
        let all_answered = volume.members.iter().all(|member| answered.contains(&member.pool));
        creating(&volume, replicas, all_answered, plan);
    }
}

/// `wanted`, or a name made from the id when it is taken or invalid.
fn free_name(wanted: &str, id: VolumeId, names: &BTreeSet<VolumeName>) -> VolumeName {
    let id = id.to_string();
    // A UUID and its first group are RFC 1123 labels, so one of the three parses and the uuid itself is never taken.
    let short = id.split('-').next().unwrap_or_default();
    let with_id = format!("{}-{short}", wanted.get(..wanted.len().min(50)).unwrap_or("volume"));
    for candidate in [wanted, &with_id] {
        if let Ok(name) = candidate.parse::<VolumeName>()
            && !names.contains(&name)
        {
            return name;
        }
    }
    VolumeName::from_id(&id)
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
