//! Journal batches: what happened to the pool's replicas, in order.
//!
//! ```text
//! 0     8         10      12          16           24    32             40            48        52       56    60
//! |magic|version 2|blocks 2|records 4 |pool hash 8 |seq 8|durable upto 8|incarnation 8|length 4 |prev crc|crc 4| records ..| 0 |
//! ```
//! A batch fills whole 4 KiB blocks. Its crc covers all of them (with the crc field as zero); `prev crc` is the crc of
//! the batch before it, so that a stale batch of an earlier life never continues a newer chain.
//!
//! A record begins with its kind. A 4 KiB write costs about 30 bytes plus its opaque header:
//! ```text
//! 1 append:   slot v | index v | tag 16, absent when "same tag" | header v+n | op
//!             op 0 nothing | 1 write: lba v, blocks v, n x (addr v, len v) until blocks are covered, crc 4 each | 2 unmap: lba v, count v
//! 2 truncate: slot v | last kept index + 1, or 0      3 purge: slot v | mark         4 hard state: slot v | bytes
//! 5 committed: slot v | mark                          6 applied: slot v | upto v | skips
//! 7 create: slot v | volume 16 | blocks v | user      8 delete: slot v
//! ```

use std::sync::Arc;

use ballast_api::VolumeId;
use bytes::Bytes;

use super::codec::{Reader, put_bytes, put_varint};
use super::{BLOCK, Extent, FORMAT_VERSION};
use crate::types::{LogMark, MAX_RECORD_BLOCKS};

const MAGIC: &[u8; 8] = b"BLSTJRNL";
pub(crate) const HEADER_BYTES: usize = 60;
const CRC_AT: usize = 56;
/// The most blocks a batch may have.
pub(crate) const MAX_BATCH_BLOCKS: u64 = 256;
/// Set in the kind of an append whose tag is that of the append before it.
const SAME_TAG: u8 = 0x80;

/// What a log entry does, as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum StoredOp {
    None,
    Write { lba: u64, crcs: Arc<[u32]>, extents: Extents },
    Unmap { lba: u64, count: u64 },
}

/// Where the blocks of an entry are, in order. Nearly always one run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Extents {
    One(Extent),
    Many(Arc<[Extent]>),
}

impl Extents {
    pub(crate) fn from_vec(extents: Vec<Extent>) -> Self {
        match extents.as_slice() {
            [one] => Self::One(*one),
            _ => Self::Many(extents.into()),
        }
    }

    pub(crate) fn as_slice(&self) -> &[Extent] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    /// The address of each block.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = u64> {
        self.as_slice().iter().flat_map(|e| (0..u64::from(e.len)).map(move |i| e.addr + i))
    }
}

/// A log entry as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct StoredEntry {
    pub(crate) mark: LogMark,
    pub(crate) header: Bytes,
    pub(crate) op: StoredOp,
}

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Record {
    Append { slot: u32, entry: StoredEntry },
    Truncate { slot: u32, after: Option<u64> },
    Purge { slot: u32, upto: LogMark },
    HardState { slot: u32, state: Bytes },
    Committed { slot: u32, mark: LogMark },
    Applied { slot: u32, upto: u64, skips: Vec<u64> },
    Create { slot: u32, volume: VolumeId, blocks: u64, user: Bytes },
    Delete { slot: u32 },
}

fn put_mark(out: &mut Vec<u8>, mark: &LogMark) {
    put_varint(out, mark.index);
    out.extend_from_slice(&mark.tag);
}

fn get_mark(r: &mut Reader<'_>) -> Option<LogMark> {
    Some(LogMark { index: r.varint()?, tag: r.array()? })
}

fn get_slot(r: &mut Reader<'_>) -> Option<u32> {
    u32::try_from(r.varint()?).ok()
}

/// Remembers the last tag on both sides.
#[derive(Default)]
pub(crate) struct TagState(Option<[u8; 16]>);

