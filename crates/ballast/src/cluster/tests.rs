use super::fake::{Memory, World};
use super::placement::PlacementError;
use super::*;
use crate::report::{PoolState, VolumeState};

#[tokio::test]
async fn a_new_volume_gets_its_replicas_its_group_and_its_target() {
    let world = World::new();
    let session = world.all_up().await;
    assert!(session.create("demo", 3).await.unwrap());
    assert_eq!(world.replicas(), [1, 1, 1]);
    assert_eq!(world.pools.iter().map(|pool| pool.memory().formed.len()).sum::<usize>(), 1);
    let served = world.target.memory().volumes.last().unwrap().volumes[0].clone();
    assert_eq!((served.name.as_str(), served.blocks, served.replicas.len()), ("demo", 256, 3));
    assert_eq!(served.iqn, "iqn.2016-09.com.openebs.cstor:demo");
    // Every pool knows all three by now.
    for pool in &world.pools {
        assert_eq!(pool.memory().peers.last().unwrap().peers.len(), 3);
    }
    assert!(matches!(session.create("demo", 3).await, Err(VolumeError::Exists { bytes: 1_048_576, .. })));
    let refused = session.create("big", 4).await;
    assert!(matches!(refused, Err(VolumeError::Placement(PlacementError::TooFew { wanted: 4, found: 3 }))));
}

#[tokio::test]
async fn replicas_go_where_there_are_fewest() {
    let world = World::new();
    let session = world.all_up().await;
    for name in ["a", "b", "c"] {
        session.create(name, 1).await.unwrap();
    }
    assert_eq!(world.replicas(), [1, 1, 1]);
}

#[tokio::test]
async fn losing_the_registry_costs_nothing() {
    let world = World::new();
    let session = world.all_up().await;
    session.create("one", 3).await.unwrap();
    session.create("two", 2).await.unwrap();
    let before = session.cluster.table();
    session.down().await;

    let session = world.all_up().await;
    assert_eq!(session.cluster.table(), before);
    session.down().await;

    std::fs::remove_dir_all(world.dir.registry()).unwrap();
    let session = world.all_up().await;
    assert_eq!(session.cluster.table(), before);
    assert_eq!(world.served().len(), 2);
    assert!(world.target.memory().volumes.last().unwrap().volumes.iter().all(|volume| volume.replicas.len() >= 2));
}

#[tokio::test]
async fn a_creation_that_fails_leaves_nothing() {
    let world = World::new();
    let session = world.all_up().await;
    world.pools[1].memory().refuse_create = true;
    let error = session.create("demo", 3).await.unwrap_err();
    assert!(error.to_string().contains("the pool is full"), "{error}");
    assert_eq!(world.replicas(), [0, 0, 0]);
    assert_eq!(session.cluster.table().volumes.len(), 0);
    world.pools[1].memory().refuse_create = false;
    session.create("demo", 3).await.unwrap();
}

#[tokio::test]
async fn a_half_created_volume_is_completed_at_the_next_start() {
    let world = World::new();
    let session = world.all_up().await;
    session.create("demo", 3).await.unwrap();
    let id = session.cluster.table().volumes.keys().copied().next().unwrap();
    session.down().await;
    // As if the crash had come after the first CreateReplica; the registry may know it or not.
    for registry_lost in [false, true] {
        for (pool, n) in world.pools.iter().zip(0..) {
            let mut memory = pool.memory();
            memory.formed.clear();
            if n > 0 {
                memory.replicas.clear();
            } else if let Some(replica) = memory.replicas.get_mut(&id) {
                replica.term = 0;
            }
        }
        let (registry, _) = Registry::open(&world.dir.registry()).unwrap();
        let volume = registry.load().volumes[&id].clone();
        registry.save_volume(&Volume { phase: Phase::Creating, ..volume }).await.unwrap();
        drop(registry);
        if registry_lost {
            std::fs::remove_dir_all(world.dir.registry()).unwrap();
        }
        let session = world.up(&[0, 1, 3]).await;
        assert_eq!(world.replicas(), [1, 0, 0]);
        assert!(world.served().is_empty());
        session.down().await;
        let session = world.all_up().await;
        assert_eq!(world.replicas(), [1, 1, 1]);
        assert_eq!(world.pools.iter().map(|pool| pool.memory().formed.len()).sum::<usize>(), 1);
        assert_eq!(world.served(), ["demo"]);
        session.down().await;
    }
}

#[tokio::test]
async fn a_volume_grows_by_its_leader() {
    let world = World::new();
    let session = world.all_up().await;
    session.create("demo", 3).await.unwrap();
    let name = "demo".parse().unwrap();
    let sizes = || -> Vec<u64> {
        let blocks = |memory: &Memory| memory.replicas.values().map(|replica| replica.blocks).max();
        let mut sizes: Vec<u64> = world.pools.iter().filter_map(|pool| blocks(&pool.memory())).collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(), [256, 256, 256]);
    assert!(session.cluster.grow_volume(&name, (2 << 20) + 1).await.unwrap());
    assert_eq!(sizes(), [256, 256, 513], "the leader tells the others");
    let served = world.target.memory().volumes.last().unwrap().volumes[0].blocks;
    assert_eq!((served, session.cluster.table().by_name(&name).unwrap().blocks), (513, 513));
    let error = session.cluster.grow_volume(&name, 1 << 20).await.unwrap_err();
    assert!(matches!(error, VolumeError::Smaller { .. }), "{error}");
    world
        .pools
        .iter()
        .for_each(|pool| pool.memory().replicas.values_mut().for_each(|r| r.role = "follower".to_owned()));
    let error = session.cluster.grow_volume(&name, 1 << 30).await.unwrap_err();
    assert!(matches!(error, VolumeError::NoLeader { .. }), "{error}");
    // After a restart the largest that a pool knows counts.
    session.down().await;
    std::fs::remove_dir_all(world.dir.registry()).unwrap();
    let session = world.all_up().await;
    assert_eq!(session.cluster.table().by_name(&name).unwrap().blocks, 513);
}

