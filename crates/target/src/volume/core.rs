//! What the client of a volume knows, as plain functions of events. No I/O, no clock of its own.
//!
//! ```text
//!            Connect(replica) --> [connecting] --stream up--> [opening] --Opened--> [online]
//!                  ^                   |                          |                    |
//!                  +---- next replica, after a pause -------------+---- stream lost, --+
//!                                                                      not leader, stalled
//! ```
//!
//! Invariants, restored after each event
//! * Every operation is unanswered exactly once: it is in `ops` until its reply is given.
//! * Online means: one stream, one epoch, every operation of `ops` sent on it under that epoch, in order of its id.
//! * Every replica of the list is tried again and again, whatever the others say: a hint at the leader is followed, but at
//!   most [`MAX_HINTS`] in a row, because replicas that were removed from the group name leaders of long ago.
//! * The list may be out of date. A hint that says where the leader listens leads to it although it is not in the list.
//! * The volume is taken over only once, at the first open; a reconnect asks for a new epoch as the owner. If somebody
//!   else owns the volume by then, this client is fenced for good.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ballast_api::replica::failure::Code;
use ballast_api::replica::volume_request::Op as WireOp;
use ballast_api::replica::volume_response::Result as WireResult;
use ballast_api::replica::{self as wire, Failure, VolumeRequest, VolumeResponse};
use ballast_api::{BlockCount, Epoch, PoolId, TargetId, VolumeId};
use bytes::Bytes;

use crate::block_device::DeviceError;

/// An attempt to connect and open that takes longer is given up for the next replica.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// An operation without answer for this long makes the client look for another leader.
pub(super) const STALL: Duration = Duration::from_secs(3);
/// Upper bound of the stall time, which doubles each time a new leader did not help (a slow disk is not a dead one).
const STALL_MAX: Duration = Duration::from_secs(24);
/// Pause between attempts.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Hints followed before the next replica of the list has its turn.
const MAX_HINTS: u8 = 2;
/// Times a block may arrive damaged at the replica before this is an error.
const DAMAGED_RETRIES: u8 = 3;

/// What is asked of the volume.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Write { lba: u64, crcs: Vec<u32>, payload: Bytes },
    Read { lba: u64, blocks: u32 },
    Unmap { lba: u64, blocks: u64 },
    SaveState(Bytes),
    Extents { lba: u64, blocks: u32 },
}

/// What comes back.
#[derive(Debug)]
pub(super) enum Reply {
    Done,
    Data { crcs: Vec<u32>, payload: Bytes },
    Extents { mapped_first: bool, runs: Vec<u32> },
}

pub(super) type OpResult = Result<Reply, DeviceError>;

/// What the shell has to do.
#[derive(Debug)]
pub(super) enum Action<T> {
    /// Drop the stream, if any; wait; connect to this pool, listed or said to be `at`; report `connected` or `lost`.
    Connect { pool: PoolId, at: Option<String>, pause: Duration },
    /// Send on the stream.
    Send(VolumeRequest),
    /// Answer the asker; when a leader answered, with the time at which it was asked.
    Complete(T, OpResult, Option<Instant>),
    /// The volume was taken over; this is what targets kept with it.
    Kept(Bytes),
    /// The volume has so many blocks.
    Capacity(BlockCount),
}

struct Pending<T> {
    op: Op,
    ticket: T,
    /// It fails with a retryable error after this.
    deadline: Instant,
    /// When it was last sent.
    sent: Instant,
    damaged: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Connecting or opening since.
    Seeking {
        since: Instant,
    },
    Online,
    Fenced,
}

