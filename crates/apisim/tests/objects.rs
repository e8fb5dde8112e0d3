//! The objects as a real client sees them: versions, subresources, apply, deletion, selectors.

#![allow(clippy::unwrap_used)]

use ballast_api::k8s::CStorVolume;
use ballast_apisim::ApiSim;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolume, Pod, Service};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::{Error, ResourceExt as _};
use serde_json::{Value, json};

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> u16 {
    match result {
        Err(Error::Api(status)) => status.code,
        other => panic!("no refusal: {other:?}"),
    }
}

fn map(name: &str, more: Value) -> ConfigMap {
    let mut object = json!({"metadata": {"name": name}});
    object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(object).unwrap()
}

fn volume(name: &str) -> Value {
    json!({
        "apiVersion": "openebs.io/v1alpha1", "kind": "CStorVolume", "metadata": {"name": name},
        "spec": {"capacity": "1Gi", "replicationFactor": 3},
    })
}

#[tokio::test(start_paused = true)]
async fn create_read_replace_delete() {
    let sim = ApiSim::default();
    let maps: Api<ConfigMap> = Api::namespaced(sim.client("test"), "default");
    let post = PostParams::default();
    let made = maps.create(&post, &map("a", json!({"data": {"k": "1"}}))).await.unwrap();
    assert!(made.uid().is_some() && made.creation_timestamp().is_some());
    assert_eq!(made.namespace().as_deref(), Some("default"));
    assert_eq!(code(maps.create(&post, &map("a", json!({}))).await), 409);
    assert_eq!(code(maps.create(&post, &map("Not a name", json!({}))).await), 422);
    let long = "x".repeat(64);
    assert_eq!(
        code(maps.create(&post, &map("l", json!({"metadata": {"name": "l", "labels": {"a": long}}}))).await),
        422
    );
    let elsewhere: Api<ConfigMap> = Api::namespaced(sim.client("test"), "nowhere");
    assert_eq!(code(elsewhere.create(&post, &map("a", json!({}))).await), 404);

    let generated = json!({"metadata": {"generateName": "g-"}});
    let (one, two) = (map("", generated.clone()), map("", generated));
    let (one, two) = (maps.create(&post, &one).await.unwrap(), maps.create(&post, &two).await.unwrap());
    assert!(one.name_any().starts_with("g-") && one.name_any().len() == 7 && one.name_any() != two.name_any());
    assert_eq!(code(maps.create(&post, &map("", json!({"metadata": {"generateName": "g."}}))).await), 422);

    let mut first = made.clone();
    first.data.as_mut().unwrap().insert("k".into(), "2".into());
    let changed = maps.replace("a", &post, &first).await.unwrap();
    assert_ne!(changed.resource_version(), made.resource_version());
    assert_eq!(code(maps.replace("a", &post, &first).await), 409);
    // What changes nothing is no change.
    let same = maps.replace("a", &post, &changed).await.unwrap();
    assert_eq!(same.resource_version(), changed.resource_version());

    let stale = json!({"metadata": {"resourceVersion": made.resource_version()}, "data": {"k": "3"}});
    assert_eq!(code(maps.patch("a", &PatchParams::default(), &Patch::Merge(stale)).await), 409);
    let patched = json!({"data": {"k": null, "l": "1"}});
    let patched = maps.patch("a", &PatchParams::default(), &Patch::Merge(patched)).await.unwrap();
    assert_eq!(patched.data.unwrap().into_iter().collect::<Vec<_>>(), [("l".to_owned(), "1".to_owned())]);

    let wrong_uid =
        DeleteParams::default().preconditions(kube::api::Preconditions { uid: Some("x".into()), ..Default::default() });
    assert_eq!(code(maps.delete("a", &wrong_uid).await), 409);
    assert!(maps.delete("a", &DeleteParams::default()).await.unwrap().is_right());
    assert_eq!(code(maps.get("a").await), 404);
    assert!(maps.get_opt("a").await.unwrap().is_none());
    assert_eq!(code(maps.delete("a", &DeleteParams::default()).await), 404);
}