/// Appends an entry; also used by the log index of a checkpoint.
pub(crate) fn put_entry(out: &mut Vec<u8>, slot: u32, entry: &StoredEntry, tags: &mut TagState) {
    let same = tags.0 == Some(entry.mark.tag);
    out.push(if same { 1 | SAME_TAG } else { 1 });
    put_varint(out, u64::from(slot));
    put_varint(out, entry.mark.index);
    if !same {
        out.extend_from_slice(&entry.mark.tag);
        tags.0 = Some(entry.mark.tag);
    }
    put_bytes(out, &entry.header);
    match &entry.op {
        StoredOp::None => out.push(0),
        StoredOp::Write { lba, crcs, extents } => {
            out.push(1);
            put_varint(out, *lba);
            put_varint(out, crcs.len() as u64);
            for extent in extents.as_slice() {
                put_varint(out, extent.addr);
                put_varint(out, u64::from(extent.len));
            }
            for crc in crcs.iter() {
                out.extend_from_slice(&crc.to_le_bytes());
            }
        }
        StoredOp::Unmap { lba, count } => {
            out.push(2);
            put_varint(out, *lba);
            put_varint(out, *count);
        }
    }
}

fn get_entry(r: &mut Reader<'_>, kind: u8, tags: &mut TagState) -> Option<(u32, StoredEntry)> {
    let slot = get_slot(r)?;
    let index = r.varint()?;
    let tag = if kind & SAME_TAG != 0 { tags.0? } else { r.array()? };
    tags.0 = Some(tag);
    let header = Bytes::copy_from_slice(r.bytes()?);
    let op = match r.u8()? {
        0 => StoredOp::None,
        1 => {
            let lba = r.varint()?;
            let blocks = usize::try_from(r.varint()?).ok()?;
            if blocks == 0 || blocks > MAX_RECORD_BLOCKS {
                return None;
            }
            let mut extents = Vec::with_capacity(1);
            let mut covered = 0;
            while covered < blocks {
                let extent = Extent { addr: r.varint()?, len: u32::try_from(r.varint()?).ok()? };
                if extent.addr == 0 || extent.addr >> 48 != 0 || extent.len == 0 {
                    return None;
                }
                covered = covered.checked_add(extent.len as usize)?;
                extents.push(extent);
            }
            if covered != blocks {
                return None;
            }
            let crcs = (0..blocks).map(|_| r.u32()).collect::<Option<Arc<[u32]>>>()?;
            StoredOp::Write { lba, crcs, extents: Extents::from_vec(extents) }
        }
        2 => StoredOp::Unmap { lba: r.varint()?, count: r.varint()? },
        _ => return None,
    };
    Some((slot, StoredEntry { mark: LogMark { index, tag }, header, op }))
}

pub(crate) fn put_record(out: &mut Vec<u8>, record: &Record, tags: &mut TagState) {
    let head = |out: &mut Vec<u8>, kind: u8, slot: u32| {
        out.push(kind);
        put_varint(out, u64::from(slot));
    };
    match record {
        Record::Append { slot, entry } => put_entry(out, *slot, entry, tags),
        Record::Truncate { slot, after } => {
            head(out, 2, *slot);
            put_varint(out, after.map_or(0, |index| index + 1));
        }
        Record::Purge { slot, upto } => {
            head(out, 3, *slot);
            put_mark(out, upto);
        }
        Record::HardState { slot, state } => {
            head(out, 4, *slot);
            put_bytes(out, state);
        }
        Record::Committed { slot, mark } => {
            head(out, 5, *slot);
            put_mark(out, mark);
        }
        Record::Applied { slot, upto, skips } => {
            head(out, 6, *slot);
            put_varint(out, *upto);
            put_varint(out, skips.len() as u64);
            skips.iter().for_each(|skip| put_varint(out, *skip));
        }
        Record::Create { slot, volume, blocks, user } => {
            head(out, 7, *slot);
            out.extend_from_slice(volume.as_bytes());
            put_varint(out, *blocks);
            put_bytes(out, user);
        }
        Record::Delete { slot } => head(out, 8, *slot),
    }
}

