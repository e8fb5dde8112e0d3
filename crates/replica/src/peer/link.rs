//! The sending side of a connection to another pool process: one gRPC stream, shared by all groups.
//!
//! Who waits for an answer registers a route under a number of its own; the reader task hands each answer to its
//! route. When the connection ends, all routes of it are dropped and their owners see [`LinkError::Lost`]: openraft
//! then retries with its back-off. A route never outlives its connection, so an answer can never reach a later
//! question.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ballast_api::replica::peer_request::Op;
use ballast_api::replica::peer_response;
use ballast_api::replica::replica_client::ReplicaClient;
use ballast_api::replica::{PeerRequest, PeerResponse};
use ballast_api::{PoolId, ReplicaId, VolumeId};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use ballast_rpc::{Endpoint, EndpointError};

/// Messages queued towards a peer before senders wait. Memory is bounded by this times the size of an append.
const QUEUE: usize = 32;

/// A connection that is not up after this time is not coming up soon; openraft backs off and asks again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The metadata entry that names the sending pool, so that the receiver knows whose connection broke.
pub const SENDER: &str = "ballast-pool-bin";

/// Why a message got no answer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody told this process where the peer listens.
    #[error("the address of pool {0} is not known yet")]
    Unknown(PoolId),
    /// It cannot be reached.
    #[error("cannot connect to {endpoint}: {source}")]
    Connect {
        /// Where to.
        endpoint: String,
        /// Why not.
        source: EndpointError,
    },
    /// It refused the stream.
    #[error("{endpoint} refused the peer stream: {source}")]
    Refused {
        /// Where to.
        endpoint: String,
        /// What it said.
        source: Box<tonic::Status>,
    },
    /// The connection ended before the answer.
    #[error("the connection to the peer was lost")]
    Lost,
    /// The peer could not serve the message.
    #[error("peer: {0}")]
    Peer(String),
}

enum Route {
    Once(oneshot::Sender<PeerResponse>),
    Many(mpsc::UnboundedSender<PeerResponse>),
}

struct Connection {
    out: mpsc::Sender<PeerRequest>,
    routes: Mutex<Option<HashMap<u64, Route>>>,
}

impl Connection {
    /// `None` once the connection has ended.
    fn routes(&self) -> MutexGuard<'_, Option<HashMap<u64, Route>>> {
        // The map is changed in single steps; a panic elsewhere cannot leave it half changed.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, stream: u64, route: Route) -> Result<(), LinkError> {
        self.routes().as_mut().ok_or(LinkError::Lost)?.insert(stream, route);
        Ok(())
    }

    fn forget(&self, stream: u64) {
        if let Some(routes) = self.routes().as_mut() {
            routes.remove(&stream);
        }
    }

    fn deliver(&self, response: PeerResponse) {
        let mut routes = self.routes();
        let Some(routes) = routes.as_mut() else { return };
        match routes.get(&response.stream) {
            Some(Route::Many(route)) => _ = route.send(response),
            Some(Route::Once(_)) => {
                if let Some(Route::Once(route)) = routes.remove(&response.stream) {
                    _ = route.send(response);
                }
            }
            // The asker gave up; nothing waits for this any more.
            None => {}
        }
    }
}

/// The way to one peer. Connects when first used and again after each loss.
pub struct Link {
    /// Who we are, told to the peer.
    own: PoolId,
    endpoint: Endpoint,
    next_stream: AtomicU64,
    /// The last attempt to connect failed.
    down: AtomicBool,
    connection: AsyncMutex<Option<Arc<Connection>>>,
    channel: AsyncMutex<Option<Channel>>,
}

impl Link {
    /// A link from pool `own` to `endpoint`, not yet connected.
    pub fn new(own: PoolId, endpoint: Endpoint) -> Arc<Self> {
        Arc::new(Self {
            own,
            endpoint,
            next_stream: AtomicU64::new(1),
            down: AtomicBool::new(false),
            connection: AsyncMutex::new(None),
            channel: AsyncMutex::new(None),
        })
    }

    /// Where it leads.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A channel for other calls to the same peer (snapshots): a connection of its own, so that bulk data does not
    /// stand in the way of appends.
    pub async fn bulk_channel(&self) -> Result<Channel, LinkError> {
        let mut channel = self.channel.lock().await;
        if let Some(channel) = channel.as_ref() {
            return Ok(channel.clone());
        }
        let new = self.connect().await?;
        *channel = Some(new.clone());
        Ok(new)
    }

    /// Sends one message to member `to` of a group and waits for its answer.
    pub async fn call(&self, volume: VolumeId, to: ReplicaId, op: Op) -> Result<bytes::Bytes, LinkError> {
        let connection = self.connection().await?;
        let stream = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let (answer, wait) = oneshot::channel();
        connection.register(stream, Route::Once(answer))?;
        let request = PeerRequest { volume: volume.to_bytes(), to: to.0, stream, seq: 0, op: Some(op) };
        connection.out.send(request).await.map_err(|_| LinkError::Lost)?;
        let guard = Forget { connection: &connection, stream };
        let response = wait.await.map_err(|_| LinkError::Lost)?;
        drop(guard);
        result_of(response)
    }

