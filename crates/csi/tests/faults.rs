//! The provisioner under death, old caches, lost answers, and many claims at once.

#![allow(clippy::unwrap_used)]

mod cluster;

use std::time::Duration;

use ballast_api::k8s::CStorVolume;
use ballast_apisim::{Fault, Verb};
use cluster::{Cluster, MINUTE, SECOND, bound, empty, end, orphan, start};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// A claim is made; for `Retain` with a class of that policy.
fn claim(cluster: &Cluster, retain: bool) -> String {
    cluster.add_class("retain", |class| class["reclaimPolicy"] = json!("Retain"));
    let class = if retain { "retain" } else { "openebs-sparse-sc" };
    cluster.add_claim("a", |claim| claim["spec"]["storageClassName"] = json!(class))
}

/// Kills the first process at its n-th request, for each n until it is done before that, and lets a second one finish.
async fn killed_at_each_request(retain: bool) {
    let mut ends: Vec<(Vec<Value>, bool)> = Vec::new();
    for step in 1.. {
        let cluster = Cluster::new(1);
        let sim = &cluster.sim;
        let name = claim(&cluster, retain);
        sim.fault(Fault::nth(step).from("first").freeze());
        let first = start(sim, "first");
        // First half: the claim is bound, by the first or by the second process.
        let mut second = None;
        if !sim.until(30 * SECOND, |sim| bound(sim, "a")).await {
            assert!(first.connection.is_frozen(), "stuck without a fault at {step}");
            first.kill();
            second = Some(start(sim, "second"));
            assert!(cluster.until_bound("a").await, "killed at {step}");
        }
        sleep(5 * SECOND).await;
        let made = end(sim);
        assert_eq!((sim.list::<PersistentVolume>().len(), sim.list::<CStorVolume>().len()), (1, 1), "killed at {step}");
        // Second half: the claim is deleted.
        sim.delete::<PersistentVolumeClaim>("app", "a");
        let over = |sim: &ballast_apisim::ApiSim| {
            if retain { sim.list::<PersistentVolumeClaim>().is_empty() } else { empty(sim) }
        };
        if !sim.until(30 * SECOND, over).await {
            assert!(first.connection.is_frozen(), "stuck without a fault at {step}");
            first.kill();
            second = Some(start(sim, "second"));
            assert!(sim.until(20 * MINUTE, over).await, "killed at {step}");
        }
        sleep(5 * MINUTE).await;
        if retain {
            assert!(cluster.volume(&name).unwrap().metadata.deletion_timestamp.is_none(), "killed at {step}");
        }
        let died = first.connection.is_frozen();
        drop(second);
        ends.push((made, died));
        if !died {
            break;
        }
    }
    let (expected, _) = ends.last().unwrap();
    let deaths = ends.len() - 1;
    for (step, (made, _)) in ends.iter().enumerate() {
        assert_eq!(made, expected, "killed at {}", step + 1);
    }
    assert!(deaths > 20, "{deaths}");
}

#[tokio::test(start_paused = true)]
async fn killed_at_each_request_of_a_deleted_volume() {
    killed_at_each_request(false).await;
}

#[tokio::test(start_paused = true)]
async fn killed_at_each_request_of_a_retained_volume() {
    killed_at_each_request(true).await;
}

/// Each answer in turn is lost, or each request refused, after or instead of being carried out.
#[tokio::test(start_paused = true)]
async fn each_request_fails_once() {
    let outcomes: [fn(Fault) -> Fault; 5] = [
        |fault| fault.disconnect().applied(),
        |fault| fault.disconnect(),
        |fault| fault.status(409),
        |fault| fault.status(500).applied(),
        |fault| fault.status(429),
    ];
    for outcome in outcomes {
        for step in 1.. {
            let cluster = Cluster::new(1);
            let sim = &cluster.sim;
            claim(&cluster, false);
            sim.fault(outcome(Fault::nth(step).from("p")));
            let _process = start(sim, "p");
            assert!(cluster.until_bound("a").await, "request {step}");
            sim.delete::<PersistentVolumeClaim>("app", "a");
            assert!(cluster.until_empty().await, "request {step}");
            if sim.faults_struck() == 0 {
                assert!(step > 20);
                break;
            }
        }
    }
}

