//! What the objects of a volume say about it: a pure function of its view.
//!
//! A status is true now or says Unknown: nothing that a pool said before it went silent is repeated as if it still held.

use std::collections::BTreeMap;
use std::time::Duration;

use ballast_api::BLOCK_SIZE;
use ballast_api::k8s::replica::{CStorVolumeReplicaStatus, RebuildProgress, ReplicaCapacity};
use ballast_api::k8s::volume::{CStorVolumeStatus, ReplicaStatus};
use ballast_api::k8s::{CStorVolume, Condition, labels, quantity};
use kube::ResourceExt as _;

use super::form::in_blocks;
use super::plan::Plan;
use super::view::{Group, Replica, State, Target, View};

/// The new status of the volume, but for what only its controller writes (formed, lastReplicaID).
pub fn volume_status(
    volume: &CStorVolume,
    old: &CStorVolumeStatus,
    view: &View,
    plan: &Plan,
    now: &dyn Fn() -> String,
    minute: &dyn Fn() -> String,
) -> CStorVolumeStatus {
    let wanted = usize::try_from(volume.spec.replication_factor).unwrap_or(0);
    let healthy = view.replicas.iter().filter(|replica| mode(replica, view.group.as_ref()).0 == "Healthy").count();
    let unknown = view.replicas.iter().filter(|replica| matches!(replica.state, State::NotAsked)).count();
    let (phase, message) = if !old.formed {
        ("Init", plan.waiting.clone().unwrap_or_default())
    } else {
        match (&view.group, away(volume, old, &view.target)) {
            (Some(_), Some(away)) => away,
            (Some(_), None) if healthy >= wanted => ("Healthy", plan.waiting.clone().unwrap_or_default()),
            (Some(_), None) => {
                let repair = plan.waiting.clone().unwrap_or_else(|| String::from("repair goes on by itself"));
                ("Degraded", format!("{healthy} of {wanted} replicas are healthy: {repair}"))
            }
            (None, _) if unknown > 0 => ("Unknown", String::from("the pools have not been asked yet")),
            (None, _) => ("Offline", plan.waiting.clone().unwrap_or_else(|| String::from("no replica leads"))),
        }
    };
    let group = view.group.as_ref();
    let replica_statuses = view.replicas.iter().map(|replica| ReplicaStatus {
        replica_id: replica.id.to_string(),
        mode: mode(replica, group).0.to_owned(),
        checkpointed_io_seq: match &replica.state {
            State::Here { last_index, .. } => coarse(*last_index),
            _ => String::new(),
        },
        quorum: String::from(if group.is_some_and(|group| votes(group, replica.id)) { "1" } else { "0" }),
    });
    let changed = phase != old.phase;
    let redundant = match &view.group {
        Some(_) if healthy >= wanted => Condition::new("Redundant", "True", "AllReplicasHealthy", ""),
        Some(_) => {
            let message = format!("{healthy} of {wanted} replicas are healthy");
            Condition::new("Redundant", "False", "ReplicasMissing", message)
        }
        None => Condition::new("Redundant", "Unknown", "NoLeader", "no replica leads, so the others are not known"),
    };
    let conditions = [Condition::ready(phase, &["Healthy", "Degraded"], &message), redundant];
    CStorVolumeStatus {
        conditions: conditions.map(|condition| condition.keep_time(&old.conditions, now)).to_vec(),
        phase: phase.to_owned(),
        capacity: capacity(volume, view.group.as_ref(), old),
        leader: group.map(|group| group.pool.clone()),
        epoch: group.map_or(old.epoch, |group| i64::try_from(group.epoch).unwrap_or(i64::MAX)),
        replica_statuses: replica_statuses.collect(),
        message,
        last_transition_time: if changed { Some(now()) } else { old.last_transition_time.clone() },
        last_update_time: if group.is_some() { Some(minute()) } else { old.last_update_time.clone() },
        ..old.clone()
    }
}

/// Phase and message of a volume that has its replicas when its target does not serve.
fn away(volume: &CStorVolume, old: &CStorVolumeStatus, target: &Target) -> Option<(&'static str, String)> {
    let begins = ["", "Init"].contains(&old.phase.as_str());
    let (phase, why) = match target {
        Target::Serves => return None,
        // It has never served: it is being started.
        Target::Late(why) | Target::Away(why) if begins => ("Init", why),
        Target::Late(_) => return None,
        Target::Away(why) => ("Offline", why),
    };
    let (namespace, name) = (volume.namespace().unwrap_or_default(), volume.name_any());
    let look = format!("kubectl -n {namespace} get pods -l {}={name}", labels::PERSISTENT_VOLUME);
    Some((phase, format!("its target does not serve: {why}. See `{look}`")))
}