#[tokio::test(start_paused = true)]
async fn the_status_is_apart() {
    let sim = ApiSim::default();
    let client = sim.client("test");
    let volumes: Api<CStorVolume> = Api::namespaced(client.clone(), "default");
    let apply = PatchParams::apply("test").force();
    let made = volumes.patch("v", &apply, &Patch::Apply(volume("v"))).await.unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    let status = json!({"spec": {"capacity": "9Gi"}, "status": {"phase": "Healthy", "formed": true}});
    let after = volumes.patch_status("v", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    assert_eq!(after.spec.capacity, "1Gi");
    assert!(after.status.unwrap().formed);
    assert_eq!(after.metadata.generation, Some(1));
    let both = json!({"spec": {"capacity": "2Gi"}, "status": {"formed": false}});
    let after = volumes.patch("v", &PatchParams::default(), &Patch::Merge(&both)).await.unwrap();
    assert!(after.status.as_ref().unwrap().formed);
    assert_eq!((after.spec.capacity.as_str(), after.metadata.generation), ("2Gi", Some(2)));
    let mut whole = after.clone();
    whole.status = None;
    let after = volumes.replace("v", &PostParams::default(), &whole).await.unwrap();
    assert!(after.status.unwrap().formed);
    whole.metadata.resource_version = None;
    assert_eq!(code(volumes.replace("v", &PostParams::default(), &whole).await), 422);
    // Not for built-in kinds.
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    maps.create(&PostParams::default(), &map("a", json!({}))).await.unwrap();
    maps.replace("a", &PostParams::default(), &map("a", json!({"data": {}}))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn apply() {
    let sim = ApiSim::default();
    let client = sim.client("test");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let config = |containers: &[&str], more: Value| {
        let containers: Vec<Value> = containers
            .iter()
            .map(|name| json!({"name": name, "image": "i", "ports": [{"containerPort": 1}, {"containerPort": 1, "protocol": "UDP"}]}))
            .collect();
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "1"}},
            "spec": {"selector": {"matchLabels": {"x": "y"}}, "template": {"spec": {"containers": containers}}},
        });
        object["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object
    };
    let one = PatchParams::apply("one");
    let made = deployments.patch("d", &one, &Patch::Apply(config(&["b", "a"], json!({"replicas": 2})))).await.unwrap();
    let same = deployments.patch("d", &one, &Patch::Apply(config(&["b", "a"], json!({"replicas": 2})))).await.unwrap();
    assert_eq!(made.resource_version(), same.resource_version());
    let names = |deployment: &Deployment| -> Vec<String> {
        let pod = deployment.spec.template.spec.as_ref().unwrap();
        pod.containers.iter().map(|container| container.name.clone()).collect()
    };
    assert_eq!(names(&made), ["b", "a"]);
    let two = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "j"}]}}},
    });
    deployments.patch("d", &PatchParams::apply("two"), &Patch::Apply(&two)).await.unwrap();
    // Without replicas and container b: both go, the other manager's stays.
    let after = deployments.patch("d", &one, &Patch::Apply(config(&["a"], json!({})))).await.unwrap();
    assert_eq!(names(&after), ["a", "c"]);
    assert_eq!(after.spec.replicas, None);
    let mut clash = two.clone();
    clash["metadata"]["labels"] = json!({"a": "2"});
    assert_eq!(code(deployments.patch("d", &PatchParams::apply("two"), &Patch::Apply(&clash)).await), 409);
    let after = deployments.patch("d", &PatchParams::apply("two").force(), &Patch::Apply(&clash)).await.unwrap();
    assert_eq!(after.labels()["a"], "2");
    assert_eq!(code(deployments.patch("d", &PatchParams::default(), &Patch::Apply(&clash)).await), 400);

    // Applied at the same time to the object and its status, nothing is lost of either.
    let volumes: Api<CStorVolume> = Api::namespaced(client, "default");
    volumes.patch("v", &one, &Patch::Apply(volume("v"))).await.unwrap();
    let status = json!({"apiVersion": "openebs.io/v1alpha1", "kind": "CStorVolume", "status": {"phase": "Healthy"}});
    volumes.patch_status("v", &one, &Patch::Apply(&status)).await.unwrap();
    let after = volumes.patch("v", &one, &Patch::Apply(volume("v"))).await.unwrap();
    assert_eq!((after.status.unwrap().phase.as_str(), after.spec.capacity.as_str()), ("Healthy", "1Gi"));
    assert_eq!(code(volumes.patch_status("w", &one, &Patch::Apply(&status)).await), 404);
}