/// See the module's text. `T` is what the shell needs to answer an asker.
pub(super) struct Core<T> {
    volume: VolumeId,
    target: TargetId,
    replicas: Vec<PoolId>,
    /// Whose turn it is in the list.
    turn: usize,
    /// Who is tried or used.
    candidate: Option<PoolId>,
    /// Hints followed since the last turn.
    hints: u8,
    phase: Phase,
    epoch: Epoch,
    took_over: bool,
    next_id: u64,
    open_id: u64,
    ops: BTreeMap<u64, Pending<T>>,
    stall: Duration,
    io_wait: Duration,
    retries: u64,
}

impl<T> Core<T> {
    pub(super) fn new(volume: VolumeId, target: TargetId, replicas: Vec<PoolId>, io_wait: Duration) -> Self {
        Self {
            volume,
            target,
            candidate: replicas.first().copied(),
            replicas,
            turn: 0,
            hints: 0,
            phase: Phase::Seeking { since: Instant::now() },
            epoch: Epoch(0),
            took_over: false,
            next_id: 1,
            open_id: 0,
            ops: BTreeMap::new(),
            stall: STALL,
            io_wait,
            retries: 0,
        }
    }

    pub(super) fn is_online(&self) -> bool {
        self.phase == Phase::Online
    }

