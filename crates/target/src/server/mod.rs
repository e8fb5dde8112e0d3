//! The tokio shell around the state machines: listeners, targets, sessions, shutdown.
//!
//! ```text
//! run future: accept --spawn--> connection task: login -> claim session -> full feature loop -> drain
//! TargetServer (clones) --control messages--> connection tasks
//! ```
//! A connection task owns its socket, its session machine and its commands in flight: no locks and no hand-over
//! between tasks on the I/O path.

mod access;
mod config;
mod connection;
mod engine;
mod registry;
pub mod secrets;
mod writer;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use access::TargetAccess;
pub use config::ServerConfig;
pub use registry::SessionInfo;

use crate::block_device::BlockDevice;
use crate::iscsi::login::ChapAccount;
use crate::latency::{Kind, Snapshot, Stage};
use registry::Shared;

/// Why the server could not do something.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A portal cannot be bound.
    #[error("cannot listen on {addr}: {source}; is another target running there?")]
    Bind {
        /// The portal.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The accept task panicked.
    #[error("the iSCSI server failed: {0}; restart the process and report this as a bug")]
    Failed(#[source] tokio::task::JoinError),
    /// No portals were given.
    #[error("no portals configured: give at least one address to listen on")]
    NoPortals,
    /// A target of this name is already served.
    #[error("target {0} is already served; remove it first")]
    Duplicate(String),
    /// Not a name that an initiator could log in to.
    #[error("{0:?} is not an iSCSI name: use iqn.YYYY-MM.domain:name, lower case, at most 223 bytes")]
    BadName(String),
}

/// A running server; clones share it.
pub struct TargetServer<D> {
    shared: Arc<Shared<D>>,
    locals: Arc<[SocketAddr]>,
    stop: Arc<watch::Sender<bool>>,
    stopped: watch::Receiver<bool>,
}

impl<D> Clone for TargetServer<D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            locals: self.locals.clone(),
            stop: self.stop.clone(),
            stopped: self.stopped.clone(),
        }
    }
}

impl<D: BlockDevice> TargetServer<D> {
    /// Binds the portals and serves them. The returned future ends after [`Self::shutdown`]; dropping it earlier cuts
    /// all connections. It need not be polled for the server to work or to shut down.
    pub async fn bind(
        config: ServerConfig,
    ) -> Result<(Self, impl Future<Output = Result<(), ServerError>> + Send), ServerError> {
        if config.portals.is_empty() {
            return Err(ServerError::NoPortals);
        }
        let mut listeners = Vec::new();
        let mut locals = Vec::new();
        for addr in config.portals.iter().copied() {
            let failed = |source| ServerError::Bind { addr, source };
            let listener = TcpListener::bind(addr).await.map_err(failed)?;
            locals.push(listener.local_addr().map_err(failed)?);
            listeners.push(listener);
        }
        let (stop, stopping) = watch::channel(false);
        let (has_stopped, stopped) = watch::channel(false);
        let shared = Arc::new(Shared::new(config));
        let server = Self { shared: shared.clone(), locals: locals.into(), stop: Arc::new(stop), stopped };
        let mut task = JoinSet::new(); // aborts on drop
        task.spawn(async move {
            serve(shared, listeners, stopping).await;
            let _ = has_stopped.send(true);
        });
        let run = async move {
            match task.join_next().await {
                Some(Err(source)) => Err(ServerError::Failed(source)),
                _ => Ok(()),
            }
        };
        Ok((server, run))
    }

    /// The addresses listened on, with the ports that port 0 became.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.locals.to_vec()
    }

    /// Serves a device as LUN 0 of a target.
    pub fn add_target(&self, iqn: String, device: Arc<D>, access: TargetAccess) -> Result<(), ServerError> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-:".contains(&b);
        let scheme = ["iqn.", "eui.", "naa."].iter().any(|s| iqn.starts_with(s));
        if !scheme || iqn.len() > 223 || !iqn.bytes().all(fits) {
            return Err(ServerError::BadName(iqn)); // RFC 7143 section 4.2.7
        }
        self.shared.add(iqn, device, access)
    }

    /// Changes what discovery sessions have to show.
    pub fn set_discovery_chap(&self, account: Option<Arc<ChapAccount>>) {
        self.shared.set_discovery(account);
    }

    /// Changes who may log in to a target from now on; sessions that are open stay.
    pub fn set_access(&self, iqn: &str, access: TargetAccess) {
        if let Some(target) = self.shared.find(iqn) {
            target.set_access(access);
        }
    }

    /// Stops serving a target and ends its sessions; commands in flight still finish on the device.
    pub fn remove_target(&self, iqn: &str) {
        self.shared.remove(iqn);
    }

    /// The sessions of a target; none when there is no such target.
    pub fn sessions(&self, iqn: &str) -> Vec<SessionInfo> {
        self.shared.find(iqn).map(|t| t.infos()).unwrap_or_default()
    }

    /// How long the commands of a target took, since it was added; nothing when there is no such target.
    pub fn latencies(&self, iqn: &str) -> Vec<(Kind, Stage, Snapshot)> {
        let Some(target) = self.shared.find(iqn) else { return Vec::new() };
        let stages = Kind::ALL.into_iter().flat_map(|kind| Stage::ALL.map(|stage| (kind, stage)));
        stages.map(|(kind, stage)| (kind, stage, target.latency.snapshot(kind, stage))).collect()
    }

    /// Asks all initiators to log out, lets commands in flight finish, closes. Bounded by the configured times.
    pub async fn shutdown(&self) {
        let _ = self.stop.send(true);
        let mut stopped = self.stopped.clone();
        let bound = self.shared.config.logout_grace + 2 * self.shared.config.drain_timeout;
        let _ = timeout(bound, stopped.wait_for(|s| *s)).await;
    }
}

async fn serve<D: BlockDevice>(shared: Arc<Shared<D>>, listeners: Vec<TcpListener>, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let for_connections = stop.clone();
    loop {
        tokio::select! {
            accepted = accept(&listeners) => match accepted {
                Ok((stream, peer)) if connections.len() < shared.config.max_connections => {
                    connections.spawn(connection::serve(shared.clone(), stream, peer, for_connections.clone()));
                }
                Ok((_, peer)) => tracing::warn!(%peer, "connection refused: too many connections"),
                Err(error) => {
                    // Out of file descriptors or memory: wait for others to end instead of spinning.
                    tracing::warn!(%error, "accept failed");
                    sleep(shared.config.accept_backoff).await;
                }
            },
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection task failed");
                }
            }
            () = stopped(&mut stop) => break,
        }
    }
    drop(listeners);
    shared.request_logout();
    let bound = shared.config.logout_grace + shared.config.drain_timeout;
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(bound, all).await.is_err() {
        tracing::warn!("connections were still busy at shutdown and are cut");
    }
}

/// Returns when the server is told to stop, or is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|s| *s).await;
}

async fn accept(listeners: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    std::future::poll_fn(|cx| {
        for listener in listeners {
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    })
    .await
}
