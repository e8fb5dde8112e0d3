//! The whole node disk manager on a node of files, against an API server in memory, with its clock stopped.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use ballast_api::k8s::{BlockDevice, Disk as DiskObject};
use ballast_apisim::{ApiSim, Fault, Verb};
use ballast_ndm::Options;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus};
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use support::world::{message, state};
use support::*;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const NS: &str = "openebs";
const LONG: Duration = Duration::from_secs(900);

/// A running node disk manager.
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ballast_ndm::NdmError>>,
}

impl Running {
    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }

    /// As by SIGKILL.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn start(sim: &ApiSim, node: &str, fake: &Fake) -> Running {
    start_with(sim, node, fake, |_| {})
}

fn start_with(sim: &ApiSim, node: &str, fake: &Fake, change: impl FnOnce(&mut Options)) -> Running {
    let roots = fake.roots();
    let mut options = Options {
        node: Some(node.to_owned()),
        namespace: NS.to_owned(),
        config: None,
        sparse_dir: None,
        sparse_size: 0,
        sparse_count: 1,
        smart: false,
        rescan: 60,
        sys: roots.sys,
        proc: roots.proc,
        dev: roots.dev,
        udev: roots.udev,
    };
    change(&mut options);
    let (stop, stopped) = oneshot::channel::<()>();
    let client = sim.client(node);
    let shutdown = Box::pin(async move {
        let _ = stopped.await;
    });
    Running { stop, task: tokio::spawn(ballast_ndm::run(client, options, shutdown)) }
}

fn cluster(nodes: &[&str]) -> ApiSim {
    let sim = ApiSim::new(7);
    sim.namespace(NS).unwrap();
    nodes.iter().for_each(|name| ready(&sim, name, "True"));
    sim
}

fn ready(sim: &ApiSim, name: &str, status: &str) {
    let mut node = Node::default();
    node.metadata.name = Some(name.to_owned());
    node.metadata.labels = Some([("kubernetes.io/hostname".to_owned(), format!("host-{name}"))].into());
    let condition = NodeCondition { type_: "Ready".into(), status: status.into(), ..NodeCondition::default() };
    node.status = Some(NodeStatus { conditions: Some(vec![condition]), ..NodeStatus::default() });
    sim.insert(&node).unwrap();
}

/// The object at a path of a node that is there.
fn at(sim: &ApiSim, node: &str, path: &str) -> Option<BlockDevice> {
    let here = |object: &BlockDevice| {
        object.spec.node_attributes.node_name == node && object.spec.path == path && state(object) == "Active"
    };
    let mut found = sim.list::<BlockDevice>().into_iter().filter(here);
    let first = found.next();
    assert!(found.next().is_none(), "two objects for {path}");
    first
}

fn claim(object: &BlockDevice) -> &str {
    object.status.as_ref().map_or("", |status| &status.claim_state)
}

/// Waits until the object at a path is as it should be.
async fn wait_at(sim: &ApiSim, node: &str, path: &str, so: impl Fn(&BlockDevice) -> bool) -> BlockDevice {
    let good = sim.until(LONG, |sim| at(sim, node, path).is_some_and(|object| so(&object))).await;
    assert!(good, "{path} on {node}: {:#?}", sim.list::<BlockDevice>());
    at(sim, node, path).unwrap()
}

async fn wait_state(sim: &ApiSim, name: &str, wanted: &str) {
    let good = sim.until(LONG, |sim| sim.get::<BlockDevice>(NS, name).is_some_and(|o| state(&o) == wanted)).await;
    assert!(good, "{name} is not {wanted}: {:#?}", sim.get::<BlockDevice>(NS, name));
}

/// Requests of a node disk manager other than watches.
fn requests(sim: &ApiSim, node: &str) -> usize {
    sim.log().iter().filter(|entry| entry.connection == node && entry.verb != Verb::Watch).count()
}