#[tokio::test(start_paused = true)]
async fn finalizers_hold_and_let_go() {
    let sim = ApiSim::default();
    let maps: Api<ConfigMap> = Api::namespaced(sim.client("test"), "default");
    let held = map("a", json!({"metadata": {"name": "a", "finalizers": ["x/y"]}}));
    maps.create(&PostParams::default(), &held).await.unwrap();
    let marked = maps.delete("a", &DeleteParams::default()).await.unwrap().left().unwrap();
    let time = marked.metadata.deletion_timestamp.clone();
    assert!(time.is_some());
    let again = maps.delete("a", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(again.metadata.resource_version, marked.metadata.resource_version);
    let more = json!({"metadata": {"finalizers": ["x/y", "x/z"]}});
    assert_eq!(code(maps.patch("a", &PatchParams::default(), &Patch::Merge(more)).await), 422);
    let none = json!({"metadata": {"finalizers": null}});
    maps.patch("a", &PatchParams::default(), &Patch::Merge(none)).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

fn owned(name: &str, owners: &[&ConfigMap]) -> ConfigMap {
    let owners: Vec<Value> = owners
        .iter()
        .map(|owner| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid(), "blockOwnerDeletion": true}))
        .collect();
    map(name, json!({"metadata": {"name": name, "ownerReferences": owners}}))
}

