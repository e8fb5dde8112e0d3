//! What an operator does to a group: each step is asked for again and again until it is done, and then once more.

use std::time::Duration;

use ballast_api::PoolId;
use ballast_api::control::pool_control_client::PoolControlClient;
use ballast_api::control::{
    AddLearnerRequest, ChangeVotersRequest, Empty, RemoveLearnerRequest, ReplicaStatus, VolumeRef,
};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::Group;

/// A step that is not done by then will never be.
const PATIENCE: Duration = Duration::from_secs(40);

impl Group {
    /// Pool number and status of whoever leads.
    pub async fn leader(&self) -> (usize, ReplicaStatus) {
        let find = async {
            loop {
                let mut best: Option<(usize, ReplicaStatus)> = None;
                for n in (0..self.nodes.len()).filter(|n| self.nodes[*n].pool.is_some()) {
                    let Some(status) = self.status(n).await.filter(|status| status.role == "leader") else { continue };
                    if best.as_ref().is_none_or(|(_, best)| best.term < status.term) {
                        best = Some((n, status));
                    }
                }
                if let Some(best) = best {
                    return best;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, find).await.expect("a leader")
    }

    pub async fn ask_add(&self, n: usize, new: usize, replica: u64) -> Result<(), Status> {
        let request = AddLearnerRequest {
            volume: self.volume.to_bytes(),
            pool: self.nodes[n].id.to_bytes(),
            member: Some(self.member(new, replica)),
        };
        self.nodes[n].control().await.add_learner(request).await.map(drop)
    }

    pub async fn ask_voters(&self, n: usize, voters: &[u64]) -> Result<(), Status> {
        let pool = self.nodes[n].id.to_bytes();
        let request = ChangeVotersRequest { volume: self.volume.to_bytes(), pool, voters: voters.to_vec() };
        self.nodes[n].control().await.change_voters(request).await.map(drop)
    }

    pub async fn ask_remove(&self, n: usize, replica: u64) -> Result<(), Status> {
        let pool = self.nodes[n].id.to_bytes();
        let request = RemoveLearnerRequest { volume: self.volume.to_bytes(), pool, replica };
        self.nodes[n].control().await.remove_learner(request).await.map(drop)
    }

    /// Makes a replica on pool number `new` and adds it to the group.
    pub async fn add(&self, new: usize, replica: u64) {
        self.create(new, replica, Vec::new()).await.unwrap();
        self.create(new, replica, Vec::new()).await.unwrap();
        self.persist(async |n| self.ask_add(n, new, replica).await).await;
    }

    /// Has exactly these replicas vote.
    pub async fn voters(&self, voters: &[u64]) {
        self.persist(async |n| self.ask_voters(n, voters).await).await;
        let (_, status) = self.leader().await;
        let mut found: Vec<u64> = status.members.iter().filter(|m| m.voter).map(|m| m.replica).collect();
        found.sort_unstable();
        assert_eq!(found, voters);
        assert!(!status.changing);
    }

    /// Deletes the replica of pool number `n`.
    pub async fn delete(&self, n: usize) {
        let (volume, pool) = (self.volume.to_bytes(), self.nodes[n].id.to_bytes());
        let volume = VolumeRef { volume, pool, ..VolumeRef::default() };
        for _ in 0..2 {
            self.nodes[n].control().await.delete_replica(volume.clone()).await.unwrap();
        }
    }

    /// Asks whoever leads, until it says yes twice in a row.
    async fn persist(&self, ask: impl AsyncFn(usize) -> Result<(), Status>) {
        let insist = async {
            let mut agreed = 0;
            while agreed < 2 {
                let (n, _) = self.leader().await;
                match ask(n).await {
                    Ok(()) => agreed += 1,
                    Err(status) => {
                        let codes = [Code::FailedPrecondition, Code::Aborted, Code::Unavailable];
                        assert!(codes.contains(&status.code()), "{status:?}");
                        agreed = 0;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, insist).await.expect("the group changes");
    }
}

/// The pool that a refusal names as the leader's.
pub fn named_leader(status: &Status) -> Option<PoolId> {
    let bytes = status.metadata().get_bin("ballast-leader-bin")?.to_bytes().unwrap();
    Some(PoolId::from_slice(&bytes).unwrap())
}

pub async fn pool_status(mut control: PoolControlClient<Channel>) -> ballast_api::control::PoolStatus {
    control.status(Empty {}).await.map(Response::into_inner).unwrap()
}
