//! Settings of the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::iscsi::keys::Offer;
use crate::iscsi::login::ChapAccount;

/// Settings of the server; [`ServerConfig::new`] has good values for all but the portals.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Addresses to listen on; port 0 takes a free one.
    pub portals: Vec<SocketAddr>,
    /// TargetAddress to tell in discovery; by default the address that the initiator connected to. Needed behind a
    /// Service, where that address is the pod's own.
    pub advertised: Option<SocketAddr>,
    /// What discovery sessions have to show at first; without it everybody may ask which targets there are.
    pub discovery_chap: Option<Arc<ChapAccount>>,
    /// Digests allowed and transfer limits.
    pub offer: Offer,
    /// A silent initiator is pinged after this time and given up after as much again.
    pub nop_interval: Duration,
    /// Time for a whole login.
    pub login_timeout: Duration,
    /// Time for initiators to log out at shutdown, and to reconnect elsewhere.
    pub logout_grace: Duration,
    /// Time for commands in flight to finish when a session is replaced or the server stops.
    pub drain_timeout: Duration,
    /// Connections of all targets, those in login included: bounds memory and file descriptors.
    pub max_connections: usize,
    /// Sessions per target.
    pub max_sessions: usize,
    /// Pause after a failed accept.
    pub accept_backoff: Duration,
}

impl ServerConfig {
    /// Defaults with these portals.
    pub fn new(portals: Vec<SocketAddr>) -> Self {
        Self {
            portals,
            advertised: None,
            discovery_chap: None,
            offer: Offer::default(),
            nop_interval: Duration::from_secs(15),
            login_timeout: Duration::from_secs(15),
            logout_grace: Duration::from_secs(3),
            drain_timeout: Duration::from_secs(20),
            max_connections: 1024,
            max_sessions: 64,
            accept_backoff: Duration::from_millis(100),
        }
    }
}