#[tokio::test]
async fn a_deleted_volume_does_not_come_back() {
    let world = World::new();
    let mut session = world.all_up().await;
    session.create("demo", 3).await.unwrap();
    session.kill(2).await;
    assert!(!session.delete("demo").await.unwrap());
    assert_eq!((world.replicas(), session.names()), (vec![0, 0, 1], vec![]));
    assert!(world.served().is_empty());
    // The name is free again, and the tombstone does not touch the new volume.
    session.create("demo", 2).await.unwrap();
    session.down().await;

    let mut session = world.up(&[0, 1, 3]).await;
    assert_eq!(session.names(), ["demo"]);
    session.start(&world, 2).await;
    assert_eq!((world.replicas(), session.names()), (vec![1, 1, 0], vec!["demo".to_owned()]));
    assert_eq!(session.cluster.table().volumes.len(), 1);
    session.down().await;
    assert_eq!(world.all_up().await.names(), ["demo"]);
}

#[tokio::test]
async fn a_deletion_that_fails_is_tried_again() {
    let world = World::new();
    let session = world.all_up().await;
    session.create("demo", 3).await.unwrap();
    world.pools[0].memory().refuse_delete = true;
    assert!(!session.delete("demo").await.unwrap());
    world.pools[0].memory().refuse_delete = false;
    let mut table = session.cluster.table.subscribe();
    let gone = table.wait_for(|table| table.volumes.is_empty());
    tokio::time::timeout(std::time::Duration::from_secs(60), gone).await.expect("is tried again").unwrap();
    assert_eq!(world.replicas(), [0, 0, 0]);
}

#[tokio::test]
async fn a_deletion_needs_a_majority() {
    let world = World::new();
    let mut session = world.all_up().await;
    session.create("demo", 3).await.unwrap();
    session.kill(1).await;
    session.kill(2).await;
    let refused = session.delete("demo").await;
    assert!(matches!(refused, Err(VolumeError::TooFewToDelete { answered: 1, total: 3, .. })), "{refused:?}");
    assert_eq!((world.replicas(), session.names()), (vec![1, 1, 1], vec!["demo".to_owned()]));
    session.down().await;
    // Also when the registry is gone and nobody knows what the silent pools are.
    std::fs::remove_dir_all(world.dir.registry()).unwrap();
    let session = world.up(&[0, 3]).await;
    assert!(matches!(session.delete("demo").await, Err(VolumeError::TooFewToDelete { .. })));
    assert!(matches!(session.delete("other").await, Err(VolumeError::NotFound(_))));
}

#[tokio::test]
async fn restarted_processes_are_told_again() {
    let world = World::new();
    let mut session = world.all_up().await;
    session.create("demo", 3).await.unwrap();
    let told = (world.pools[0].memory().peers.len(), world.target.memory().volumes.len());
    session.kill(0).await;
    session.start(&world, 0).await;
    assert!(world.pools[0].memory().peers.len() > told.0);
    session.kill(3).await;
    // Made while the target is away.
    assert!(!session.create("more", 1).await.unwrap());
    session.start(&world, 3).await;
    assert!(world.target.memory().volumes.len() > told.1);
    let mut served = world.served();
    served.sort();
    assert_eq!(served, ["demo", "more"]);
}

#[tokio::test]
async fn a_status_is_true_now_or_unknown() {
    let world = World::new();
    let mut session = world.all_up().await;
    session.create("demo", 3).await.unwrap();
    for pool in &world.pools {
        for replica in pool.memory().replicas.values_mut() {
            if replica.role == "learner" {
                replica.role = "follower".to_owned();
            }
        }
    }
    let report = session.cluster.status().await;
    assert_eq!(report.volumes[0].state, VolumeState::Healthy, "{report:?}");
    assert_eq!(report.pools.iter().map(|pool| pool.free_bytes).collect::<Vec<_>>(), [Some(90); 3]);
    assert_eq!(report.portal, "127.0.0.1:9");

    world.pools[0].memory().hang = true;
    session.kill(1).await;
    let report = session.cluster.status().await;
    assert_eq!(report.volumes[0].state, VolumeState::Unknown);
    let states: Vec<_> = report.pools.iter().map(|pool| (pool.state, pool.free_bytes)).collect();
    assert_eq!(states, [(PoolState::Unknown, None), (PoolState::Offline, None), (PoolState::Online, Some(90))]);
    assert!(report.pools.iter().all(|pool| pool.id.is_some()));

    session.kill(3).await;
    let report = session.cluster.status().await;
    assert_eq!(report.volumes[0].target_state, "unknown");
}