    /// Whether anything has a deadline: an unanswered operation, or the search for the leader.
    pub(super) fn is_busy(&self) -> bool {
        match self.phase {
            Phase::Seeking { .. } => true,
            Phase::Online => !self.ops.is_empty(),
            Phase::Fenced => false,
        }
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.phase == Phase::Fenced
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn leader(&self) -> Option<PoolId> {
        if self.is_online() { self.candidate } else { None }
    }

    pub(super) fn retries(&self) -> u64 {
        self.retries
    }

    /// Begins to look for the leader.
    pub(super) fn start(&mut self, now: Instant) -> Vec<Action<T>> {
        self.phase = Phase::Seeking { since: now };
        self.connect(None, Duration::ZERO)
    }

    /// The replicas moved. A stream that stands stays, also when its replica is not listed any more: the group may still
    /// be led from there.
    pub(super) fn set_replicas(&mut self, replicas: Vec<PoolId>) {
        self.turn = replicas.iter().position(|pool| Some(*pool) == self.candidate).unwrap_or(0);
        self.replicas = replicas;
    }

    fn connect(&self, at: Option<String>, pause: Duration) -> Vec<Action<T>> {
        match self.candidate {
            Some(pool) => vec![Action::Connect { pool, at, pause }],
            None => Vec::new(),
        }
    }

    /// A new operation.
    pub(super) fn submit(&mut self, now: Instant, op: Op, ticket: T) -> Option<Action<T>> {
        if self.phase == Phase::Fenced {
            return Some(Action::Complete(ticket, Err(DeviceError::Fenced), None));
        }
        let id = self.next_id;
        self.next_id += 1;
        let online = self.is_online();
        let request = online.then(|| self.request(id, &op));
        self.ops.insert(id, Pending { op, ticket, deadline: now + self.io_wait, sent: now, damaged: 0 });
        request.map(Action::Send)
    }

    fn request(&self, id: u64, op: &Op) -> VolumeRequest {
        let epoch = self.epoch.0;
        let op = match op {
            Op::Write { lba, crcs, payload } => {
                WireOp::Write(wire::Write { epoch, lba: *lba, crcs: crcs.clone(), payload: payload.clone() })
            }
            Op::Read { lba, blocks } => WireOp::Read(wire::Read { epoch, lba: *lba, blocks: *blocks }),
            Op::Extents { lba, blocks } => WireOp::Extents(wire::Extents { epoch, lba: *lba, blocks: *blocks }),
            Op::SaveState(state) => WireOp::SaveState(wire::SaveState { epoch, state: state.clone() }),
            Op::Unmap { lba, blocks } => WireOp::Unmap(wire::Unmap { epoch, lba: *lba, blocks: *blocks }),
        };
        VolumeRequest { id, op: Some(op) }
    }

    /// The stream to the candidate stands.
    pub(super) fn connected(&mut self) -> Action<T> {
        self.open_id = self.next_id;
        self.next_id += 1;
        let open =
            wire::Open { volume: self.volume.to_bytes(), target: self.target.to_bytes(), take_over: !self.took_over };
        Action::Send(VolumeRequest { id: self.open_id, op: Some(WireOp::Open(open)) })
    }

    /// The stream broke, or could not be made.
    pub(super) fn lost(&mut self, now: Instant) -> Vec<Action<T>> {
        if self.phase == Phase::Fenced {
            return Vec::new();
        }
        self.seek(now, None)
    }

    /// Goes on to another replica: the one that leads, if somebody said which, or the next of the list.
    fn seek(&mut self, now: Instant, hint: Option<Hint>) -> Vec<Action<T>> {
        let was_online = self.is_online();
        if was_online {
            self.retries += 1;
        }
        self.phase = Phase::Seeking { since: now };
        let can_be_reached = |hint: &Hint| hint.endpoint.is_some() || self.replicas.contains(&hint.pool);
        // A replica that names itself has just refused.
        let hint = hint.filter(|hint| Some(hint.pool) != self.candidate && can_be_reached(hint));
        let at = match hint.filter(|_| self.hints < MAX_HINTS) {
            Some(hint) => {
                self.hints += 1;
                self.candidate = Some(hint.pool);
                hint.endpoint
            }
            None => {
                self.hints = 0;
                self.turn = (self.turn + 1) % self.replicas.len().max(1);
                self.candidate = self.replicas.get(self.turn).copied();
                None
            }
        };
        // The first step after a loss is taken at once; during an election all steps fail, so the next ones wait.
        self.connect(at, if was_online { Duration::ZERO } else { RETRY_PAUSE })
    }

    /// An answer on the current stream.
    pub(super) fn response(&mut self, now: Instant, response: VolumeResponse) -> Vec<Action<T>> {
        if self.phase == Phase::Fenced {
            return Vec::new();
        }
        if response.id == self.open_id && !self.is_online() {
            return self.open_answered(now, response.result);
        }
        let id = response.id;
        let result = match response.result {
            Some(WireResult::Done(_)) => Ok(Reply::Done),
            Some(WireResult::Data(data)) => Ok(Reply::Data { crcs: data.crcs, payload: data.payload }),
            Some(WireResult::Extents(extents)) => {
                Ok(Reply::Extents { mapped_first: extents.mapped_first, runs: extents.runs })
            }
            Some(WireResult::Failure(failure)) => match self.failed(now, id, failure) {
                Verdict::Answer(error) => Err(error),
                Verdict::Act(actions) => return actions,
            },
            Some(WireResult::Opened(_)) | None => {
                Err(DeviceError::Internal("the replica gave an answer to another question".to_owned()))
            }
        };
        // Any answer shows that the leader works.
        self.stall = STALL;
        match self.ops.remove(&id) {
            Some(pending) => vec![Action::Complete(pending.ticket, result, Some(pending.sent))],
            // It had reached its deadline before.
            None => Vec::new(),
        }
    }

    fn open_answered(&mut self, now: Instant, result: Option<WireResult>) -> Vec<Action<T>> {
        match result {
            Some(WireResult::Opened(opened)) => {
                self.phase = Phase::Online;
                self.hints = 0;
                self.turn = self.replicas.iter().position(|pool| Some(*pool) == self.candidate).unwrap_or(self.turn);
                self.epoch = Epoch(opened.epoch);
                let ids: Vec<u64> = self.ops.keys().copied().collect();
                let mut actions = Vec::with_capacity(ids.len() + 2);
                actions.push(Action::Capacity(BlockCount(opened.blocks)));
                // As the owner we know it better: what we saved last may be under way still.
                if !std::mem::replace(&mut self.took_over, true) {
                    actions.push(Action::Kept(opened.state));
                }
                for id in ids {
                    let Some(pending) = self.ops.get_mut(&id) else { continue };
                    pending.sent = now;
                    let op = pending.op.clone();
                    actions.push(Action::Send(self.request(id, &op)));
                }
                actions
            }
            Some(WireResult::Failure(failure)) => match failure.code() {
                Code::Fenced => self.fence(),
                Code::NotLeader => self.seek(now, Hint::of(failure)),
                _ => self.seek(now, None),
            },
            _ => self.seek(now, None),
        }
    }

    fn failed(&mut self, now: Instant, id: u64, failure: Failure) -> Verdict<T> {
        match failure.code() {
            Code::NotLeader => Verdict::Act(self.seek(now, Hint::of(failure))),
            Code::Unavailable | Code::UnknownVolume | Code::Unspecified => Verdict::Act(self.seek(now, None)),
            Code::Fenced => Verdict::Act(self.fence()),
            Code::BadChecksum => {
                if let Some(pending) = self.ops.get_mut(&id)
                    && pending.damaged < DAMAGED_RETRIES
                {
                    pending.damaged += 1;
                    pending.sent = now;
                    let op = pending.op.clone();
                    return Verdict::Act(vec![Action::Send(self.request(id, &op))]);
                }
                Verdict::Answer(DeviceError::Internal(format!("data is damaged on the way: {}", failure.message)))
            }
            Code::NoSpace => Verdict::Answer(DeviceError::NoSpace),
            Code::OutOfRange => Verdict::Answer(DeviceError::OutOfRange),
            Code::Corrupt => {
                let lba = match self.ops.get(&id).map(|pending| &pending.op) {
                    Some(
                        Op::Read { lba, .. } | Op::Write { lba, .. } | Op::Unmap { lba, .. } | Op::Extents { lba, .. },
                    ) => *lba,
                    Some(Op::SaveState(_)) | None => 0,
                };
                Verdict::Answer(DeviceError::Corrupt { lba512: lba * 8 })
            }
            Code::Internal => Verdict::Answer(DeviceError::Internal(failure.message)),
        }
    }

    fn fence(&mut self) -> Vec<Action<T>> {
        self.phase = Phase::Fenced;
        let ops = std::mem::take(&mut self.ops);
        ops.into_values().map(|pending| Action::Complete(pending.ticket, Err(DeviceError::Fenced), None)).collect()
    }

    /// Time passed. Called now and then; what is due is found here.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Action<T>> {
        let mut actions = Vec::new();
        let expired: Vec<u64> =
            self.ops.iter().filter(|(_, pending)| pending.deadline <= now).map(|(id, _)| *id).collect();
        for id in expired {
            if let Some(pending) = self.ops.remove(&id) {
                let why = format!("no leader confirmed the operation within {:?}", self.io_wait);
                actions.push(Action::Complete(pending.ticket, Err(DeviceError::Unavailable(why)), None));
            }
        }
        match self.phase {
            Phase::Seeking { since } if now.duration_since(since) > OPEN_TIMEOUT => {
                actions.extend(self.seek(now, None));
            }
            Phase::Online => {
                let oldest = self.ops.values().map(|pending| pending.sent).min();
                if oldest.is_some_and(|sent| now.duration_since(sent) > self.stall) {
                    self.stall = (self.stall * 2).min(STALL_MAX);
                    actions.extend(self.seek(now, None));
                }
            }
            _ => {}
        }
        actions
    }
}

/// Who leads, as a replica said that does not.
struct Hint {
    pool: PoolId,
    endpoint: Option<String>,
}

impl Hint {
    fn of(failure: Failure) -> Option<Self> {
        let pool = PoolId::from_slice(&failure.leader_pool).ok()?;
        Some(Self { pool, endpoint: Some(failure.leader_endpoint).filter(|endpoint| !endpoint.is_empty()) })
    }
}

enum Verdict<T> {
    Answer(DeviceError),
    Act(Vec<Action<T>>),
}
