//! The shell around [`Core`]: one task owns the stream, the timers and the unanswered operations.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ballast_api::PoolId;
use ballast_api::replica::replica_client::ReplicaClient;
use ballast_api::replica::{VolumeRequest, VolumeResponse};
use ballast_rpc::Endpoint;
use ballast_rpc::busy_poll::{self, Next};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use super::core::{Action, Core, Op, OpResult};
use super::device::{Shared, VolumeState};
use crate::latency::Exchange;

/// How often deadlines are looked at. An idle volume with nothing unanswered is not woken at all.
const TICK: Duration = Duration::from_millis(250);

/// Operations taken from the channel in one go.
const BATCH: usize = 64;

pub(super) type Ticket = oneshot::Sender<Answer>;

/// What the asker gets.
pub(super) struct Answer {
    pub(super) result: OpResult,
    /// When the leader was asked and had answered, if it was one.
    pub(super) exchange: Option<Exchange>,
}

/// What reaches the actor from outside.
pub(super) enum Command {
    Submit(Op, Ticket),
    Replicas(Vec<(PoolId, Endpoint)>),
}

type Connected = Result<Stream, String>;

struct Stream {
    out: mpsc::UnboundedSender<VolumeRequest>,
    answers: Streaming<VolumeResponse>,
}

/// Runs until all handles of the volume are gone.
pub(super) async fn run(
    mut core: Core<Ticket>,
    mut replicas: HashMap<PoolId, Endpoint>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    shared: Arc<Shared>,
) {
    let mut stream: Option<Stream> = None;
    let mut connecting: Option<BoxFuture<'static, Connected>> = None;
    let mut batch = Vec::with_capacity(BATCH);
    let mut timer = tokio::time::interval(TICK);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // When what is being done became known.
    let mut now = Instant::now();
    let mut actions = core.start(now);
    loop {
        for action in actions.drain(..) {
            match action {
                Action::Send(request) => {
                    busy_poll::message(Next::Answer);
                    // The channel is bounded by the unanswered operations. If the stream is gone its reader says so.
                    if let Some(stream) = &stream {
                        _ = stream.out.send(request);
                    }
                }
                Action::Complete(ticket, result, sent) => {
                    busy_poll::message(if core.is_busy() { Next::Answer } else { Next::Request });
                    let exchange = sent.map(|sent| Exchange { sent, answered: now });
                    _ = ticket.send(Answer { result, exchange });
                }
                Action::Capacity(blocks) => _ = shared.blocks.fetch_max(blocks.0, Ordering::AcqRel),
                Action::Kept(state) => _ = shared.kept.send_replace(Some(state)),
                Action::Connect { pool, at, pause } => {
                    stream = None;
                    // Where our own list has it, it is tried when its turn comes.
                    let said = at.as_deref().and_then(|at| at.parse().ok());
                    let endpoint = said.or_else(|| replicas.get(&pool).cloned());
                    connecting = Some(Box::pin(connect(endpoint, pool, pause)));
                }
            }
        }
        publish(&core, &shared);
        // Deadlines exist only while something is unanswered or no leader is known.
        let timed = core.is_busy();
        tokio::select! {
            count = commands.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return;
                }
                now = Instant::now();
                for command in batch.drain(..) {
                    match command {
                        Command::Submit(op, ticket) => actions.extend(core.submit(now, op, ticket)),
                        Command::Replicas(new) => {
                            core.set_replicas(new.iter().map(|(pool, _)| *pool).collect());
                            replicas = new.into_iter().collect();
                        }
                    }
                }
            }
            answer = next_answer(&mut stream), if stream.is_some() => match answer {
                Ok(response) => {
                    now = Instant::now();
                    actions = core.response(now, response);
                }
                Err(why) => {
                    tracing::info!(volume = %shared.name, why, "the stream to the leader ended");
                    // A fenced core asks for no other one, and an ended stream would say so again and again, without rest.
                    stream = None;
                    actions = core.lost(Instant::now());
                }
            },
            result = poll_connecting(&mut connecting), if connecting.is_some() => {
                connecting = None;
                match result {
                    Ok(new) => {
                        stream = Some(new);
                        actions.push(core.connected());
                    }
                    Err(why) => {
                        tracing::debug!(volume = %shared.name, why, "no stream");
                        actions = core.lost(Instant::now());
                    }
                }
            }
            _ = timer.tick(), if timed => actions = core.tick(Instant::now()),
        }
    }
}

fn publish(core: &Core<Ticket>, shared: &Shared) {
    let state = if core.is_fenced() {
        VolumeState::Fenced
    } else if core.is_online() {
        VolumeState::Online
    } else if core.epoch().0 == 0 {
        VolumeState::Opening
    } else {
        VolumeState::Waiting
    };
    shared.retries.store(core.retries(), Ordering::Relaxed);
    let new = (state, core.epoch(), core.leader());
    shared.status.send_if_modified(|old| {
        let changed = *old != new;
        if changed {
            tracing::info!(volume = %shared.name, ?state, epoch = new.1.0, "volume state");
            *old = new;
        }
        changed
    });
}

async fn next_answer(stream: &mut Option<Stream>) -> Result<VolumeResponse, String> {
    match stream {
        Some(stream) => match stream.answers.message().await {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err("closed by the replica".to_owned()),
            Err(status) => Err(status.message().to_owned()),
        },
        None => std::future::pending().await,
    }
}

async fn poll_connecting(connecting: &mut Option<BoxFuture<'static, Connected>>) -> Connected {
    match connecting {
        Some(connecting) => connecting.await,
        None => std::future::pending().await,
    }
}

async fn connect(endpoint: Option<Endpoint>, pool: PoolId, pause: Duration) -> Connected {
    tokio::time::sleep(pause).await;
    let endpoint = endpoint.ok_or_else(|| format!("the address of pool {pool} is not known"))?;
    let channel = endpoint.connect().await.map_err(|error| format!("{endpoint}: {error}"))?;
    let mut client = ReplicaClient::new(channel)
        .max_decoding_message_size(ballast_rpc::MAX_MESSAGE)
        .max_encoding_message_size(ballast_rpc::MAX_MESSAGE);
    let (out, requests) = mpsc::unbounded_channel();
    let answers = client
        .volume(UnboundedReceiverStream::new(requests))
        .await
        .map_err(|status| format!("{endpoint}: {}", status.message()))?
        .into_inner();
    Ok(Stream { out, answers })
}