    /// Opens an ordered sequence of appends to member `to` of a group.
    pub async fn open_stream(
        &self,
        volume: VolumeId,
        to: ReplicaId,
    ) -> Result<(StreamSender, StreamReceiver), LinkError> {
        let connection = self.connection().await?;
        let stream = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let (route, answers) = mpsc::unbounded_channel();
        connection.register(stream, Route::Many(route))?;
        let sender = StreamSender { connection: connection.clone(), volume: volume.to_bytes(), to, stream, seq: 0 };
        Ok((sender, StreamReceiver { answers, seq: 0 }))
    }

    async fn connect(&self) -> Result<Channel, LinkError> {
        let result = match tokio::time::timeout(CONNECT_TIMEOUT, self.endpoint.connect()).await {
            Ok(result) => result,
            Err(_) => Err(EndpointError::TimedOut(CONNECT_TIMEOUT)),
        };
        // All groups ask again and again; the log tells only of changes.
        let was_down = self.down.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !was_down => tracing::warn!(endpoint = %self.endpoint, %error, "a peer cannot be reached"),
            Ok(_) if was_down => tracing::info!(endpoint = %self.endpoint, "the peer can be reached again"),
            _ => {}
        }
        result.map_err(|source| LinkError::Connect { endpoint: self.endpoint.to_string(), source })
    }

    async fn connection(&self) -> Result<Arc<Connection>, LinkError> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| connection.routes().is_some()) {
            return Ok(connection.clone());
        }
        let channel = self.connect().await?;
        let (out, requests) = mpsc::channel(QUEUE);
        let mut client = ReplicaClient::new(channel)
            .max_decoding_message_size(ballast_rpc::MAX_MESSAGE)
            .max_encoding_message_size(ballast_rpc::MAX_MESSAGE);
        let refused = |source| LinkError::Refused { endpoint: self.endpoint.to_string(), source: Box::new(source) };
        let mut call = tonic::Request::new(ReceiverStream::new(requests));
        call.metadata_mut().insert_bin(SENDER, tonic::metadata::MetadataValue::from_bytes(self.own.as_bytes()));
        let mut answers = client.peer(call).await.map_err(refused)?.into_inner();
        let connection = Arc::new(Connection { out, routes: Mutex::new(Some(HashMap::new())) });
        let reader = connection.clone();
        let endpoint = self.endpoint.to_string();
        tokio::spawn(async move {
            let why = loop {
                match answers.message().await {
                    Ok(Some(response)) => reader.deliver(response),
                    Ok(None) => break "closed by the peer".to_owned(),
                    Err(status) => break status.message().to_owned(),
                }
            };
            tracing::info!(%endpoint, why, "connection to peer ended");
            // Dropping the routes wakes everybody who waits.
            *reader.routes() = None;
        });
        *slot = Some(connection.clone());
        Ok(connection)
    }
}

struct Forget<'a> {
    connection: &'a Connection,
    stream: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.connection.forget(self.stream);
    }
}

fn result_of(response: PeerResponse) -> Result<bytes::Bytes, LinkError> {
    match response.answer {
        Some(peer_response::Answer::Result(bytes)) => Ok(bytes),
        Some(peer_response::Answer::Error(error)) => Err(LinkError::Peer(error)),
        None => Err(LinkError::Peer("an answer without content".to_owned())),
    }
}

/// The sending half of a sequence of appends. Dropping it tells the peer that no more will come.
pub struct StreamSender {
    connection: Arc<Connection>,
    volume: bytes::Bytes,
    to: ReplicaId,
    stream: u64,
    seq: u64,
}

impl StreamSender {
    /// Sends the next append.
    pub async fn send(&mut self, append: ballast_api::replica::Append) -> Result<(), LinkError> {
        let request = PeerRequest {
            volume: self.volume.clone(),
            to: self.to.0,
            stream: self.stream,
            seq: self.seq,
            op: Some(Op::Append(append)),
        };
        self.seq += 1;
        self.connection.out.send(request).await.map_err(|_| LinkError::Lost)
    }
}

impl Drop for StreamSender {
    fn drop(&mut self) {
        self.connection.forget(self.stream);
        let close = PeerRequest {
            volume: self.volume.clone(),
            to: self.to.0,
            stream: self.stream,
            seq: self.seq,
            op: Some(Op::CloseStream(self.stream)),
        };
        if let Err(mpsc::error::TrySendError::Full(close)) = self.connection.out.try_send(close) {
            // The peer must learn of it, or it keeps the sequence's task for as long as the connection lives.
            let out = self.connection.out.clone();
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { out.send(close).await });
            }
        }
    }
}

/// The answers to a sequence of appends, in its order.
pub struct StreamReceiver {
    answers: mpsc::UnboundedReceiver<PeerResponse>,
    seq: u64,
}

impl StreamReceiver {
    /// The answer to the oldest unanswered append.
    pub async fn next(&mut self) -> Result<bytes::Bytes, LinkError> {
        let response = self.answers.recv().await.ok_or(LinkError::Lost)?;
        if response.seq != self.seq {
            return Err(LinkError::Peer(format!("answer {} where {} was due", response.seq, self.seq)));
        }
        self.seq += 1;
        result_of(response)
    }
}
