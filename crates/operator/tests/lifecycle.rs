//! What administrators and users do, and what happens to pools meanwhile.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use ballast_api::k8s::claim::StoragePoolClaim;
use ballast_api::k8s::device::BlockDevice;
use ballast_api::k8s::pool::CStorPool;
use ballast_api::k8s::volume::CStorVolume;
use ballast_api::k8s::{CStorVolumeReplica, labels};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::ResourceExt as _;
use support::{Cluster, NAMESPACE};

#[tokio::test(start_paused = true)]
async fn the_walkthrough() {
    let mut cluster = Cluster::new(1, 4);
    let operator = cluster.start();
    cluster.claim("cstor-pool", 3);
    cluster.until_pools(3).await;
    let pools = cluster.pools();
    let pool = &pools[0];
    assert_eq!(pool.labels()[labels::STORAGE_POOL_CLAIM], "cstor-pool");
    let name = pool.name_any();
    assert!(name.starts_with("cstor-pool-") && name.len() == "cstor-pool-".len() + 4, "{name}");
    let deployment = cluster.sim.get::<Deployment>(NAMESPACE, &name).unwrap();
    let container = &deployment.spec.template.spec.as_ref().unwrap().containers[0];
    assert!(container.args.as_ref().unwrap().iter().any(|arg| arg.starts_with("/var/openebs/sparse/sparse-node")));
    let device = cluster.sim.get::<BlockDevice>(NAMESPACE, &pool.spec.group[0].block_device[0].name).unwrap();
    assert_eq!(device.status.unwrap().claim_state, "Claimed");
    let phase = |c: &Cluster| c.sim.get::<StoragePoolClaim>("", "cstor-pool").unwrap().status.unwrap().phase;
    cluster.until("the claim is online", |c| phase(c) == "Online").await;

    cluster.volume("pvc-1", 2);
    cluster.until("the volume is healthy", |c| c.phase("pvc-1") == "Healthy").await;
    let volume = cluster.sim.get::<CStorVolume>(NAMESPACE, "pvc-1").unwrap();
    assert_eq!(volume.spec.iqn.as_deref(), Some("iqn.2016-09.com.openebs.cstor:pvc-1"));
    let service = cluster.sim.get::<Service>(NAMESPACE, "pvc-1").unwrap().spec.unwrap();
    let ports: Vec<i32> = service.ports.unwrap().iter().map(|port| port.port).collect();
    assert_eq!(ports, [3260, 7777, 6060, 9500]);
    assert_eq!(volume.spec.target_portal, service.cluster_ip.map(|ip| format!("{ip}:3260")));
    assert_eq!(cluster.replicas("pvc-1").len(), 2);
    assert!(cluster.sim.get::<Deployment>(NAMESPACE, "pvc-1-target").is_some());
    let table = cluster.sim.get::<ConfigMap>(NAMESPACE, "pvc-1-target").unwrap().data.unwrap();
    assert!(table["volumes.json"].contains("iqn.2016-09.com.openebs.cstor:pvc-1"));

    cluster.sim.delete::<CStorVolume>(NAMESPACE, "pvc-1");
    cluster.until("the volume is gone", |c| c.sim.get::<CStorVolume>(NAMESPACE, "pvc-1").is_none()).await;
    cluster.sim.collect();
    cluster.nothing_left();
    assert_eq!(cluster.world.violations(), Vec::<String>::new());
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_while_nothing_changes() {
    let mut cluster = Cluster::new(2, 3);
    let operator = cluster.start();
    cluster.claim("cstor-pool", 3);
    cluster.until_pools(3).await;
    cluster.volume("pvc-1", 3);
    cluster.until("the volume is healthy", |c| c.phase("pvc-1") == "Healthy").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let before = cluster.sim.log().len();
    tokio::time::sleep(Duration::from_secs(50)).await;
    let after: Vec<_> = cluster.sim.log().split_off(before).into_iter().filter(|entry| entry.verb.writes()).collect();
    // The minute of last_update_time may turn once: one write for each pool and the volume.
    assert!(after.len() <= 4, "{after:?}");
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_node_is_told_at_once_and_repaired_after_the_grace_period() {
    let mut cluster = Cluster::new(3, 4);
    let operator = cluster.start();
    cluster.claim("cstor-pool", 4);
    cluster.until_pools(4).await;
    cluster.volume("pvc-1", 3);
    cluster.until("the volume is healthy", |c| c.phase("pvc-1") == "Healthy").await;
    let lost = cluster.replicas("pvc-1")[1].clone();
    let pool = lost.labels()[labels::REPLICA_POOL_NAME].clone();
    cluster.world.stop(&pool);
    tokio::time::sleep(Duration::from_secs(15)).await;
    let status = |name: &str| cluster.sim.get::<CStorPool>("", name).unwrap().status.unwrap().phase;
    assert!(["Unknown", "Offline"].contains(&status(&pool).as_str()), "{}", status(&pool));
    assert_eq!(cluster.phase("pvc-1"), "Degraded");
    let replica = cluster.sim.get::<CStorVolumeReplica>(NAMESPACE, &lost.name_any()).unwrap();
    assert_eq!(replica.status.unwrap().phase, "Unknown");
    assert_eq!(cluster.world.voters("pvc-1"), [1, 2, 3], "nothing is moved within the grace period");

    cluster
        .until("the volume is healthy again", |c| c.phase("pvc-1") == "Healthy" && c.replicas("pvc-1").len() == 3)
        .await;
    assert!(cluster.world.voters("pvc-1").contains(&4));
    assert!(
        cluster
            .sim
            .get::<CStorPool>("", &pool)
            .unwrap()
            .annotations()
            .keys()
            .any(|key| key.starts_with(labels::PENDING_DELETION))
    );
    assert_eq!(cluster.world.replica_count(), 4, "the old one is still on its disk");
    cluster.world.restart(&pool);
    cluster.until("the old replica is deleted", |c| c.world.replica_count() == 3).await;
    cluster
        .until("the note is gone", |c| {
            !c.sim
                .get::<CStorPool>("", &pool)
                .unwrap()
                .annotations()
                .keys()
                .any(|key| key.starts_with(labels::PENDING_DELETION))
        })
        .await;
    assert_eq!(cluster.world.violations(), Vec::<String>::new());
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_blank_disk_gets_its_replicas_back_under_new_ids() {
    let mut cluster = Cluster::new(4, 3);
    let operator = cluster.start();
    cluster.claim("cstor-pool", 3);
    cluster.until_pools(3).await;
    cluster.volume("pvc-1", 3);
    cluster.until("the volume is healthy", |c| c.phase("pvc-1") == "Healthy").await;
    let pool = cluster.replicas("pvc-1")[0].labels()[labels::REPLICA_POOL_NAME].clone();
    cluster.world.blank(&pool);
    cluster.until("the volume notices", |c| c.phase("pvc-1") == "Degraded").await;
    cluster.until("the volume is healthy", |c| c.phase("pvc-1") == "Healthy" && c.replicas("pvc-1").len() == 3).await;
    assert!(cluster.world.voters("pvc-1").contains(&4));
    assert_eq!(cluster.world.replica_count(), 3);
    assert_eq!(cluster.world.violations(), Vec::<String>::new());
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn scaling_moving_and_draining() {
    let mut cluster = Cluster::new(5, 4);
    let operator = cluster.start();
    cluster.claim("cstor-pool", 4);
    cluster.until_pools(4).await;
    cluster.volume("pvc-1", 1);
    cluster.until("the volume is healthy", |c| c.phase("pvc-1") == "Healthy").await;
    for wanted in [3, 1, 2, 3] {
        cluster.sim.edit::<CStorVolume>(NAMESPACE, "pvc-1", |volume| volume.spec.replication_factor = wanted).unwrap();
        let count = usize::try_from(wanted).unwrap();
        cluster
            .until("it is scaled", |c| {
                c.replicas("pvc-1").len() == count
                    && c.world.voters("pvc-1").len() == count
                    && c.phase("pvc-1") == "Healthy"
            })
            .await;
        assert_eq!(cluster.world.replica_count(), count);
    }
    // A replica whose object is deleted moves to the fourth pool.
    let moved = cluster.replicas("pvc-1")[0].name_any();
    cluster.sim.delete::<CStorVolumeReplica>(NAMESPACE, &moved);
    cluster
        .until("it has moved", |c| {
            c.sim.get::<CStorVolumeReplica>(NAMESPACE, &moved).is_none()
                && c.phase("pvc-1") == "Healthy"
                && c.world.replica_count() == 3
        })
        .await;
    // A pool that is deleted gives its replicas away first.
    let pool = cluster.replicas("pvc-1")[0].labels()[labels::REPLICA_POOL_NAME].clone();
    let host = cluster.sim.get::<CStorPool>("", &pool).unwrap().spec.host_name;
    cluster.sim.edit::<StoragePoolClaim>("", "cstor-pool", |claim| claim.spec.max_pools = Some(3)).unwrap();
    cluster.sim.delete::<CStorPool>("", &pool);
    cluster.until("the pool is gone", |c| c.sim.get::<CStorPool>("", &pool).is_none()).await;
    assert_eq!((cluster.phase("pvc-1").as_str(), cluster.world.voters("pvc-1").len()), ("Healthy", 3));
    let device = cluster.sim.get::<BlockDevice>(NAMESPACE, &format!("sparse-{host}")).unwrap();
    assert_eq!(device.status.unwrap().claim_state, "Released");
    assert_eq!(cluster.world.violations(), Vec::<String>::new());
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn deletions_do_not_wait_for_dead_pools() {
    let mut cluster = Cluster::new(6, 3);
    let operator = cluster.start();
    cluster.claim("cstor-pool", 3);
    cluster.until_pools(3).await;
    cluster.volume("pvc-1", 3);
    cluster.until("the volume is healthy", |c| c.phase("pvc-1") == "Healthy").await;
    let pools: Vec<String> = cluster.pools().iter().map(|pool| pool.name_any()).collect();
    cluster.world.stop(&pools[0]);
    cluster.world.stop(&pools[1]);
    cluster.sim.delete::<CStorVolume>(NAMESPACE, "pvc-1");
    cluster
        .until("the volume is gone", |c| c.sim.list::<CStorVolume>().is_empty() && c.replicas("pvc-1").is_empty())
        .await;
    assert_eq!(cluster.world.replica_count(), 2);
    // A claim with volumes is kept; without, its pools go, dead or alive.
    cluster.world.restart(&pools[0]);
    cluster.until("the first one frees its blocks", |c| c.world.replica_count() == 1).await;
    cluster.sim.delete::<StoragePoolClaim>("", "cstor-pool");
    cluster.until("all is gone", |c| c.pools().is_empty() && c.sim.list::<StoragePoolClaim>().is_empty()).await;
    cluster.sim.collect();
    assert!(cluster.sim.list::<Deployment>().is_empty());
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_in_use_is_not_deleted() {
    let mut cluster = Cluster::new(7, 3);
    let operator = cluster.start();
    cluster.claim("cstor-pool", 3);
    cluster.until_pools(3).await;
    cluster.volume("pvc-1", 3);
    cluster.until("the volume is healthy", |c| c.phase("pvc-1") == "Healthy").await;
    cluster.sim.delete::<StoragePoolClaim>("", "cstor-pool");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.pools().len(), 3);
    assert_eq!(cluster.phase("pvc-1"), "Healthy");
    cluster.sim.delete::<CStorVolume>(NAMESPACE, "pvc-1");
    cluster.until("all is gone", |c| c.pools().is_empty() && c.sim.list::<StoragePoolClaim>().is_empty()).await;
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn too_few_pools_are_said_and_waited_for() {
    let mut cluster = Cluster::new(8, 3);
    let operator = cluster.start();
    cluster.claim("cstor-pool", 2);
    cluster.until_pools(2).await;
    cluster.volume("pvc-1", 3);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let status = cluster.sim.get::<CStorVolume>(NAMESPACE, "pvc-1").unwrap().status.unwrap();
    assert_eq!(status.phase, "Init");
    assert!(status.message.contains("not enough pools available"), "{}", status.message);
    cluster.sim.edit::<StoragePoolClaim>("", "cstor-pool", |claim| claim.spec.max_pools = Some(3)).unwrap();
    cluster.until("the volume is healthy", |c| c.phase("pvc-1") == "Healthy").await;
    operator.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_volume_whose_target_is_away_is_offline() {
    let mut cluster = Cluster::new(9, 3);
    let operator = cluster.start();
    cluster.claim("cstor-pool", 3);
    cluster.until_pools(3).await;
    cluster.world.stop("pvc-1-target");
    cluster.volume("pvc-1", 3);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.phase("pvc-1"), "Init", "it is being started");
    cluster.world.restart("pvc-1-target");
    cluster.until("the volume is healthy", |c| c.phase("pvc-1") == "Healthy").await;
    // One answer that is late is no news; a target that is gone is told within 15 s.
    cluster.world.stop("pvc-1-target");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(cluster.phase("pvc-1"), "Healthy");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(cluster.phase("pvc-1"), "Offline");
    let status = cluster.sim.get::<CStorVolume>(NAMESPACE, "pvc-1").unwrap().status.unwrap();
    assert!(
        status.message.contains("kubectl -n openebs get pods -l openebs.io/persistent-volume=pvc-1"),
        "{}",
        status.message
    );
    cluster.world.restart("pvc-1-target");
    cluster.until("the volume is healthy again", |c| c.phase("pvc-1") == "Healthy").await;
    operator.stop().await;
}
