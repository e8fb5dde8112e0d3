use ballast_api::{ReplicaId, VolumeId};

use super::super::model::{Member, PoolRecord};
use super::*;

const ID: [u8; 16] = [7; 16];

fn pool(n: u8) -> PoolId {
    PoolId::from_bytes([n; 16])
}

fn volume() -> Volume {
    let members = (1..=3).map(|n| Member { replica: ReplicaId(n), pool: pool(n as u8) }).collect();
    let id = VolumeId::from_bytes(ID);
    Volume { id, name: "demo".parse().unwrap(), blocks: 256, members, phase: Phase::Ready }
}

fn says(role: &str, index: u64) -> Answer<PoolStatus> {
    let replica = ReplicaStatus {
        volume: ID.to_vec().into(),
        role: role.to_owned(),
        applied_index: index,
        last_index: index,
        ..ReplicaStatus::default()
    };
    Answer::Said(PoolStatus { replicas: vec![replica], ..PoolStatus::default() })
}

fn target(state: &str) -> Answer<Option<TargetVolumeStatus>> {
    Answer::Said(Some(TargetVolumeStatus { state: state.to_owned(), sessions: 2, epoch: 4, ..Default::default() }))
}

fn report_of(
    volume: &Volume,
    pools: [Answer<PoolStatus>; 3],
    target: &Answer<Option<TargetVolumeStatus>>,
) -> VolumeReport {
    let mut table = Table::default();
    for n in 1..=3 {
        table.saw_pool(PoolRecord { id: pool(n), name: format!("pool-{n}"), devices: Vec::new() });
    }
    volume_report(volume, &table, &(1..).map(pool).zip(pools).collect(), target)
}

fn state(pools: [Answer<PoolStatus>; 3], target: &Answer<Option<TargetVolumeStatus>>) -> VolumeState {
    report_of(&volume(), pools, target).state
}

fn all_well() -> [Answer<PoolStatus>; 3] {
    [says("leader", 9), says("follower", 9), says("follower", 8)]
}

#[test]
fn healthy_only_when_everyone_says_so() {
    let report = report_of(&volume(), all_well(), &target("online"));
    assert_eq!((report.state, report.detail.as_str()), (VolumeState::Healthy, ""));
    assert_eq!((report.sessions, report.epoch), (Some(2), Some(4)));
    assert_eq!(report.size_bytes, 1 << 20);
    assert_eq!(report.replicas[2].applied_index, Some(8));
    assert_eq!(report.replicas[0].pool, "pool-1");
}

#[test]
fn one_replica_away_is_degraded() {
    for away in [Answer::Down, Answer::Silent, says("failed", 9), says("candidate", 9), says("learner", 9)] {
        assert_eq!(state([says("leader", 9), says("follower", 9), away], &target("online")), VolumeState::Degraded);
    }
    let gone = Answer::Said(PoolStatus::default());
    let report = report_of(&volume(), [says("leader", 9), says("follower", 9), gone], &target("online"));
    assert_eq!((report.state, report.replicas[2].role.as_str()), (VolumeState::Degraded, "missing"));
}

#[test]
fn values_of_a_silent_pool_are_not_shown() {
    let report = report_of(&volume(), [says("leader", 9), says("follower", 9), Answer::Silent], &target("online"));
    let silent = &report.replicas[2];
    assert_eq!((silent.role.as_str(), silent.applied_index, silent.last_index), ("unknown", None, None));
}

#[test]
fn a_replica_far_behind_is_degraded() {
    let pools = |index| [says("leader", 20_000), says("follower", 20_000), says("follower", index)];
    assert_eq!(state(pools(19_990), &target("online")), VolumeState::Healthy);
    let report = report_of(&volume(), pools(100), &target("online"));
    assert_eq!(report.state, VolumeState::Degraded);
    assert!(report.replicas[2].detail.contains("19900 entries behind"));
}

#[test]
fn no_quorum_is_offline_only_when_that_is_known() {
    let online = &target("online");
    assert_eq!(state([says("leader", 9), Answer::Down, Answer::Down], online), VolumeState::Offline);
    assert_eq!(state([says("leader", 9), Answer::Down, says("failed", 9)], online), VolumeState::Offline);
    assert_eq!(state([says("leader", 9), Answer::Down, Answer::Silent], online), VolumeState::Unknown);
    assert_eq!(state([Answer::Silent, Answer::Silent, Answer::Silent], online), VolumeState::Unknown);
}

#[test]
fn the_target_counts() {
    assert_eq!(state(all_well(), &Answer::Down), VolumeState::Offline);
    assert_eq!(state(all_well(), &Answer::Silent), VolumeState::Unknown);
    assert_eq!(state(all_well(), &Answer::Said(None)), VolumeState::Offline);
    assert_eq!(state(all_well(), &target("fenced")), VolumeState::Offline);
    assert_eq!(state(all_well(), &target("waiting")), VolumeState::Degraded);
    let report = report_of(&volume(), all_well(), &Answer::Silent);
    assert_eq!((report.target_state.as_str(), report.sessions, report.epoch), ("unknown", None, None));
}

#[test]
fn no_leader_is_degraded() {
    let followers = [says("follower", 9), says("follower", 9), says("follower", 9)];
    assert_eq!(state(followers, &target("online")), VolumeState::Degraded);
    // The leader has just died; the others elect: this passes, it is not an outage of the replicas.
    let electing = [Answer::Down, says("candidate", 9), says("follower", 9)];
    assert_eq!(state(electing, &target("waiting")), VolumeState::Degraded);
    // Each thinks it leads: one of them is wrong and is about to learn it.
    let two = [says("leader", 9), says("leader", 9), says("follower", 9)];
    assert_eq!(state(two, &target("online")), VolumeState::Degraded);
}

#[test]
fn unfinished_volumes_are_offline() {
    let creating = Volume { phase: Phase::Creating, ..volume() };
    assert_eq!(report_of(&creating, all_well(), &target("online")).state, VolumeState::Offline);
}
