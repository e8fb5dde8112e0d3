//! What administrators do to pools that are in use: drain, replace devices, extend, evict pods.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use ballast_api::k8s::claim::StoragePoolClaim;
use ballast_api::k8s::device::BlockDevice;
use ballast_api::k8s::labels;
use ballast_api::k8s::pool::CStorPool;
use ballast_api::k8s::replica::CStorVolumeReplica;
use ballast_api::k8s::volume::CStorVolume;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use support::{Cluster, NAMESPACE, Operator};

/// Pools on so many nodes, and a healthy volume with three replicas.
async fn cluster(seed: u64, nodes: usize) -> (Cluster, Operator) {
    let mut cluster = Cluster::new(seed, nodes);
    let operator = cluster.start();
    cluster.claim("cstor-pool", i32::try_from(nodes).unwrap());
    cluster.until_pools(nodes).await;
    cluster.volume("pvc-1", 3);
    cluster.until("the volume is healthy", |c| c.phase("pvc-1") == "Healthy").await;
    (cluster, operator)
}

/// Names of the pools with replicas of the volume, sorted.
fn pools_of(cluster: &Cluster, volume: &str) -> Vec<String> {
    let replicas = cluster.replicas(volume);
    let mut pools: Vec<String> = replicas.iter().map(|r| r.labels()[labels::REPLICA_POOL_NAME].clone()).collect();
    pools.sort();
    pools
}

fn schedulable(cluster: &Cluster, pool: &str) -> String {
    let status = cluster.sim.get::<CStorPool>("", pool).unwrap().status.unwrap_or_default();
    let condition = status.conditions.into_iter().find(|condition| condition.type_ == "Schedulable");
    condition.map(|condition| condition.reason).unwrap_or_default()
}

