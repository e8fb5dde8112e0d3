//! The rules that openraft's log store must keep (`src/raft/log_store.rs`), each shown on a real pool.
// Code of tests: a failed unwrap is a failed test.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ballast_api::{BlockCount, Epoch, Lba, PoolId, ReplicaId, TargetId, VolumeId};
use ballast_pool::{DeviceConfig, OpenOptions, Pool, PoolConfig, Replica};
use ballast_replica::member::MemberConfig;
use ballast_replica::peer::directory::Directory;
use ballast_replica::raft::log_store::LogStore;
use ballast_replica::raft::network::Network;
use ballast_replica::raft::state_machine::StateMachine;
use ballast_replica::raft::types::{Config, Entry, LeaderId, LogId, MemberNode, Vote};
use ballast_replica::snapshot::Sending;
use ballast_replica::volume::Command;
use bytes::Bytes;
use futures_util::StreamExt;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::network::{NetStreamAppend, RPCOption, RaftNetworkFactory};
use openraft::raft::AppendEntriesRequest;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use support::{Group, block};
use tempfile::TempDir;

fn id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: 1 }, index }
}

fn write(term: u64, index: u64, payload: Bytes) -> Entry {
    let crcs = Arc::new([crc32fast::hash(&payload)]);
    let command = Command::Write { epoch: Epoch(1), lba: Lba(index % 64), crcs, payload };
    Entry::new(id(term, index), EntryPayload::Normal(command))
}

fn write_at(index: u64, lba: Lba) -> Entry {
    let payload = block(lba.0, index);
    let crcs = Arc::new([crc32fast::hash(&payload)]);
    Entry::new(id(1, index), EntryPayload::Normal(Command::Write { epoch: Epoch(2), lba, crcs, payload }))
}

fn open(index: u64) -> Entry {
    let command = Command::Open { target: TargetId::random(), take_over: true };
    Entry::new(id(1, index), EntryPayload::Normal(command))
}

struct Bench {
    dir: TempDir,
    volume: VolumeId,
}

impl Bench {
    async fn new() -> (Self, Pool, Replica) {
        let dir = tempfile::tempdir().unwrap();
        let config = PoolConfig {
            name: "rules".to_owned(),
            devices: vec![DeviceConfig { path: dir.path().join("0.img"), size: Some(1 << 30) }],
            journal_bytes: Some(16 << 20),
            ..PoolConfig::default()
        };
        Pool::create(&config).unwrap();
        let bench = Self { dir, volume: VolumeId::random() };
        let pool = bench.open();
        let config = MemberConfig {
            name: "v".to_owned(),
            replica: ReplicaId(1),
            members: vec![(ReplicaId(1), PoolId::random())],
        };
        let config = config.to_replica_config(BlockCount(1 << 16)).unwrap();
        let replica = pool.create_replica(bench.volume, config).await.unwrap();
        (bench, pool, replica)
    }

    fn open(&self) -> Pool {
        Pool::open(&[self.dir.path().join("0.img")], OpenOptions::default()).unwrap()
    }
}

async fn append(log: &mut LogStore, entries: Vec<Entry>) {
    let (done, wait) = Config::oneshot();
    log.append(entries, IOFlushed::signal(done)).await.unwrap();
    wait.await.unwrap().unwrap();
}

#[tokio::test]
async fn entries_are_readable_as_soon_as_append_returns_and_are_the_same_bytes() {
    let (_bench, _pool, replica) = Bench::new().await;
    let mut log = LogStore::new(replica);
    let mut reader = log.get_log_reader().await;
    let mut waits = Vec::new();
    for index in 1..=50 {
        let payload = block(index, 1);
        let at = payload.as_ptr();
        let (done, wait) = Config::oneshot();
        log.append(vec![write(1, index, payload)], IOFlushed::signal(done)).await.unwrap();
        waits.push(wait);
        let read = reader.try_get_log_entries(index..=index).await.unwrap();
        let EntryPayload::Normal(Command::Write { payload, .. }) = &read[0].payload else { panic!("a write") };
        assert_eq!(payload.as_ptr(), at, "served from memory, without a copy");
    }
    for wait in waits {
        wait.await.unwrap().unwrap();
    }
    assert_eq!(reader.try_get_log_entries(..).await.unwrap().len(), 50);
    assert_eq!(reader.limited_get_log_entries(10, 20).await.unwrap().len(), 10);
}

