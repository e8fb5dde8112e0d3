//! What a target process tells its control plane, and how it starts without one.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use ballast_api::control::target_control_client::TargetControlClient;
use ballast_api::control::{Empty, Peer, TargetVolume, VolumeTable};
use ballast_api::{PoolId, VolumeId};
use ballast_rpc::Endpoint;
use ballast_target::volume::serve::{TargetOptions, serve_target};
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

fn volume(name: &str, dir: &Path) -> TargetVolume {
    // Nobody listens there.
    let replica = Peer { pool: PoolId::random().to_bytes(), endpoint: format!("unix:{}/none", dir.display()) };
    TargetVolume {
        volume: VolumeId::random().to_bytes(),
        name: name.to_owned(),
        iqn: format!("iqn.2016-09.com.openebs.cstor:{name}"),
        blocks: 1024,
        replicas: vec![replica],
    }
}

struct Target {
    channel: Channel,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Target {
    async fn start(dir: &Path, volumes: Option<Vec<TargetVolume>>) -> Self {
        let control = Endpoint::Unix(dir.join("control.sock"));
        let (stop, stopped) = oneshot::channel();
        let shutdown = Box::pin(async move { _ = stopped.await });
        let portal = "127.0.0.1:0".parse().unwrap();
        let options = TargetOptions {
            portal,
            advertise: None,
            chap: None,
            control: control.clone(),
            volumes,
            metrics: None,
            shutdown,
        };
        let task = tokio::spawn(async move { serve_target(options).await.unwrap() });
        for _ in 0..200 {
            if let Ok(channel) = control.connect().await {
                return Self { channel, stop, task };
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the target does not answer");
    }

    async fn health(&self, service: &str) -> ServingStatus {
        let request = HealthCheckRequest { service: service.to_owned() };
        HealthClient::new(self.channel.clone()).check(request).await.unwrap().into_inner().status()
    }

    fn control(&self) -> TargetControlClient<Channel> {
        TargetControlClient::new(self.channel.clone())
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn a_target_that_was_told_nothing_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::start(dir.path(), None).await;
    assert_eq!(target.health("").await, ServingStatus::Serving);
    assert_eq!(target.health("ready").await, ServingStatus::NotServing);
    // Its volume has no leader that could be found: it is ready, and the I/O waits.
    let table = VolumeTable { volumes: vec![volume("a", dir.path())] };
    target.control().set_volumes(table).await.unwrap();
    let wait = async {
        while target.health("ready").await != ServingStatus::Serving {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
    let status = target.control().status(Empty {}).await.unwrap().into_inner();
    assert_eq!(status.volumes[0].state, "opening");
    target.stop().await;
}

#[tokio::test]
async fn hints_are_served_and_replaced_by_what_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, b) = (volume("a", dir.path()), volume("b", dir.path()));
    let refused = TargetVolume { iqn: "no name".to_owned(), ..volume("c", dir.path()) };
    let target = Target::start(dir.path(), Some(vec![a.clone(), refused, b])).await;
    assert_eq!(target.health("ready").await, ServingStatus::Serving);
    let served = async || target.control().status(Empty {}).await.unwrap().into_inner().volumes;
    let names: Vec<String> = served().await.into_iter().map(|volume| volume.name).collect();
    assert_eq!(names, ["a", "b"], "one that cannot be served keeps none away");

    a.replicas[0].endpoint = format!("unix:{}/other", dir.path().display());
    target.control().set_volumes(VolumeTable { volumes: vec![a.clone()] }).await.unwrap();
    let [now] = &served().await[..] else { panic!("one volume") };
    assert_eq!((now.blocks, &now.replicas), (1024, &a.replicas));

    // It grows, and does not shrink for somebody who has not heard of it.
    for (blocks, is) in [(2048, 2048), (1024, 2048)] {
        a.blocks = blocks;
        target.control().set_volumes(VolumeTable { volumes: vec![a.clone()] }).await.unwrap();
        assert_eq!(served().await[0].blocks, is);
    }
    a.iqn.push('x');
    let renamed = target.control().set_volumes(VolumeTable { volumes: vec![a] }).await.unwrap_err();
    assert!(renamed.message().contains("remove it first"), "{renamed:?}");
    target.stop().await;
}
