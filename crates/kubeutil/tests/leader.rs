//! One leader at a time, whatever happens to processes and to the API server.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ballast_apisim::{ApiSim, Connection, Fault};
use ballast_kubeutil::lease::{Ended, LeaseOptions, lead};
use ballast_kubeutil::{Reporter, Stop, write};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ObjectMeta};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

/// Who leads, and whether there ever were two.
#[derive(Clone, Default)]
struct Throne {
    sitting: Arc<AtomicUsize>,
    names: Arc<Mutex<Vec<String>>>,
}

struct Seat(Throne);

impl Throne {
    fn sit(&self, name: &str) -> Seat {
        assert_eq!(self.sitting.fetch_add(1, Ordering::SeqCst), 0, "two leaders");
        self.names.lock().unwrap().push(name.to_owned());
        Seat(self.clone())
    }

    fn names(&self) -> Vec<String> {
        self.names.lock().unwrap().clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.sitting.fetch_sub(1, Ordering::SeqCst);
    }
}

fn start(sim: &ApiSim, name: &str, throne: &Throne, stop: Stop) -> (Connection, JoinHandle<Ended<&'static str>>) {
    let connection = sim.connect(name);
    let (client, throne, options) = (connection.client(), throne.clone(), LeaseOptions::new("default", "l", name));
    let task = tokio::spawn(async move {
        let name = options.identity.clone();
        lead(client, &options, stop.requested(), |stop| async move {
            let _seat = throne.sit(&name);
            stop.requested().await;
            "stopped"
        })
        .await
    });
    (connection, task)
}