/// Everything at once, for many claims that come and go.
#[tokio::test(start_paused = true)]
async fn random_faults_and_restarts() {
    for seed in 0..25 {
        let cluster = Cluster::new(seed);
        let sim = &cluster.sim;
        sim.fault(Fault::random(10).from("p").disconnect().applied());
        sim.fault(Fault::random(10).from("p").status(500));
        sim.fault(Fault::random(5).from("p").writes().status(409));
        sim.fault(Fault::random(10).from("p").delay(3 * SECOND));
        sim.delay_watches(Duration::from_millis(700 * (seed % 3)));
        let mut process = start(sim, "p");
        for number in 0..8 {
            cluster.add_claim(&format!("c{number}"), |_| {});
            sleep(2 * SECOND).await;
            match number % 4 {
                0 => sim.close_watches(),
                1 => sim.expire_watches(),
                2 => {
                    process.kill();
                    process = start(sim, "p");
                }
                _ => {
                    // Some of them before they are made.
                    sim.delete::<PersistentVolumeClaim>("app", &format!("c{}", number - 3));
                    sim.delete::<PersistentVolumeClaim>("app", &format!("c{number}"));
                }
            }
        }
        let wanted = ["c1", "c2", "c5", "c6"];
        let all = |sim: &ballast_apisim::ApiSim| {
            wanted.iter().all(|claim| bound(sim, claim))
                && sim.list::<PersistentVolume>().len() == wanted.len()
                && sim.list::<CStorVolume>().len() == wanted.len()
        };
        assert!(sim.until(60 * MINUTE, all).await, "seed {seed}");
        wanted.iter().for_each(|claim| assert!(sim.delete::<PersistentVolumeClaim>("app", claim)));
        assert!(cluster.until_empty().await, "seed {seed}");
    }
}

/// Two at once, as for a moment when the lease changes hands.
#[tokio::test(start_paused = true)]
async fn two_do_no_harm() {
    let cluster = Cluster::new(1);
    let (_one, _two) = (start(&cluster.sim, "one"), start(&cluster.sim, "two"));
    for number in 0..10 {
        cluster.add_claim(&format!("c{number}"), |_| {});
    }
    for number in 0..10 {
        assert!(cluster.until_bound(&format!("c{number}")).await);
    }
    sleep(MINUTE).await;
    assert_eq!(cluster.sim.list::<PersistentVolume>().len(), 10);
    assert_eq!(cluster.sim.list::<CStorVolume>().len(), 10);
    for number in 0..10 {
        cluster.sim.delete::<PersistentVolumeClaim>("app", &format!("c{number}"));
    }
    assert!(cluster.until_empty().await);
}

/// A hundred claims with answers that take 50 ms each: the work flows, 16 at a time.
#[tokio::test(start_paused = true)]
async fn a_hundred_claims_at_once() {
    let cluster = Cluster::new(1);
    let sim = &cluster.sim;
    let _process = start(sim, "p");
    sleep(SECOND).await;
    sim.fault(Fault::every(1).from("p").delay(Duration::from_millis(50)));
    // One that does not get on holds up nobody.
    cluster.add_claim("stuck", |claim| claim["spec"]["accessModes"] = json!(["ReadWriteMany"]));
    let began = Instant::now();
    for number in 0..100 {
        cluster.add_claim(&format!("c{number}"), |_| {});
    }
    let all = |sim: &ballast_apisim::ApiSim| (0..100).all(|number| bound(sim, &format!("c{number}")));
    assert!(sim.until(10 * MINUTE, all).await);
    let took = began.elapsed();
    assert!(took < 8 * SECOND, "{took:?}");
    let requests = sim.requests("p");
    assert!(requests < 2_000, "{requests}");
    let began = Instant::now();
    for number in 0..100 {
        sim.delete::<PersistentVolumeClaim>("app", &format!("c{number}"));
    }
    assert!(cluster.until_empty().await);
    let took = began.elapsed();
    assert!(took < 10 * SECOND, "{took:?}");
}

/// A volume that takes long to go holds up no other.
#[tokio::test(start_paused = true)]
async fn slow_deletions_hold_up_nobody() {
    let cluster = Cluster::new(1);
    let sim = &cluster.sim;
    let _process = start(sim, "p");
    let slow: Vec<String> = (0..20).map(|number| cluster.add_claim(&format!("s{number}"), |_| {})).collect();
    for (number, name) in slow.iter().enumerate() {
        assert!(cluster.until_bound(&format!("s{number}")).await);
        let hold = |volume: &mut CStorVolume| volume.finalizers_mut().push("test/held".into());
        sim.edit("openebs", name, hold).unwrap();
        sim.delete::<PersistentVolumeClaim>("app", &format!("s{number}"));
    }
    sleep(SECOND).await;
    cluster.add_claim("quick", |_| {});
    assert!(sim.until(2 * SECOND, |sim| bound(sim, "quick")).await);
    for name in &slow {
        assert!(cluster.persistent(name).is_some());
        sim.edit("openebs", name, |volume: &mut CStorVolume| volume.finalizers_mut().clear()).unwrap();
    }
    assert!(sim.until(MINUTE, |sim| sim.list::<PersistentVolume>().len() == 1).await);
}

