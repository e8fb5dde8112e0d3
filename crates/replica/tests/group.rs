//! A volume's group over real pools and real connections: what was answered is there, whoever stops.
// Code of tests: a failed unwrap is a failed test.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use ballast_api::control::{Empty, GrowVolumeRequest};
use ballast_api::replica::failure::Code;
use ballast_api::{BlockCount, Lba, TargetId};
use bytes::Bytes;
use support::{Client, Group, block};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_is_read_back() {
    let group = Group::new(3).await;
    let (_, mut client) = group.open(TargetId::random(), true).await;
    assert!(client.read(7, 1).await.unwrap().iter().all(|b| *b == 0), "unwritten blocks are zeroes");
    client.write(7, block(7, 1)).await.unwrap();
    assert_eq!(client.read(7, 1).await.unwrap(), block(7, 1));
    client.write(7, block(7, 2)).await.unwrap();
    assert_eq!(client.read(7, 1).await.unwrap(), block(7, 2));
    let found = client.extents(0, 1000).await.unwrap();
    assert_eq!((found.mapped_first, found.runs), (false, vec![7, 1, 992]));
    assert_eq!(client.extents(support::VOLUME_BLOCKS, 1).await, Err(Some(Code::OutOfRange)));
    client.unmap(0, 16).await.unwrap();
    assert_eq!(client.extents(7, 1).await.unwrap().runs, [1]);
    assert!(!client.extents(7, 1).await.unwrap().mapped_first);
    let (_, mut newer) = group.open(TargetId::random(), true).await;
    assert_eq!(client.extents(7, 1).await, Err(Some(Code::Fenced)));
    let client = &mut newer;
    assert!(client.read(7, 1).await.unwrap().iter().all(|b| *b == 0));
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answered_writes_survive_every_single_stop() {
    let mut group = Group::new(3).await;
    let target = TargetId::random();
    let mut version = 0;
    for victim in 0..3 {
        let (_, mut client) = group.open(target, true).await;
        version += 1;
        for lba in 0..64 {
            client.write(lba, block(lba, version)).await.unwrap();
        }
        group.nodes[victim].stop().await;
        let (_, mut client) = group.open(target, false).await;
        for lba in 0..64 {
            assert_eq!(client.read(lba, 1).await.unwrap(), block(lba, version), "block {lba} without pool {victim}");
        }
        group.nodes[victim].start().await;
        group.set_peers().await;
    }
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_stops_and_starts() {
    let mut group = Group::new(3).await;
    let (_, mut client) = group.open(TargetId::random(), true).await;
    for lba in 0..200 {
        client.write(lba, block(lba, 9)).await.unwrap();
    }
    for node in &mut group.nodes {
        node.stop().await;
    }
    for node in &mut group.nodes {
        node.start().await;
    }
    group.set_peers().await;
    let (_, mut client) = group.open(TargetId::random(), true).await;
    for lba in 0..200 {
        assert_eq!(client.read(lba, 1).await.unwrap(), block(lba, 9));
    }
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_lost_the_volume_neither_reads_nor_writes() {
    let group = Group::new(3).await;
    let (a, b) = (TargetId::random(), TargetId::random());
    let (leader, mut old) = group.open(a, true).await;
    old.write(1, block(1, 1)).await.unwrap();
    let (_, mut new) = group.open(b, true).await;
    assert_eq!(old.write(1, block(1, 2)).await, Err(Some(Code::Fenced)));
    assert_eq!(old.read(1, 1).await, Err(Some(Code::Fenced)));
    // Nor does a reconnect bring it back.
    let again = Client::open(&group.nodes[leader].endpoint, group.volume, a, false).await;
    assert!(matches!(again, Err(Some(Code::Fenced))));
    assert_eq!(new.read(1, 1).await.unwrap(), block(1, 1));
    new.write(1, block(1, 3)).await.unwrap();
    assert_eq!(new.read(1, 1).await.unwrap(), block(1, 3));
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_target_keeps_is_there_for_the_next_one() {
    let mut group = Group::new(3).await;
    let (a, b) = (TargetId::random(), TargetId::random());
    let (leader, mut old) = group.open(a, true).await;
    assert!(old.kept.is_empty());
    old.save(Bytes::from_static(b"first")).await.unwrap();
    old.save(Bytes::from_static(b"second")).await.unwrap();
    assert_eq!(old.save(vec![0; 48 * 1024 + 1].into()).await, Err(Some(Code::Internal)));
    // After the loss of the leader,
    group.nodes[leader].stop().await;
    let (_, new) = group.open(b, true).await;
    assert_eq!(new.kept, "second");
    group.nodes[leader].start().await;
    group.set_peers().await;
    let (_, mut new) = group.open(b, true).await;
    new.save(vec![7; 48 * 1024].into()).await.unwrap();
    let (_, mut other) = group.open(a, true).await;
    assert_eq!(new.save(Bytes::from_static(b"late")).await, Err(Some(Code::Fenced)));
    other.write(1, block(1, 1)).await.unwrap();
    // and from the log as well as from checkpoints, when everything was stopped.
    for checkpoint in [false, true] {
        for node in &mut group.nodes {
            if checkpoint {
                node.pool.as_ref().unwrap().replica(group.volume).unwrap().checkpoint().await.unwrap();
            }
            node.stop().await;
        }
        for node in &mut group.nodes {
            node.start().await;
        }
        group.set_peers().await;
        let (_, client) = group.open(a, true).await;
        assert_eq!(client.kept, vec![7; 48 * 1024], "checkpoint: {checkpoint}");
    }
    group.stop().await;
}

async fn grow(group: &Group, node: usize, blocks: u64) -> Result<(), tonic::Code> {
    let request = GrowVolumeRequest { volume: group.volume.to_bytes(), blocks, ..GrowVolumeRequest::default() };
    group.nodes[node].control().await.grow_volume(request).await.map(drop).map_err(|status| status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_grows_while_it_is_used_and_one_replica_is_away() {
    const MORE: u64 = 2 * support::VOLUME_BLOCKS;
    let mut group = Group::new(3).await;
    let target = TargetId::random();
    let (leader, mut client) = group.open(target, true).await;
    assert_eq!(client.blocks, support::VOLUME_BLOCKS);
    let beyond = MORE - 1;
    assert_eq!(client.write(beyond, block(beyond, 1)).await, Err(Some(Code::OutOfRange)));
    let (away, other) = ((leader + 1) % 3, (leader + 2) % 3);
    assert_eq!(grow(&group, other, MORE).await, Err(tonic::Code::FailedPrecondition), "only the leader");
    assert_eq!(grow(&group, leader, 1).await, Err(tonic::Code::InvalidArgument), "never smaller");
    group.nodes[away].stop().await;
    grow(&group, leader, MORE).await.unwrap();
    grow(&group, leader, MORE).await.unwrap();
    client.write(beyond, block(beyond, 1)).await.unwrap();
    assert_eq!(client.read(beyond, 1).await.unwrap(), block(beyond, 1));
    assert_eq!(client.write(MORE, block(MORE, 1)).await, Err(Some(Code::OutOfRange)));
    // The one that was away hears of it from the log, and leads with the others gone.
    group.nodes[away].start().await;
    group.set_peers().await;
    client.write(beyond, block(beyond, 2)).await.unwrap();
    group.nodes[other].stop().await;
    client.write(beyond, block(beyond, 3)).await.unwrap();
    // Everything stops: once with the growth in the log only, once with checkpoints.
    for version in [4, 5] {
        for node in &mut group.nodes {
            if let Some(pool) = &node.pool
                && version == 5
            {
                pool.replica(group.volume).unwrap().checkpoint().await.unwrap();
            }
            node.stop().await;
        }
        for node in &mut group.nodes {
            node.start().await;
        }
        group.set_peers().await;
        let (_, mut client) = group.open(target, true).await;
        assert_eq!(client.blocks, MORE);
        assert_eq!(client.read(beyond, 1).await.unwrap(), block(beyond, version - 1));
        client.write(beyond, block(beyond, version)).await.unwrap();
    }
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_tells_its_health_and_its_peers() {
    let group = Group::new(2).await;
    let mut health = HealthClient::new(group.nodes[0].endpoint.connect().await.unwrap());
    for service in ["", "ready"] {
        let answer = health.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    // Who watches is told when it stops.
    let mut watch = health.watch(HealthCheckRequest { service: "ready".to_owned() }).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let status = group.nodes[0].control().await.status(Empty {}).await.unwrap().into_inner();
    let mut expected: Vec<_> = group.nodes.iter().map(|node| (node.id.to_bytes(), node.endpoint.to_string())).collect();
    expected.sort();
    assert_eq!(status.peers.into_iter().map(|peer| (peer.pool, peer.endpoint)).collect::<Vec<_>>(), expected);
    group.stop().await;
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_payload_is_refused() {
    let group = Group::new(1).await;
    let (_, mut client) = group.open(TargetId::random(), true).await;
    let mut damaged = block(3, 1).to_vec();
    let op = {
        let crcs = vec![crc32fast::hash(&damaged)];
        damaged[9] ^= 4;
        let payload = damaged.into();
        ballast_api::replica::Write { epoch: client.epoch, lba: 3, crcs, payload }
    };
    let refused = client.call(ballast_api::replica::volume_request::Op::Write(op)).await;
    assert_eq!(refused.unwrap_err(), Some(Code::BadChecksum));
    assert!(client.read(3, 1).await.unwrap().iter().all(|b| *b == 0));
    assert_eq!(client.write(support::VOLUME_BLOCKS, block(0, 0)).await, Err(Some(Code::OutOfRange)));
    group.stop().await;
}

/// More is under way than the pools have room for: each write is answered or refused, and no member stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_pools_refuse_writes_and_the_group_lives_on() {
    const RUN: u64 = 256;
    let mut group = Group::with_pools(3, 200 << 20).await;
    let data = |at: u64| Bytes::from((0..RUN).flat_map(|n| block(at + n, 1)).collect::<Vec<u8>>());
    let mut unanswered: BTreeSet<u64> = (0..support::VOLUME_BLOCKS).step_by(RUN as usize).collect();
    let (mut kept, mut refused) = (Vec::new(), 0);
    let (mut leader, mut client) = group.open(TargetId::random(), true).await;
    while !unanswered.is_empty() {
        let sent = unanswered.iter().map(|at| (client.send(client.write_op(*at, data(*at))), *at));
        let mut sent: HashMap<u64, u64> = sent.collect();
        while !sent.is_empty() {
            let wait = tokio::time::timeout(Duration::from_secs(60), client.answer());
            // A busy machine may see the leader change.
            let Ok((id, result)) = wait.await.expect("every write is answered") else { break };
            let at = sent.remove(&id).unwrap();
            match result {
                Ok(_) => kept.push(at),
                Err(Code::NoSpace) => refused += 1,
                Err(Code::NotLeader | Code::Unavailable) => continue,
                Err(other) => panic!("{other:?}"),
            }
            unanswered.remove(&at);
        }
        if !unanswered.is_empty() {
            (leader, client) = group.open(TargetId::random(), true).await;
        }
    }
    assert!(kept.len() > 10 && refused > 10, "{} kept, {refused} refused", kept.len());
    for at in kept.iter().copied() {
        assert!(client.read(at, RUN as u32).await.unwrap() == data(at), "blocks from {at}");
    }
    // A full group finds a new leader, which has to learn what the others hold, and serves reads.
    group.nodes[leader].stop().await;
    let (_, mut other) = group.open(TargetId::random(), true).await;
    let at = kept[kept.len() - 1];
    assert!(other.read(at, RUN as u32).await.unwrap() == data(at), "after a change of leader");
    group.nodes[leader].start().await;
    group.set_peers().await;
    (leader, client) = group.open(TargetId::random(), true).await;
    // Trimming needs no room and makes some, once the log does not need it any more.
    client.unmap(0, support::VOLUME_BLOCKS).await.unwrap();
    for node in &group.nodes {
        let replica = node.pool.as_ref().unwrap().replica(group.volume).unwrap();
        replica.checkpoint().await.unwrap();
    }
    let mut again = Err(None);
    for _ in 0..200 {
        again = client.write(7, block(7, 2)).await;
        if again.is_ok() {
            break;
        }
        assert_eq!(again, Err(Some(Code::NoSpace)));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    again.unwrap();
    assert_eq!(client.read(7, 1).await.unwrap(), block(7, 2));
    // All three have stayed in the group: any two of them go on.
    group.nodes[leader].stop().await;
    let (_, mut client) = group.open(TargetId::random(), true).await;
    assert_eq!(client.read(7, 1).await.unwrap(), block(7, 2));
    client.write(8, block(8, 2)).await.unwrap();
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_fell_behind_the_log_is_filled_by_a_snapshot() {
    let mut group = Group::new(3).await;
    let target = TargetId::random();
    let (leader, mut client) = group.open(target, true).await;
    client.write(50_000, block(50_000, 1)).await.unwrap();
    client.save(Bytes::from_static(b"before")).await.unwrap();
    let lagging = (leader + 1) % 3;
    group.nodes[lagging].stop().await;

    // Far more entries than the log keeps behind a checkpoint, deep enough in flight to be quick.
    let total = 3 * ballast_replica::raft::settings::KEEP_ENTRIES;
    let (mut sent, mut answered) = (0, 0);
    while answered < total {
        while sent < total && sent - answered < 64 {
            let lba = sent % 4096;
            let op = client.write_op(lba, block(lba, sent / 4096));
            client.send(op);
            sent += 1;
        }
        let (_, result) = client.answer().await.unwrap();
        result.unwrap();
        answered += 1;
    }
    client.unmap(50_000, 1).await.unwrap();
    grow(&group, leader, 2 * support::VOLUME_BLOCKS).await.unwrap();
    client.write(support::VOLUME_BLOCKS + 5, block(5, 5)).await.unwrap();
    client.save(Bytes::from_static(b"meanwhile")).await.unwrap();
    for node in group.nodes.iter().filter(|node| node.pool.is_some()) {
        let replica = node.pool.as_ref().unwrap().replica(group.volume).unwrap();
        let covered = replica.checkpoint().await.unwrap();
        assert!(covered.is_some_and(|mark| mark.index > total), "the checkpoint covers {covered:?}");
        // Purging follows the checkpoint; wait until the log really begins behind the lagging replica's end.
        let mut purged = 0;
        for _ in 0..200 {
            purged = replica.log_state().purged.map_or(0, |mark| mark.index);
            if purged > 1000 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(purged > 1000, "the log was not purged");
    }

    group.nodes[lagging].start().await;
    group.set_peers().await;
    let applied = |group: &Group, n: usize| {
        let replica = group.nodes[n].pool.as_ref().unwrap().replica(group.volume).unwrap();
        (replica.applied().map_or(0, |mark| mark.index), replica)
    };
    let goal = applied(&group, leader).0;
    let mut filled = None;
    for _ in 0..600 {
        let (index, replica) = applied(&group, lagging);
        if index >= goal {
            filled = Some(replica);
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let replica = filled.expect("the replica caught up within 30 s");
    let last = total / 4096 - 1;
    for lba in [0, 1, 17, 2048, 4095] {
        let data = replica.read(Lba(lba), BlockCount(1)).await.unwrap();
        assert_eq!(data.payload, block(lba, last), "block {lba}");
    }
    let gone = replica.read(Lba(50_000), BlockCount(1)).await.unwrap();
    assert!(gone.payload.iter().all(|b| *b == 0), "what was trimmed meanwhile is gone here too");
    let grown = replica.read(Lba(support::VOLUME_BLOCKS + 5), BlockCount(1)).await.unwrap();
    assert_eq!(grown.payload, block(5, 5), "it has grown with the others");
    replica.checkpoint().await.unwrap();
    let kept = ballast_replica::raft::codec::decode_state(&replica.state_at_checkpoint().1.unwrap()).unwrap();
    assert_eq!(kept.0.target_state, "meanwhile");
    drop(replica);
    group.stop().await;
}
