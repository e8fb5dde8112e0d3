//! What else there is to say about a pool than how it is: whether it takes replicas, and which of those it has nobody knows.
//!
//! A replica whose volume has no object is never deleted here: the objects may be missing because somebody restored an old
//! state of the cluster, and the replica may be the only copy. It is told, with the command that deletes it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ballast_api::VolumeId;
use ballast_api::control::PoolStatus;
use ballast_api::k8s::pool::CStorPoolStatus;
use ballast_api::k8s::{CStorPool, Condition, labels};
use kube::ResourceExt as _;
use tokio::time::Instant;

use super::pending::pending_deletions;
use crate::context::{is_closed, is_draining};

/// While a volume is made or deleted, its objects and its replicas are seen at different times.
const LASTING: Duration = Duration::from_secs(60);
/// Volumes that are named in a message; a status is no list.
const NAMED: usize = 5;

/// Replicas without a volume, and since when.
#[derive(Debug, Default)]
pub(crate) struct Orphans(Mutex<HashMap<(String, VolumeId), Instant>>);

impl Orphans {
    /// Of the volumes that are unknown now, those that have been for long.
    fn lasting(&self, pool: &str, unknown: &BTreeSet<VolumeId>) -> Vec<VolumeId> {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|(of, volume), _| of != pool || unknown.contains(volume));
        let mut lasting = Vec::new();
        for volume in unknown {
            let first = since.entry((pool.to_owned(), *volume)).or_insert_with(Instant::now);
            if first.elapsed() >= LASTING {
                lasting.push(*volume);
            }
        }
        lasting
    }
}

/// The conditions of a pool whose new status is `status`. `answer` is what it said last, if it answers; `known` are the volumes
/// that have objects.
pub(crate) fn conditions(
    pool: &CStorPool,
    status: &CStorPoolStatus,
    answer: Option<&PoolStatus>,
    known: &BTreeSet<VolumeId>,
    orphans: &Orphans,
    now: fn() -> String,
) -> Vec<Condition> {
    let old = pool.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let mut new =
        vec![Condition::ready(&status.phase, &["Healthy", "Degraded"], &status.message), schedulable(pool, answer)];
    match answer {
        Some(answer) => new.extend(orphaned(pool, answer, known, orphans)),
        // Not known now: what was known stays, it is about the disk and not about the process.
        None => new.extend(old.iter().filter(|condition| condition.type_ == ORPHANED).cloned()),
    }
    new.into_iter().map(|condition| condition.keep_time(&old, now)).collect()
}

const ORPHANED: &str = "OrphanedReplicas";

fn schedulable(pool: &CStorPool, answer: Option<&PoolStatus>) -> Condition {
    let say = |status, reason, message: String| Condition::new("Schedulable", status, reason, message);
    if !is_closed(pool) {
        return say("True", "Open", String::new());
    }
    if !is_draining(pool) {
        let undo = format!("kubectl annotate csp {} {}-", pool.name_any(), labels::CORDON);
        return say("False", "Cordoned", format!("it gets no new replicas; `{undo}` takes that back"));
    }
    match answer.map(|answer| answer.replicas.len()) {
        Some(0) => say("False", "Drained", String::from("it is empty: its node can go, and the pool can be deleted")),
        Some(left) => say("False", "Draining", format!("{left} replicas are still here; they move to other pools")),
        None => say("False", "Draining", String::from("it does not answer, so what is left in it is not known")),
    }
}

fn orphaned(pool: &CStorPool, answer: &PoolStatus, known: &BTreeSet<VolumeId>, orphans: &Orphans) -> Option<Condition> {
    let doomed: BTreeSet<VolumeId> = pending_deletions(pool).into_iter().map(|pending| pending.volume).collect();
    let here = answer.replicas.iter().filter_map(|replica| VolumeId::from_slice(&replica.volume).ok());
    let unknown = here.filter(|volume| !known.contains(volume) && !doomed.contains(volume)).collect();
    let lasting = orphans.lasting(&pool.name_any(), &unknown);
    let first = lasting.first()?;
    let named: Vec<String> = lasting.iter().take(NAMED).map(ToString::to_string).collect();
    let message = format!(
        "{} replicas are of volumes that have no CStorVolume: {}{}. Bring the objects back, or delete the data for good: \
         `kubectl annotate csp {} {}{first}=true`",
        lasting.len(),
        named.join(", "),
        if lasting.len() > NAMED { ", ..." } else { "" },
        pool.name_any(),
        labels::PENDING_DELETION,
    );
    Some(Condition::new(ORPHANED, "True", "NoVolume", message))
}

