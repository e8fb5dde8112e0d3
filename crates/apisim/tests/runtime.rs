//! What is built on the objects: watches, reflectors, controllers, events, and what the fault plan does to them.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use ballast_apisim::{ApiSim, Connection, Fault, Verb};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::controller::Action;
use kube::runtime::{Controller, WatchStreamExt as _, reflector, watcher};
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);

fn map(name: &str) -> ConfigMap {
    let metadata = ObjectMeta { name: Some(name.into()), namespace: Some("default".into()), ..Default::default() };
    ConfigMap { metadata, ..Default::default() }
}

fn put(sim: &ApiSim, name: &str, value: &str) {
    let data = [("k".to_owned(), value.to_owned())].into();
    sim.insert(&ConfigMap { data: Some(data), ..map(name) }).unwrap();
}

fn label(sim: &ApiSim, name: &str, value: Option<&str>) {
    let labels = value.map(|value| [("l".to_owned(), value.to_owned())].into());
    assert!(sim.edit("default", name, |map: &mut ConfigMap| map.metadata.labels = labels).unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_watch_follows_and_resumes() {
    let sim = ApiSim::default();
    let maps: Api<ConfigMap> = Api::namespaced(sim.client("test"), "default");
    put(&sim, "a", "1");
    let from = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    put(&sim, "b", "1");
    put(&sim, "a", "2");
    label(&sim, "a", Some("x"));
    label(&sim, "a", None);
    sim.delete::<ConfigMap>("default", "b");
    let show = |event: Result<WatchEvent<ConfigMap>, kube::Error>| match event.unwrap() {
        WatchEvent::Added(map) => format!("+{}", map.name_any()),
        WatchEvent::Modified(map) => format!("~{}", map.name_any()),
        WatchEvent::Deleted(map) => format!("-{}", map.name_any()),
        WatchEvent::Bookmark(mark) => format!("={}", mark.metadata.resource_version),
        WatchEvent::Error(status) => format!("!{}", status.code),
    };
    let watch = |params: WatchParams, from: String| {
        let maps = maps.clone();
        async move { maps.watch(&params.timeout(90), &from).await.unwrap().map(show).collect::<Vec<_>>().await }
    };
    let all = watch(WatchParams::default(), from.clone()).await;
    // A minute without anything brings a bookmark.
    assert_eq!(all[..5], ["+b", "~a", "~a", "~a", "-b"]);
    assert!(all.len() == 6 && all[5].starts_with('='), "{all:?}");
    assert_eq!(watch(WatchParams::default().labels("l=x").disable_bookmarks(), from.clone()).await, ["+a", "-a"]);
    let initial = watch(WatchParams::streaming_lists(), "0".into()).await;
    assert_eq!(initial[0], "+a");
    assert!(initial[1].starts_with('='));
    sim.expire_watches();
    assert_eq!(watch(WatchParams::default(), from).await, ["!410"]);
}

/// Whatever happens to watches, a reflector comes to hold what there is.
#[tokio::test(start_paused = true)]
async fn a_reflector_survives_its_watches() {
    for streaming in [false, true] {
        let sim = ApiSim::default();
        let connection = sim.connect("test");
        let maps: Api<ConfigMap> = Api::all(connection.client());
        let config = if streaming { watcher::Config::default().streaming_lists() } else { watcher::Config::default() };
        let (reader, writer) = reflector::store();
        let stream = watcher(maps, config).default_backoff().reflect(writer);
        let follower = tokio::spawn(stream.for_each(|_| async {}));
        let holds = || {
            let reader = reader.clone();
            let sim = sim.clone();
            move || {
                let mut state: Vec<_> = reader.state().iter().map(|map| (map.name_any(), map.data.clone())).collect();
                state.sort();
                let wanted: Vec<_> =
                    sim.list::<ConfigMap>().iter().map(|map| (map.name_any(), map.data.clone())).collect();
                state == wanted
            }
        };
        let holds = holds();
        let come = || async {
            for _ in 0..1000 {
                if holds() {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            false
        };
        put(&sim, "a", "1");
        assert!(come().await, "first list");
        put(&sim, "a", "2");
        put(&sim, "b", "1");
        assert!(come().await, "watch");
        sim.close_watches();
        sim.delete::<ConfigMap>("default", "b");
        assert!(come().await, "resumed");
        sim.expire_watches();
        put(&sim, "c", "1");
        assert!(come().await, "listed again");
        connection.cut();
        put(&sim, "c", "2");
        assert!(!come().await, "cut");
        connection.restore();
        assert!(come().await, "restored");
        sim.hold_watches(true);
        put(&sim, "c", "3");
        assert!(!come().await, "held");
        sim.hold_watches(false);
        assert!(come().await, "released");
        sim.lose_events(1);
        put(&sim, "d", "1");
        put(&sim, "e", "1");
        assert!(!come().await, "an event is lost");
        sim.expire_watches();
        assert!(come().await, "found when listed again");
        sim.delay_watches(Duration::from_secs(5));
        put(&sim, "f", "1");
        assert!(!holds());
        assert!(come().await, "late");
        follower.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn faults_strike_where_they_are_told_to() {
    let sim = ApiSim::default();
    let maps: Api<ConfigMap> = Api::namespaced(sim.client("test"), "default");
    let code = |result: Result<ConfigMap, kube::Error>| match result {
        Ok(_) => 0,
        Err(kube::Error::Api(status)) => status.code,
        Err(_) => 1,
    };
    let post = PostParams::default();
    sim.fault(Fault::nth(2).on(Verb::Create).status(503));
    sim.fault(Fault::nth(3).on(Verb::Create).status(504).applied());
    sim.fault(Fault::first(1).on(Verb::Get).named("b").disconnect());
    assert_eq!(code(maps.create(&post, &map("a")).await), 0);
    assert_eq!(code(maps.create(&post, &map("b")).await), 503);
    assert!(sim.get::<ConfigMap>("default", "b").is_none());
    assert_eq!(code(maps.create(&post, &map("b")).await), 504);
    assert!(sim.get::<ConfigMap>("default", "b").is_some());
    assert_eq!(code(maps.create(&post, &map("b")).await), 409);
    assert_eq!(code(maps.get("a").await), 0);
    assert_eq!(code(maps.get("b").await), 1);
    assert_eq!(code(maps.get("b").await), 0);
    assert_eq!(sim.faults_struck(), 3);
    let log = sim.log();
    let answers: Vec<_> = log.iter().map(|entry| (entry.code, entry.applied)).collect();
    let expected = [
        (Some(201), true),
        (Some(503), false),
        (Some(504), true),
        (Some(409), false),
        (Some(200), true),
        (None, false),
    ];
    assert_eq!(answers[..6], expected);
    sim.clear_faults();

    sim.fault(Fault::every(1).delay(MINUTE));
    let before = tokio::time::Instant::now();
    assert_eq!(code(maps.get("a").await), 0);
    assert!(before.elapsed() >= MINUTE);
    sim.clear_faults();

    // The third request of a dying client and all later ones are never heard of.
    let connection = sim.connect("dying");
    let maps: Api<ConfigMap> = Api::namespaced(connection.client(), "default");
    sim.fault(Fault::nth(3).from("dying").freeze());
    for name in ["c", "d"] {
        maps.create(&post, &map(name)).await.unwrap();
    }
    assert!(!connection.is_frozen());
    assert!(tokio::time::timeout(MINUTE, maps.create(&post, &map("e"))).await.is_err());
    assert!(connection.is_frozen());
    assert!(tokio::time::timeout(MINUTE, maps.get("c")).await.is_err());
    assert!(sim.get::<ConfigMap>("default", "e").is_none());
    assert_eq!(sim.requests("dying"), 2);
}

/// For each map without label, a copy under another name, and a note that it was made: two writes.
fn copier(connection: &Connection) -> tokio::task::JoinHandle<()> {
    let client = connection.client();
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let reconcile = |map: Arc<ConfigMap>, api: Arc<Api<ConfigMap>>| async move {
        let note = map.annotations().get("copied");
        if map.name_any().ends_with("-copy") || note.is_some() {
            return Ok(Action::await_change());
        }
        let name = format!("{}-copy", map.name_any());
        let copy = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": map.data,
            "metadata": {"name": name, "ownerReferences": [map.controller_owner_ref(&())]},
        });
        api.patch(&name, &PatchParams::apply("copier").force(), &Patch::Apply(copy)).await?;
        let note = json!({"metadata": {"annotations": {"copied": "yes"}}});
        api.patch(&map.name_any(), &PatchParams::default(), &Patch::Merge(note)).await?;
        Ok::<_, kube::Error>(Action::await_change())
    };
    let again = |_: Arc<ConfigMap>, _: &kube::Error, _: Arc<Api<ConfigMap>>| Action::requeue(Duration::from_secs(1));
    let controller =
        Controller::new(api.clone(), watcher::Config::default()).owns(api.clone(), watcher::Config::default());
    tokio::spawn(controller.run(reconcile, again, Arc::new(api)).for_each(|_| async {}))
}

fn copied(sim: &ApiSim) -> bool {
    let maps = sim.list::<ConfigMap>();
    let copies = maps.iter().filter(|map| map.name_any().ends_with("-copy")).count();
    copies == 3 && maps.iter().filter(|map| map.annotations().contains_key("copied")).count() == 3
}

#[tokio::test(start_paused = true)]
async fn a_controller_comes_to_the_same_end_wherever_it_is_killed() {
    let mut end = Vec::new();
    let mut deaths = 0;
    for step in 0.. {
        let sim = ApiSim::default();
        ["a", "b", "c"].into_iter().for_each(|name| put(&sim, name, "1"));
        let first = sim.connect("first");
        if step > 0 {
            sim.fault(Fault::nth(step).from("first").freeze());
        }
        let task = copier(&first);
        let done = sim.until(MINUTE, copied).await;
        task.abort();
        if step > 0 && first.is_frozen() {
            deaths += 1;
            let second = copier(&sim.connect("second"));
            assert!(sim.until(MINUTE, copied).await, "killed at request {step}");
            second.abort();
        } else {
            assert!(done);
        }
        let snapshot = sim.snapshot(&["configmaps"]);
        if step == 0 {
            end = snapshot;
        } else {
            assert_eq!(snapshot.len(), end.len(), "killed at request {step}");
            if !first.is_frozen() {
                break;
            }
        }
    }
    assert!(deaths >= 10, "{deaths}");
}

#[tokio::test(start_paused = true)]
async fn a_controller_outlives_random_faults() {
    let mut struck = 0;
    for seed in 0..20 {
        let sim = ApiSim::new(seed);
        ["a", "b", "c"].into_iter().for_each(|name| put(&sim, name, "1"));
        sim.fault(Fault::random(20).status(500));
        sim.fault(Fault::random(20).disconnect().applied());
        let task = copier(&sim.connect("copier"));
        assert!(sim.until(10 * MINUTE, copied).await, "seed {seed}");
        struck += sim.faults_struck();
        task.abort();
    }
    assert!(struck > 40, "{struck}");
}

#[tokio::test(start_paused = true)]
async fn settled_is_when_nobody_asks() {
    let sim = ApiSim::default();
    ["a", "b", "c"].into_iter().for_each(|name| put(&sim, name, "1"));
    let task = copier(&sim.connect("copier"));
    assert!(sim.settle(Duration::from_secs(5)).await);
    assert!(copied(&sim));
    task.abort();
    let maps: Api<ConfigMap> = Api::namespaced(sim.client("restless"), "default");
    let restless = tokio::spawn(async move {
        loop {
            let _ = maps.get_opt("a").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    assert!(!sim.settle(Duration::from_secs(5)).await);
    restless.abort();
}

/// One seed, one run: on a stopped clock and one thread.
#[tokio::test(start_paused = true)]
async fn one_seed_one_run() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let sim = ApiSim::starting_at(7, "2026-01-01T00:00:00Z".parse().unwrap());
        sim.fault(Fault::random(20).writes().status(500));
        let maps: Api<ConfigMap> = Api::namespaced(sim.client("test"), "default");
        for number in 0..20 {
            let mut map = map("");
            map.metadata.name = None;
            map.metadata.generate_name = Some(format!("m{number}-"));
            let _ = maps.create(&PostParams::default(), &map).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        runs.push((serde_json::to_value(sim.list::<ConfigMap>()).unwrap(), sim.log()));
    }
    assert!(runs[0].1.iter().any(|entry| entry.code == Some(500)));
    assert_eq!(runs[0], runs[1]);
}

#[tokio::test(start_paused = true)]
async fn events_can_be_recorded() {
    let sim = ApiSim::default();
    put(&sim, "a", "1");
    let object = sim.get::<ConfigMap>("default", "a").unwrap();
    let recorder = kube::runtime::events::Recorder::new(sim.client("test"), "tester".into());
    let event = kube::runtime::events::Event {
        type_: kube::runtime::events::EventType::Warning,
        reason: "Because".into(),
        note: Some("do this".into()),
        action: "Test".into(),
        secondary: None,
    };
    for _ in 0..2 {
        recorder.publish(&event, &object.object_ref(&())).await.unwrap();
    }
    let events = sim.list::<k8s_openapi::api::events::v1::Event>();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].series.as_ref().unwrap().count, 2);
}
