//! `ballast.replica.v1.Replica`: streams of targets, of peers, and snapshots.

use std::pin::Pin;
use std::sync::Arc;

use ballast_api::replica::replica_server::Replica as ReplicaService;
use ballast_api::replica::snapshot_chunk::Part;
use ballast_api::replica::{PeerRequest, PeerResponse, SnapshotChunk, SnapshotResult, VolumeRequest, VolumeResponse};
use ballast_api::{PoolId, ReplicaId};
use futures_util::{Stream, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::session;
use crate::members::Members;
use crate::peer::link::SENDER;
use crate::peer::{self, answer};
use crate::snapshot;

/// Answers that wait for the wire.
const QUEUE: usize = 64;

/// The service over the members of this process.
pub struct DataService {
    members: Arc<Members>,
    stopped: watch::Receiver<bool>,
}

impl DataService {
    /// For these members. Streams of targets and peers end when `stopped` turns true: they would never end by themselves, and
    /// whoever is on the other side goes on elsewhere the sooner.
    pub fn new(members: Arc<Members>, stopped: watch::Receiver<bool>) -> Self {
        Self { members, stopped }
    }

    fn until_stopped<T>(&self, requests: Streaming<T>) -> impl Stream<Item = Result<T, Status>> + Unpin + use<T> {
        let mut stopped = self.stopped.clone();
        requests.take_until(Box::pin(async move { _ = stopped.wait_for(|stop| *stop).await }))
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ReplicaService for DataService {
    type VolumeStream = Answers<VolumeResponse>;
    type PeerStream = Answers<PeerResponse>;

    async fn volume(&self, request: Request<Streaming<VolumeRequest>>) -> Result<Response<Self::VolumeStream>, Status> {
        let (out, answers) = mpsc::channel(QUEUE);
        tokio::spawn(session::serve(self.members.clone(), self.until_stopped(request.into_inner()), out));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn peer(&self, request: Request<Streaming<PeerRequest>>) -> Result<Response<Self::PeerStream>, Status> {
        let (out, answers) = mpsc::channel(QUEUE);
        let sender = request.metadata().get_bin(SENDER).and_then(|value| value.to_bytes().ok());
        let sender = sender.and_then(|bytes| PoolId::from_slice(&bytes).ok());
        let (members, requests) = (self.members.clone(), self.until_stopped(request.into_inner()));
        tokio::spawn(async move {
            peer::server::serve(members.clone(), requests, out).await;
            if let Some(sender) = sender {
                peer::departure::follow_up(&members, sender).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<SnapshotResult>, Status> {
        let mut chunks = request.into_inner();
        let header = match chunks.next().await.transpose()?.and_then(|chunk| chunk.part) {
            Some(Part::Header(header)) => header,
            _ => return Err(Status::invalid_argument("a snapshot begins with its header")),
        };
        let member = peer::server::member(&self.members, &header.volume, ReplicaId(header.to))
            .map_err(|refusal| Status::not_found(refusal.to_string()))?;
        let (vote, snapshot) = snapshot::receive(member.store(), header, chunks)
            .await
            .map_err(|error| Status::aborted(error.to_string()))?;
        let response = member
            .raft()
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(SnapshotResult { result: answer::encode_snapshot(response.vote).into() }))
    }
}
