//! The state of a volume and of its replicas from what the processes just said: a pure function.
//!
//! `Healthy` is claimed only when the target serves the volume and every replica said so itself. `Unknown` is said
//! when processes run but too few answered to tell; `Offline` only when it is known that nobody serves the volume.

use std::collections::BTreeMap;

use ballast_api::PoolId;
use ballast_api::control::{PoolStatus, ReplicaStatus, TargetVolumeStatus};

use super::model::{Phase, Table, Volume};
use crate::report::{ReplicaReport, VolumeReport, VolumeState};

/// A replica this many entries behind the newest one is catching up, not just busy.
const LAG_LIMIT: u64 = 8192;

/// What is known about a process right now.
#[derive(Clone, Debug)]
pub(crate) enum Answer<T> {
    /// It said this.
    Said(T),
    /// It runs and did not answer in time.
    Silent,
    /// It does not run.
    Down,
}

impl<T> Answer<T> {
    /// What it said.
    pub(crate) fn said(&self) -> Option<&T> {
        match self {
            Self::Said(value) => Some(value),
            Self::Silent | Self::Down => None,
        }
    }

    /// Changes what was said.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Said(value) => Answer::Said(change(value)),
            Self::Silent => Answer::Silent,
            Self::Down => Answer::Down,
        }
    }
}

/// What a replica contributes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Leads,
    Follows,
    /// Could work, but the group has not agreed on a leader.
    Elects,
    /// Answers but cannot be counted on: it failed, is missing, or is far behind.
    Impaired,
    Silent,
    Down,
}

/// The report on one volume.
pub(crate) fn volume_report(
    volume: &Volume,
    table: &Table,
    pools: &BTreeMap<PoolId, Answer<PoolStatus>>,
    target: &Answer<Option<TargetVolumeStatus>>,
) -> VolumeReport {
    let found: Vec<Answer<Option<&ReplicaStatus>>> = volume
        .members
        .iter()
        .map(|member| match pools.get(&member.pool) {
            None | Some(Answer::Down) => Answer::Down,
            Some(Answer::Silent) => Answer::Silent,
            Some(Answer::Said(status)) => {
                Answer::Said(status.replicas.iter().find(|replica| replica.volume[..] == volume.id.as_bytes()[..]))
            }
        })
        .collect();
    let statuses = || found.iter().filter_map(|answer| answer.said().copied().flatten());
    // Asked at slightly different moments: the newest applied entry is surely committed.
    let newest = statuses().map(|status| status.applied_index).max().unwrap_or(0);

    let mut parts = Vec::with_capacity(found.len());
    let mut replicas = Vec::with_capacity(found.len());
    for (member, answer) in volume.members.iter().zip(&found) {
        let pool = table.pools.get(&member.pool).map_or_else(|| member.pool.to_string(), |pool| pool.name.clone());
        let (part, role, detail) = match answer {
            Answer::Down => (Part::Down, "unknown", "its pool does not run".to_owned()),
            Answer::Silent => (Part::Silent, "unknown", "its pool does not answer".to_owned()),
            Answer::Said(None) if volume.phase == Phase::Creating => (Part::Impaired, "missing", String::new()),
            Answer::Said(None) => (Part::Impaired, "missing", "its pool does not hold it any more".to_owned()),
            Answer::Said(Some(status)) => judge(status, newest),
        };
        let status = answer.said().copied().flatten();
        parts.push(part);
        replicas.push(ReplicaReport {
            pool,
            replica: member.replica.0,
            role: role.to_owned(),
            applied_index: status.map(|s| s.applied_index),
            last_index: status.map(|s| s.last_index),
            allocated_bytes: status.map(|s| s.allocated_bytes),
            detail,
        });
    }
    let served = target.said().and_then(Option::as_ref);
    let (state, detail) = volume_state(volume, &parts, target);
    VolumeReport {
        name: volume.name.to_string(),
        id: volume.id.to_string(),
        iqn: volume.name.iqn(),
        size_bytes: volume.blocks.saturating_mul(ballast_api::BLOCK_SIZE as u64),
        state,
        detail,
        target_state: served.map_or_else(|| "unknown".to_owned(), |status| status.state.clone()),
        sessions: served.map(|status| status.sessions),
        epoch: served.map(|status| status.epoch),
        replicas,
    }
}

fn judge(status: &ReplicaStatus, newest: u64) -> (Part, &str, String) {
    let lag = newest.saturating_sub(status.last_index);
    match status.role.as_str() {
        role @ "leader" => (Part::Leads, role, status.detail.clone()),
        role @ "follower" if lag > LAG_LIMIT => (Part::Impaired, role, format!("catching up, {lag} entries behind")),
        role @ "follower" => (Part::Follows, role, status.detail.clone()),
        role @ "candidate" => (Part::Elects, role, status.detail.clone()),
        role => (Part::Impaired, role, status.detail.clone()),
    }
}

fn volume_state(volume: &Volume, parts: &[Part], target: &Answer<Option<TargetVolumeStatus>>) -> (VolumeState, String) {
    let count = |wanted: &[Part]| parts.iter().filter(|part| wanted.contains(part)).count();
    let (total, quorum) = (parts.len(), volume.quorum());
    let working = count(&[Part::Leads, Part::Follows, Part::Elects]);
    let possible = total - count(&[Part::Down, Part::Impaired]);
    if volume.phase == Phase::Creating {
        return (VolumeState::Offline, "not complete yet: waits for all of its pools".to_owned());
    }
    if working < quorum {
        return if possible < quorum {
            (VolumeState::Offline, format!("{possible} of {total} replicas can work, {quorum} are needed"))
        } else {
            (VolumeState::Unknown, format!("only {working} of {total} replicas answer"))
        };
    }
    let serves = match target {
        Answer::Down => return (VolumeState::Offline, "the target does not run".to_owned()),
        Answer::Silent => return (VolumeState::Unknown, "the target does not answer".to_owned()),
        Answer::Said(None) => return (VolumeState::Offline, "the target does not serve it".to_owned()),
        Answer::Said(Some(status)) => status.state.as_str(),
    };
    match serves {
        "fenced" => (VolumeState::Offline, "another target has taken it over".to_owned()),
        "online" if count(&[Part::Follows]) == total - 1 && count(&[Part::Leads]) == 1 => {
            (VolumeState::Healthy, String::new())
        }
        "online" if working == total => {
            (VolumeState::Degraded, "its replicas have no agreed leader right now".to_owned())
        }
        "online" => (VolumeState::Degraded, format!("{working} of {total} replicas take part")),
        // Input and output wait for a leader, they do not fail.
        state => (VolumeState::Degraded, format!("the target is {state}")),
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