#[cfg(test)]
mod tests {
    use ballast_api::control::ReplicaStatus;
    use ballast_api::k8s::pool::CStorPoolSpec;

    use super::*;

    fn of(pool: &CStorPool, answer: Option<&PoolStatus>, known: &[VolumeId], orphans: &Orphans) -> Vec<Condition> {
        let status = CStorPoolStatus { phase: String::from("Healthy"), ..CStorPoolStatus::default() };
        conditions(pool, &status, answer, &known.iter().copied().collect(), orphans, || String::from("T"))
    }

    fn reasons(conditions: &[Condition]) -> Vec<&str> {
        conditions
            .iter()
            .filter(|condition| condition.type_ != "Ready")
            .map(|condition| condition.reason.as_str())
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn cordoned_drained_and_open() {
        let (mut pool, orphans) = (CStorPool::new("p", CStorPoolSpec::default()), Orphans::default());
        assert_eq!(reasons(&of(&pool, None, &[], &orphans)), ["Open"]);
        pool.annotations_mut().insert(labels::CORDON.to_owned(), String::from("true"));
        let cordoned = of(&pool, None, &[], &orphans);
        assert_eq!(reasons(&cordoned), ["Cordoned"]);
        assert!(cordoned[1].message.contains("kubectl annotate csp p openebs.io/cordon-"), "{}", cordoned[1].message);
        pool.annotations_mut().insert(labels::DRAIN.to_owned(), String::from("true"));
        let full = PoolStatus { replicas: vec![ReplicaStatus::default()], ..PoolStatus::default() };
        assert_eq!(reasons(&of(&pool, Some(&full), &[], &orphans)), ["Draining"]);
        assert_eq!(reasons(&of(&pool, Some(&PoolStatus::default()), &[], &orphans)), ["Drained"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_without_a_volume_is_told_when_it_lasts() {
        let (mut pool, orphans) = (CStorPool::new("p", CStorPoolSpec::default()), Orphans::default());
        let volumes = [1, 2].map(|byte| VolumeId::from_bytes([byte; 16]));
        let replica = |id: VolumeId| ReplicaStatus { volume: id.to_bytes(), ..ReplicaStatus::default() };
        let answer = PoolStatus { replicas: volumes.map(replica).to_vec(), ..PoolStatus::default() };
        assert_eq!(reasons(&of(&pool, Some(&answer), &volumes[..1], &orphans)), ["Open"]);
        tokio::time::advance(LASTING).await;
        let told = of(&pool, Some(&answer), &volumes[..1], &orphans);
        assert_eq!(reasons(&told), ["Open", "NoVolume"]);
        assert!(told[2].message.contains(&format!("deletion.openebs.io/{}=true", volumes[1])), "{}", told[2].message);
        // It stays told while the pool is away, and the time is that of the first time.
        pool.status = Some(CStorPoolStatus { conditions: told.clone(), ..CStorPoolStatus::default() });
        assert_eq!(of(&pool, None, &[], &orphans), told);
        // An object that is back, or the wish to delete it, ends it; and the time begins anew.
        assert_eq!(reasons(&of(&pool, Some(&answer), &volumes, &orphans)), ["Open"]);
        assert_eq!(reasons(&of(&pool, Some(&answer), &volumes[..1], &orphans)), ["Open"]);
        tokio::time::advance(LASTING).await;
        pool.annotations_mut().insert(format!("{}{}", labels::PENDING_DELETION, volumes[1]), String::from("true"));
        assert_eq!(reasons(&of(&pool, Some(&answer), &volumes[..1], &orphans)), ["Open"]);
    }
}