/// What the operator does to a claim's state.
async fn operator(sim: &ApiSim, name: &str, state: &str) {
    let api: Api<BlockDevice> = Api::namespaced(sim.client("operator"), NS);
    let body = serde_json::json!({
        "apiVersion": "openebs.io/v1alpha1", "kind": "BlockDevice", "metadata": {"name": name}, "status": {"claimState": state},
    });
    api.patch_status(name, &PatchParams::apply("ballast-operator").force(), &Patch::Apply(body)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn from_the_first_look_to_the_last() {
    let mut fake = Fake::new();
    fake.add(disk("vdb", GIB));
    fake.add(disk("vdc", GIB));
    fake.put("vdc", 0, b"XFSB");
    let sim = cluster(&["n1"]);
    let files = fake.path("sparse");
    let ndm = start_with(&sim, "n1", &fake, |options| options.sparse_dir = Some(files.clone()));
    let free = wait_at(&sim, "n1", "/dev/vdb", |object| claim(object) == "Unclaimed").await;
    assert_eq!(free.labels()["kubernetes.io/hostname"], "host-n1");
    assert_eq!((free.spec.filesystem.fs_type.as_str(), free.spec.partitioned.as_str()), ("", "No"));
    let used = wait_at(&sim, "n1", "/dev/vdc", |object| claim(object) == "Unclaimed").await;
    assert_eq!(used.spec.filesystem.fs_type, "xfs");
    let path = files.join("0-ndm-sparse.img").display().to_string();
    let file = wait_at(&sim, "n1", &path, |object| claim(object) == "Unclaimed").await;
    assert!(file.name_any().starts_with("sparse-") && file.labels()["ndm.io/blockdevice-type"] == "sparse");
    assert!(sim.settle(Duration::from_secs(5)).await);
    let disks = sim.list::<DiskObject>();
    assert_eq!(disks.len(), 3);
    assert!(disks.iter().all(|disk| disk.status.as_ref().is_some_and(|status| status.state == "Active")));

    // Nothing changes: not one request in an hour.
    let before = requests(&sim, "n1");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(requests(&sim, "n1"), before);

    // The operator's writes are not ours to change, also not after many looks.
    operator(&sim, &free.name_any(), "Claimed").await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(claim(&at(&sim, "n1", "/dev/vdb").unwrap()), "Claimed");
    assert_eq!(requests(&sim, "n1"), before);

    // Hot plug, both ways.
    fake.add(disk("vdd", GIB));
    let new = wait_at(&sim, "n1", "/dev/vdd", |_| true).await;
    fake.remove("vdd");
    wait_state(&sim, &new.name_any(), "Inactive").await;

    ndm.stop().await;
    for object in [&free, &used, &file] {
        assert_eq!(state(&sim.get::<BlockDevice>(NS, &object.name_any()).unwrap()), "Unknown");
    }
    assert_eq!(state(&sim.get::<BlockDevice>(NS, &new.name_any()).unwrap()), "Inactive", "it was gone before");
    // What vanished meanwhile is noticed at the next start.
    fake.remove("vdc");
    let ndm = start_with(&sim, "n1", &fake, |options| options.sparse_dir = Some(files));
    wait_state(&sim, &free.name_any(), "Active").await;
    wait_state(&sim, &used.name_any(), "Inactive").await;
    assert_eq!(claim(&at(&sim, "n1", "/dev/vdb").unwrap()), "Claimed");
    ndm.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_released_is_wiped_and_only_that() {
    let mut fake = Fake::new();
    for name in ["vdb", "vdc", "vdd"] {
        fake.add(disk(name, GIB));
    }
    let sim = cluster(&["n1"]);
    let files = fake.path("sparse");
    let ndm = start_with(&sim, "n1", &fake, |options| options.sparse_dir = Some(files.clone()));
    let mut names = Vec::new();
    let file = files.join("0-ndm-sparse.img");
    let sparse = file.display().to_string();
    for path in ["/dev/vdb", "/dev/vdc", "/dev/vdd", &sparse] {
        names.push(wait_at(&sim, "n1", path, |object| claim(object) == "Unclaimed").await.name_any());
        operator(&sim, &names[names.len() - 1], "Claimed").await;
    }
    label(&fake.path("dev/vdb"));
    let pool = label(&file);
    wait_at(&sim, "n1", &sparse, |object| object.status.as_ref().unwrap().pool_id.as_ref() == Some(&pool)).await;
    wait_at(&sim, "n1", "/dev/vdb", |object| object.status.as_ref().unwrap().pool_id.is_some()).await;
    // vdc: somebody made a file system on it. vdd: a pool has it open.
    fake.put("vdc", 0, b"XFSB");
    label(&fake.path("dev/vdd"));
    let open = ballast_pool::Pool::open(&[fake.path("dev/vdd")], Default::default()).unwrap();
    for name in &names {
        operator(&sim, name, "Released").await;
    }
    for (path, name) in [("/dev/vdb", &names[0]), (&sparse, &names[3])] {
        let object = wait_at(&sim, "n1", path, |object| claim(object) == "Unclaimed").await;
        assert_eq!((&object.name_any(), object.status.unwrap().pool_id), (name, None));
    }
    assert_eq!(ballast_pool::label_of(&fake.path("dev/vdb")).unwrap(), None);
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!((file.metadata().unwrap().len(), file.metadata().unwrap().blocks()), (GIB, 0), "a fresh file");
    wait_at(&sim, "n1", "/dev/vdc", |object| message(object).contains("not wiped: it holds xfs")).await;
    wait_at(&sim, "n1", "/dev/vdd", |object| message(object).contains("in use by")).await;
    assert!(sim.settle(Duration::from_secs(5)).await);
    let before = requests(&sim, "n1");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(requests(&sim, "n1"), before, "trying again says nothing new");
    for path in ["/dev/vdc", "/dev/vdd"] {
        assert_eq!(claim(&at(&sim, "n1", path).unwrap()), "Released");
    }
    assert!(std::fs::read(fake.path("dev/vdc")).unwrap().starts_with(b"XFSB"));
    // The pool ends: the next look gets it.
    open.close().unwrap();
    wait_at(&sim, "n1", "/dev/vdd", |object| claim(object) == "Unclaimed").await;
    ndm.stop().await;
}

/// A pool that goes gives its devices back while its process still stops.
#[tokio::test(start_paused = true)]
async fn a_device_is_wiped_soon_after_its_pool_has_ended() {
    let mut fake = Fake::new();
    fake.add(disk("vdb", GIB));
    let sim = cluster(&["n1"]);
    let ndm = start(&sim, "n1", &fake);
    let name = wait_at(&sim, "n1", "/dev/vdb", |object| claim(object) == "Unclaimed").await.name_any();
    label(&fake.path("dev/vdb"));
    let open = ballast_pool::Pool::open(&[fake.path("dev/vdb")], Default::default()).unwrap();
    operator(&sim, &name, "Released").await;
    wait_at(&sim, "n1", "/dev/vdb", |object| message(object).contains("in use by")).await;
    open.close().unwrap();
    let ended = tokio::time::Instant::now();
    wait_at(&sim, "n1", "/dev/vdb", |object| claim(object) == "Unclaimed").await;
    assert!(ended.elapsed() < Duration::from_secs(10), "after {:?}", ended.elapsed());
    ndm.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_moves_and_two_nodes_do_not_quarrel() {
    let wwn = |name| Disk { attributes: vec![("device/wwid", "naa.5000c500a1b2c3d4")], ..disk(name, GIB) };
    let (mut one, mut two) = (Fake::new(), Fake::new());
    one.add(wwn("sda"));
    two.add(wwn("sdx"));
    let sim = cluster(&["n1", "n2"]);
    let first = start(&sim, "n1", &one);
    let object = wait_at(&sim, "n1", "/dev/sda", |object| claim(object) == "Unclaimed").await;
    let second = start(&sim, "n2", &two);
    let other = wait_at(&sim, "n2", "/dev/sdx", |object| message(object).contains("on node n1")).await;
    assert_ne!(other.name_any(), object.name_any());
    assert!(sim.settle(Duration::from_secs(45)).await);
    // Both stay as they are: nobody writes.
    let writes = |sim: &ApiSim| sim.log().iter().filter(|entry| entry.verb.writes()).count();
    let before = writes(&sim);
    tokio::time::sleep(Duration::from_secs(900)).await;
    assert_eq!(writes(&sim), before);
    // The first node dies with its node disk manager.
    first.kill().await;
    ready(&sim, "n1", "Unknown");
    let moved = wait_at(&sim, "n2", "/dev/sdx", |moved| moved.name_any() == object.name_any()).await;
    assert_eq!(moved.labels()["kubernetes.io/hostname"], "host-n2");
    wait_state(&sim, &other.name_any(), "Inactive").await;
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_not_managed_is_left_alone() {
    let mut fake = Fake::new();
    fake.add(disk("vdb", GIB));
    let sim = cluster(&["n1"]);
    let ndm = start(&sim, "n1", &fake);
    let name = wait_at(&sim, "n1", "/dev/vdb", |object| claim(object) == "Unclaimed").await.name_any();
    assert!(sim.settle(Duration::from_secs(5)).await);
    sim.edit::<BlockDevice>(NS, &name, |object| {
        object.labels_mut().insert("ndm.io/managed".to_owned(), "false".to_owned());
    })
    .unwrap();
    label(&fake.path("dev/vdb"));
    operator(&sim, &name, "Released").await;
    let before = requests(&sim, "n1");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(ballast_pool::label_of(&fake.path("dev/vdb")).unwrap().is_some());
    ndm.stop().await;
    assert_eq!(requests(&sim, "n1"), before);
    assert_eq!(state(&sim.get::<BlockDevice>(NS, &name).unwrap()), "Active");
}

/// Refused and lost requests, broken watches, a node disk manager that is killed: in the end everything is as it should be.
#[tokio::test(start_paused = true)]
async fn an_api_server_with_bad_days() {
    for seed in 0..10 {
        let mut fake = Fake::new();
        for name in ["vdb", "vdc", "vdd"] {
            fake.add(disk(name, GIB));
        }
        let sim = ApiSim::new(seed);
        sim.namespace(NS).unwrap();
        ready(&sim, "n1", "True");
        sim.fault(Fault::random(20).status(503));
        sim.fault(Fault::random(20).writes().disconnect().applied());
        sim.fault(Fault::random(10).writes().status(409));
        let ndm = start(&sim, "n1", &fake);
        for round in 0..5 {
            tokio::time::sleep(Duration::from_secs(50)).await;
            match round % 2 {
                0 => sim.close_watches(),
                _ => sim.expire_watches(),
            }
        }
        ndm.kill().await;
        fake.remove("vdd");
        fake.add(disk("vde", GIB));
        let ndm = start(&sim, "n1", &fake);
        tokio::time::sleep(Duration::from_secs(300)).await;
        sim.clear_faults();
        let good = |sim: &ApiSim| {
            ["/dev/vdb", "/dev/vdc", "/dev/vde"]
                .iter()
                .all(|path| at(sim, "n1", path).is_some_and(|object| claim(&object) == "Unclaimed"))
        };
        assert!(sim.until(LONG, good).await, "seed {seed}: {:#?}", sim.list::<BlockDevice>());
        assert!(sim.settle(Duration::from_secs(130)).await, "seed {seed}");
        let gone = sim.list::<BlockDevice>().into_iter().filter(|object| object.spec.path == "/dev/vdd");
        assert!(gone.into_iter().all(|object| state(&object) == "Inactive"), "seed {seed}");
        assert!(sim.list::<BlockDevice>().len() <= 4 && sim.list::<DiskObject>().len() <= 4, "seed {seed}");
        ndm.stop().await;
    }
}
