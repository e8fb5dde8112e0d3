//! Changing who is in a group while it is written to: every answered write stays, whatever stops or comes back.
// Code of tests: a failed unwrap is a failed test.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use ballast_api::control::pool_control_server::PoolControl;
use ballast_api::control::{AddLearnerRequest, ChangeVotersRequest, Empty, VolumeRef};
use ballast_api::{BlockCount, Lba, TargetId};
use ballast_pool::{OpenOptions, Pool};
use ballast_replica::members::Members;
use ballast_replica::peer::directory::Directory;
use ballast_replica::raft::settings::KEEP_ENTRIES;
use ballast_replica::raft::types::Membership;
use ballast_replica::service::control::ControlService;
use openraft::EntryPayload;
use openraft::async_runtime::watch::WatchReceiver;
use support::load::Load;
use support::operator::named_leader;
use support::{Client, Group, block};
use tonic::{Code, Request};

const POOL_BYTES: u64 = 2 << 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_member_is_replaced_from_the_log() {
    let mut group = Group::with_spares(3, 1, POOL_BYTES).await;
    let target = TargetId::random();
    let (leader, _) = group.open(target, true).await;
    let load = Load::start(&group, target);
    load.goes_on(100).await;
    let dead = (leader + 1) % 3;
    group.nodes[dead].stop().await;
    load.goes_on(50).await;
    group.add(3, 4).await;
    group.voters(&voters_without(dead, 4)).await;
    load.goes_on(50).await;
    // The dead one is not needed any more, and neither is any other.
    for n in (0..4).filter(|n| *n != dead) {
        group.nodes[n].stop().await;
        load.goes_on(20).await;
        group.nodes[n].start().await;
        group.set_peers().await;
        caught_up(&group, n).await;
    }
    load.check(&group, target).await;
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_member_is_replaced_when_the_log_does_not_reach_back() {
    let mut group = Group::with_spares(3, 1, POOL_BYTES).await;
    let target = TargetId::random();
    let (leader, mut client) = group.open(target, true).await;
    let dead = (leader + 1) % 3;
    group.nodes[dead].stop().await;
    fill(&mut client, KEEP_ENTRIES + 2000).await;
    for n in (0..3).filter(|n| *n != dead) {
        purge(&group, n).await;
    }
    let load = Load::start(&group, target);
    load.goes_on(20).await;
    group.add(3, 4).await;
    group.voters(&voters_without(dead, 4)).await;
    load.goes_on(20).await;
    // What the snapshot brought is there without the others.
    let replica = group.nodes[3].pool.as_ref().unwrap().replica(group.volume).unwrap();
    assert!(replica.log_state().purged.is_some(), "it was filled by a snapshot");
    for lba in [FILL_AT, FILL_AT + 17, FILL_AT + FILL_SPAN - 1] {
        let data = replica.read(Lba(lba), BlockCount(1)).await.unwrap();
        assert_eq!(data.payload, block(lba, (KEEP_ENTRIES + 2000 - 1 - (lba - FILL_AT)) / FILL_SPAN));
    }
    drop(replica);
    let other = (0..3).find(|n| *n != dead).unwrap();
    group.nodes[other].stop().await;
    load.goes_on(20).await;
    load.check(&group, target).await;
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_becomes_three_that_move_and_become_one() {
    let group = Group::with_spares(1, 5, POOL_BYTES).await;
    let target = TargetId::random();
    group.open(target, true).await;
    let load = Load::start(&group, target);
    load.goes_on(50).await;
    group.add(1, 2).await;
    group.add(2, 3).await;
    group.voters(&[1, 2, 3]).await;
    load.goes_on(50).await;
    // All three move, one by one; whoever leads at that time takes leave itself.
    for (from, to) in [(1, 4), (2, 5), (3, 6)] {
        group.add(to - 1, to as u64).await;
        let (_, status) = group.leader().await;
        let left = status.members.iter().map(|member| member.replica).filter(|id| *id != from).collect::<Vec<_>>();
        group.voters(&sorted(left)).await;
        load.goes_on(20).await;
        group.delete(from as usize - 1).await;
        assert!(group.status(from as usize - 1).await.is_none());
        load.goes_on(20).await;
    }
    let (leader, status) = group.leader().await;
    assert_eq!(status.members.len(), 3);
    // Down to one that does not lead.
    let last = (3..6).find(|n| *n != leader).unwrap();
    group.voters(&[last as u64 + 1]).await;
    for n in (3..6).filter(|n| *n != last) {
        group.delete(n).await;
    }
    load.goes_on(20).await;
    load.check(&group, target).await;
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_replica_that_is_meant_is_deleted() {
    let group = Group::with_spares(3, 1, POOL_BYTES).await;
    let delete = async |n: usize, replica: u64, unused: bool| {
        let (volume, pool) = (group.volume.to_bytes(), group.nodes[n].id.to_bytes());
        group.nodes[n].control().await.delete_replica(VolumeRef { volume, pool, replica, unused }).await
    };
    // Half made: it goes, unless another one is meant.
    group.create(3, 4, Vec::new()).await.unwrap();
    delete(3, 7, true).await.unwrap();
    assert_eq!(group.status(3).await.map(|status| status.replica), Some(4));
    delete(3, 4, true).await.unwrap();
    assert!(group.status(3).await.is_none());
    // In use: an order that is older than the replica changes nothing, and one that takes it for half made is refused.
    let target = TargetId::random();
    group.open(target, true).await;
    let load = Load::start(&group, target);
    load.goes_on(20).await;
    for n in 0..3 {
        delete(n, 9, false).await.unwrap();
        assert_eq!(group.status(n).await.map(|status| status.replica), Some(n as u64 + 1));
        assert_eq!(delete(n, n as u64 + 1, true).await.unwrap_err().code(), Code::PermissionDenied);
    }
    load.goes_on(20).await;
    load.check(&group, target).await;
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_that_comes_back_neither_leads_nor_disturbs() {
    let mut group = Group::with_spares(3, 1, POOL_BYTES).await;
    let target = TargetId::random();
    let (leader, _) = group.open(target, true).await;
    let load = Load::start(&group, target);
    load.goes_on(20).await;
    let (away, stays) = ((leader + 1) % 3, (leader + 2) % 3);
    group.nodes[away].stop().await;
    group.add(3, 4).await;
    group.voters(&voters_without(away, 4)).await;
    // One more leaves, whose process runs on and is never told.
    group.voters(&sorted(vec![leader as u64 + 1, 4])).await;
    load.goes_on(20).await;
    group.nodes[away].start().await;
    group.set_peers().await;
    let before = group.leader().await;
    // Time for several campaigns of both; together they were a majority once.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let after = group.leader().await;
    assert_eq!((before.0, before.1.term), (after.0, after.1.term), "the leader and its term stay");
    for n in [away, stays] {
        assert_ne!(group.status(n).await.unwrap().role, "leader");
        assert!(Client::open(&group.nodes[n].endpoint, group.volume, target, true).await.is_err());
    }
    load.goes_on(20).await;
    // The group stands still for a moment, and its former members are all that is left to ask: they do not get it.
    for n in [leader, 3] {
        group.nodes[n].stop().await;
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    for n in [away, stays] {
        assert_ne!(group.status(n).await.unwrap().role, "leader");
    }
    // Replaced in place: under another id on the same pool it does not answer for its predecessor.
    group.delete(stays).await;
    group.create(stays, 9, Vec::new()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (removed, new) = (group.status(away).await.unwrap(), group.status(stays).await.unwrap());
    assert_ne!(removed.role, "leader");
    assert_eq!((new.role.as_str(), new.term, new.leader, new.members.len()), ("learner", 0, 0, 0));
    for n in [leader, 3] {
        group.nodes[n].start().await;
    }
    group.set_peers().await;
    load.goes_on(20).await;
    load.check(&group, target).await;
    group.stop().await;
}

/// The leader dies at some moment of each change; the operator asks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_finished_when_the_leader_dies_in_the_middle() {
    let mut group = Group::with_spares(3, 1, POOL_BYTES).await;
    let target = TargetId::random();
    group.open(target, true).await;
    let load = Load::start(&group, target);
    group.add(3, 4).await;
    group.voters(&[1, 2, 3, 4]).await;
    // Voters and learners change places.
    for (round, wanted) in [&[1u64, 2, 3][..], &[2, 3, 4], &[1, 3, 4]].into_iter().enumerate() {
        let (leader, status) = group.leader().await;
        let known: Vec<u64> = status.members.iter().map(|member| member.replica % 10).collect();
        for id in wanted.iter().filter(|id| !known.contains(id)) {
            // Its old replica knows the group it was removed from; it begins anew under the same pool only when deleted.
            group.delete(*id as usize - 1).await;
            group.add(*id as usize - 1, *id + 10 * round as u64).await;
        }
        let (_, status) = group.leader().await;
        let current = |id: u64| status.members.iter().map(|m| m.replica).find(|have| have % 10 == id).unwrap();
        let wanted = sorted(wanted.iter().map(|id| current(*id)).collect());
        let asked = group.ask_voters(leader, &wanted);
        // 0, 3 and 6 ms: before, between and after the two steps.
        let killed = tokio::time::timeout(Duration::from_millis(3 * round as u64), asked).await;
        tracing::info!(?killed, "the leader dies");
        group.nodes[leader].stop().await;
        let (other, _) = group.leader().await;
        assert_ne!(other, leader);
        load.goes_on(10).await;
        group.nodes[leader].start().await;
        group.set_peers().await;
        group.voters(&wanted).await;
        load.goes_on(10).await;
    }
    load.check(&group, target).await;
    group.stop().await;
}

/// What a leader leaves that dies between the two steps of a change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_done_change_is_finished_by_asking_again() {
    let mut group = Group::with_spares(1, 2, POOL_BYTES).await;
    group.add(1, 2).await;
    // The leader again, with its handle in our hands.
    group.nodes[0].stop().await;
    let pool = Pool::open(std::slice::from_ref(&group.nodes[0].device), OpenOptions::default()).unwrap();
    let directory = Directory::new(pool.id());
    directory.set([(group.nodes[1].id, group.nodes[1].endpoint.clone())]);
    let members = Members::start(pool.clone(), directory).await;
    let control = ControlService::new("test".to_owned(), members.clone());
    let volume = group.volume.to_bytes();
    let change = async |voters: &[u64]| {
        let voters = voters.to_vec();
        let request = ChangeVotersRequest { volume: volume.clone(), voters, ..Default::default() };
        control.change_voters(Request::new(request)).await.map(drop)
    };
    let status = async || {
        let status = control.status(Request::new(Empty {})).await.unwrap().into_inner().replicas.remove(0);
        let voters: Vec<u64> = status.members.iter().filter(|m| m.voter).map(|m| m.replica).collect();
        (status.changing, voters, status.members.len())
    };
    let begin = async |sets: [&[u64]; 2]| {
        let raft = members.get(group.volume).unwrap().raft().clone();
        for _ in 0..200 {
            let stored = raft.metrics().borrow_watched().membership_config.clone();
            let nodes: BTreeMap<u64, _> = stored.nodes().map(|(id, node)| (*id, *node)).collect();
            // Until it has started and leads, it knows no members, or refuses.
            if let Ok(joint) = Membership::new(sets.map(|set| set.iter().copied().collect()).to_vec(), nodes)
                && raft.append_membership(joint, EntryPayload::Blank, []).await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("no leader");
    };

    begin([&[1], &[1, 2]]).await;
    assert_eq!(status().await, (true, vec![1, 2], 2));
    let third = AddLearnerRequest { volume: volume.clone(), member: Some(group.member(2, 3)), ..Default::default() };
    let refused = control.add_learner(Request::new(third)).await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("to 1, 2"), "{refused:?}");
    change(&[1, 2]).await.unwrap();
    change(&[1, 2]).await.unwrap();
    assert_eq!(status().await, (false, vec![1, 2], 2));

    // Given up: who drops out is out of the group.
    begin([&[1, 2], &[1]]).await;
    assert_eq!(status().await, (true, vec![1, 2], 2));
    change(&[1]).await.unwrap();
    assert_eq!(status().await, (false, vec![1], 1));
    members.stop().await;
    pool.close().unwrap();
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_unsafe_is_refused() {
    let mut group = Group::with_spares(3, 2, POOL_BYTES).await;
    let (leader, mut client) = group.open(TargetId::random(), true).await;
    client.write(1, block(1, 1)).await.unwrap();
    let follower = (leader + 1) % 3;
    let refused = |result: Result<(), tonic::Status>, text: &str| {
        let status = result.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert!(status.message().contains(text), "{status:?}");
        status
    };

    // Another pool than the one that is meant.
    let other = group.nodes[3].id;
    let own = std::mem::replace(&mut group.nodes[leader].id, other);
    refused(group.ask_voters(leader, &[1, 2, 3]).await, "not pool");
    refused(group.ask_add(leader, 4, 4).await, "not pool");
    refused(group.ask_remove(leader, 4).await, "not pool");
    refused(group.create(leader, 9, Vec::new()).await, "not pool");
    group.nodes[leader].id = own;

    // Another member than the leader.
    for result in [group.ask_add(follower, 3, 4).await, group.ask_voters(follower, &[1, 2]).await] {
        let status = refused(result, &own.to_string());
        assert_eq!(named_leader(&status), Some(own));
    }
    assert_eq!(group.ask_voters(3, &[1]).await.unwrap_err().code(), Code::NotFound);

    // Sets that make no sense.
    assert_eq!(group.ask_voters(leader, &[]).await.unwrap_err().code(), Code::InvalidArgument);
    refused(group.ask_voters(leader, &[1, 2, 4]).await, "no member");
    refused(group.ask_add(leader, follower, 4).await, "choose another pool");
    refused(group.ask_add(leader, 3, follower as u64 + 1).await, "never used");
    refused(group.ask_remove(leader, follower as u64 + 1).await, "ChangeVoters");

    // One that waits forms no group; one that is not there yet does not vote.
    group.create(3, 4, Vec::new()).await.unwrap();
    let form = ballast_api::control::FormGroupRequest {
        volume: group.volume.to_bytes(),
        members: vec![group.member(3, 4)],
        ..Default::default()
    };
    let form = group.nodes[3].control().await.form_group(form).await.map(drop);
    refused(form, "AddLearner");
    group.ask_add(leader, 4, 5).await.unwrap();
    let missing = refused(group.ask_voters(leader, &[1, 2, 3, 5]).await, "replica 5");
    assert!(named_leader(&missing).is_none());
    group.ask_remove(leader, 5).await.unwrap();
    group.ask_remove(leader, 5).await.unwrap();

    // The leader says how far each is.
    group.add(3, 4).await;
    caught_up(&group, 3).await;
    let status = group.status(leader).await.unwrap();
    assert_eq!(status.members.len(), 4);
    assert_eq!(status.members.iter().filter(|member| member.voter).count(), 3);
    assert!(status.members.iter().all(|member| member.matched_index.is_some() && member.in_contact.is_some()));
    let status = group.status(follower).await.unwrap();
    assert!(status.members.iter().all(|member| member.matched_index.is_none() && member.in_contact.is_none()));

    // A majority of the wanted voters does not answer.
    group.nodes[follower].stop().await;
    let pair = sorted(vec![leader as u64 + 1, follower as u64 + 1]);
    let wait = async {
        loop {
            let status = group.status(leader).await.unwrap();
            let seen = status.members.iter().find(|member| member.replica == follower as u64 + 1).unwrap();
            if seen.in_contact == Some(false) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
    refused(group.ask_voters(leader, &pair).await, "1 of the 2");
    refused(group.ask_voters(leader, &[follower as u64 + 1]).await, "0 of the 1");
    assert_eq!(client.read(1, 1).await.unwrap(), block(1, 1));
    group.stop().await;
}

/// The ids 1, 2, 3 without that of pool number `dead`, and `new`.
fn voters_without(dead: usize, new: u64) -> Vec<u64> {
    (1..=3).filter(|id| *id != dead as u64 + 1).chain([new]).collect()
}

fn sorted(mut ids: Vec<u64>) -> Vec<u64> {
    ids.sort_unstable();
    ids
}

/// Waits until pool number `n` has nearly all that the leader has.
async fn caught_up(group: &Group, n: usize) {
    let wait = async {
        loop {
            let (_, leader) = group.leader().await;
            let pool = group.nodes[n].id.to_bytes();
            let there = leader.members.iter().find(|member| member.pool == pool);
            let near = there.and_then(|member| member.matched_index).is_some_and(|at| at + 50 > leader.last_index);
            if near && there.is_some_and(|member| member.in_contact == Some(true)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the replica catches up");
}

/// Where [`fill`] writes: beside the load.
const FILL_AT: u64 = 8192;
const FILL_SPAN: u64 = 4096;

/// Many entries, deep enough in flight to be quick.
async fn fill(client: &mut Client, total: u64) {
    let (mut sent, mut answered) = (0, 0);
    while answered < total {
        while sent < total && sent - answered < 64 {
            let lba = FILL_AT + sent % FILL_SPAN;
            let op = client.write_op(lba, block(lba, sent / FILL_SPAN));
            client.send(op);
            sent += 1;
        }
        client.answer().await.unwrap().1.unwrap();
        answered += 1;
    }
}

/// Has pool number `n` drop the log that its checkpoint covers.
async fn purge(group: &Group, n: usize) {
    let replica = group.nodes[n].pool.as_ref().unwrap().replica(group.volume).unwrap();
    replica.checkpoint().await.unwrap();
    for _ in 0..200 {
        if replica.log_state().purged.is_some_and(|mark| mark.index > 100) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the log was not purged");
}
