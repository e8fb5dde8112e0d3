//! The operator is killed at every step, and the API server fails it: every object reaches its end state all the same.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use ballast_api::k8s::claim::StoragePoolClaim;
use ballast_api::k8s::volume::CStorVolume;
use ballast_apisim::Fault;
use support::{Cluster, NAMESPACE};

/// A deterministic stream of numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// Pools, a volume, more replicas, fewer, gone.
async fn live_through(cluster: &Cluster) {
    cluster.until_pools(3).await;
    cluster.until("healthy", |c| c.phase("pvc-1") == "Healthy" && c.replicas("pvc-1").len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn killed_at_every_request_of_making_a_volume() {
    // A run that is not killed tells how many requests there are.
    let mut cluster = Cluster::new(1, 3);
    cluster.claim("cstor-pool", 3);
    cluster.volume("pvc-1", 2);
    let operator = cluster.start();
    live_through(&cluster).await;
    let requests = u64::try_from(cluster.sim.requests("operator-1")).unwrap();
    operator.stop().await;
    assert!(requests > 30, "{requests}");
    for step in 1..=requests {
        let mut cluster = Cluster::new(1, 3);
        cluster.claim("cstor-pool", 3);
        cluster.volume("pvc-1", 2);
        let mut fault = Fault::nth(step).from("operator-1").freeze();
        if step % 2 == 0 {
            fault = fault.applied();
        }
        cluster.sim.fault(fault);
        let first = cluster.start();
        first.connection.frozen(Duration::from_secs(300)).await;
        first.kill().await;
        let second = cluster.start();
        live_through(&cluster).await;
        assert_eq!(cluster.world.violations(), Vec::<String>::new(), "killed at request {step}");
        assert_eq!(cluster.world.replica_count(), 2, "killed at request {step}");
        assert_eq!(cluster.pools().len(), 3, "killed at request {step}");
        second.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn killed_two_hundred_times_during_a_volumes_life() {
    for seed in 1..=4 {
        let mut numbers = Numbers(seed);
        let mut cluster = Cluster::new(seed, 4);
        cluster.claim("cstor-pool", 4);
        let mut operator = cluster.start();
        let mut exists: Vec<String> = Vec::new();
        for round in 0..50 {
            match numbers.below(6) {
                0 | 1 => {
                    let name = format!("pvc-{seed}-{round}");
                    cluster.volume(&name, 1 + i32::try_from(numbers.below(3)).unwrap());
                    exists.push(name);
                }
                2 if !exists.is_empty() => {
                    let name = exists.swap_remove(usize::try_from(numbers.below(exists.len() as u64)).unwrap());
                    cluster.sim.delete::<CStorVolume>(NAMESPACE, &name);
                }
                3 if !exists.is_empty() => {
                    let name = &exists[usize::try_from(numbers.below(exists.len() as u64)).unwrap()];
                    let wanted = 1 + i32::try_from(numbers.below(3)).unwrap();
                    cluster.sim.edit::<CStorVolume>(NAMESPACE, name, |v| v.spec.replication_factor = wanted).unwrap();
                }
                4 => {
                    let pools = cluster.pools();
                    for pool in &pools {
                        cluster.world.restart(pool.metadata.name.as_deref().unwrap());
                    }
                    if let Some(pool) = pools.get(usize::try_from(numbers.below(4)).unwrap()) {
                        cluster.world.stop(pool.metadata.name.as_deref().unwrap());
                    }
                }
                _ => {}
            }
            let applied = numbers.below(2) == 0;
            let fault = Fault::nth(1 + numbers.below(25)).writes().from(&format!("operator-{}", round + 1)).freeze();
            cluster.sim.fault(if applied { fault.applied() } else { fault });
            operator.connection.frozen(Duration::from_secs(20 + numbers.below(80))).await;
            operator.kill().await;
            cluster.sim.clear_faults();
            operator = cluster.start();
        }
        for pool in cluster.pools() {
            cluster.world.restart(pool.metadata.name.as_deref().unwrap());
        }
        let all_healthy = |c: &Cluster| exists.iter().all(|name| c.phase(name) == "Healthy");
        cluster.until("all volumes are healthy", all_healthy).await;
        for name in &exists {
            cluster.sim.delete::<CStorVolume>(NAMESPACE, name);
        }
        cluster.until("all volumes are gone", |c| c.sim.list::<CStorVolume>().is_empty()).await;
        cluster.until("all blocks are free", |c| c.world.replica_count() == 0).await;
        cluster.sim.collect();
        cluster.nothing_left();
        assert_eq!(cluster.world.violations(), Vec::<String>::new(), "seed {seed}");
        cluster.sim.delete::<StoragePoolClaim>("", "cstor-pool");
        cluster.until("the pools are gone", |c| c.pools().is_empty()).await;
        operator.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_in_trouble() {
    for seed in 9..15 {
        let mut cluster = Cluster::new(seed, 4);
        cluster.sim.fault(Fault::random(10).status(409).from("operator-1"));
        cluster.sim.fault(Fault::random(5).status(500).applied().from("operator-1"));
        cluster.sim.fault(Fault::random(5).status(429).from("operator-1"));
        cluster.sim.fault(Fault::random(5).disconnect().applied().from("operator-1"));
        let operator = cluster.start();
        cluster.claim("cstor-pool", 4);
        for number in 0..5 {
            cluster.volume(&format!("pvc-{number}"), 3);
        }
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_secs(7)).await;
            cluster.sim.close_watches();
            cluster.sim.lose_events(2);
        }
        cluster.sim.clear_faults();
        cluster.sim.lose_events(0);
        // What an event told that was lost is only seen by listing anew, as a real server enforces it from time to time.
        cluster.sim.expire_watches();
        cluster.until_pools(4).await;
        let all = |c: &Cluster| (0..5).all(|n| c.phase(&format!("pvc-{n}")) == "Healthy");
        cluster.until("all are healthy", all).await;
        assert_eq!(cluster.world.replica_count(), 15, "seed {seed}");
        assert_eq!(cluster.world.violations(), Vec::<String>::new(), "seed {seed}");
        operator.stop().await;
    }
}
