//! Pools and Raft groups that obey the rules of the real ones, and a judge who notes when the operator breaks one.
//!
//! A pool runs while its Deployment exists and nobody has stopped it; it is reached by its Service's address. Its contents
//! live on its device and survive it. A group has a leader while a majority of its voters runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use ballast_api::control::{
    AddLearnerRequest, ChangeVotersRequest, CreateReplicaRequest, FormGroupRequest, GrowVolumeRequest, MemberStatus,
    Peer, PeerTable, PoolStatus, RemoveLearnerRequest, ReplicaStatus, TargetStatus, TargetVolume, TargetVolumeStatus,
    VolumeRef, VolumeTable,
};
use ballast_api::k8s::pool::CStorPool;
use ballast_api::k8s::volume::CStorVolume;
use ballast_api::{PoolId, VolumeId};
use ballast_apisim::ApiSim;
use ballast_operator::Processes;
use ballast_operator::processes::{CallError, CallResult};
use bytes::Bytes;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::ResourceExt as _;
use serde_json::Value;
use tonic::Code;

use super::NAMESPACE;

/// Looks at a group after which a learner has everything.
const FILLED_AFTER: u32 = 3;

#[derive(Clone, Debug)]
struct Replica {
    id: u64,
    members: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Disk {
    pool: PoolId,
    replicas: BTreeMap<VolumeId, Replica>,
    peers: Vec<Peer>,
}

#[derive(Clone, Debug, Default)]
struct Group {
    /// Voters and learners with their pools; learners with the number of looks since they were added.
    voters: BTreeMap<u64, PoolId>,
    learners: BTreeMap<u64, (PoolId, u32)>,
    /// Ids that were ever made, with the pool of each.
    made: BTreeMap<u64, PoolId>,
    /// Capacity.
    blocks: u64,
}

#[derive(Debug, Default)]
struct State {
    disks: BTreeMap<String, Disk>,
    stopped: BTreeSet<String>,
    groups: BTreeMap<VolumeId, Group>,
    next_pool: u8,
    violations: Vec<String>,
    targets: BTreeMap<String, VolumeTable>,
}

/// The world.
pub(crate) struct World {
    sim: ApiSim,
    state: Mutex<State>,
}

fn refused(endpoint: &str, code: Code, message: &str) -> CallError {
    CallError::Refused { endpoint: endpoint.to_owned(), code, message: message.to_owned() }
}

impl World {
    pub(crate) fn new(sim: ApiSim) -> Self {
        Self { sim, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The process of a pool does not run, whatever its Deployment says.
    pub(crate) fn stop(&self, pool: &str) {
        self.lock().stopped.insert(pool.to_owned());
    }

    /// It runs again.
    pub(crate) fn restart(&self, pool: &str) {
        self.lock().stopped.remove(pool);
    }

    /// Its device is replaced by a blank one.
    pub(crate) fn blank(&self, pool: &str) {
        self.lock().disks.remove(pool);
    }

    /// All replicas on all disks.
    pub(crate) fn replica_count(&self) -> usize {
        self.lock().disks.values().map(|disk| disk.replicas.len()).sum()
    }

    /// Rules that the operator broke.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// Raft ids of the voters of a volume.
    pub(crate) fn voters(&self, volume: &str) -> Vec<u64> {
        let id: VolumeId = self.sim.get::<CStorVolume>(NAMESPACE, volume).unwrap().uid().unwrap().parse().unwrap();
        self.lock().groups.get(&id).map(|group| group.voters.keys().copied().collect()).unwrap_or_default()
    }

    /// Blocks of a volume: what its group has, and what its target serves.
    pub(crate) fn blocks(&self, volume: &str) -> (u64, u64) {
        let id: VolumeId = self.sim.get::<CStorVolume>(NAMESPACE, volume).unwrap().uid().unwrap().parse().unwrap();
        let state = self.lock();
        let served =
            state.targets.get(&format!("{volume}-target")).and_then(|table| Some(table.volumes.first()?.blocks));
        (state.groups.get(&id).map_or(0, |group| group.blocks), served.unwrap_or(0))
    }

    pub(crate) fn dump(&self) -> String {
        format!("{:#?}", self.lock())
    }

    /// The running pool behind an address.
    fn pool_at(&self, endpoint: &str) -> CallResult<String> {
        let unreachable = || CallError::Unreachable { endpoint: endpoint.to_owned(), reason: String::from("refused") };
        let address = endpoint.rsplit_once(':').map(|(ip, _)| ip.to_owned());
        let services = self.sim.list::<Service>();
        let of_address = |service: &&Service| service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone()) == address;
        let name = services.iter().find(of_address).map(|service| service.name_any()).ok_or_else(unreachable)?;
        let exists =
            self.sim.get::<CStorPool>("", &name).is_some() && self.sim.get::<Deployment>(NAMESPACE, &name).is_some();
        if !exists || self.lock().stopped.contains(&name) {
            return Err(unreachable());
        }
        let mut state = self.lock();
        if !state.disks.contains_key(&name) {
            state.next_pool += 1;
            let pool = PoolId::from_bytes([state.next_pool; 16]);
            state.disks.insert(name.clone(), Disk { pool, replicas: BTreeMap::new(), peers: Vec::new() });
        }
        Ok(name)
    }

    /// The running target behind an address: the name of its Deployment.
    fn target_at(&self, endpoint: &str) -> CallResult<String> {
        let unreachable = || CallError::Unreachable { endpoint: endpoint.to_owned(), reason: String::from("refused") };
        let address = endpoint.rsplit_once(':').map(|(ip, _)| ip.to_owned());
        let services = self.sim.list::<Service>();
        let of_address = |service: &&Service| service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone()) == address;
        let volume = services.iter().find(of_address).map(|service| service.name_any()).ok_or_else(unreachable)?;
        let name = format!("{volume}-target");
        if self.sim.get::<Deployment>(NAMESPACE, &name).is_none() || self.lock().stopped.contains(&name) {
            return Err(unreachable());
        }
        Ok(name)
    }

