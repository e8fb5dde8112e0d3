//! One connection: login, then the full feature phase, then waiting for what the device still does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::engine::{self, Ends, Engine};
use super::registry::{Control, Registration, Shared};
use super::writer::Writer;
use crate::block_device::BlockDevice;
use crate::iscsi::framing::{Deframer, FrameError};
use crate::iscsi::keys::DEFAULT_RECV_DATA;
use crate::iscsi::login::{LoginMachine, LoginOutcome, LoginStatus, LoginStep};
use crate::iscsi::pdu::OutPdu;
use crate::iscsi::session::{Session, SessionError};
use crate::scsi::Attention;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the initiator closed the connection")]
    Closed,
    #[error("logged out")]
    Logout,
    #[error("{0}")]
    Told(&'static str),
    #[error("the initiator did not answer a ping")]
    Silent,
    #[error("login: {0}")]
    Login(LoginStatus),
    #[error("not an iSCSI login")]
    NotLogin,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A session that was claimed: its place and its control messages. Discovery sessions have neither.
type Place<D> = Option<(Registration<D>, mpsc::UnboundedReceiver<Control>)>;

/// Serves a connection to its end.
pub(super) async fn serve<D: BlockDevice>(
    shared: Arc<Shared<D>>,
    mut stream: TcpStream,
    peer: SocketAddr,
    mut stop: watch::Receiver<bool>,
) {
    // Answers are gathered here; the kernel must not wait for more.
    let _ = stream.set_nodelay(true);
    let mut deframer = Deframer::new(DEFAULT_RECV_DATA as usize);
    let login = async {
        match timeout(shared.config.login_timeout, login(&shared, &mut stream, &mut deframer, peer)).await {
            Ok(done) => done,
            Err(_) => Err(Ended::Told("login took too long")),
        }
    };
    let done = tokio::select! {
        done = login => done,
        () = super::stopped(&mut stop) => return,
    };
    let (outcome, place, attention) = match done {
        Ok(done) => done,
        Err(reason) => {
            tracing::debug!(%peer, %reason, "connection ended before login was complete");
            return;
        }
    };
    let name = outcome.target.clone().unwrap_or_else(|| "discovery".into());
    tracing::info!(%peer, initiator = %outcome.initiator, target = %name, tsih = outcome.tsih, "session opened");
    let digests = outcome.params.digests;
    deframer.set_full_feature(digests, shared.config.offer.max_recv_data as usize);
    let mut writer = Writer::new();
    writer.set_digests(digests);
    let session = Session::new(&outcome, attention);
    let ends = Ends { local: stream.local_addr().unwrap_or(peer), initiator: outcome.initiator.clone() };
    let discovery = place.is_none();
    let engine = Engine::new(shared, stream, ends, deframer, writer, session, place);
    let reason = tokio::select! {
        reason = engine::run(engine) => reason,
        // Sessions are asked to log out by their control messages; a discovery session has no state to save.
        () = super::stopped(&mut stop), if discovery => Ended::Told("the target shuts down"),
    };
    tracing::info!(%peer, initiator = %outcome.initiator, target = %name, tsih = outcome.tsih, %reason, "session ended");
}

async fn login<D: BlockDevice>(
    shared: &Shared<D>,
    stream: &mut TcpStream,
    deframer: &mut Deframer,
    peer: SocketAddr,
) -> Result<(LoginOutcome, Place<D>, Attention), Ended> {
    let mut machine = LoginMachine::new(shared.config.offer.clone(), shared.new_tsih(), shared.new_challenge()?);
    loop {
        let Some(pdu) = deframer.next_pdu()? else {
            if stream.read_buf(&mut deframer.space()).await? == 0 {
                return Err(Ended::Closed);
            }
            continue;
        };
        match machine.on_pdu(&pdu, shared) {
            LoginStep::Continue(reply) => send(stream, reply).await?,
            LoginStep::Fail(reply, status) => {
                send(stream, reply).await?;
                return Err(Ended::Login(status));
            }
            LoginStep::Drop => return Err(Ended::NotLogin),
            LoginStep::Done(reply, outcome) => {
                let claimed = match outcome.target.as_deref() {
                    None => Ok(None),
                    Some(iqn) => shared.claim(iqn, &outcome, peer).await.map(Some),
                };
                let (place, attention) = match claimed {
                    Ok(None) => (None, Attention::PowerOn),
                    Ok(Some((place, control, true))) => (Some((place, control)), Attention::NexusLoss),
                    Ok(Some((place, control, false))) => (Some((place, control)), Attention::PowerOn),
                    Err(status) => {
                        // The refusal takes the StatSN after the answer that is not sent; no initiator minds.
                        send(stream, machine.refuse(status)).await?;
                        return Err(Ended::Login(status));
                    }
                };
                send(stream, reply).await?;
                return Ok((*outcome, place, attention));
            }
        }
    }
}

/// Login answers have no digests (RFC 7143 section 6.3: they start with the full feature phase).
async fn send(stream: &mut TcpStream, pdu: OutPdu) -> io::Result<()> {
    let mut writer = Writer::new();
    writer.push(pdu);
    std::future::poll_fn(|cx| writer.poll_flush(cx, stream)).await?;
    stream.flush().await
}