#[tokio::test]
async fn completions_come_in_append_order_and_only_when_durable() {
    let (_bench, _pool, replica) = Bench::new().await;
    let order = Arc::new(AtomicUsize::new(0));
    let records = |index: u64| vec![ballast_replica::raft::codec::record_of(write(1, index, block(index, 1)))];
    let mut waits = Vec::new();
    for index in 1..=200u64 {
        let (order, watch) = (order.clone(), replica.clone());
        let (done, wait) = tokio::sync::oneshot::channel();
        let completed = move |result: Result<(), ballast_pool::PoolError>| {
            result.unwrap();
            let nth = order.fetch_add(1, Ordering::SeqCst) as u64 + 1;
            _ = done.send((nth, watch.log_state().durable));
        };
        replica.append(records(index), Box::new(completed)).unwrap();
        waits.push((index, wait));
    }
    for (index, wait) in waits {
        let (nth, durable) = wait.await.unwrap();
        assert_eq!(nth, index, "out of order");
        assert!(durable.is_some_and(|durable| durable >= index), "called back before it was durable");
    }
}

#[tokio::test]
async fn a_vote_waits_for_the_entries_before_it() {
    let (bench, pool, replica) = Bench::new().await;
    let mut log = LogStore::new(replica.clone());
    let (done, _wait) = Config::oneshot();
    log.append(vec![write(1, 1, block(1, 1))], IOFlushed::signal(done)).await.unwrap();
    let vote = Vote { leader_id: LeaderId { term: 7, node_id: 2 }, committed: false };
    log.save_vote(&vote).await.unwrap();
    assert_eq!(replica.log_state().durable, Some(1), "the vote became durable before an earlier entry");
    // Not closed: as after a crash.
    drop((log, replica, pool));
    let pool = bench.open();
    let mut log = LogStore::new(pool.replica(bench.volume).unwrap());
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(1, 1)));
}

#[tokio::test]
async fn holes_are_refused() {
    let (_bench, _pool, replica) = Bench::new().await;
    let mut log = LogStore::new(replica);
    append(&mut log, vec![write(1, 1, block(1, 1))]).await;
    assert!(log.append(vec![write(1, 3, block(3, 1))], IOFlushed::noop()).await.is_err());
    append(&mut log, vec![write(1, 2, block(2, 1))]).await;
    log.truncate_after(Some(id(1, 1))).await.unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(1, 1)));
    append(&mut log, vec![write(2, 2, block(2, 2))]).await;
    assert_eq!(log.try_get_log_entries(1..3).await.unwrap()[1].log_id, id(2, 2));
}

#[tokio::test]
async fn what_was_applied_counts_as_committed_after_a_crash() {
    let (bench, pool, replica) = Bench::new().await;
    let mut log = LogStore::new(replica.clone());
    append(&mut log, vec![open(1), write(1, 2, block(2, 1))]).await;
    log.save_committed(Some(id(1, 2))).await.unwrap();
    replica.apply(2, &[], None).await.unwrap();
    // The committed index is lazy: it rides along with the next batch.
    append(&mut log, vec![write(1, 3, block(3, 1))]).await;
    drop((log, replica, pool));
    let pool = bench.open();
    let replica = pool.replica(bench.volume).unwrap();
    let mut log = LogStore::new(replica.clone());
    assert_eq!(log.read_committed().await.unwrap(), Some(id(1, 2)));
}

#[tokio::test]
async fn a_snapshot_is_the_pools_checkpoint_and_only_what_it_covers_is_purged() {
    let (_bench, _pool, replica) = Bench::new().await;
    let mut log = LogStore::new(replica.clone());
    let mut machine = StateMachine::open(replica.clone()).await.unwrap();
    append(&mut log, (1..=20).map(|index| write(1, index, block(index, 1))).collect()).await;
    replica.apply(15, &[], None).await.unwrap();
    assert!(log.purge(id(1, 10)).await.is_err(), "nothing is covered by a checkpoint yet");
    let snapshot = machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    assert_eq!(snapshot.meta.last_log_id, Some(id(1, 15)));
    assert!(log.purge(id(1, 16)).await.is_err(), "16 is not covered");
    log.purge(id(1, 10)).await.unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(1, 10)), Some(id(1, 20))));
    assert_eq!(log.try_get_log_entries(..).await.unwrap()[0].log_id, id(1, 11));
}

