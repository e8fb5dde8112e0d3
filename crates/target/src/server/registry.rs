//! Targets and their sessions.
//!
//! A session is in its target's list from its login until its last device call has returned. A new login of the
//! same initiator port (name + ISID) waits for that (session reinstatement, RFC 7143 section 6.3.5).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::access::{self, TargetAccess};
use super::{ServerConfig, ServerError};
use crate::block_device::BlockDevice;
use crate::iscsi::digest::Digests;
use crate::iscsi::login::{Access, Challenge, ChapAccount, Directory, LoginOutcome, LoginStatus, PORTAL_GROUP};
use crate::iscsi::session::TargetList;
use crate::latency::Latency;
use crate::scsi::{Attention, InitiatorPort, LogicalUnit};

/// What a session is told from outside.
#[derive(Debug)]
pub(super) enum Control {
    /// End now; the reason is for the log.
    Close(&'static str),
    /// Ask the initiator to log out, then end.
    RequestLogout,
    /// Tell the initiator that the session is dropped, then end.
    Drop,
    /// Another session ends all tasks, by a reset or by preempting this initiator; answer when no task is left.
    Reset(Option<Attention>, oneshot::Sender<()>),
}

/// A session as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// InitiatorName.
    pub initiator: String,
    /// Initiator session id.
    pub isid: [u8; 6],
    /// Target session handle.
    pub tsih: u16,
    /// The initiator's address.
    pub connected_from: SocketAddr,
    /// Digests in use.
    pub digests: Digests,
}

struct Handle {
    id: u64,
    port: Arc<InitiatorPort>,
    info: SessionInfo,
    control: mpsc::UnboundedSender<Control>,
    ended: watch::Receiver<()>,
}

impl Handle {
    fn reset(&self, attention: Option<Attention>) -> Option<oneshot::Receiver<()>> {
        let (ack, done) = oneshot::channel();
        self.control.send(Control::Reset(attention, ack)).is_ok().then_some(done)
    }
}

/// A target: LUN 0 and its sessions.
pub(super) struct Target<D> {
    pub(super) unit: Arc<LogicalUnit<D>>,
    pub(super) latency: Latency,
    access: RwLock<TargetAccess>,
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    list: Vec<Handle>,
    /// Logins that wait for a place.
    removed: bool,
}

/// A session's place in the list; dropping it ends the session for everybody else.
pub(super) struct Registration<D> {
    pub(super) target: Arc<Target<D>>,
    pub(super) port: Arc<InitiatorPort>,
    id: u64,
    _ended: watch::Sender<()>,
}

impl<D> Drop for Registration<D> {
    fn drop(&mut self) {
        self.target.unit.reservations.nexus_lost(&self.port);
        self.target.lock().list.retain(|h| h.id != self.id);
    }
}

impl<D> Target<D> {
    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_access(&self, access: TargetAccess) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = access;
    }

    fn ask(&self, initiator: &str) -> Result<Access, LoginStatus> {
        self.access.read().unwrap_or_else(PoisonError::into_inner).ask(initiator)
    }

    pub(super) fn infos(&self) -> Vec<SessionInfo> {
        self.lock().list.iter().map(|h| h.info.clone()).collect()
    }

    fn tell_all(&self, mut message: impl FnMut() -> Control) {
        for handle in &self.lock().list {
            let _ = handle.control.send(message());
        }
    }

    /// Resets all sessions but `own`; the receivers answer when their tasks are gone.
    pub(super) fn reset_others(
        &self,
        own: &Registration<D>,
        attention: Attention,
        drop_sessions: bool,
    ) -> Vec<oneshot::Receiver<()>> {
        if attention == Attention::Reset {
            self.unit.reservations.reset();
        }
        let mut acks = Vec::new();
        for handle in self.lock().list.iter().filter(|h| h.id != own.id) {
            acks.extend(handle.reset(Some(attention)));
            if drop_sessions {
                let _ = handle.control.send(Control::Drop);
            }
        }
        acks
    }

    /// Ends the tasks of some initiators' sessions.
    pub(super) fn abort_tasks(&self, of: &[InitiatorPort]) -> Vec<oneshot::Receiver<()>> {
        let sessions = self.lock();
        sessions
            .list
            .iter()
            .filter(|handle| of.contains(&handle.port))
            .filter_map(|handle| handle.reset(None))
            .collect()
    }
}

/// State of the server that all connections share.
pub(super) struct Shared<D> {
    pub(super) config: ServerConfig,
    targets: RwLock<BTreeMap<String, Arc<Target<D>>>>,
    discovery: RwLock<Option<Arc<ChapAccount>>>,
    next_tsih: AtomicU16,
    next_id: AtomicU64,
}

impl<D> Shared<D> {
    pub(super) fn find(&self, iqn: &str) -> Option<Arc<Target<D>>> {
        self.targets.read().unwrap_or_else(PoisonError::into_inner).get(iqn).cloned()
    }
}

impl<D: BlockDevice> Shared<D> {
    pub(super) fn new(config: ServerConfig) -> Self {
        let discovery = RwLock::new(config.discovery_chap.clone());
        Self { config, targets: RwLock::default(), discovery, next_tsih: AtomicU16::new(1), next_id: AtomicU64::new(1) }
    }