/// The size that the volume has, as somebody wrote it where that is possible.
fn capacity(volume: &CStorVolume, group: Option<&Group>, old: &CStorVolumeStatus) -> String {
    let decided = |capacity: &String| !capacity.is_empty() && old.last_replica_id > 0;
    match group.map(|group| group.blocks) {
        Some(blocks) => [&volume.spec.capacity, &old.capacity]
            .into_iter()
            .find(|capacity| in_blocks(capacity).is_ok_and(|written| written == blocks))
            .cloned()
            .unwrap_or_else(|| blocks.saturating_mul(BLOCK_SIZE as u64).to_string()),
        None => Some(&old.capacity).filter(|capacity| decided(capacity)).unwrap_or(&volume.spec.capacity).clone(),
    }
}

/// An index to three digits: exact ones would make every busy volume a write to the API server every few seconds.
fn coarse(index: u64) -> String {
    let unit = 10_u64.pow(index.checked_ilog10().unwrap_or(0).saturating_sub(2));
    (index / unit * unit).to_string()
}

fn votes(group: &Group, id: u64) -> bool {
    group.member(id).is_some_and(|member| member.voter)
}

/// One word for a replica, and what to do about it.
fn mode(replica: &Replica, group: Option<&Group>) -> (&'static str, String) {
    let member = group.and_then(|group| group.member(replica.id));
    match &replica.state {
        State::PoolGone => ("Offline", String::from("its pool was deleted; it is made anew elsewhere")),
        State::PoolReplaced => {
            ("Offline", String::from("its pool is a new one on other devices; it is made anew under a new id"))
        }
        State::Silent { since, error } => (
            "Unknown",
            format!("its pool has not answered for {} s ({error}): look at the pool's pod and node", round(*since)),
        ),
        State::NotAsked => ("Unknown", String::from("its pool has not been asked yet")),
        State::Absent if replica.made => ("Error", String::from("its pool does not have it any more; it is made anew")),
        State::Absent => ("Init", String::new()),
        State::Here { role, detail, .. } if role == "failed" => {
            ("Error", format!("{detail}; it is made anew elsewhere when it does not recover"))
        }
        State::Here { .. } => match (group, member) {
            (None, _) => ("Degraded", String::from("its group has no leader now")),
            (Some(_), None) => ("Init", String::from("it is not in the volume's group yet")),
            (Some(group), Some(member)) if member.voter && group.caught_up(replica.id) => ("Healthy", String::new()),
            (Some(_), Some(member)) if member.in_contact == Some(false) => {
                ("Degraded", String::from("the leader does not reach it"))
            }
            (Some(_), Some(_)) => ("Rebuilding", String::from("it is being filled")),
        },
    }
}

/// Seconds of a growing duration, in steps, so that the message does not change with every look.
fn round(duration: Duration) -> u64 {
    match duration.as_secs() {
        seconds @ 0..=59 => seconds / 10 * 10,
        seconds @ 60..=599 => seconds / 60 * 60,
        seconds => seconds / 600 * 600,
    }
}

/// The new status of each replica's object, by its name.
pub fn replica_statuses(
    view: &View,
    old: &dyn Fn(&str) -> CStorVolumeReplicaStatus,
    now: &dyn Fn() -> String,
) -> BTreeMap<String, CStorVolumeReplicaStatus> {
    let status = |replica: &Replica| {
        let old = old(&replica.name);
        let (phase, message) = mode(replica, view.group.as_ref());
        let capacity = match &replica.state {
            State::Here { allocated, .. } => {
                let text = quantity::short(*allocated);
                ReplicaCapacity { total_allocated: text.clone(), used: text }
            }
            _ => old.capacity.clone(),
        };
        let rebuild = view.group.as_ref().and_then(|group| group.member(replica.id)).and_then(|member| member.snapshot);
        let rebuild = rebuild.map(|progress| {
            let total = progress.blocks_total.max(1);
            let percent = progress.blocks_sent.saturating_mul(100) / total;
            RebuildProgress {
                done: quantity::short(progress.blocks_sent.saturating_mul(BLOCK_SIZE as u64)),
                total: quantity::short(progress.blocks_total.saturating_mul(BLOCK_SIZE as u64)),
                percent: i32::try_from(percent.min(100)).unwrap_or(100),
            }
        });
        let changed = phase != old.phase;
        let ready = Condition::ready(phase, &["Healthy"], &message);
        let status = CStorVolumeReplicaStatus {
            phase: phase.to_owned(),
            capacity,
            rebuild,
            message,
            last_transition_time: if changed { Some(now()) } else { old.last_transition_time.clone() },
            conditions: vec![ready.keep_time(&old.conditions, now)],
            ..old
        };
        (replica.name.clone(), status)
    };
    view.replicas.iter().map(status).collect()
}