    /// What a target reads when it starts.
    fn target_file(&self, name: &str) -> VolumeTable {
        let map = self.sim.get::<ConfigMap>(NAMESPACE, name).and_then(|map| map.data).unwrap_or_default();
        let file: Value = map.get("volumes.json").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let volume = |volume: &Value| TargetVolume {
            volume: text(&volume["volume"]).parse::<VolumeId>().unwrap().to_bytes(),
            name: text(&volume["name"]),
            replicas: volume["replicas"]
                .as_array()
                .unwrap()
                .iter()
                .map(|peer| Peer {
                    pool: text(&peer["pool"]).parse::<PoolId>().unwrap().to_bytes(),
                    endpoint: text(&peer["endpoint"]),
                })
                .collect(),
            ..TargetVolume::default()
        };
        VolumeTable { volumes: file["volumes"].as_array().into_iter().flatten().map(volume).collect() }
    }

    /// Devices that the pool's process was started with.
    fn devices(&self, name: &str) -> u64 {
        let deployment = self.sim.get::<Deployment>(NAMESPACE, name);
        let pod = deployment.and_then(|deployment| deployment.spec.template.spec);
        let args = pod.and_then(|mut pod| pod.containers.remove(0).args).unwrap_or_default();
        args.iter().filter(|arg| *arg == "--device").count() as u64
    }

    fn guard(state: &State, name: &str, endpoint: &str, expected: &Bytes) -> CallResult<()> {
        let pool = state.disks[name].pool;
        if !expected.is_empty() && expected[..] != pool.as_bytes()[..] {
            return Err(refused(endpoint, Code::FailedPrecondition, "this is another pool"));
        }
        Ok(())
    }

    /// The replica that leads a group now.
    fn leader(&self, state: &State, volume: VolumeId) -> Option<u64> {
        let group = state.groups.get(&volume)?;
        let up: Vec<u64> =
            group.voters.iter().filter(|(id, pool)| self.up(state, volume, **id, **pool)).map(|(id, _)| *id).collect();
        (up.len() * 2 > group.voters.len()).then(|| up.first().copied())?
    }