/// The cache still shows the policy Delete when an administrator has already said Retain.
#[tokio::test(start_paused = true)]
async fn an_old_cache_deletes_nothing() {
    let cluster = Cluster::new(1);
    let sim = &cluster.sim;
    let _process = start(sim, "p");
    let name = cluster.add_claim("a", |_| {});
    assert!(cluster.until_bound("a").await);
    sleep(SECOND).await;
    sim.delay_watches(5 * SECOND);
    sim.delete::<PersistentVolumeClaim>("app", "a");
    let released = |sim: &ballast_apisim::ApiSim| {
        let volume: PersistentVolume = sim.get("", &name).unwrap();
        volume.status.unwrap().phase.as_deref() == Some("Released")
    };
    assert!(sim.until(MINUTE, released).await);
    sleep(SECOND).await;
    let retain = |volume: &mut PersistentVolume| {
        volume.spec.get_or_insert_default().persistent_volume_reclaim_policy = Some("Retain".into());
    };
    sim.edit("", &name, retain).unwrap();
    sleep(10 * MINUTE).await;
    assert!(cluster.volume(&name).unwrap().metadata.deletion_timestamp.is_none());
}

/// The watch of the claims lost one that is there: its volume only looks alone.
#[tokio::test(start_paused = true)]
async fn a_lost_claim_loses_no_volume() {
    let cluster = Cluster::new(1);
    let sim = &cluster.sim;
    let _process = start(sim, "p");
    sleep(SECOND).await;
    sim.lose_events(1);
    let name = cluster.add_claim("a", |claim| claim["spec"]["storageClassName"] = json!(""));
    sleep(SECOND).await;
    let of_a =
        |volume: &mut Value| volume["metadata"]["annotations"]["openebs.io/persistent-volume-claim"] = json!("a");
    sim.insert(&orphan(&name, of_a)).unwrap();
    sleep(10 * MINUTE).await;
    assert!(cluster.volume(&name).unwrap().metadata.deletion_timestamp.is_none());
    sim.delete::<PersistentVolumeClaim>("app", "a");
    assert!(cluster.until_empty().await);
}

/// Events that watches lose are made up for when they list again.
#[tokio::test(start_paused = true)]
async fn lost_events() {
    let cluster = Cluster::new(1);
    let sim = &cluster.sim;
    let _process = start(sim, "p");
    sleep(SECOND).await;
    for lost in 1..12 {
        let claim = format!("c{lost}");
        sim.lose_events(lost);
        cluster.add_claim(&claim, |_| {});
        sleep(2 * MINUTE).await;
        sim.lose_events(0);
        sim.expire_watches();
        assert!(cluster.until_bound(&claim).await, "{lost} lost");
        sim.lose_events(lost);
        sim.delete::<PersistentVolumeClaim>("app", &claim);
        sleep(2 * MINUTE).await;
        sim.lose_events(0);
        sim.expire_watches();
        assert!(cluster.until_empty().await, "{lost} lost");
    }
}

/// A provisioner whose role lacks something says so on the claim.
#[tokio::test(start_paused = true)]
async fn a_missing_right_is_told() {
    let cluster = Cluster::new(1);
    cluster.sim.fault(Fault::first(5).on(Verb::Create).kind("cstorvolumes").status(403));
    let _process = start(&cluster.sim, "p");
    cluster.add_claim("a", |_| {});
    assert!(cluster.until_told("check its role").await);
    assert!(cluster.until_bound("a").await);
    let warnings = cluster.sim.list::<Event>().into_iter().filter(|event| event.type_.as_deref() == Some("Warning"));
    assert_eq!(warnings.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_stops_when_told_also_before_it_began() {
    let cluster = Cluster::new(1);
    let process = start(&cluster.sim, "p");
    process.connection.cut();
    sleep(MINUTE).await;
    process.stop().await;
    let process = start(&cluster.sim, "q");
    cluster.add_claim("a", |_| {});
    assert!(cluster.until_bound("a").await);
    process.stop().await;
}
