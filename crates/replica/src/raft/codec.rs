//! Raft's things as bytes: in the pool's journal and between replicas.
//!
//! The payload of a write is never in these bytes. On the way it is a field of its own, so that it stays one slice
//! of the receive buffer; in the pool it lies in its blocks, and the journal holds only its address and checksums.
//!
//! ```text
//! LogMark.tag    term u64 | node u64                                      (little endian)
//! header         kind u8 | body
//!   0 blank      -
//!   1 write      epoch u64                        lba and crcs are the record's own
//!   2 unmap      epoch u64                        lba and count are the record's own
//!   3 open       target [16] | take_over u8
//!   4 membership postcard(MembershipBody)
//!   5 save state epoch u64 | what the target keeps
//!   6 grow       blocks u64
//! command        = header, for write: + lba u64, for unmap: + lba u64 + count u64   (between replicas)
//! vote           term u64 | node u64 | committed u8
//! state          postcard(StateBody) | postcard(Additions), absent in states of before there were any
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ballast_api::replica::{self as wire};
use ballast_api::{BlockCount, Epoch, Lba, PoolId, TargetId};
use ballast_pool::{LogMark, LogOp, LogRecord};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Serialize};

use super::types::{Entry, LeaderId, LogId, MemberNode, Membership, StoredMembership, Vote};
use crate::volume::{Command, VolumeState};

const BLANK: u8 = 0;
const WRITE: u8 = 1;
const UNMAP: u8 = 2;
const OPEN: u8 = 3;
const MEMBERSHIP: u8 = 4;
const SAVE_STATE: u8 = 5;
const GROW: u8 = 6;

/// Bytes that are not what they should be. In the journal that is damage, between replicas a version mismatch.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the form needs.
    #[error("{what}: {len} bytes are too few; the log entry is damaged or of a newer version")]
    Short {
        /// What was read.
        what: &'static str,
        /// What there was.
        len: usize,
    },
    /// A kind that this version does not know.
    #[error("log entry kind {0} is unknown; was it written by a newer version?")]
    Kind(u8),
    /// The operation beside the header is of another kind.
    #[error("log entry {index}: header and operation disagree; the log entry is damaged")]
    Mismatch {
        /// The entry.
        index: u64,
    },
    /// A serialized structure does not parse.
    #[error("{what}: {source}")]
    Structure {
        /// What was read.
        what: &'static str,
        /// Why it failed.
        source: postcard::Error,
    },
    /// A membership that openraft refuses.
    #[error("membership: {0}")]
    Membership(String),
    /// A message lacks a part.
    #[error("message without {0}")]
    Missing(&'static str),
}

fn need(what: &'static str, bytes: &[u8], len: usize) -> Result<(), DecodeError> {
    if bytes.len() < len { Err(DecodeError::Short { what, len: bytes.len() }) } else { Ok(()) }
}

// ---- log ids and votes ------------------------------------------------------------------------------------------

/// The pool's mark of an entry.
pub fn mark_of(id: &LogId) -> LogMark {
    let mut tag = [0; 16];
    tag[..8].copy_from_slice(&id.leader_id.term.to_le_bytes());
    tag[8..].copy_from_slice(&id.leader_id.node_id.to_le_bytes());
    LogMark { index: id.index, tag }
}

/// The entry that a mark of the pool names.
pub fn log_id_of(mark: &LogMark) -> LogId {
    let mut tag = &mark.tag[..];
    let leader_id = LeaderId { term: tag.get_u64_le(), node_id: tag.get_u64_le() };
    LogId { leader_id, index: mark.index }
}

/// A vote as the pool keeps it.
pub fn encode_vote(vote: &Vote) -> Bytes {
    let mut out = BytesMut::with_capacity(17);
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.node_id);
    out.put_u8(u8::from(vote.committed));
    out.freeze()
}

/// Back from [`encode_vote`].
pub fn decode_vote(mut bytes: &[u8]) -> Result<Vote, DecodeError> {
    need("vote", bytes, 17)?;
    let leader_id = LeaderId { term: bytes.get_u64_le(), node_id: bytes.get_u64_le() };
    Ok(Vote { leader_id, committed: bytes.get_u8() != 0 })
}