    fn up(&self, state: &State, volume: VolumeId, id: u64, pool: PoolId) -> bool {
        state.disks.iter().any(|(name, disk)| {
            disk.pool == pool
                && !state.stopped.contains(name)
                && self.sim.get::<Deployment>(NAMESPACE, name).is_some()
                && disk.replicas.get(&volume).is_some_and(|replica| replica.id == id)
        })
    }

    fn leads(&self, state: &State, endpoint: &str, name: &str, volume: VolumeId) -> CallResult<()> {
        let leader = self.leader(state, volume);
        let here = state.disks[name].replicas.get(&volume).map(|replica| replica.id);
        if leader.is_none() || leader != here {
            return Err(refused(endpoint, Code::FailedPrecondition, "not the leader"));
        }
        Ok(())
    }
}

fn id(bytes: &[u8]) -> VolumeId {
    VolumeId::from_slice(bytes).unwrap()
}

#[tonic::async_trait]
impl Processes for World {
    async fn pool_status(&self, endpoint: &str) -> CallResult<PoolStatus> {
        let name = self.pool_at(endpoint)?;
        let capacity = self.devices(&name) << 30;
        let mut state = self.lock();
        let disk = state.disks[&name].clone();
        let mut replicas = Vec::new();
        for (volume, replica) in &disk.replicas {
            let leader = self.leader(&state, *volume);
            let mut members = Vec::new();
            if let Some(group) = state.groups.get(volume).cloned() {
                for (id, pool) in &group.voters {
                    let up = self.up(&state, *volume, *id, *pool);
                    let (matched_index, in_contact) = (Some(if up { 100 } else { 50 }), Some(up));
                    members.push(MemberStatus {
                        replica: *id,
                        pool: pool.to_bytes(),
                        voter: true,
                        matched_index,
                        in_contact,
                        snapshot: None,
                    });
                }
                for (id, (pool, looks)) in &group.learners {
                    let up = self.up(&state, *volume, *id, *pool);
                    let filled = up && *looks >= FILLED_AFTER;
                    let snapshot = (!filled).then(|| ballast_api::control::SnapshotProgress {
                        blocks_sent: u64::from(*looks),
                        blocks_total: 3,
                    });
                    members.push(MemberStatus {
                        replica: *id,
                        pool: pool.to_bytes(),
                        voter: false,
                        matched_index: Some(if filled { 100 } else { 0 }),
                        in_contact: Some(up),
                        snapshot,
                    });
                }
            }
            if leader == Some(replica.id)
                && let Some(group) = state.groups.get_mut(volume)
            {
                group.learners.values_mut().for_each(|(_, looks)| *looks += 1);
            }
            let role = if leader == Some(replica.id) { "leader" } else { "follower" };
            let learner = state.groups.get(volume).is_some_and(|group| group.learners.contains_key(&replica.id));
            replicas.push(ReplicaStatus {
                volume: volume.to_bytes(),
                replica: replica.id,
                role: String::from(if learner { "learner" } else { role }),
                blocks: state.groups.get(volume).map_or(0, |group| group.blocks),
                term: 1,
                last_index: 100,
                applied_index: 100,
                leader: leader.unwrap_or(0),
                members,
                ..ReplicaStatus::default()
            });
        }
        Ok(PoolStatus {
            pool: disk.pool.to_bytes(),
            name,
            capacity_bytes: capacity,
            free_bytes: capacity,
            replicas,
            peers: disk.peers,
            ..PoolStatus::default()
        })
    }

    async fn set_peers(&self, endpoint: &str, peers: PeerTable) -> CallResult<()> {
        let name = self.pool_at(endpoint)?;
        self.lock().disks.get_mut(&name).unwrap().peers = peers.peers;
        Ok(())
    }

