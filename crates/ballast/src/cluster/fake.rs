//! Pools and a target for tests: gRPC servers in this process that keep what they are told in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ballast_api::control::pool_control_server::{PoolControl, PoolControlServer};
use ballast_api::control::target_control_server::{TargetControl, TargetControlServer};
use ballast_api::control::{
    AddLearnerRequest, ChangeVotersRequest, CreateReplicaRequest, Empty, FormGroupRequest, GrowVolumeRequest,
    LatencyReport, LatencyRequest, MemberStatus, PeerTable, PoolStatus, RemoveLearnerRequest, ReplicaStatus,
    TargetStatus, TargetVolumeStatus, VolumeRef, VolumeTable,
};
use ballast_api::{PoolId, VolumeId};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::*;
use crate::supervisor::TARGET;

/// What a fake process keeps, also while it does not run.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) pool: Option<PoolId>,
    pub(crate) replicas: BTreeMap<VolumeId, ReplicaStatus>,
    pub(crate) formed: Vec<VolumeId>,
    pub(crate) peers: Vec<PeerTable>,
    pub(crate) volumes: Vec<VolumeTable>,
    pub(crate) refuse_create: bool,
    pub(crate) refuse_delete: bool,
    pub(crate) hang: bool,
}

#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<Memory>>);

impl Fake {
    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap()
    }
}

fn id(bytes: &[u8]) -> VolumeId {
    VolumeId::from_slice(bytes).unwrap()
}

fn first_member(member: ballast_api::control::Member) -> MemberStatus {
    MemberStatus { replica: member.replica, pool: member.pool, voter: true, ..MemberStatus::default() }
}

#[tonic::async_trait]
impl PoolControl for Fake {
    async fn set_peers(&self, request: Request<PeerTable>) -> Result<Response<Empty>, Status> {
        self.memory().peers.push(request.into_inner());
        Ok(Response::new(Empty {}))
    }

    async fn create_replica(&self, request: Request<CreateReplicaRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let mut memory = self.memory();
        if memory.refuse_create {
            return Err(Status::resource_exhausted("the pool is full"));
        }
        let status = ReplicaStatus {
            volume: request.volume.clone(),
            name: request.name,
            blocks: request.blocks,
            replica: request.replica,
            role: "learner".to_owned(),
            members: request.members.into_iter().map(first_member).collect(),
            ..ReplicaStatus::default()
        };
        memory.replicas.insert(id(&request.volume), status);
        Ok(Response::new(Empty {}))
    }

    async fn form_group(&self, request: Request<FormGroupRequest>) -> Result<Response<Empty>, Status> {
        let volume = id(&request.into_inner().volume);
        let mut memory = self.memory();
        let replica = memory.replicas.get_mut(&volume).ok_or_else(|| Status::not_found("no such replica"))?;
        replica.role = "leader".to_owned();
        replica.term = 1;
        memory.formed.push(volume);
        Ok(Response::new(Empty {}))
    }

    async fn delete_replica(&self, request: Request<VolumeRef>) -> Result<Response<Empty>, Status> {
        let mut memory = self.memory();
        if memory.refuse_delete {
            return Err(Status::unavailable("busy"));
        }
        match memory.replicas.remove(&id(&request.into_inner().volume)) {
            Some(_) => Ok(Response::new(Empty {})),
            None => Err(Status::not_found("no such replica")),
        }
    }

