//! Three pools on sparse files, each with its server, in one process; and a plain client of a volume.
// Code of tests: a failed unwrap is a failed test.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

pub mod load;
pub mod operator;

use std::path::PathBuf;
use std::time::Duration;

use ballast_api::control::pool_control_client::PoolControlClient;
use ballast_api::control::{CreateReplicaRequest, Empty, FormGroupRequest, Member, Peer, PeerTable, ReplicaStatus};
use ballast_api::replica::failure::Code;
use ballast_api::replica::replica_client::ReplicaClient;
use ballast_api::replica::volume_request::Op;
use ballast_api::replica::volume_response::Result as Answer;
use ballast_api::replica::{self as wire, VolumeRequest, VolumeResponse};
use ballast_api::{BLOCK_SIZE, PoolId, TargetId, VolumeId};
use ballast_pool::{DeviceConfig, OpenOptions, Pool, PoolConfig};
use ballast_replica::{ServeOptions, serve};
use ballast_rpc::Endpoint;
use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

pub const VOLUME_BLOCKS: u64 = 65536;

pub struct Node {
    pub id: PoolId,
    pub device: PathBuf,
    pub endpoint: Endpoint,
    pub pool: Option<Pool>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

pub struct Group {
    pub dir: TempDir,
    pub nodes: Vec<Node>,
    pub volume: VolumeId,
}

impl Node {
    pub async fn start(&mut self) {
        let pool = Pool::open(std::slice::from_ref(&self.device), OpenOptions::default()).unwrap();
        self.pool = Some(pool.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let options = ServeOptions {
            pool,
            name: "test".to_owned(),
            listen: self.endpoint.clone(),
            peers: Vec::new(),
            shutdown: Box::pin(async move { _ = stopped.await }),
        };
        self.stop = Some(stop);
        self.task = Some(tokio::spawn(async move { serve(options).await.unwrap() }));
        for _ in 0..100 {
            if self.endpoint.connect().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the server does not answer");
    }

    pub async fn stop(&mut self) {
        self.pool = None;
        if let Some(stop) = self.stop.take() {
            _ = stop.send(());
        }
        if let Some(task) = self.task.take() {
            task.await.unwrap();
        }
    }

    pub async fn control(&self) -> PoolControlClient<tonic::transport::Channel> {
        PoolControlClient::new(self.endpoint.connect().await.unwrap())
    }
}

impl Group {
    pub async fn new(count: usize) -> Self {
        Self::with_pools(count, 2 << 30).await
    }

    pub async fn with_pools(count: usize, bytes: u64) -> Self {
        Self::with_spares(count, 0, bytes).await
    }

    /// A group on the first `count` pools, and `spares` more pools.
    pub async fn with_spares(count: usize, spares: usize, bytes: u64) -> Self {
        // Shown with `RUST_LOG=info cargo test -- --nocapture`.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let dir = tempfile::tempdir().unwrap();
        let mut nodes = Vec::new();
        for n in 0..count + spares {
            let device = dir.path().join(format!("{n}.img"));
            let config = PoolConfig {
                name: format!("pool-{n}"),
                devices: vec![DeviceConfig { path: device.clone(), size: Some(bytes) }],
                journal_bytes: Some(32 << 20),
                ..PoolConfig::default()
            };
            let id = Pool::create(&config).unwrap();
            let endpoint = Endpoint::Unix(dir.path().join(format!("{n}.sock")));
            nodes.push(Node { id, device, endpoint, pool: None, stop: None, task: None });
        }
        let mut group = Self { dir, nodes, volume: VolumeId::random() };
        for node in &mut group.nodes {
            node.start().await;
        }
        group.set_peers().await;
        let members: Vec<Member> = (0..count).map(|n| group.member(n, n as u64 + 1)).collect();
        for n in 0..count {
            group.create(n, n as u64 + 1, members.clone()).await.unwrap();
        }
        let pool = group.nodes[0].id.to_bytes();
        let form = FormGroupRequest { volume: group.volume.to_bytes(), members, pool };
        group.nodes[0].control().await.form_group(form).await.unwrap();
        group
    }

    /// Replica `replica` on pool number `n`.
    pub fn member(&self, n: usize, replica: u64) -> Member {
        Member { replica, pool: self.nodes[n].id.to_bytes() }
    }

    /// Makes a replica on pool number `n`.
    pub async fn create(&self, n: usize, replica: u64, members: Vec<Member>) -> Result<(), Status> {
        let request = CreateReplicaRequest {
            volume: self.volume.to_bytes(),
            name: "demo".to_owned(),
            blocks: VOLUME_BLOCKS,
            replica,
            members,
            pool: self.nodes[n].id.to_bytes(),
        };
        self.nodes[n].control().await.create_replica(request).await.map(drop)
    }

    pub async fn set_peers(&self) {
        let peers: Vec<Peer> = self
            .nodes
            .iter()
            .map(|node| Peer { pool: node.id.to_bytes(), endpoint: node.endpoint.to_string() })
            .collect();
        for node in self.nodes.iter().filter(|node| node.pool.is_some()) {
            node.control().await.set_peers(PeerTable { peers: peers.clone() }).await.unwrap();
        }
    }

    /// Opens the volume at whoever leads; returns the leader's number too.
    pub async fn open(&self, target: TargetId, take_over: bool) -> (usize, Client) {
        let find = async {
            loop {
                for (n, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.pool.is_some()) {
                    if let Ok(client) = Client::open(&node.endpoint, self.volume, target, take_over).await {
                        return (n, client);
                    }
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        };
        // A replica that leads without a majority answers nothing at all.
        tokio::time::timeout(Duration::from_secs(60), find).await.expect("a leader that serves the volume")
    }

    /// What pool number `n` says of its replica.
    pub async fn status(&self, n: usize) -> Option<ReplicaStatus> {
        let status = self.nodes[n].control().await.status(Empty {}).await.unwrap().into_inner();
        status.replicas.into_iter().find(|replica| replica.volume == self.volume.to_bytes())
    }

    pub async fn stop(mut self) {
        for node in &mut self.nodes {
            node.stop().await;
        }
    }
}

pub struct Client {
    pub epoch: u64,
    /// The volume's capacity when it was opened.
    pub blocks: u64,
    /// What targets had kept when the volume was opened.
    pub kept: Bytes,
    next: u64,
    out: mpsc::UnboundedSender<VolumeRequest>,
    answers: Streaming<VolumeResponse>,
}

impl Client {
    pub async fn open(
        endpoint: &Endpoint,
        volume: VolumeId,
        target: TargetId,
        take_over: bool,
    ) -> Result<Self, Option<Code>> {
        let mut client = ReplicaClient::new(endpoint.connect().await.map_err(|_| None)?)
            .max_decoding_message_size(ballast_rpc::MAX_MESSAGE);
        let (out, requests) = mpsc::unbounded_channel();
        let answers = client.volume(UnboundedReceiverStream::new(requests)).await.map_err(|_| None)?.into_inner();
        let mut client = Self { epoch: 0, blocks: 0, kept: Bytes::new(), next: 1, out, answers };
        let open = wire::Open { volume: volume.to_bytes(), target: target.to_bytes(), take_over };
        match client.call(Op::Open(open)).await? {
            Answer::Opened(opened) => {
                (client.epoch, client.blocks, client.kept) = (opened.epoch, opened.blocks, opened.state);
                Ok(client)
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn send(&mut self, op: Op) -> u64 {
        let id = self.next;
        self.next += 1;
        _ = self.out.send(VolumeRequest { id, op: Some(op) });
        id
    }

    pub async fn answer(&mut self) -> Result<(u64, Result<Answer, Code>), Option<Code>> {
        let response = self.answers.message().await.map_err(|_| None)?.ok_or(None)?;
        Ok(match response.result.unwrap() {
            Answer::Failure(failure) => (response.id, Err(failure.code())),
            other => (response.id, Ok(other)),
        })
    }

    pub async fn call(&mut self, op: Op) -> Result<Answer, Option<Code>> {
        let id = self.send(op);
        let wait = tokio::time::timeout(Duration::from_secs(10), self.answer());
        let (answered, result) = wait.await.map_err(|_| None)??;
        assert_eq!(answered, id);
        result.map_err(Some)
    }

    pub fn write_op(&self, lba: u64, data: Bytes) -> Op {
        let crcs = data.chunks(BLOCK_SIZE).map(crc32fast::hash).collect();
        Op::Write(wire::Write { epoch: self.epoch, lba, crcs, payload: data })
    }

    pub async fn write(&mut self, lba: u64, data: Bytes) -> Result<(), Option<Code>> {
        self.call(self.write_op(lba, data)).await.map(drop)
    }

    pub async fn read(&mut self, lba: u64, blocks: u32) -> Result<Bytes, Option<Code>> {
        match self.call(Op::Read(wire::Read { epoch: self.epoch, lba, blocks })).await? {
            Answer::Data(data) => {
                for (block, crc) in data.payload.chunks(BLOCK_SIZE).zip(&data.crcs) {
                    assert_eq!(crc32fast::hash(block), *crc);
                }
                Ok(data.payload)
            }
            other => panic!("{other:?}"),
        }
    }

    pub async fn extents(&mut self, lba: u64, blocks: u32) -> Result<wire::ExtentRuns, Option<Code>> {
        match self.call(Op::Extents(wire::Extents { epoch: self.epoch, lba, blocks })).await? {
            Answer::Extents(runs) => Ok(runs),
            other => panic!("{other:?}"),
        }
    }

    pub async fn save(&mut self, state: Bytes) -> Result<(), Option<Code>> {
        self.call(Op::SaveState(wire::SaveState { epoch: self.epoch, state })).await.map(drop)
    }

    pub async fn unmap(&mut self, lba: u64, blocks: u64) -> Result<(), Option<Code>> {
        self.call(Op::Unmap(wire::Unmap { epoch: self.epoch, lba, blocks })).await.map(drop)
    }
}

/// A block whose contents tell where it belongs and which version it is.
pub fn block(lba: u64, version: u64) -> Bytes {
    let mut data = vec![0u8; BLOCK_SIZE];
    for (n, chunk) in data.chunks_exact_mut(8).enumerate() {
        let word = lba.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ n as u64;
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    data.into()
}
