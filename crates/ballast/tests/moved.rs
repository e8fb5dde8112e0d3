//! A target that was not told where its volume's replicas have gone finds them all the same.
// Code of tests: a failed unwrap is a failed test.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use ballast_api::control::pool_control_client::PoolControlClient;
use ballast_api::control::{CreateReplicaRequest, Empty, FormGroupRequest, Member};
use ballast_api::{BlockCount, PoolId, TargetId, VolumeId};
use ballast_pool::{DeviceConfig, OpenOptions, Pool, PoolConfig};
use ballast_replica::{ServeOptions, serve};
use ballast_rpc::Endpoint;
use ballast_target::block_device::BlockDevice;
use ballast_target::latency::{Exchange, traced};
use ballast_target::volume::{RaftVolume, VolumeOptions};
use tonic::transport::Channel;

const BLOCKS: u64 = 4096;

fn pool(dir: &Path, name: &str) -> (Pool, Endpoint) {
    let device = DeviceConfig { path: dir.join(name), size: Some(256 << 20) };
    let config = PoolConfig { name: name.to_owned(), devices: vec![device], ..PoolConfig::default() };
    let pool = Pool::open_or_create(&config, OpenOptions::default()).unwrap();
    (pool, Endpoint::Unix(dir.join(format!("{name}.sock"))))
}

async fn connect(endpoint: &Endpoint) -> PoolControlClient<Channel> {
    for _ in 0..200 {
        if let Ok(channel) = endpoint.connect().await {
            return PoolControlClient::new(channel);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the pool does not answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_replica_of_the_list_that_answers_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let pools = [pool(dir.path(), "a"), pool(dir.path(), "b")];
    // Pools find each other by hints alone.
    let peers: Vec<(PoolId, Endpoint)> = pools.iter().map(|(pool, endpoint)| (pool.id(), endpoint.clone())).collect();
    for (pool, listen) in pools.clone() {
        let shutdown = Box::pin(std::future::pending::<()>());
        let options = ServeOptions { pool, name: "test".to_owned(), listen, peers: peers.clone(), shutdown };
        tokio::spawn(async move { serve(options).await.unwrap() });
    }
    let volume = VolumeId::random();
    let members: Vec<Member> =
        (1u64..).zip(&peers).map(|(replica, (pool, _))| Member { replica, pool: pool.to_bytes() }).collect();
    for (replica, (_, endpoint)) in (1u64..).zip(&peers) {
        let create = CreateReplicaRequest {
            volume: volume.to_bytes(),
            name: "demo".to_owned(),
            blocks: BLOCKS,
            replica,
            members: members.clone(),
            ..CreateReplicaRequest::default()
        };
        connect(endpoint).await.create_replica(create).await.unwrap();
    }
    let form = FormGroupRequest { volume: volume.to_bytes(), members, ..FormGroupRequest::default() };
    connect(&peers[0].1).await.form_group(form).await.unwrap();
    let leads = async |endpoint: &Endpoint| {
        let status = connect(endpoint).await.status(Empty {}).await.unwrap().into_inner();
        status.replicas[0].role == "leader"
    };
    let find = async {
        loop {
            for (n, (_, endpoint)) in peers.iter().enumerate() {
                if leads(endpoint).await {
                    return n;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let leader = tokio::time::timeout(Duration::from_secs(30), find).await.unwrap();

    // The leader is not in the list; neither is the first of it there at all.
    let gone = (PoolId::random(), Endpoint::Unix(dir.path().join("gone.sock")));
    let device = RaftVolume::open(VolumeOptions {
        volume,
        name: "demo".to_owned(),
        blocks: BlockCount(BLOCKS),
        target: TargetId::random(),
        replicas: vec![gone, peers[1 - leader].clone()],
        io_wait: Duration::from_secs(30),
    });
    let before = Instant::now();
    let (done, exchange) = traced(device.write(8192, vec![7; 4096].into(), false)).await;
    done.unwrap();
    let Exchange { sent, answered } = exchange.expect("the leader has answered");
    assert!(before <= sent && sent <= answered && answered <= Instant::now());
    assert_eq!(device.read(8192, 4096).await.unwrap(), vec![7; 4096]);
    assert!(device.stats().leader.is_some());
}