/// How many pool pods may be evicted.
fn may_go(cluster: &Cluster) -> Option<i32> {
    let budget = cluster.sim.get::<PodDisruptionBudget>(NAMESPACE, "cstor-pool-pools")?;
    match budget.spec?.max_unavailable? {
        IntOrString::Int(count) => Some(count),
        IntOrString::String(text) => panic!("{text}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_pool_is_drained_and_taken_back() {
    let (cluster, operator) = cluster(1, 4).await;
    let drained = pools_of(&cluster, "pvc-1")[0].clone();
    cluster.annotate(&drained, labels::DRAIN, Some("true"));
    cluster
        .until("its replica has moved", |c| {
            !pools_of(c, "pvc-1").contains(&drained) && c.world.replica_count() == 3 && c.phase("pvc-1") == "Healthy"
        })
        .await;
    cluster.until("the pool says so", |c| schedulable(c, &drained) == "Drained").await;
    // It gets nothing while it is closed, and something when it is open again.
    cluster.annotate(&drained, labels::DRAIN, None);
    cluster.annotate(&drained, labels::CORDON, Some("true"));
    cluster.until("it says that it is cordoned", |c| schedulable(c, &drained) == "Cordoned").await;
    cluster.volume("pvc-2", 3);
    cluster.until("the second volume is healthy", |c| c.phase("pvc-2") == "Healthy").await;
    assert!(!pools_of(&cluster, "pvc-2").contains(&drained));
    cluster.annotate(&drained, labels::CORDON, None);
    cluster.volume("pvc-3", 3);
    cluster.until("the third volume is healthy", |c| c.phase("pvc-3") == "Healthy").await;
    assert!(pools_of(&cluster, "pvc-3").contains(&drained));
    assert_eq!(cluster.world.violations(), Vec::<String>::new());
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn replicas_stay_in_a_drained_pool_while_there_is_no_other() {
    let (cluster, operator) = cluster(2, 3).await;
    let pool = pools_of(&cluster, "pvc-1")[0].clone();
    cluster.annotate(&pool, labels::DRAIN, Some("true"));
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!((cluster.world.replica_count(), cluster.world.voters("pvc-1").len()), (3, 3));
    assert_eq!(schedulable(&cluster, &pool), "Draining");
    let message = cluster.sim.get::<CStorVolume>(NAMESPACE, "pvc-1").unwrap().status.unwrap().message;
    assert!(message.contains("not enough pools available"), "{message}");
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_volume_keeps_away_from_a_cordoned_node() {
    let (cluster, operator) = cluster(3, 4).await;
    let pool = &cluster.pools()[0];
    let cordon = |node: &mut Node| node.spec.get_or_insert_default().unschedulable = Some(true);
    cluster.sim.edit::<Node>("", &pool.spec.host_name, cordon).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.volume("pvc-2", 3);
    cluster.until("the second volume is healthy", |c| c.phase("pvc-2") == "Healthy").await;
    assert!(!pools_of(&cluster, "pvc-2").contains(&pool.name_any()));
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pool_pods_are_evicted_one_at_a_time() {
    let (cluster, operator) = cluster(4, 3).await;
    cluster.until("one may go", |c| may_go(c) == Some(1)).await;
    let pool = pools_of(&cluster, "pvc-1")[0].clone();
    cluster.world.stop(&pool);
    cluster.until("no other may go", |c| may_go(c) == Some(0)).await;
    cluster.world.restart(&pool);
    cluster.until("one may go again", |c| may_go(c) == Some(1)).await;
    assert_eq!(cluster.phase("pvc-1"), "Healthy");
    // The budget goes with the claim.
    cluster.sim.delete::<CStorVolume>(NAMESPACE, "pvc-1");
    cluster.sim.delete::<StoragePoolClaim>("", "cstor-pool");
    cluster.until("all is gone", |c| c.pools().is_empty() && c.sim.list::<StoragePoolClaim>().is_empty()).await;
    cluster.sim.collect();
    assert_eq!(may_go(&cluster), None);
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_device_is_replaced_by_editing_the_claim() {
    let (cluster, operator) = cluster(5, 3).await;
    cluster.device("sparse-node1-new", "node1");
    let old = cluster.pools().into_iter().find(|pool| pool.spec.host_name == "node1").unwrap().name_any();
    // No fourth node is there: the successor on the same node takes the replica.
    cluster.list("cstor-pool", &["sparse-node1-new", "sparse-node2", "sparse-node3"]);
    cluster.until("the old pool is gone", |c| c.sim.get::<CStorPool>("", &old).is_none()).await;
    let pools = cluster.pools();
    assert_eq!(pools.len(), 3);
    let new = pools.iter().find(|pool| pool.spec.host_name == "node1").unwrap();
    assert_eq!(new.spec.group[0].block_device[0].name, "sparse-node1-new");
    assert!(pools_of(&cluster, "pvc-1").contains(&new.name_any()));
    cluster.until("the volume is healthy", |c| c.phase("pvc-1") == "Healthy").await;
    assert_eq!((cluster.world.voters("pvc-1"), cluster.world.replica_count()).1, 3);
    let state = |c: &Cluster| c.sim.get::<BlockDevice>(NAMESPACE, "sparse-node1").unwrap().status.unwrap().claim_state;
    assert_eq!(state(&cluster), "Released");
    assert_eq!(cluster.world.violations(), Vec::<String>::new());
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pools_are_extended_by_editing_the_claim_one_after_the_other() {
    let (cluster, operator) = cluster(6, 3).await;
    let listed: Vec<String> =
        (1..=3).flat_map(|n| [format!("sparse-node{n}"), format!("sparse-node{n}-new")]).collect();
    for number in 1..=3 {
        cluster.device(&format!("sparse-node{number}-new"), &format!("node{number}"));
    }
    cluster.list("cstor-pool", &listed.iter().map(String::as_str).collect::<Vec<_>>());
    let larger = |c: &Cluster| {
        let capacity = |pool: &CStorPool| pool.status.clone().unwrap_or_default().capacity.total;
        c.pools().iter().filter(|pool| capacity(pool) == "2G").count()
    };
    let mut seen = Vec::new();
    for _ in 0..200 {
        seen.push(larger(&cluster));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    seen.dedup();
    // Each of them restarts for it, so never two at a time.
    assert_eq!(seen, [0, 1, 2, 3], "{}", cluster.dump());
    assert_eq!((cluster.pools().len(), cluster.world.replica_count()), (3, 3));
    assert_eq!(cluster.phase("pvc-1"), "Healthy");
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_volume_grows_by_editing_its_object_and_never_shrinks() {
    let (cluster, operator) = cluster(8, 4).await;
    let set = |cluster: &Cluster, capacity: &str| {
        let edit = |volume: &mut CStorVolume| volume.spec.capacity = capacity.to_owned();
        cluster.sim.edit::<CStorVolume>(NAMESPACE, "pvc-1", edit).unwrap();
    };
    let size = |cluster: &Cluster| cluster.sim.get::<CStorVolume>(NAMESPACE, "pvc-1").unwrap().status.unwrap().capacity;
    let before = cluster.world.blocks("pvc-1").0;
    assert!(before > 0);
    set(&cluster, "64Gi");
    let grown = 64 << 18;
    cluster.until("it has grown", |c| c.world.blocks("pvc-1") == (grown, grown) && size(c) == "64Gi").await;
    set(&cluster, "1Gi");
    let message = |c: &Cluster| c.sim.get::<CStorVolume>(NAMESPACE, "pvc-1").unwrap().status.unwrap().message;
    cluster.until("it says why it does not shrink", |c| message(c).contains("not made smaller")).await;
    assert_eq!((cluster.world.blocks("pvc-1"), size(&cluster).as_str()), ((grown, grown), "64Gi"));
    // A replica that is made anew has the group's size, not the object's.
    let moved = cluster.replicas("pvc-1")[0].name_any();
    cluster.sim.delete::<CStorVolumeReplica>(NAMESPACE, &moved);
    cluster
        .until("it has moved", |c| {
            c.sim.get::<CStorVolumeReplica>(NAMESPACE, &moved).is_none() && c.phase("pvc-1") == "Healthy"
        })
        .await;
    assert_eq!(cluster.world.violations(), Vec::<String>::new());
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_restarts_one_pool_after_the_other() {
    let (mut cluster, operator) = cluster(8, 3).await;
    operator.stop().await;
    cluster.image = String::from("ballast:2");
    let away = pools_of(&cluster, "pvc-1")[0].clone();
    cluster.world.stop(&away);
    let operator = cluster.start();
    let new = |c: &Cluster, names: &[String]| {
        let image = |name: &String| {
            let deployment = c.sim.get::<Deployment>(NAMESPACE, name).unwrap();
            deployment.spec.template.spec.unwrap().containers[0].image.clone().unwrap()
        };
        names.iter().filter(|name| image(name) == "ballast:2").count()
    };
    // While one is away no other is restarted; the one that does not run anyway is changed at once.
    let others: Vec<String> = pools_of(&cluster, "pvc-1").into_iter().filter(|name| *name != away).collect();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((new(&cluster, std::slice::from_ref(&away)), new(&cluster, &others)), (1, 0));
    cluster.world.restart(&away);
    cluster.until("the next one is restarted", |c| new(c, &others) == 1).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(new(&cluster, &others), 1, "the trouble of a restart shows first");
    cluster.until("all are", |c| new(c, &others) == 2).await;
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_volume_is_lost_is_told_and_kept() {
    let (mut cluster, operator) = cluster(7, 3).await;
    operator.stop().await;
    // As after the restoration of an old state of the API server.
    let strip = |volume: &mut CStorVolume| volume.metadata.finalizers = None;
    cluster.sim.edit::<CStorVolume>(NAMESPACE, "pvc-1", strip).unwrap();
    let id = cluster.sim.get::<CStorVolume>(NAMESPACE, "pvc-1").unwrap().uid().unwrap();
    cluster.sim.delete::<CStorVolume>(NAMESPACE, "pvc-1");
    let operator = cluster.start();
    let told = |c: &Cluster| {
        let orphaned = |pool: &CStorPool| {
            let status = pool.status.clone().unwrap_or_default();
            status.conditions.iter().any(|condition| condition.reason == "NoVolume" && condition.message.contains(&id))
        };
        c.pools().iter().filter(|pool| orphaned(pool)).count()
    };
    cluster.until("all pools tell", |c| told(c) == 3).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(cluster.world.replica_count(), 3);
    let pool = cluster.pools()[0].name_any();
    cluster.annotate(&pool, &format!("{}{id}", labels::PENDING_DELETION), Some("true"));
    cluster.until("the data is deleted as asked for", |c| c.world.replica_count() == 2 && told(c) == 2).await;
    operator.stop().await;
}