/// A vote for a message.
pub fn vote_to_wire(vote: &Vote) -> wire::RaftVote {
    wire::RaftVote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

/// A vote from a message.
pub fn vote_from_wire(vote: Option<wire::RaftVote>) -> Result<Vote, DecodeError> {
    let vote = vote.ok_or(DecodeError::Missing("vote"))?;
    Ok(Vote { leader_id: LeaderId { term: vote.term, node_id: vote.node }, committed: vote.committed })
}

/// A log id for a message.
pub fn log_id_to_wire(id: &LogId) -> wire::LogId {
    wire::LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

/// A log id from a message.
pub fn log_id_from_wire(id: wire::LogId) -> LogId {
    LogId { leader_id: LeaderId { term: id.term, node_id: id.node }, index: id.index }
}

// ---- entries <-> journal ------------------------------------------------------------------------------------------

/// An entry as the pool's journal takes it: small header, operation with address, checksums and payload.
pub fn record_of(entry: Entry) -> LogRecord {
    let mark = mark_of(&entry.log_id);
    let mut header = BytesMut::with_capacity(20);
    let op = match entry.payload {
        EntryPayload::Blank => {
            header.put_u8(BLANK);
            LogOp::None
        }
        EntryPayload::Normal(Command::Write { epoch, lba, crcs, payload }) => {
            header.put_u8(WRITE);
            header.put_u64_le(epoch.0);
            LogOp::Write { lba, crcs, payload }
        }
        EntryPayload::Normal(Command::Unmap { epoch, lba, count }) => {
            header.put_u8(UNMAP);
            header.put_u64_le(epoch.0);
            LogOp::Unmap { lba, count }
        }
        EntryPayload::Normal(Command::Open { target, take_over }) => {
            put_open(&mut header, target, take_over);
            LogOp::None
        }
        EntryPayload::Normal(Command::SaveState { epoch, state }) => {
            put_save_state(&mut header, epoch, &state);
            LogOp::None
        }
        EntryPayload::Normal(Command::Grow { blocks }) => {
            put_grow(&mut header, blocks);
            LogOp::None
        }
        EntryPayload::Membership(membership) => {
            header.put_u8(MEMBERSHIP);
            header.put_slice(&encode_membership(&membership));
            LogOp::None
        }
    };
    LogRecord { mark, header: header.freeze(), op }
}

/// Back from [`record_of`].
pub fn entry_of(record: LogRecord) -> Result<Entry, DecodeError> {
    let index = record.mark.index;
    let log_id = log_id_of(&record.mark);
    let mut header = &record.header[..];
    need("log entry", header, 1)?;
    let kind = header.get_u8();
    let payload = match (kind, record.op) {
        (BLANK, LogOp::None) => EntryPayload::Blank,
        (WRITE, LogOp::Write { lba, crcs, payload }) => {
            EntryPayload::Normal(Command::Write { epoch: take_epoch(&mut header)?, lba, crcs, payload })
        }
        (UNMAP, LogOp::Unmap { lba, count }) => {
            EntryPayload::Normal(Command::Unmap { epoch: take_epoch(&mut header)?, lba, count })
        }
        (OPEN, LogOp::None) => EntryPayload::Normal(take_open(&mut header)?),
        (MEMBERSHIP, LogOp::None) => EntryPayload::Membership(decode_membership(header)?),
        (SAVE_STATE, LogOp::None) => EntryPayload::Normal(take_save_state(&mut header)?),
        (GROW, LogOp::None) => EntryPayload::Normal(take_grow(&mut header)?),
        (BLANK..=GROW, _) => return Err(DecodeError::Mismatch { index }),
        (other, _) => return Err(DecodeError::Kind(other)),
    };
    Ok(Entry::new(log_id, payload))
}

fn put_open(out: &mut BytesMut, target: TargetId, take_over: bool) {
    out.put_u8(OPEN);
    out.put_slice(target.as_bytes());
    out.put_u8(u8::from(take_over));
}

fn put_save_state(out: &mut BytesMut, epoch: Epoch, state: &[u8]) {
    out.put_u8(SAVE_STATE);
    out.put_u64_le(epoch.0);
    out.put_slice(state);
}

fn take_save_state(bytes: &mut &[u8]) -> Result<Command, DecodeError> {
    Ok(Command::SaveState { epoch: take_epoch(bytes)?, state: Bytes::copy_from_slice(bytes) })
}

fn put_grow(out: &mut BytesMut, blocks: BlockCount) {
    out.put_u8(GROW);
    out.put_u64_le(blocks.0);
}

fn take_grow(bytes: &mut &[u8]) -> Result<Command, DecodeError> {
    need("grow", bytes, 8)?;
    Ok(Command::Grow { blocks: BlockCount(bytes.get_u64_le()) })
}

/// The capacity that a record asks for, if it is a growth: the pool has to know before the writes that follow.
pub fn growth_in(record: &LogRecord) -> Option<BlockCount> {
    let mut header = &record.header[..];
    if header.first() != Some(&GROW) {
        return None;
    }
    header.advance(1);
    match take_grow(&mut header) {
        Ok(Command::Grow { blocks }) => Some(blocks),
        _ => None,
    }
}

fn take_epoch(bytes: &mut &[u8]) -> Result<Epoch, DecodeError> {
    need("epoch", bytes, 8)?;
    Ok(Epoch(bytes.get_u64_le()))
}

fn take_open(bytes: &mut &[u8]) -> Result<Command, DecodeError> {
    need("open", bytes, 17)?;
    let mut id = [0; 16];
    bytes.copy_to_slice(&mut id);
    Ok(Command::Open { target: TargetId::from_bytes(id), take_over: bytes.get_u8() != 0 })
}

// ---- entries <-> messages -----------------------------------------------------------------------------------------

/// An entry as a message to another replica; the payload stays the same `Bytes`.
pub fn entry_to_wire(entry: Entry) -> wire::Entry {
    let id = entry.log_id;
    let mut command = BytesMut::with_capacity(32);
    let (mut crcs, mut payload) = (Vec::new(), Bytes::new());
    match entry.payload {
        EntryPayload::Blank => command.put_u8(BLANK),
        EntryPayload::Normal(Command::Write { epoch, lba, crcs: sums, payload: data }) => {
            command.put_u8(WRITE);
            command.put_u64_le(epoch.0);
            command.put_u64_le(lba.0);
            (crcs, payload) = (sums.to_vec(), data);
        }
        EntryPayload::Normal(Command::Unmap { epoch, lba, count }) => {
            command.put_u8(UNMAP);
            command.put_u64_le(epoch.0);
            command.put_u64_le(lba.0);
            command.put_u64_le(count.0);
        }
        EntryPayload::Normal(Command::Open { target, take_over }) => put_open(&mut command, target, take_over),
        EntryPayload::Normal(Command::SaveState { epoch, state }) => put_save_state(&mut command, epoch, &state),
        EntryPayload::Normal(Command::Grow { blocks }) => put_grow(&mut command, blocks),
        EntryPayload::Membership(membership) => {
            command.put_u8(MEMBERSHIP);
            command.put_slice(&encode_membership(&membership));
        }
    }
    wire::Entry {
        term: id.leader_id.term,
        node: id.leader_id.node_id,
        index: id.index,
        command: command.freeze(),
        crcs,
        payload,
    }
}

/// Back from [`entry_to_wire`].
pub fn entry_from_wire(entry: wire::Entry) -> Result<Entry, DecodeError> {
    let log_id = LogId { leader_id: LeaderId { term: entry.term, node_id: entry.node }, index: entry.index };
    let mut command = &entry.command[..];
    need("log entry", command, 1)?;
    let payload = match command.get_u8() {
        BLANK => EntryPayload::Blank,
        WRITE => {
            let epoch = take_epoch(&mut command)?;
            need("write", command, 8)?;
            let lba = Lba(command.get_u64_le());
            let crcs: Arc<[u32]> = entry.crcs.into();
            EntryPayload::Normal(Command::Write { epoch, lba, crcs, payload: entry.payload })
        }
        UNMAP => {
            let epoch = take_epoch(&mut command)?;
            need("unmap", command, 16)?;
            let (lba, count) = (Lba(command.get_u64_le()), BlockCount(command.get_u64_le()));
            EntryPayload::Normal(Command::Unmap { epoch, lba, count })
        }
        OPEN => EntryPayload::Normal(take_open(&mut command)?),
        MEMBERSHIP => EntryPayload::Membership(decode_membership(command)?),
        SAVE_STATE => EntryPayload::Normal(take_save_state(&mut command)?),
        GROW => EntryPayload::Normal(take_grow(&mut command)?),
        other => return Err(DecodeError::Kind(other)),
    };
    Ok(Entry::new(log_id, payload))
}

// ---- membership and state -----------------------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
struct MembershipBody {
    /// One set of voters, two while a change is under way.
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, PoolId>,
}

impl MembershipBody {
    fn of(membership: &Membership) -> Self {
        Self {
            configs: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, node)| (*id, node.pool)).collect(),
        }
    }

    fn into_membership(self) -> Result<Membership, DecodeError> {
        if self.configs.is_empty() {
            return Ok(Membership::default());
        }
        let nodes: BTreeMap<_, _> = self.nodes.into_iter().map(|(id, pool)| (id, MemberNode { pool })).collect();
        Membership::new(self.configs, nodes).map_err(|e| DecodeError::Membership(e.to_string()))
    }
}