    async fn create_replica(&self, endpoint: &str, request: CreateReplicaRequest) -> CallResult<()> {
        let name = self.pool_at(endpoint)?;
        let mut state = self.lock();
        Self::guard(&state, &name, endpoint, &request.pool)?;
        let (volume, pool) = (id(&request.volume), state.disks[&name].pool);
        let members: Vec<u64> = request.members.iter().map(|member| member.replica).collect();
        if let Some(old) = state.disks[&name].replicas.get(&volume) {
            if old.id == request.replica && old.members == members {
                return Ok(());
            }
            return Err(refused(endpoint, Code::AlreadyExists, "another replica of the volume is here"));
        }
        let group = state.groups.entry(volume).or_default();
        let took_part = group.voters.contains_key(&request.replica) || group.learners.contains_key(&request.replica);
        let made = group.made.insert(request.replica, pool);
        if took_part || (made.is_some() && !group.voters.is_empty()) {
            state.violations.push(format!("replica {} of {volume} was made a second time", request.replica));
        }
        let replica = Replica { id: request.replica, members };
        // The first replicas are made with one size, later ones with the group's.
        let others = state.disks.values().any(|disk| disk.replicas.contains_key(&volume));
        let group = state.groups.entry(volume).or_default();
        if others && group.blocks != 0 && group.blocks != request.blocks {
            let text = format!("a replica of {volume} was made with {} blocks, not {}", request.blocks, group.blocks);
            state.violations.push(text);
        } else if group.voters.is_empty() {
            group.blocks = request.blocks;
        }
        state.disks.get_mut(&name).unwrap().replicas.insert(volume, replica);
        Ok(())
    }

    async fn form_group(&self, endpoint: &str, request: FormGroupRequest) -> CallResult<()> {
        let name = self.pool_at(endpoint)?;
        let mut state = self.lock();
        Self::guard(&state, &name, endpoint, &request.pool)?;
        let volume = id(&request.volume);
        let formed = state.groups.get(&volume).is_some_and(|group| !group.voters.is_empty());
        if formed {
            return Ok(());
        }
        let mut voters = BTreeMap::new();
        for member in &request.members {
            let pool = PoolId::from_slice(&member.pool).unwrap();
            let there = state.disks.values().any(|disk| {
                disk.pool == pool && disk.replicas.get(&volume).is_some_and(|replica| replica.id == member.replica)
            });
            if !there {
                state.violations.push(format!("group of {volume} formed without replica {}", member.replica));
            }
            voters.insert(member.replica, pool);
        }
        state.groups.entry(volume).or_default().voters = voters;
        Ok(())
    }

    async fn delete_replica(&self, endpoint: &str, request: VolumeRef) -> CallResult<()> {
        let name = self.pool_at(endpoint)?;
        let mut state = self.lock();
        Self::guard(&state, &name, endpoint, &request.pool)?;
        let volume = id(&request.volume);
        let volumes = self.sim.list::<CStorVolume>();
        let object = volumes.iter().find(|object| object.uid() == Some(volume.to_string()));
        let replicas = &mut state.disks.get_mut(&name).unwrap().replicas;
        let meant = |held: &Replica| request.replica == 0 || held.id == request.replica;
        if !replicas.get(&volume).is_some_and(meant) {
            return Ok(()); // another one, or none
        }
        let target = object.map(|object| format!("{}-target", object.name_any())).unwrap_or_default();
        if request.unused && self.sim.get::<Deployment>(NAMESPACE, &target).is_some() {
            return Err(refused(endpoint, Code::PermissionDenied, "a target has opened this volume"));
        }
        let Some(replica) = replicas.remove(&volume) else { return Ok(()) };
        let alive = object.is_some_and(|object| object.metadata.deletion_timestamp.is_none());
        let formed = object.and_then(|object| object.status.as_ref()).is_some_and(|status| status.formed);
        let votes = state.groups.get(&volume).is_some_and(|group| group.voters.contains_key(&replica.id));
        if alive && formed && votes {
            state.violations.push(format!("voter {} of {volume} was deleted", replica.id));
        }
        if alive && !formed && votes {
            // The group was formed and nobody noted it: nothing was written, all of it is made again.
            state.groups.remove(&volume);
        }
        Ok(())
    }

