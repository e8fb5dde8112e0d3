//! What a checkpoint keeps beside leaves and log chunks: the root and one record per replica.
//!
//! Keys of the metadata store (big-endian, so that they sort):
//! ```text
//! R                                the root
//! V slot 4                         a replica
//! L slot 4 leaf 8                  a map leaf            (format/leaf.rs)
//! E slot 4 index/64 8              64 log entries        (format/log.rs)
//! A device 1 region 4              used blocks of an allocation region, one bit each
//! ```

use ballast_api::VolumeId;
use bytes::Bytes;

use super::codec::{Reader, put_bytes, put_varint, seal, unseal};
use crate::types::LogMark;

pub(crate) const ROOT_KEY: &[u8] = b"R";

pub(crate) fn replica_key(slot: u32) -> Vec<u8> {
    [b"V".as_slice(), &slot.to_be_bytes()].concat()
}

pub(crate) fn leaf_key(slot: u32, leaf: u64) -> Vec<u8> {
    [b"L".as_slice(), &slot.to_be_bytes(), &leaf.to_be_bytes()].concat()
}

pub(crate) fn chunk_key(slot: u32, chunk: u64) -> Vec<u8> {
    [b"E".as_slice(), &slot.to_be_bytes(), &chunk.to_be_bytes()].concat()
}

pub(crate) fn region_key(device: u8, region: u32) -> Vec<u8> {
    [b"A".as_slice(), &[device], &region.to_be_bytes()].concat()
}

/// The number at the end of a leaf or chunk key.
pub(crate) fn key_number(key: &[u8]) -> Option<u64> {
    key.get(5..13)?.try_into().ok().map(u64::from_be_bytes)
}

/// The state of the pool at a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Root {
    /// Everything up to this batch is contained.
    pub(crate) seq: u64,
    /// The crc of that batch.
    pub(crate) crc: u32,
    /// Its incarnation: later batches have this one or a later one.
    pub(crate) incarnation: u64,
    /// Per device that the checkpoint knows: the block of the journal ring behind it. The batches behind this checkpoint are
    /// in the rings of these devices only; one that the pool has grown by since then is empty.
    pub(crate) heads: Vec<u64>,
    /// The next replica slot; slots are never used twice.
    pub(crate) next_slot: u32,
    /// Counts checkpoints.
    pub(crate) checkpoint: u64,
}

impl Root {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.extend_from_slice(&self.next_slot.to_le_bytes());
        out.extend_from_slice(&self.checkpoint.to_le_bytes());
        out.push(self.heads.len() as u8);
        for head in &self.heads {
            put_varint(&mut out, *head);
        }
        seal(&mut out);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(unseal(bytes)?);
        let root = Self {
            seq: r.u64()?,
            crc: r.u32()?,
            incarnation: r.u64()?,
            next_slot: r.u32()?,
            checkpoint: r.u64()?,
            heads: {
                let count = r.u8()?;
                (0..count).map(|_| r.varint()).collect::<Option<_>>()?
            },
        };
        r.is_empty().then_some(root)
    }
}

/// What a slot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SlotKind {
    /// A replica.
    Live,
    /// A deleted one whose blocks are still being given back.
    Deleted,
    /// One being installed: its blocks are not counted as used, a recovery drops its leaves.
    Shadow,
}

/// A replica at a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ReplicaRecord {
    pub(crate) kind: SlotKind,
    pub(crate) volume: VolumeId,
    pub(crate) blocks: u64,
    pub(crate) user: Bytes,
    pub(crate) purged: Option<LogMark>,
    pub(crate) applied: Option<LogMark>,
    pub(crate) committed: Option<LogMark>,
    pub(crate) hard_state: Option<Bytes>,
    pub(crate) blob: Option<(LogMark, Bytes)>,
    /// Blocks in the map.
    pub(crate) mapped: u64,
    /// First and last log index of the stored entries.
    pub(crate) log: Option<(u64, u64)>,
    /// Blocks of stored entries that are no longer mapped: (log index, block of the entry).
    pub(crate) dead: Vec<(u64, u8)>,
}

fn put_opt(out: &mut Vec<u8>, some: bool) {
    out.push(u8::from(some));
}

fn get_opt<T>(r: &mut Reader<'_>, get: impl FnOnce(&mut Reader<'_>) -> Option<T>) -> Option<Option<T>> {
    match r.u8()? {
        0 => Some(None),
        1 => get(r).map(Some),
        _ => None,
    }
}

fn put_mark(out: &mut Vec<u8>, mark: Option<&LogMark>) {
    put_opt(out, mark.is_some());
    if let Some(mark) = mark {
        put_varint(out, mark.index);
        out.extend_from_slice(&mark.tag);
    }
}

fn mark(r: &mut Reader<'_>) -> Option<LogMark> {
    Some(LogMark { index: r.varint()?, tag: r.array()? })
}

impl ReplicaRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.push(match self.kind {
            SlotKind::Live => 0,
            SlotKind::Deleted => 1,
            SlotKind::Shadow => 2,
        });
        out.extend_from_slice(self.volume.as_bytes());
        put_varint(&mut out, self.blocks);
        put_bytes(&mut out, &self.user);
        put_mark(&mut out, self.purged.as_ref());
        put_mark(&mut out, self.applied.as_ref());
        put_mark(&mut out, self.committed.as_ref());
        put_opt(&mut out, self.hard_state.is_some());
        if let Some(state) = &self.hard_state {
            put_bytes(&mut out, state);
        }
        put_opt(&mut out, self.blob.is_some());
        if let Some((at, blob)) = &self.blob {
            put_varint(&mut out, at.index);
            out.extend_from_slice(&at.tag);
            put_bytes(&mut out, blob);
        }
        put_varint(&mut out, self.mapped);
        put_opt(&mut out, self.log.is_some());
        if let Some((first, last)) = self.log {
            put_varint(&mut out, first);
            put_varint(&mut out, last);
        }
        put_varint(&mut out, self.dead.len() as u64);
        let mut before = 0;
        for (index, block) in &self.dead {
            put_varint(&mut out, index - before);
            out.push(*block);
            before = *index;
        }
        seal(&mut out);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(unseal(bytes)?);
        let bytes_of = |r: &mut Reader<'_>| r.bytes().map(Bytes::copy_from_slice);
        let record = Self {
            kind: match r.u8()? {
                0 => SlotKind::Live,
                1 => SlotKind::Deleted,
                2 => SlotKind::Shadow,
                _ => return None,
            },
            volume: VolumeId::from_bytes(r.array()?),
            blocks: r.varint()?,
            user: bytes_of(&mut r)?,
            purged: get_opt(&mut r, mark)?,
            applied: get_opt(&mut r, mark)?,
            committed: get_opt(&mut r, mark)?,
            hard_state: get_opt(&mut r, bytes_of)?,
            blob: get_opt(&mut r, |r| Some((mark(r)?, bytes_of(r)?)))?,
            mapped: r.varint()?,
            log: get_opt(&mut r, |r| Some((r.varint()?, r.varint()?)))?,
            dead: {
                let count = r.varint()?;
                let mut before = 0u64;
                (0..count)
                    .map(|_| {
                        before = before.checked_add(r.varint()?)?;
                        Some((before, r.u8()?))
                    })
                    .collect::<Option<_>>()?
            },
        };
        r.is_empty().then_some(record)
    }
}