fn holder(sim: &ApiSim) -> String {
    let lease: Option<Lease> = sim.get("default", "l");
    lease.and_then(|lease| lease.spec).and_then(|spec| spec.holder_identity).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_gives_the_lease_back() {
    let (sim, throne) = (ApiSim::default(), Throne::default());
    let (stop_a, a_stop) = Stop::pair();
    let (stop_b, b_stop) = Stop::pair();
    let (_, a) = start(&sim, "a", &throne, a_stop);
    sleep(SECOND).await;
    let (_, b) = start(&sim, "b", &throne, b_stop);
    // Not just when b looks.
    sleep(60 * SECOND + SECOND / 2).await;
    assert_eq!((holder(&sim).as_str(), throne.names()), ("a", vec!["a".to_owned()]));
    stop_a.stop();
    assert_eq!(a.await.unwrap(), Ended::Done("stopped"));
    assert_eq!(holder(&sim), "");
    // At the next look, not after the lease's time.
    sleep(3 * SECOND).await;
    assert_eq!(holder(&sim), "b");
    let lease: Lease = sim.get("default", "l").unwrap();
    assert_eq!(lease.spec.unwrap().lease_transitions, Some(2));
    stop_b.stop();
    assert_eq!(b.await.unwrap(), Ended::Done("stopped"));
}

#[tokio::test(start_paused = true)]
async fn one_that_never_led_just_ends() {
    let (sim, throne) = (ApiSim::default(), Throne::default());
    let (_hold, a_stop) = Stop::pair();
    let (stop_b, b_stop) = Stop::pair();
    let (_, a) = start(&sim, "a", &throne, a_stop);
    sleep(SECOND).await;
    let (_, b) = start(&sim, "b", &throne, b_stop);
    sleep(10 * SECOND).await;
    stop_b.stop();
    assert_eq!(b.await.unwrap(), Ended::NeverLed);
    assert_eq!(holder(&sim), "a");
    a.abort();
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_is_followed_after_its_lease() {
    let (sim, throne) = (ApiSim::default(), Throne::default());
    let (_hold, stop) = Stop::pair();
    let (_, a) = start(&sim, "a", &throne, stop.clone());
    sleep(5 * SECOND).await;
    a.abort();
    let died = Instant::now();
    let (_, b) = start(&sim, "b", &throne, stop);
    assert!(sim.until(60 * SECOND, |sim| holder(sim) == "b").await);
    assert!((15 * SECOND..20 * SECOND).contains(&died.elapsed()), "{:?}", died.elapsed());
    b.abort();
}

/// The leader cannot reach the server, or hears no answers: it stops before another one begins (`Throne` panics else).
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_stops_in_time() {
    for dead in [false, true] {
        let (sim, throne) = (ApiSim::default(), Throne::default());
        let (_hold, stop) = Stop::pair();
        let (connection, a) = start(&sim, "a", &throne, stop.clone());
        sleep(SECOND).await;
        let (_, b) = start(&sim, "b", &throne, stop);
        sleep(20 * SECOND).await;
        if dead {
            connection.freeze()
        } else {
            connection.cut()
        }
        let cut = Instant::now();
        assert_eq!(a.await.unwrap(), Ended::Lost);
        assert!(cut.elapsed() <= 10 * SECOND);
        assert!(sim.until(60 * SECOND, |sim| holder(sim) == "b").await);
        sleep(SECOND).await;
        assert_eq!(throne.names(), ["a", "b"]);
        b.abort();
    }
}

/// Many candidates, lost requests, lost answers, deaths: never two.
#[tokio::test(start_paused = true)]
async fn never_two_under_faults() {
    for seed in 0..30 {
        let (sim, throne) = (ApiSim::new(seed), Throne::default());
        sim.fault(Fault::random(10).disconnect().applied());
        sim.fault(Fault::random(10).status(500));
        sim.fault(Fault::random(5).delay(7 * SECOND));
        let (_hold, stop) = Stop::pair();
        let mut tasks = Vec::new();
        for number in 0..4 {
            tasks.push(start(&sim, &format!("p{number}"), &throne, stop.clone()));
        }
        for round in 0..20 {
            sleep(30 * SECOND).await;
            let (connection, task) = &tasks[tasks.len() - 4 + round % 4];
            if round % 2 == 0 {
                connection.freeze()
            } else {
                task.abort()
            }
            let name = format!("p{}", tasks.len());
            tasks.push(start(&sim, &name, &throne, stop.clone()));
        }
        sleep(30 * SECOND).await;
        assert!(throne.names().len() >= 3, "seed {seed}: {:?}", throne.names());
        tasks.iter().for_each(|(_, task)| task.abort());
        for (_, task) in tasks {
            // A panic is two leaders.
            assert!(!task.await.is_err_and(|error| error.is_panic()), "seed {seed}");
        }
    }
}

fn map(sim: &ApiSim) -> ConfigMap {
    let metadata = ObjectMeta { name: Some("m".into()), namespace: Some("default".into()), ..Default::default() };
    sim.insert(&ConfigMap { metadata, ..Default::default() }).unwrap()
}

#[tokio::test(start_paused = true)]
async fn events_say_each_thing_once() {
    let sim = ApiSim::default();
    let object = map(&sim);
    let reporter = Reporter::new(sim.client("test"), "openebs.io/test", "pod");
    for _ in 0..3 {
        reporter.warning(&object, "Failed", "one").await;
    }
    reporter.warning(&object, "Failed", "two").await;
    let notes = || sim.list::<Event>().iter().map(|event| event.note.clone().unwrap()).collect::<Vec<_>>();
    let mut said = notes();
    said.sort();
    assert_eq!(said, ["one", "two"]);
    sleep(601 * SECOND).await;
    reporter.warning(&object, "Failed", "one").await;
    assert_eq!(notes().len(), 2);
    assert_eq!(
        sim.list::<Event>().iter().filter_map(|event| event.series.as_ref()).map(|series| series.count).sum::<i32>(),
        2
    );
    // The server forgets events; so is a failure to write one.
    sim.list::<Event>().iter().for_each(|event| {
        sim.delete::<Event>("default", event.metadata.name.as_ref().unwrap());
    });
    sleep(601 * SECOND).await;
    sim.fault(Fault::first(1).status(500));
    reporter.warning(&object, "Failed", "one").await;
    assert!(notes().is_empty());
    reporter.warning(&object, "Failed", "one").await;
    assert_eq!(notes(), ["one"]);
}

#[tokio::test(start_paused = true)]
async fn finalizers_go_on_and_off_what_was_read() {
    let sim = ApiSim::default();
    let api: Api<ConfigMap> = Api::namespaced(sim.client("test"), "default");
    let object = map(&sim);
    write::add_finalizer(&api, &object, "x/y").await.unwrap();
    assert!(write::is_status(&write::add_finalizer(&api, &object, "x/z").await, 409));
    let object = api.get("m").await.unwrap();
    write::add_finalizer(&api, &object, "x/y").await.unwrap();
    assert_eq!(object.metadata.finalizers, Some(vec!["x/y".to_owned()]));
    sim.delete::<ConfigMap>("default", "m");
    let object = api.get("m").await.unwrap();
    write::remove_finalizer(&api, &object, "x/y").await.unwrap();
    assert!(sim.get::<ConfigMap>("default", "m").is_none());
    write::remove_finalizer(&api, &object, "x/y").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_apply_is_sent_again_after_conflicts() {
    let sim = ApiSim::default();
    let api: Api<ConfigMap> = Api::namespaced(sim.client("test"), "default");
    let applier = write::Applier::new("test");
    let config = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}});
    sim.fault(Fault::first(3).status(409));
    applier.apply(&api, "m", &config).await.unwrap();
    sim.clear_faults();
    sim.fault(Fault::first(4).status(409));
    assert!(write::is_status(&applier.apply(&api, "m", &config).await, 409));
}