#[cfg(test)]
mod tests {
    use ballast_api::control::{MemberStatus, SnapshotProgress};
    use ballast_api::k8s::volume::CStorVolumeSpec;

    use super::*;

    fn replica(id: u64, state: State) -> Replica {
        let (name, pool) = (format!("r{id}"), format!("p{id}"));
        Replica { name, pool, id, pool_id: None, founding: true, made: true, deleting: false, state }
    }

    fn here() -> State {
        State::Here { role: String::from("follower"), allocated: 1 << 20, detail: String::new(), last_index: 123_456 }
    }

    fn member(replica: u64) -> MemberStatus {
        let (matched_index, in_contact) = (Some(100), Some(true));
        MemberStatus { replica, voter: true, matched_index, in_contact, ..MemberStatus::default() }
    }

    fn view() -> View {
        let members = [1, 2, 3].map(member).to_vec();
        let group = Group {
            leader: 1,
            pool: String::from("p1"),
            last_index: 100,
            epoch: 7,
            blocks: 1 << 18,
            members,
            changing: false,
        };
        View { replicas: [1, 2, 3].map(|id| replica(id, here())).to_vec(), group: Some(group), ..View::default() }
    }

    fn status(view: &View, formed: bool) -> CStorVolumeStatus {
        let spec =
            CStorVolumeSpec { replication_factor: 3, capacity: String::from("1Gi"), ..CStorVolumeSpec::default() };
        let old = CStorVolumeStatus { formed, phase: String::from("Healthy"), ..CStorVolumeStatus::default() };
        let time = || String::from("T");
        volume_status(&CStorVolume::new("v", spec), &old, view, &Plan::default(), &time, &time)
    }

    #[test]
    fn phases() {
        let mut view = view();
        let healthy = status(&view, true);
        assert_eq!((healthy.phase.as_str(), healthy.last_transition_time), ("Healthy", None));
        assert_eq!(healthy.replica_statuses[0].checkpointed_io_seq, "123000");
        assert_eq!(status(&view, false).phase, "Init");
        view.replicas[2].state = State::Silent { since: Duration::from_secs(25), error: String::from("refused") };
        view.group.as_mut().unwrap().members[2].in_contact = Some(false);
        let degraded = status(&view, true);
        assert_eq!((degraded.phase.as_str(), degraded.last_transition_time.as_deref()), ("Degraded", Some("T")));
        assert!(degraded.message.contains("2 of 3"), "{}", degraded.message);
        assert_eq!(degraded.replica_statuses[2].mode, "Unknown");
        let reasons: Vec<_> = degraded.conditions.iter().map(|c| (&*c.type_, &*c.status, &*c.reason)).collect();
        assert_eq!(reasons, [("Ready", "True", "Degraded"), ("Redundant", "False", "ReplicasMissing")]);
        view.target = Target::Away(String::from("refused"));
        let offline = status(&view, true);
        assert!(offline.phase == "Offline" && offline.message.contains("refused"), "{}", offline.message);
        assert_eq!(offline.conditions[0].status, "False");
        view.group = None;
        assert_eq!(status(&view, true).phase, "Offline");
        view.replicas[0].state = State::NotAsked;
        assert_eq!(status(&view, true).phase, "Unknown");
    }

    #[test]
    fn replicas_say_what_they_do() {
        let mut view = view();
        view.replicas[0].state = State::PoolReplaced;
        view.replicas[1].state = State::Silent { since: Duration::from_secs(137), error: String::from("refused") };
        let progress = SnapshotProgress { blocks_sent: 256, blocks_total: 1024 };
        view.group.as_mut().unwrap().members[2].snapshot = Some(progress);
        view.group.as_mut().unwrap().members[2].voter = false;
        let statuses = replica_statuses(&view, &|_| CStorVolumeReplicaStatus::default(), &|| String::from("T"));
        assert_eq!(statuses["r1"].phase, "Offline");
        assert!(statuses["r2"].phase == "Unknown" && statuses["r2"].message.contains("120 s"));
        let rebuild = statuses["r3"].rebuild.clone().unwrap();
        assert_eq!((statuses["r3"].phase.as_str(), rebuild.percent), ("Rebuilding", 25));
        assert_eq!((rebuild.done.as_str(), rebuild.total.as_str()), ("1M", "4M"));
    }
}
