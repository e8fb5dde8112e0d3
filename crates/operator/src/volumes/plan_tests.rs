use ballast_api::control::{MemberStatus, SnapshotProgress};

use super::super::view::{Group, Replica};
use super::*;

const GRACE: Duration = Duration::from_secs(60);

fn replica(id: u64, state: State) -> Replica {
    Replica {
        name: format!("r{id}"),
        pool: format!("p{id}"),
        id,
        pool_id: None,
        founding: id <= 3,
        made: id <= 3,
        deleting: false,
        state,
    }
}

fn here(role: &str) -> State {
    State::Here { role: role.to_owned(), allocated: 0, detail: String::new(), last_index: 100 }
}

fn silent(seconds: u64) -> State {
    State::Silent { since: Duration::from_secs(seconds), error: String::from("refused") }
}

fn member(replica: u64, voter: bool, matched: u64, in_contact: bool) -> MemberStatus {
    MemberStatus {
        replica,
        voter,
        matched_index: Some(matched),
        in_contact: Some(in_contact),
        ..MemberStatus::default()
    }
}

/// Three voters, 1 leads.
fn healthy() -> View {
    let replicas = [(1, "leader"), (2, "follower"), (3, "follower")];
    View {
        replicas: replicas.map(|(id, role)| replica(id, here(role))).to_vec(),
        group: Some(Group {
            leader: 1,
            pool: String::from("p1"),
            last_index: 100,
            members: [1, 2, 3].map(|id| member(id, true, 100, true)).to_vec(),
            ..Group::default()
        }),
        ..View::default()
    }
}

fn next(view: &View, wanted: usize) -> Option<Step> {
    plan(view, wanted, GRACE).step
}

#[test]
fn a_healthy_volume_needs_nothing() {
    assert_eq!(plan(&healthy(), 3, GRACE), Plan::default());
}

#[test]
fn a_replica_that_is_away_for_long_is_replaced_step_by_step() {
    let mut view = healthy();
    let group = view.group.as_mut().unwrap();
    group.members[2] = member(3, true, 50, false);
    view.replicas[2].state = silent(59);
    assert_eq!(plan(&view, 3, GRACE).step, None, "the grace period is not over");
    view.replicas[2].state = silent(60);
    assert_eq!(next(&view, 3), Some(Step::AddReplica));
    // Its object is written.
    view.replicas.push(replica(4, State::Absent));
    assert_eq!(next(&view, 3), Some(Step::Join { replica: 4 }));
    // It is filled: the lost one keeps its vote until then.
    let group = view.group.as_mut().unwrap();
    group.members.push(MemberStatus { snapshot: Some(SnapshotProgress::default()), ..member(4, false, 100, true) });
    view.replicas[3].state = here("learner");
    assert_eq!(next(&view, 3), None);
    assert!(plan(&view, 3, GRACE).waiting.unwrap().contains("replica 4"));
    view.group.as_mut().unwrap().members[3] = member(4, false, 99, true);
    assert_eq!(next(&view, 3), Some(Step::ChangeVoters { voters: vec![1, 2, 4] }));
    // The lost one has left the group: only now its object goes.
    let group = view.group.as_mut().unwrap();
    group.members = [1, 2, 4].map(|id| member(id, true, 100, true)).to_vec();
    assert_eq!(next(&view, 3), Some(Step::Drop { replica: 3 }));
    view.replicas.remove(2);
    assert_eq!(plan(&view, 3, GRACE), Plan::default());
}

#[test]
fn a_replica_that_comes_back_in_time_makes_its_replacement_superfluous() {
    let mut view = healthy();
    view.replicas.push(replica(4, here("learner")));
    view.group.as_mut().unwrap().members.push(member(4, false, 10, true));
    assert_eq!(next(&view, 3), Some(Step::RemoveLearner { replica: 4 }));
}

#[test]
fn a_replica_that_its_pool_lost_is_never_made_again_under_its_id() {
    let mut view = healthy();
    view.replicas[2].state = State::Absent;
    view.group.as_mut().unwrap().members[2] = member(3, true, 50, false);
    assert_eq!(next(&view, 3), Some(Step::AddReplica));
    // A new one whose creation was noted and that is not there.
    view.replicas.push(Replica { made: true, ..replica(4, State::Absent) });
    assert_eq!(next(&view, 3), Some(Step::Drop { replica: 4 }));
}

#[test]
fn a_pool_on_new_devices_is_a_loss_at_once() {
    let mut view = healthy();
    view.replicas[1].state = State::PoolReplaced;
    view.group.as_mut().unwrap().members[1] = member(2, true, 50, false);
    assert_eq!(next(&view, 3), Some(Step::AddReplica));
}