#[tokio::test]
async fn the_payload_is_stored_once() {
    let (_bench, pool, replica) = Bench::new().await;
    let mut log = LogStore::new(replica.clone());
    let before = pool.stats().payload_bytes_written;
    append(&mut log, (1..=100).map(|index| write(1, index, block(index, 1))).collect()).await;
    replica.apply(100, &[], None).await.unwrap();
    replica.checkpoint().await.unwrap();
    assert_eq!(pool.stats().payload_bytes_written - before, 100 * 4096);
    let data = replica.read(Lba(100 % 64), BlockCount(1)).await.unwrap();
    assert_eq!(data.payload, block(100, 1), "the map points at what the log wrote");
}

#[tokio::test]
async fn a_state_change_survives_the_purge_of_its_entry() {
    let (bench, pool, replica) = Bench::new().await;
    let mut log = LogStore::new(replica.clone());
    let mut machine = StateMachine::open(replica.clone()).await.unwrap();
    append(&mut log, vec![open(1)]).await;
    append(&mut log, (2..=30).map(|index| write(1, index, block(index, 1))).collect()).await;
    let entries = log.try_get_log_entries(1..=30).await.unwrap();
    let stream = futures_util::stream::iter(entries.into_iter().map(|entry| Ok((entry, None))));
    machine.apply(stream).await.unwrap();
    assert_eq!(machine.view().epoch(), Epoch(1));
    replica.checkpoint().await.unwrap();
    log.purge(id(1, 20)).await.unwrap();
    append(&mut log, vec![open(31)]).await;
    drop((log, machine, replica, pool));
    let pool = bench.open();
    let replica = pool.replica(bench.volume).unwrap();
    assert_eq!(StateMachine::open(replica.clone()).await.unwrap().view().epoch(), Epoch(1));
    // And the one after the checkpoint counts when it is applied.
    replica.apply(31, &[], None).await.unwrap();
    assert_eq!(StateMachine::open(replica).await.unwrap().view().epoch(), Epoch(2));
}

/// Once lost answered writes: the epoch that recovery had put together from the log was not in the next checkpoint, the
/// log was purged, and after a second crash the replica took every newer write for a stale target's.
#[tokio::test]
async fn a_state_put_together_by_recovery_is_in_the_next_checkpoint() {
    let (bench, pool, replica) = Bench::new().await;
    let mut log = LogStore::new(replica.clone());
    // An overwrite, so that the next batch tells how far the log was applied.
    append(&mut log, vec![open(1), open(2), write(1, 3, block(0, 1)), write(1, 4, block(0, 2))]).await;
    append(&mut log, vec![write_at(5, Lba(3))]).await;
    replica.apply(5, &[], None).await.unwrap();
    append(&mut log, vec![write(1, 6, block(6, 1))]).await;
    drop((log, replica, pool));

    let pool = bench.open();
    let replica = pool.replica(bench.volume).unwrap();
    assert_eq!(replica.applied().map(|mark| mark.index), Some(5));
    assert_eq!(StateMachine::open(replica.clone()).await.unwrap().view().epoch(), Epoch(2));
    replica.apply(6, &[], None).await.unwrap();
    replica.checkpoint().await.unwrap();
    let mut log = LogStore::new(replica.clone());
    log.purge(id(1, 6)).await.unwrap();
    append(&mut log, vec![write(1, 7, block(7, 1))]).await;
    drop((log, replica, pool));

    let pool = bench.open();
    let replica = pool.replica(bench.volume).unwrap();
    assert_eq!(StateMachine::open(replica).await.unwrap().view().epoch(), Epoch(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_appends_ends_cleanly_after_its_last_answer() {
    let group = Group::new(1).await;
    let directory = Directory::new(PoolId::random());
    directory.set([(group.nodes[0].id, group.nodes[0].endpoint.clone())]);
    let appended = tokio::sync::watch::channel(0).1;
    let mut network = Network::new(group.volume, directory, Sending::default(), appended);
    let node = MemberNode { pool: group.nodes[0].id };
    let mut client = network.new_client(1, &node).await;
    let vote = Vote { leader_id: LeaderId { term: 99, node_id: 2 }, committed: true };
    let request = AppendEntriesRequest::<Config> { vote, prev_log_id: None, entries: Vec::new(), leader_commit: None };
    let input = futures_util::stream::iter(vec![request.clone(), request.clone(), request]);
    let option = RPCOption::new(std::time::Duration::from_secs(5));
    let mut answers = client.stream_append(input, option).await.unwrap();
    for _ in 0..3 {
        assert!(matches!(answers.next().await, Some(Ok(Ok(None)))));
    }
    assert!(answers.next().await.is_none(), "a probe waits for this end");
    drop(answers);
    group.stop().await;
}