fn encode_membership(membership: &Membership) -> Vec<u8> {
    // Writing to a Vec cannot fail, and the type has no map keys that postcard refuses.
    postcard::to_stdvec(&MembershipBody::of(membership)).unwrap_or_default()
}

fn decode_membership(bytes: &[u8]) -> Result<Membership, DecodeError> {
    let body: MembershipBody =
        postcard::from_bytes(bytes).map_err(|source| DecodeError::Structure { what: "membership", source })?;
    body.into_membership()
}

#[derive(Serialize, Deserialize)]
struct StateBody {
    epoch: Epoch,
    owner: Option<TargetId>,
    membership_at: Option<(u64, u64, u64)>,
    membership: MembershipBody,
}

/// What was added to the state later.
#[derive(Default, Serialize, Deserialize)]
struct Additions {
    /// [`VolumeState::blocks`].
    blocks: u64,
    /// [`VolumeState::target_state`].
    target_state: Vec<u8>,
}

/// The state machine besides the map, as a checkpoint or a snapshot keeps it.
pub fn encode_state(volume: &VolumeState, membership: &StoredMembership) -> Bytes {
    let body = StateBody {
        epoch: volume.epoch,
        owner: volume.owner,
        membership_at: membership.log_id().as_ref().map(|id| (id.leader_id.term, id.leader_id.node_id, id.index)),
        membership: MembershipBody::of(membership.membership()),
    };
    let mut bytes = postcard::to_stdvec(&body).unwrap_or_default();
    let additions = Additions { blocks: volume.blocks.0, target_state: volume.target_state.to_vec() };
    bytes.extend(postcard::to_stdvec(&additions).unwrap_or_default());
    bytes.into()
}