    async fn add_learner(&self, endpoint: &str, request: AddLearnerRequest) -> CallResult<()> {
        let name = self.pool_at(endpoint)?;
        let mut state = self.lock();
        Self::guard(&state, &name, endpoint, &request.pool)?;
        let volume = id(&request.volume);
        self.leads(&state, endpoint, &name, volume)?;
        let member = request.member.unwrap();
        let pool = PoolId::from_slice(&member.pool).unwrap();
        if !state.disks[&name].peers.iter().any(|peer| peer.pool == member.pool) {
            return Err(refused(endpoint, Code::FailedPrecondition, "the leader does not know this pool"));
        }
        let group = state.groups.get_mut(&volume).unwrap();
        if !group.voters.contains_key(&member.replica) {
            group.learners.entry(member.replica).or_insert((pool, 0));
        }
        Ok(())
    }

    async fn change_voters(&self, endpoint: &str, request: ChangeVotersRequest) -> CallResult<()> {
        let name = self.pool_at(endpoint)?;
        let mut state = self.lock();
        Self::guard(&state, &name, endpoint, &request.pool)?;
        let volume = id(&request.volume);
        self.leads(&state, endpoint, &name, volume)?;
        let mut group = state.groups[&volume].clone();
        let mut voters = BTreeMap::new();
        for wanted in &request.voters {
            match (group.voters.get(wanted), group.learners.remove(wanted)) {
                (Some(pool), _) => voters.insert(*wanted, *pool),
                (None, Some((pool, looks))) if looks >= FILLED_AFTER => voters.insert(*wanted, pool),
                _ => return Err(refused(endpoint, Code::FailedPrecondition, "no member, or not caught up")),
            };
        }
        let up = voters.iter().filter(|(id, pool)| self.up(&state, volume, **id, **pool)).count();
        if up * 2 <= voters.len() {
            return Err(refused(endpoint, Code::FailedPrecondition, "no majority of these would answer"));
        }
        group.voters = voters;
        state.groups.insert(volume, group);
        Ok(())
    }

    async fn remove_learner(&self, endpoint: &str, request: RemoveLearnerRequest) -> CallResult<()> {
        let name = self.pool_at(endpoint)?;
        let mut state = self.lock();
        Self::guard(&state, &name, endpoint, &request.pool)?;
        let volume = id(&request.volume);
        self.leads(&state, endpoint, &name, volume)?;
        state.groups.get_mut(&volume).unwrap().learners.remove(&request.replica);
        Ok(())
    }

    async fn grow_volume(&self, endpoint: &str, request: GrowVolumeRequest) -> CallResult<()> {
        let name = self.pool_at(endpoint)?;
        let mut state = self.lock();
        Self::guard(&state, &name, endpoint, &request.pool)?;
        let volume = id(&request.volume);
        self.leads(&state, endpoint, &name, volume)?;
        let group = state.groups.get_mut(&volume).unwrap();
        if request.blocks < group.blocks {
            return Err(refused(endpoint, Code::InvalidArgument, "it cannot be made smaller"));
        }
        group.blocks = request.blocks;
        Ok(())
    }

    async fn target_status(&self, endpoint: &str) -> CallResult<TargetStatus> {
        let name = self.target_at(endpoint)?;
        let table = self.lock().targets.get(&name).cloned().unwrap_or_else(|| self.target_file(&name));
        let served = |volume: &TargetVolume| TargetVolumeStatus {
            volume: volume.volume.clone(),
            replicas: volume.replicas.clone(),
            blocks: volume.blocks,
            state: String::from("online"),
            ..TargetVolumeStatus::default()
        };
        Ok(TargetStatus { volumes: table.volumes.iter().map(served).collect(), ..TargetStatus::default() })
    }

    async fn set_volumes(&self, endpoint: &str, volumes: VolumeTable) -> CallResult<()> {
        let name = self.target_at(endpoint)?;
        self.lock().targets.insert(name, volumes);
        Ok(())
    }
}