#[test]
fn growing_and_shrinking() {
    assert_eq!(next(&healthy(), 5), Some(Step::AddReplica));
    // The leader stays, then the lower ids.
    let mut view = healthy();
    view.group.as_mut().unwrap().leader = 3;
    assert_eq!(next(&view, 1), Some(Step::ChangeVoters { voters: vec![3] }));
    assert_eq!(next(&view, 2), Some(Step::ChangeVoters { voters: vec![1, 3] }));
    view.group.as_mut().unwrap().members.remove(1);
    assert_eq!(next(&view, 2), Some(Step::Drop { replica: 2 }));
    // Three are wanted again before it was dropped: it has all it had, and comes back.
    assert_eq!(next(&view, 3), Some(Step::Join { replica: 2 }));
}

#[test]
fn a_deleted_object_is_a_wish_to_move_the_replica() {
    let mut view = healthy();
    view.replicas[0].deleting = true;
    assert_eq!(next(&view, 3), Some(Step::AddReplica));
    view.replicas.push(replica(4, here("learner")));
    view.group.as_mut().unwrap().members.push(member(4, false, 100, true));
    // Even the leader can be moved: it hands over.
    assert_eq!(next(&view, 3), Some(Step::ChangeVoters { voters: vec![2, 3, 4] }));
}

#[test]
fn nothing_is_done_without_a_leader() {
    let mut view = healthy();
    view.group = None;
    assert_eq!(plan(&view, 3, GRACE), waiting("the replicas elect a leader"));
    view.replicas[0].state = silent(9999);
    view.replicas[1].state = silent(9999);
    let plan = plan(&view, 3, GRACE);
    assert!(plan.step.is_none() && plan.waiting.unwrap().contains("2 of 3"));
}

#[test]
fn an_unfinished_change_of_voters_is_finished() {
    let mut view = healthy();
    view.group.as_mut().unwrap().changing = true;
    assert_eq!(next(&view, 3), Some(Step::ChangeVoters { voters: vec![1, 2, 3] }));
}

/// Whatever the state, a step never leaves fewer good, caught-up voters than there were, up to the wanted number.
#[test]
fn no_step_weakens_a_volume() {
    // Every combination of: member (voter, learner, none), caught up or not, here or lost, deleting or not, for 4 replicas.
    let options: Vec<(u8, bool, bool, bool)> = (0..3)
        .flat_map(|kind| [false, true].map(|up| (kind, up)))
        .flat_map(|(kind, up)| [(kind, up, false, false), (kind, up, true, false), (kind, up, false, true)])
        .collect();
    let mut checked = 0_u32;
    for a in &options {
        for b in &options {
            for c in &options {
                let mut view = healthy();
                let mut members = vec![member(1, true, 100, true)];
                for (position, (kind, up, lost, deleting)) in [a, b, c].into_iter().enumerate() {
                    let id = position as u64 + 2;
                    if position == 2 {
                        view.replicas.push(replica(id, here("follower")));
                    }
                    let this = &mut view.replicas[position + 1];
                    this.state = if *lost { silent(100) } else { here("follower") };
                    this.deleting = *deleting;
                    if *kind < 2 {
                        let matched = if *up { 100 } else { 0 };
                        members.push(member(id, *kind == 0, matched, *up && !*lost));
                    }
                }
                // LAG is larger than these indexes; contact decides what is caught up.
                let group = view.group.as_mut().unwrap();
                group.members = members;
                let good = |id: &u64| {
                    let replica = view.replicas.iter().find(|replica| replica.id == *id).unwrap();
                    !replica.deleting && !replica.lost(GRACE) && view.group.as_ref().unwrap().caught_up(*id)
                };
                let group = view.group.as_ref().unwrap();
                let voters: BTreeSet<u64> = group.members.iter().filter(|m| m.voter).map(|m| m.replica).collect();
                let before = voters.iter().filter(|id| good(id)).count();
                match next(&view, 3) {
                    Some(Step::ChangeVoters { voters: new }) => {
                        let after = new.iter().filter(|id| good(id)).count();
                        assert!(after >= before.min(3), "{view:?}: {voters:?} -> {new:?}");
                        assert!(new.iter().all(|id| group.member(*id).is_some()));
                        assert!(new.contains(&1), "the leader is good and stays");
                    }
                    Some(Step::Drop { replica }) => assert!(group.member(replica).is_none(), "{view:?}"),
                    Some(Step::RemoveLearner { replica }) => assert!(!voters.contains(&replica)),
                    Some(Step::Join { replica }) => assert!(group.member(replica).is_none()),
                    Some(Step::AddReplica) | None => {}
                }
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 18 * 18 * 18);
}
