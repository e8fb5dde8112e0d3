use ballast_api::ReplicaId;

use super::*;

fn pool(n: u8) -> PoolId {
    PoolId::from_bytes([n; 16])
}

fn id(n: u8) -> VolumeId {
    VolumeId::from_bytes([n; 16])
}

fn members() -> Vec<Member> {
    (1..=3).map(|n| Member { replica: ReplicaId(n), pool: pool(n as u8) }).collect()
}

fn volume(n: u8, name: &str, phase: Phase) -> Volume {
    Volume { id: id(n), name: name.parse().unwrap(), blocks: 256, members: members(), phase }
}

fn table(volumes: &[Volume]) -> Table {
    Table { volumes: volumes.iter().map(|v| (v.id, v.clone())).collect(), ..Table::default() }
}

fn replica(n: u8, name: &str, formed: bool) -> FoundReplica {
    FoundReplica { volume: id(n), name: name.to_owned(), blocks: 256, members: members(), formed }
}

/// Scans of the pools `1..`, each with the replicas given for it.
fn scans(replicas: &[&[FoundReplica]]) -> Vec<PoolScan> {
    (1u8..).zip(replicas).map(|(n, found)| PoolScan { pool: pool(n), replicas: found.to_vec() }).collect()
}

#[test]
fn nothing_to_do_when_both_agree() {
    let demo = &[replica(1, "demo", true)];
    let plan = reconcile(&table(&[volume(1, "demo", Phase::Ready)]), &scans(&[demo, demo, demo]));
    assert_eq!(plan, Plan::default());
}

#[test]
fn a_lost_registry_is_rebuilt_from_the_pools() {
    let demo = &[replica(1, "demo", true)];
    let plan = reconcile(&Table::default(), &scans(&[demo, demo, demo]));
    assert_eq!(plan.changed, [volume(1, "demo", Phase::Ready)]);
    assert!(plan.actions.is_empty() && plan.forgotten.is_empty());
    // One pool is enough to know it.
    assert_eq!(reconcile(&Table::default(), &scans(&[demo])), plan);
}

#[test]
fn a_formed_group_never_gets_a_replica_made_again() {
    let demo = &[replica(1, "demo", true)];
    for known in [table(&[]), table(&[volume(1, "demo", Phase::Ready)]), table(&[volume(1, "demo", Phase::Creating)])] {
        let plan = reconcile(&known, &scans(&[demo, demo, &[]]));
        assert!(plan.actions.is_empty(), "{plan:?}");
    }
}

#[test]
fn half_created_is_completed_once_all_pools_answer() {
    let demo = &[replica(1, "demo", false)];
    let complete =
        |missing: &[u8]| Action::Complete { volume: id(1), missing: missing.iter().map(|n| pool(*n)).collect() };
    for known in [table(&[]), table(&[volume(1, "demo", Phase::Creating)])] {
        assert_eq!(reconcile(&known, &scans(&[demo, &[], &[]])).actions, [complete(&[2, 3])]);
        assert_eq!(reconcile(&known, &scans(&[demo, demo, demo])).actions, [complete(&[])]);
        // pool 3 is away: it may hold a replica that has voted.
        assert!(reconcile(&known, &scans(&[demo, demo])).actions.is_empty());
    }
    // The crash was before the first replica.
    let known = table(&[volume(1, "demo", Phase::Creating)]);
    assert_eq!(reconcile(&known, &scans(&[&[], &[], &[]])).actions, [complete(&[1, 2, 3])]);
}

#[test]
fn creation_that_was_only_not_noted_is_noted() {
    let known = table(&[volume(1, "demo", Phase::Creating)]);
    let plan = reconcile(&known, &scans(&[&[replica(1, "demo", false)], &[replica(1, "demo", true)]]));
    assert_eq!(plan.changed, [volume(1, "demo", Phase::Ready)]);
    assert!(plan.actions.is_empty());
}

#[test]
fn a_tombstone_stays_until_every_replica_is_gone() {
    let known = table(&[volume(1, "demo", Phase::Deleting)]);
    // pool 3 is away.
    let plan = reconcile(&known, &scans(&[&[replica(1, "demo", true)], &[]]));
    assert_eq!(plan.actions, [Action::Delete { volume: id(1), pool: pool(1) }]);
    assert!(plan.forgotten.is_empty() && plan.changed.is_empty());
    assert!(reconcile(&known, &scans(&[&[], &[]])).forgotten.is_empty());
    // It comes back with the replica, then without.
    let plan = reconcile(&known, &scans(&[&[], &[], &[replica(1, "demo", true)]]));
    assert_eq!(plan.actions, [Action::Delete { volume: id(1), pool: pool(3) }]);
    assert!(plan.forgotten.is_empty() && plan.changed.is_empty());
    assert_eq!(reconcile(&known, &scans(&[&[], &[], &[]])).forgotten, [id(1)]);
}

#[test]
fn nothing_is_deleted_without_a_tombstone() {
    for formed in [false, true] {
        let demo = &[replica(1, "demo", formed)];
        for holders in [scans(&[demo, &[], &[]]), scans(&[demo, demo, demo]), scans(&[demo])] {
            for known in [table(&[]), table(&[volume(1, "demo", Phase::Ready)])] {
                let plan = reconcile(&known, &holders);
                assert!(!plan.actions.iter().any(|a| matches!(a, Action::Delete { .. })), "{plan:?}");
            }
        }
    }
}

#[test]
fn an_outdated_registry_forgets_what_no_pool_has() {
    let known = table(&[volume(1, "demo", Phase::Ready)]);
    assert_eq!(reconcile(&known, &scans(&[&[], &[], &[]])).forgotten, [id(1)]);
    assert_eq!(reconcile(&known, &scans(&[&[], &[]])), Plan::default());
}

#[test]
fn an_outdated_registry_is_corrected() {
    let mut old = volume(1, "demo", Phase::Ready);
    old.blocks = 1;
    old.members.truncate(1);
    let demo = &[replica(1, "demo", true)];
    let plan = reconcile(&table(&[old]), &scans(&[demo, demo, demo]));
    assert_eq!(plan.changed, [volume(1, "demo", Phase::Ready)]);
}

#[test]
fn a_name_is_used_once() {
    let both = &[replica(1, "demo", true), replica(2, "demo", true), replica(3, "Not a label", true)];
    let plan = reconcile(&Table::default(), &scans(&[both]));
    let names: Vec<&str> = plan.changed.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["demo", "demo-02020202", "03030303-0303-0303-0303-030303030303"]);
    assert_eq!(plan.notes.len(), 2);
    // A tombstone does not hold its name.
    let plan = reconcile(&table(&[volume(9, "demo", Phase::Deleting)]), &scans(&[&[replica(1, "demo", true)]]));
    assert_eq!(plan.changed[0].name.as_str(), "demo");
}