/// Back from [`encode_state`].
pub fn decode_state(bytes: &[u8]) -> Result<(VolumeState, StoredMembership), DecodeError> {
    let wrong = |source| DecodeError::Structure { what: "volume state", source };
    let (body, rest): (StateBody, &[u8]) = postcard::take_from_bytes(bytes).map_err(wrong)?;
    let additions: Additions =
        if rest.is_empty() { Additions::default() } else { postcard::from_bytes(rest).map_err(wrong)? };
    let at = body.membership_at.map(|(term, node, index)| LogId::new(LeaderId::new(term, node), index));
    let membership = StoredMembership::new(at, body.membership.into_membership()?);
    let volume = VolumeState {
        epoch: body.epoch,
        owner: body.owner,
        blocks: BlockCount(additions.blocks),
        target_state: additions.target_state.into(),
    };
    Ok((volume, membership))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64) -> LogId {
        LogId { leader_id: LeaderId { term: 3, node_id: 2 }, index }
    }

    fn samples() -> Vec<Entry> {
        let target = TargetId::random();
        let nodes: BTreeMap<_, _> = (1..=3).map(|n| (n, MemberNode { pool: PoolId::random() })).collect();
        let membership = Membership::new(vec![(1..=3).collect()], nodes).unwrap();
        let payload = Bytes::from(vec![7; 8192]);
        let commands = [
            Command::Write { epoch: Epoch(4), lba: Lba(9), crcs: vec![1, 2].into(), payload },
            Command::Unmap { epoch: Epoch(4), lba: Lba(1), count: BlockCount(70) },
            Command::Open { target, take_over: true },
            Command::SaveState { epoch: Epoch(4), state: Bytes::from_static(b"reservations") },
            Command::Grow { blocks: BlockCount(1 << 40) },
        ];
        let mut all =
            vec![Entry::new(id(1), EntryPayload::Blank), Entry::new(id(2), EntryPayload::Membership(membership))];
        all.extend(
            commands.into_iter().enumerate().map(|(n, c)| Entry::new(id(3 + n as u64), EntryPayload::Normal(c))),
        );
        all
    }

    #[test]
    fn entries_survive_the_journal_and_the_wire() {
        for entry in samples() {
            assert_eq!(entry_of(record_of(entry.clone())).unwrap(), entry);
            assert_eq!(entry_from_wire(entry_to_wire(entry.clone())).unwrap(), entry);
        }
    }

    #[test]
    fn the_payload_is_not_copied_between_wire_and_journal() {
        let entry = samples().remove(2);
        let wire = entry_to_wire(entry);
        let at = wire.payload.as_ptr();
        let LogOp::Write { payload, .. } = record_of(entry_from_wire(wire).unwrap()).op else { panic!("a write") };
        assert_eq!(payload.as_ptr(), at);
    }

    #[test]
    fn a_write_costs_few_bytes_in_the_journal() {
        assert_eq!(record_of(samples().remove(2)).header.len(), 9);
    }

    #[test]
    fn votes_marks_and_state_round_trip() {
        let vote = Vote { leader_id: LeaderId { term: 5, node_id: 1 }, committed: true };
        assert_eq!(decode_vote(&encode_vote(&vote)).unwrap(), vote);
        assert_eq!(log_id_of(&mark_of(&id(77))), id(77));
        let target_state = Bytes::from_static(b"reservations");
        let blocks = BlockCount(77);
        let volume = VolumeState { epoch: Epoch(8), owner: Some(TargetId::random()), blocks, target_state };
        let nodes: BTreeMap<_, _> = [(1, MemberNode { pool: PoolId::random() })].into();
        let membership = StoredMembership::new(Some(id(2)), Membership::new(vec![[1].into()], nodes).unwrap());
        let bytes = encode_state(&volume, &membership);
        assert_eq!(decode_state(&bytes).unwrap(), (volume.clone(), membership.clone()));
        // A state of before there were additions.
        let (_, additions) = postcard::take_from_bytes::<StateBody>(&bytes).unwrap();
        let old = decode_state(&bytes[..bytes.len() - additions.len()]).unwrap();
        let without = VolumeState { blocks: BlockCount(0), target_state: Bytes::new(), ..volume };
        assert_eq!(old, (without, membership));
    }

    #[test]
    fn damage_is_an_error_not_a_panic() {
        for entry in samples() {
            let record = record_of(entry);
            // What a target keeps has no length of its own: the record's is its length.
            let whole = if record.header[0] == SAVE_STATE { 9 } else { record.header.len() };
            for cut in 0..whole {
                let mut short = record.clone();
                short.header = record.header.slice(..cut);
                // Membership bodies may parse from a prefix only if complete; every other cut must fail.
                assert!(entry_of(short).is_err(), "cut at {cut}");
            }
        }
        assert!(decode_vote(&[1, 2]).is_err());
        assert!(decode_state(&[9]).is_err());
    }
}