    pub(super) fn set_discovery(&self, account: Option<Arc<ChapAccount>>) {
        *self.discovery.write().unwrap_or_else(PoisonError::into_inner) = account;
    }

    /// A challenge for a new connection.
    pub(super) fn new_challenge(&self) -> io::Result<Challenge> {
        let mut random = [0; 33];
        getrandom::fill(&mut random)?;
        let [id, bytes @ ..] = random;
        Ok(Challenge { id, bytes })
    }

    /// A target session handle; never 0, which means "new session" on the wire.
    pub(super) fn new_tsih(&self) -> u16 {
        match self.next_tsih.fetch_add(1, Ordering::Relaxed) {
            0 => self.next_tsih.fetch_add(1, Ordering::Relaxed),
            n => n,
        }
    }

    pub(super) fn add(&self, iqn: String, device: Arc<D>, access: TargetAccess) -> Result<(), ServerError> {
        let unit = Arc::new(LogicalUnit::new(iqn.clone(), device));
        let mut targets = self.targets.write().unwrap_or_else(PoisonError::into_inner);
        if targets.contains_key(&iqn) {
            return Err(ServerError::Duplicate(iqn));
        }
        let (access, latency) = (RwLock::new(access), Latency::default());
        targets.insert(iqn, Arc::new(Target { unit, latency, access, sessions: Mutex::default() }));
        Ok(())
    }

    pub(super) fn remove(&self, iqn: &str) {
        let gone = self.targets.write().unwrap_or_else(PoisonError::into_inner).remove(iqn);
        if let Some(target) = gone {
            target.lock().removed = true;
            target.tell_all(|| Control::Drop);
        }
    }

    pub(super) fn request_logout(&self) {
        for target in self.targets.read().unwrap_or_else(PoisonError::into_inner).values() {
            target.tell_all(|| Control::RequestLogout);
        }
    }

    /// Enters a session, after an older one of the same initiator port has ended. True: it replaced one.
    pub(super) async fn claim(
        &self,
        iqn: &str,
        login: &LoginOutcome,
        peer: SocketAddr,
    ) -> Result<(Registration<D>, mpsc::UnboundedReceiver<Control>, bool), LoginStatus> {
        let target = self.find(iqn).ok_or(LoginStatus::NotFound)?;
        let mut replaced = false;
        loop {
            let mut old = {
                let mut sessions = target.lock();
                if sessions.removed {
                    return Err(LoginStatus::NotFound);
                }
                let same = |h: &&Handle| h.info.isid == login.isid && h.info.initiator == login.initiator;
                match sessions.list.iter().find(same) {
                    None if sessions.list.len() >= self.config.max_sessions => {
                        return Err(LoginStatus::OutOfResources);
                    }
                    None => {
                        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
                        let (control, messages) = mpsc::unbounded_channel();
                        let (ended_tx, ended) = watch::channel(());
                        let info = SessionInfo {
                            initiator: login.initiator.clone(),
                            isid: login.isid,
                            tsih: login.tsih,
                            connected_from: peer,
                            digests: login.params.digests,
                        };
                        let port = Arc::new(InitiatorPort::new(&login.initiator, login.isid));
                        sessions.list.push(Handle { id, port: port.clone(), info, control, ended });
                        drop(sessions);
                        return Ok((Registration { target, port, id, _ended: ended_tx }, messages, replaced));
                    }
                    Some(handle) => {
                        let _ = handle.control.send(Control::Close("replaced by a new login"));
                        handle.ended.clone()
                    }
                }
            };
            replaced = true;
            // The sender is dropped when the old session is out of the list.
            let gone = async { while old.changed().await.is_ok() {} };
            if timeout(self.config.drain_timeout, gone).await.is_err() {
                // Its commands hang on the device. Starting over beside them could let an old write land after a
                // new one, so the initiator has to try again.
                return Err(LoginStatus::ServiceUnavailable);
            }
        }
    }
}

impl<D: BlockDevice> Directory for Shared<D> {
    fn access(&self, initiator: &str, target: Option<&str>) -> Result<Access, LoginStatus> {
        match target {
            None => Ok(access::of(self.discovery.read().unwrap_or_else(PoisonError::into_inner).as_ref())),
            Some(iqn) => self.find(iqn).ok_or(LoginStatus::NotFound)?.ask(initiator),
        }
    }
}

/// The target list as seen through one connection: what the initiator may not use, it is not told of.
pub(super) struct Portal<'a, D> {
    pub(super) shared: &'a Shared<D>,
    pub(super) initiator: &'a str,
    pub(super) local: SocketAddr,
}

impl<D: BlockDevice> TargetList for Portal<'_, D> {
    fn send_targets(&self, name: Option<&str>) -> Vec<(String, String)> {
        let address = self.shared.config.advertised.unwrap_or(self.local);
        // An IPv4 initiator on a dual-stack socket is told an IPv4 address.
        let ip = match address.ip() {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
            v4 => v4,
        };
        let address = format!("{},{PORTAL_GROUP}", SocketAddr::new(ip, address.port()));
        let targets = self.shared.targets.read().unwrap_or_else(PoisonError::into_inner);
        let named = |iqn: &str| name.is_none_or(|name| name == iqn);
        let open = targets.iter().filter(|(iqn, target)| named(iqn) && target.ask(self.initiator).is_ok());
        open.map(|(iqn, _)| (iqn.clone(), address.clone())).collect()
    }
}