#[tokio::test(start_paused = true)]
async fn what_has_no_owner_goes() {
    let sim = ApiSim::default();
    let maps: Api<ConfigMap> = Api::namespaced(sim.client("test"), "default");
    let post = PostParams::default();
    let a = maps.create(&post, &map("a", json!({}))).await.unwrap();
    let b = maps.create(&post, &map("b", json!({}))).await.unwrap();
    let child = maps.create(&post, &owned("child", &[&a])).await.unwrap();
    maps.create(&post, &owned("grandchild", &[&child])).await.unwrap();
    maps.create(&post, &owned("both", &[&a, &b])).await.unwrap();
    let names = || sim.list::<ConfigMap>().iter().map(|map| map.name_any()).collect::<Vec<_>>();
    sim.collect_at_once(false);
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(names(), ["b", "both", "child", "grandchild"]);
    sim.collect();
    assert_eq!(names(), ["b", "both"]);
    assert_eq!(maps.get("both").await.unwrap().owner_references().len(), 1);
    sim.collect_at_once(true);
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..Default::default() };
    maps.delete("b", &orphan).await.unwrap();
    assert_eq!(names(), ["both"]);

    let a = maps.create(&post, &map("a", json!({}))).await.unwrap();
    let mut child = owned("child", &[&a]);
    child.metadata.finalizers = Some(vec!["x/y".into()]);
    maps.create(&post, &child).await.unwrap();
    maps.delete("a", &DeleteParams::foreground()).await.unwrap();
    assert_eq!(names(), ["a", "both", "child"]);
    let none = json!({"metadata": {"finalizers": null}});
    maps.patch("child", &PatchParams::default(), &Patch::Merge(none)).await.unwrap();
    assert_eq!(names(), ["both"]);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_goes_with_what_is_in_it() {
    let sim = ApiSim::default();
    sim.namespace("n").unwrap();
    let client = sim.client("test");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "n");
    let held = map("held", json!({"metadata": {"name": "held", "finalizers": ["x/y"]}}));
    maps.create(&PostParams::default(), &held).await.unwrap();
    maps.create(&PostParams::default(), &map("free", json!({}))).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(client);
    namespaces.delete("n", &DeleteParams::default()).await.unwrap();
    assert!(maps.get_opt("free").await.unwrap().is_none());
    assert!(maps.get("held").await.unwrap().metadata.deletion_timestamp.is_some());
    assert_eq!(namespaces.get("n").await.unwrap().status.unwrap().phase.as_deref(), Some("Terminating"));
    assert_eq!(code(maps.create(&PostParams::default(), &map("new", json!({}))).await), 403);
    let none = json!({"metadata": {"finalizers": null}});
    maps.patch("held", &PatchParams::default(), &Patch::Merge(none)).await.unwrap();
    assert!(namespaces.get_opt("n").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn lists_select_and_page() {
    let sim = ApiSim::default();
    sim.namespace("n").unwrap();
    let client = sim.client("test");
    for (namespace, name, app) in [("default", "a", "x"), ("default", "b", "y"), ("n", "c", "x")] {
        let object = map(name, json!({"metadata": {"name": name, "labels": {"app": app}}}));
        Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &object).await.unwrap();
    }
    let all: Api<ConfigMap> = Api::all(client.clone());
    let here: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let names =
        |list: kube::api::ObjectList<ConfigMap>| list.items.iter().map(|map| map.name_any()).collect::<Vec<_>>();
    assert_eq!(names(all.list(&ListParams::default()).await.unwrap()), ["a", "b", "c"]);
    assert_eq!(names(here.list(&ListParams::default()).await.unwrap()), ["a", "b"]);
    assert_eq!(names(all.list(&ListParams::default().labels("app=x")).await.unwrap()), ["a", "c"]);
    assert_eq!(names(all.list(&ListParams::default().fields("metadata.name=b")).await.unwrap()), ["b"]);
    let page = all.list(&ListParams::default().limit(2)).await.unwrap();
    let token = page.metadata.continue_.clone().unwrap();
    // What is made between two pages is not in the list.
    here.create(&PostParams::default(), &map("aa", json!({}))).await.unwrap();
    let rest = all.list(&ListParams::default().limit(2).continue_token(&token)).await.unwrap();
    assert_eq!(rest.metadata.resource_version, page.metadata.resource_version);
    assert_eq!([names(page), names(rest)].concat(), ["a", "b", "c"]);

    here.delete_collection(&DeleteParams::default(), &ListParams::default().labels("app")).await.unwrap();
    assert_eq!(names(all.list(&ListParams::default()).await.unwrap()), ["aa", "c"]);
}

#[tokio::test(start_paused = true)]
async fn defaults_and_scopes() {
    let sim = ApiSim::default();
    let client = sim.client("test");
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let service = |name: &str| -> Service {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 1}]}})).unwrap()
    };
    let address = |service: Service| service.spec.unwrap().cluster_ip.unwrap();
    let one = address(services.create(&PostParams::default(), &service("a")).await.unwrap());
    let two = address(services.create(&PostParams::default(), &service("b")).await.unwrap());
    assert_ne!(one, two);
    let config = json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 2, "protocol": "TCP"}]}});
    let applied = services.patch("a", &PatchParams::apply("t").force(), &Patch::Apply(config)).await.unwrap();
    assert_eq!(address(applied), one);

    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let volume: PersistentVolume = serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {}})).unwrap();
    volumes.create(&PostParams::default(), &volume).await.unwrap();
    let volume: PersistentVolume = sim.get("", "v").unwrap();
    assert_eq!(volume.status.unwrap().phase.as_deref(), Some("Pending"));

    // The test's own hand.
    let pod: Pod = serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "default"}, "status": {"phase": "Running"}}),
    )
    .unwrap();
    assert_eq!(sim.insert(&pod).unwrap().status.unwrap().phase.as_deref(), Some("Running"));
    let edit = |pod: &mut Pod| pod.status.as_mut().unwrap().phase = Some("Failed".into());
    assert!(sim.edit("default", "p", edit).unwrap());
    assert_eq!(sim.get::<Pod>("default", "p").unwrap().status.unwrap().phase.as_deref(), Some("Failed"));
    assert!(sim.delete::<Pod>("default", "p") && !sim.delete::<Pod>("default", "p"));
}