pub(crate) fn get_record(r: &mut Reader<'_>, tags: &mut TagState) -> Option<Record> {
    let kind = r.u8()?;
    if kind & !SAME_TAG == 1 {
        let (slot, entry) = get_entry(r, kind, tags)?;
        return Some(Record::Append { slot, entry });
    }
    let slot = get_slot(r)?;
    Some(match kind {
        2 => Record::Truncate { slot, after: r.varint()?.checked_sub(1) },
        3 => Record::Purge { slot, upto: get_mark(r)? },
        4 => Record::HardState { slot, state: Bytes::copy_from_slice(r.bytes()?) },
        5 => Record::Committed { slot, mark: get_mark(r)? },
        6 => {
            let upto = r.varint()?;
            let count = r.varint()?;
            let skips = (0..count).map(|_| r.varint()).collect::<Option<Vec<_>>>()?;
            Record::Applied { slot, upto, skips }
        }
        7 => Record::Create {
            slot,
            volume: VolumeId::from_bytes(r.array()?),
            blocks: r.varint()?,
            user: Bytes::copy_from_slice(r.bytes()?),
        },
        8 => Record::Delete { slot },
        _ => return None,
    })
}

/// What the head of a batch says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchHead {
    pub(crate) pool_hash: u64,
    pub(crate) seq: u64,
    pub(crate) durable_upto: u64,
    pub(crate) incarnation: u64,
    pub(crate) prev_crc: u32,
    pub(crate) records: u32,
}

/// A batch that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Batch {
    pub(crate) head: BatchHead,
    pub(crate) blocks: u64,
    pub(crate) crc: u32,
    pub(crate) records: Vec<Record>,
}

/// Completes a batch in place: `out` holds [`HEADER_BYTES`] of room and the records; returns its crc.
pub(crate) fn finish_batch(out: &mut Vec<u8>, head: &BatchHead) -> u32 {
    let length = (out.len() - HEADER_BYTES) as u32;
    let blocks = out.len().div_ceil(BLOCK as usize);
    out.resize(blocks * BLOCK as usize, 0);
    let mut field = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    field(0, MAGIC);
    field(8, &FORMAT_VERSION.to_le_bytes());
    field(10, &(blocks as u16).to_le_bytes());
    field(12, &head.records.to_le_bytes());
    field(16, &head.pool_hash.to_le_bytes());
    field(24, &head.seq.to_le_bytes());
    field(32, &head.durable_upto.to_le_bytes());
    field(40, &head.incarnation.to_le_bytes());
    field(48, &length.to_le_bytes());
    field(52, &head.prev_crc.to_le_bytes());
    field(CRC_AT, &[0; 4]);
    let crc = crc32fast::hash(out);
    out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// Blocks of the batch that begins here, as far as its first bytes tell.
pub(crate) fn peek_blocks(bytes: &[u8], pool_hash: u64) -> Option<u64> {
    let mut r = Reader::new(bytes);
    if r.array::<8>()? != *MAGIC || r.u16()? != FORMAT_VERSION {
        return None;
    }
    let blocks = u64::from(r.u16()?);
    r.u32()?;
    (r.u64()? == pool_hash && blocks > 0 && blocks <= MAX_BATCH_BLOCKS).then_some(blocks)
}

/// Reads a batch that fills `bytes` from the start; what follows it is not looked at.
pub(crate) fn decode_batch(bytes: &[u8], pool_hash: u64) -> Option<Batch> {
    let blocks = peek_blocks(bytes, pool_hash)?;
    let bytes = bytes.get(..(blocks * BLOCK) as usize)?;
    let mut r = Reader::new(bytes.get(12..HEADER_BYTES)?);
    let records = r.u32()?;
    let head = BatchHead {
        pool_hash: r.u64()?,
        seq: r.u64()?,
        durable_upto: r.u64()?,
        incarnation: r.u64()?,
        records,
        prev_crc: 0,
    };
    let length = r.u32()? as usize;
    let head = BatchHead { prev_crc: r.u32()?, ..head };
    let crc = r.u32()?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CRC_AT]);
    hasher.update(&[0; 4]);
    hasher.update(&bytes[CRC_AT + 4..]);
    if hasher.finalize() != crc {
        return None;
    }
    let mut r = Reader::new(bytes.get(HEADER_BYTES..HEADER_BYTES.checked_add(length)?)?);
    let mut tags = TagState::default();
    let mut list = Vec::with_capacity((records as usize).min(length));
    for _ in 0..records {
        list.push(get_record(&mut r, &mut tags)?);
    }
    r.is_empty().then_some(Batch { head, blocks, crc, records: list })
}