    // `ballast up` never changes who is in a group.
    async fn add_learner(&self, _: Request<AddLearnerRequest>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn grow_volume(&self, request: Request<GrowVolumeRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let mut memory = self.memory();
        let replica =
            memory.replicas.get_mut(&id(&request.volume)).ok_or_else(|| Status::not_found("no such replica"))?;
        if replica.role != "leader" {
            return Err(Status::failed_precondition("this pool does not lead the volume"));
        }
        replica.blocks = request.blocks;
        Ok(Response::new(Empty {}))
    }

    async fn change_voters(&self, _: Request<ChangeVotersRequest>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn remove_learner(&self, _: Request<RemoveLearnerRequest>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn status(&self, _: Request<Empty>) -> Result<Response<PoolStatus>, Status> {
        if self.memory().hang {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        let memory = self.memory();
        Ok(Response::new(PoolStatus {
            pool: memory.pool.unwrap().to_bytes(),
            capacity_bytes: 100,
            free_bytes: 90,
            replicas: memory.replicas.values().cloned().collect(),
            ..PoolStatus::default()
        }))
    }
}

#[tonic::async_trait]
impl TargetControl for Fake {
    async fn set_volumes(&self, request: Request<VolumeTable>) -> Result<Response<Empty>, Status> {
        self.memory().volumes.push(request.into_inner());
        Ok(Response::new(Empty {}))
    }

    async fn status(&self, _: Request<Empty>) -> Result<Response<TargetStatus>, Status> {
        let memory = self.memory();
        let volumes = memory.volumes.last().map(|table| table.volumes.clone()).unwrap_or_default();
        let status = |volume: ballast_api::control::TargetVolume| TargetVolumeStatus {
            volume: volume.volume,
            state: "online".to_owned(),
            ..TargetVolumeStatus::default()
        };
        let volumes = volumes.into_iter().map(status).collect();
        Ok(Response::new(TargetStatus { portal: "127.0.0.1:9".to_owned(), volumes }))
    }

    async fn latencies(&self, _: Request<LatencyRequest>) -> Result<Response<LatencyReport>, Status> {
        Err(Status::unimplemented("nobody asks here"))
    }
}

/// Three pools, a target and a data directory: what stays when the supervisor goes.
pub(crate) struct World {
    _temp: tempfile::TempDir,
    pub(crate) dir: DataDir,
    pub(crate) pools: Vec<Fake>,
    pub(crate) target: Fake,
}

/// A supervisor's life.
pub(crate) struct Session {
    pub(crate) cluster: Arc<Cluster>,
    status: Vec<watch::Sender<ProcessStatus>>,
    servers: Vec<Option<JoinHandle<()>>>,
    _tasks: JoinSet<()>,
}

impl World {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temp.path()).unwrap();
        dir.create().unwrap();
        let pools: Vec<Fake> = (0..3).map(|_| Fake::default()).collect();
        for (pool, n) in pools.iter().zip(1u8..) {
            pool.memory().pool = Some(PoolId::from_bytes([n; 16]));
        }
        Self { _temp: temp, dir, pools, target: Fake::default() }
    }

    fn fake(&self, index: usize) -> Fake {
        self.pools.get(index).unwrap_or(&self.target).clone()
    }

    fn name(&self, index: usize) -> String {
        if index < self.pools.len() { format!("pool-{index}") } else { TARGET.to_owned() }
    }

    /// Starts a supervisor; the processes in `running` run (the target is the last).
    pub(crate) async fn up(&self, running: &[usize]) -> Session {
        // A write of the session before may still be on its way, as a process's last write is until it has ended.
        let (registry, note) = loop {
            match Registry::open(&self.dir.registry()) {
                Ok(opened) => break opened,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        assert_eq!(note, None);
        let stopped =
            ProcessStatus { state: ProcessState::Stopped, pid: None, starts: 0, failures: 0, last_exit: None };
        let mut nodes = Vec::new();
        let mut status = Vec::new();
        for index in 0..=self.pools.len() {
            let (sender, receiver) = watch::channel(stopped.clone());
            let kind = if index < self.pools.len() { ProcessKind::Pool } else { ProcessKind::Target };
            nodes.push(Node::new(&self.dir, &self.name(index), kind, Vec::new(), receiver));
            status.push(sender);
        }
        let cluster = Arc::new(Cluster::new(self.dir.clone(), "127.0.0.1:9".parse().unwrap(), nodes, registry));
        let tasks = keep(&cluster);
        let servers = (0..=self.pools.len()).map(|_| None).collect();
        let mut session = Session { cluster, status, servers, _tasks: tasks };
        for index in running {
            session.start(self, *index).await;
        }
        session
    }

    pub(crate) async fn all_up(&self) -> Session {
        self.up(&[0, 1, 2, 3]).await
    }

    /// Answers on the socket of a process, until aborted.
    pub(crate) fn serve(&self, index: usize) -> JoinHandle<()> {
        let path = self.dir.socket(&self.name(index));
        crate::protocol::remove_socket(&path).unwrap();
        let incoming = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
        let fake = self.fake(index);
        tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(PoolControlServer::new(fake.clone()))
                .add_service(TargetControlServer::new(fake))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        })
    }

    /// Names that the target serves.
    pub(crate) fn served(&self) -> Vec<String> {
        let memory = self.target.memory();
        let table = memory.volumes.last().map(|table| table.volumes.clone()).unwrap_or_default();
        table.into_iter().map(|volume| volume.name).collect()
    }

    /// Replicas in each pool.
    pub(crate) fn replicas(&self) -> Vec<usize> {
        self.pools.iter().map(|pool| pool.memory().replicas.len()).collect()
    }
}

impl Session {
    /// A process starts and gets its configuration.
    pub(crate) async fn start(&mut self, world: &World, index: usize) {
        self.servers[index] = Some(world.serve(index));
        self.status[index].send_modify(|status| {
            status.state = ProcessState::Running;
            status.starts += 1;
        });
        let starts = self.status[index].borrow().starts;
        let mut configured = self.cluster.nodes()[index].configured();
        let wait = configured.wait_for(|start| *start == starts);
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("is configured").unwrap();
    }

    /// A process dies.
    pub(crate) async fn kill(&mut self, index: usize) {
        if let Some(server) = self.servers[index].take() {
            server.abort();
            assert!(server.await.unwrap_err().is_cancelled());
        }
        self.status[index].send_modify(|status| status.state = ProcessState::Restarting);
    }

    pub(crate) async fn create(&self, name: &str, replicas: usize) -> Result<bool, VolumeError> {
        let new = NewVolume { name: name.parse().unwrap(), bytes: 1 << 20, replicas: Some(replicas) };
        self.cluster.create_volume(new).await
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<bool, VolumeError> {
        self.cluster.delete_volume(&name.parse().unwrap()).await
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.cluster.table().live().map(|volume| volume.name.to_string()).collect();
        names.sort();
        names
    }

    /// The supervisor ends and leaves the registry to the next one.
    pub(crate) async fn down(mut self) {
        for server in self.servers.drain(..).flatten() {
            server.abort();
            assert!(server.await.unwrap_err().is_cancelled());
        }
        self._tasks.shutdown().await;
        assert_eq!(Arc::strong_count(&self.cluster), 1);
    }
}
