//! Every codec: round trip, every single-bit error noticed, any bytes survived.

use std::sync::Arc;

use ballast_api::{PoolId, VolumeId};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::batch::*;
use super::codec::{Reader, put_varint};
use super::label::{DATA_START, Found, Label, Layout};
use super::leaf::{Leaf, MapEntry};
use super::log::{decode_chunk, encode_chunk};
use super::root::{ReplicaRecord, Root, SlotKind};
use super::superblock::{Owner, Superblock};
use super::{BLOCK, Extent};
use crate::types::LogMark;

const HASH: u64 = 0x1122_3344_5566_7788;

fn mark() -> impl Strategy<Value = LogMark> {
    (0..1u64 << 48, any::<[u8; 16]>()).prop_map(|(index, tag)| LogMark { index, tag })
}

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn op() -> impl Strategy<Value = StoredOp> {
    let write = (0..1u64 << 40, vec((1..1u64 << 40, 1..4u32, any::<[u32; 4]>()), 1..4)).prop_map(|(lba, parts)| {
        let crcs: Vec<u32> = parts.iter().flat_map(|(_, len, crcs)| crcs[..*len as usize].to_vec()).collect();
        let extents = parts.iter().map(|(addr, len, _)| Extent { addr: *addr, len: *len }).collect();
        StoredOp::Write { lba, crcs: Arc::from(crcs), extents: Extents::from_vec(extents) }
    });
    prop_oneof![
        Just(StoredOp::None),
        (any::<u64>(), any::<u64>()).prop_map(|(lba, count)| StoredOp::Unmap { lba, count }),
        write
    ]
}

fn entry() -> impl Strategy<Value = StoredEntry> {
    (mark(), bytes(40), op()).prop_map(|(mark, header, op)| StoredEntry { mark, header, op })
}

fn record() -> impl Strategy<Value = Record> {
    let slot = any::<u32>();
    prop_oneof![
        (slot, entry()).prop_map(|(slot, entry)| Record::Append { slot, entry }),
        (slot, proptest::option::of(0..1u64 << 48)).prop_map(|(slot, after)| Record::Truncate { slot, after }),
        (slot, mark()).prop_map(|(slot, upto)| Record::Purge { slot, upto }),
        (slot, bytes(100)).prop_map(|(slot, state)| Record::HardState { slot, state }),
        (slot, mark()).prop_map(|(slot, mark)| Record::Committed { slot, mark }),
        (slot, any::<u64>(), vec(any::<u64>(), 0..5)).prop_map(|(slot, upto, skips)| Record::Applied {
            slot,
            upto,
            skips
        }),
        (slot, any::<[u8; 16]>(), any::<u64>(), bytes(50)).prop_map(|(slot, volume, blocks, user)| Record::Create {
            slot,
            volume: VolumeId::from_bytes(volume),
            blocks,
            user
        }),
        slot.prop_map(|slot| Record::Delete { slot }),
    ]
}

fn batch(records: &[Record]) -> (Vec<u8>, BatchHead) {
    let head = BatchHead {
        pool_hash: HASH,
        seq: 9,
        durable_upto: 8,
        incarnation: 3,
        prev_crc: 77,
        records: records.len() as u32,
    };
    let mut out = vec![0; HEADER_BYTES];
    let mut tags = TagState::default();
    records.iter().for_each(|record| put_record(&mut out, record, &mut tags));
    finish_batch(&mut out, &head);
    (out, head)
}

fn leaf() -> impl Strategy<Value = Leaf> {
    let entry = || (0..512usize, 1..1u64 << 48, 0..1u64 << 48, any::<u32>());
    prop_oneof![vec(entry(), 0..40), vec(entry(), 0..600)].prop_map(|entries| {
        let mut leaf = Leaf::default();
        for (at, addr, birth, crc) in entries {
            leaf.entries[at] = MapEntry::new(addr, birth, crc);
        }
        leaf
    })
}

/// Flips one bit at a time (every `step`th) and wants each noticed.
fn every_flip_is_noticed(good: &[u8], step: usize, decodes: impl Fn(&[u8]) -> bool) {
    assert!(decodes(good));
    for bit in (0..good.len() * 8).step_by(step) {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(!decodes(&bad), "bit {bit} flipped and not noticed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn varints_round_trip(value: u64) {
        let mut out = Vec::new();
        put_varint(&mut out, value);
        prop_assert_eq!(Reader::new(&out).varint(), Some(value));
    }

    #[test]
    fn batches_round_trip(records in vec(record(), 0..40)) {
        let (bytes, head) = batch(&records);
        let found = decode_batch(&bytes, HASH).unwrap();
        prop_assert_eq!(&found.records, &records);
        prop_assert_eq!(found.head, head);
        prop_assert_eq!(found.blocks * BLOCK, bytes.len() as u64);
        prop_assert_eq!(decode_batch(&bytes, HASH + 1), None);
    }

    #[test]
    fn leaves_round_trip(leaf in leaf()) {
        let bytes = leaf.encode();
        prop_assert_eq!(Leaf::decode(&bytes), Some(leaf));
    }

    #[test]
    fn chunks_round_trip(entries in vec(entry(), 0..20), first in 0..1u64 << 40) {
        let mut entries = entries;
        for (at, entry) in entries.iter_mut().enumerate() {
            entry.mark.index = first + at as u64;
        }
        let bytes = encode_chunk(5, entries.iter());
        prop_assert_eq!(decode_chunk(5, &bytes), Some(entries.clone()));
        prop_assert!(entries.is_empty() || decode_chunk(6, &bytes).is_none());
    }

    #[test]
    fn nothing_panics(noise in vec(any::<u8>(), 0..9000)) {
        let mut sealed = noise.clone();
        super::codec::seal(&mut sealed);
        for bytes in [&noise, &sealed] {
            let _ = decode_batch(bytes, HASH);
            let _ = Leaf::decode(bytes);
            let _ = decode_chunk(1, bytes);
            let _ = Root::decode(bytes);
            let _ = ReplicaRecord::decode(bytes);
            let _ = Superblock::decode(bytes);
            let _ = Label::decode(bytes);
            let _ = get_record(&mut Reader::new(bytes), &mut TagState::default());
        }
    }

    /// Past the checksum: the same bytes inside a batch that is otherwise right.
    #[test]
    fn batches_of_noise_do_not_panic(noise in vec(any::<u8>(), 0..3000), records in 0..50u32) {
        let head = BatchHead { pool_hash: HASH, seq: 1, durable_upto: 0, incarnation: 1, prev_crc: 0, records };
        let mut out = vec![0; HEADER_BYTES];
        out.extend_from_slice(&noise);
        finish_batch(&mut out, &head);
        let _ = decode_batch(&out, HASH);
    }

    #[test]
    fn flips_in_batches_are_noticed(records in vec(record(), 1..20)) {
        let (bytes, _) = batch(&records);
        every_flip_is_noticed(&bytes, 101, |bytes| decode_batch(bytes, HASH).is_some());
    }

    #[test]
    fn flips_in_leaves_are_noticed(leaf in leaf()) {
        every_flip_is_noticed(&leaf.encode(), 97, |bytes| Leaf::decode(bytes).is_some());
    }
}

#[test]
fn map_entries_keep_their_parts() {
    let entry = MapEntry::new((1 << 48) - 2, (1 << 48) - 3, 7);
    assert_eq!((entry.addr(), entry.birth(), entry.crc), ((1 << 48) - 2, (1 << 48) - 3, 7));
    assert_eq!(size_of::<MapEntry>(), 16);
}

#[test]
fn small_writes_are_small() {
    let write = |index, addr| Record::Append {
        slot: 3,
        entry: StoredEntry {
            mark: LogMark { index, tag: [9; 16] },
            header: Bytes::from_static(&[1; 20]),
            op: StoredOp::Write { lba: 1 << 28, crcs: Arc::new([5]), extents: Extents::One(Extent { addr, len: 1 }) },
        },
    };
    let records: Vec<Record> = (0..70).map(|at| write((1 << 30) + at, (1 << 40) + at)).collect();
    assert_eq!(batch(&records).0.len(), BLOCK as usize, "70 writes of 4 KiB fit one header block");
}

fn label() -> Label {
    let layout = Layout {
        size: 1 << 30,
        meta_offset: DATA_START,
        meta_bytes: 8 << 20,
        journal_offset: DATA_START + (8 << 20),
        journal_bytes: 4 << 20,
        extents_offset: DATA_START + (12 << 20),
    };
    Label {
        pool: PoolId::from_bytes([1; 16]),
        device: [2; 16],
        index: 1,
        devices: 3,
        layout,
        name: String::from("tank"),
        roster: 9,
    }
}

#[test]
fn labels_round_trip_and_notice_damage() {
    let bytes = label().encode();
    assert_eq!(bytes.len(), BLOCK as usize);
    assert_eq!(Label::decode(&bytes), Found::Label(label()));
    every_flip_is_noticed(&bytes, 1, |bytes| Label::decode(bytes) != Found::Nothing);
    let long = Label { name: "ä".repeat(400), ..label() };
    assert!(matches!(Label::decode(&long.encode()), Found::Label(found) if found.name == "ä".repeat(127)));
}

#[test]
fn superblocks_round_trip_and_notice_damage() {
    let sb = Superblock {
        pool: PoolId::from_bytes([1; 16]),
        generation: 5,
        incarnation: 6,
        clean: true,
        prepared: 7,
        meta_len: 8,
        owner: Owner { pid: 9, boot: String::from("boot"), host: String::from("host") },
    };
    let bytes = sb.encode();
    assert_eq!(Superblock::decode(&bytes), Some(sb));
    every_flip_is_noticed(&bytes, 1, |bytes| Superblock::decode(bytes).is_some());
}

#[test]
fn checkpoint_records_round_trip_and_notice_damage() {
    let root = Root { seq: 1, crc: 2, incarnation: 3, heads: vec![4, 500], next_slot: 6, checkpoint: 7 };
    let bytes = root.encode();
    assert_eq!(Root::decode(&bytes), Some(root));
    every_flip_is_noticed(&bytes, 1, |bytes| Root::decode(bytes).is_some());
    let at = |index| Some(LogMark { index, tag: [3; 16] });
    let replica = ReplicaRecord {
        kind: SlotKind::Deleted,
        volume: VolumeId::from_bytes([4; 16]),
        blocks: 5,
        user: Bytes::from_static(b"user"),
        purged: at(6),
        applied: None,
        committed: at(1 << 40),
        hard_state: Some(Bytes::from_static(b"vote")),
        blob: at(7).map(|mark| (mark, Bytes::from_static(b"blob"))),
        mapped: 8,
        log: Some((9, 12)),
        dead: vec![(9, 0), (9, 255), (11, 3)],
    };
    let bytes = replica.encode();
    assert_eq!(ReplicaRecord::decode(&bytes), Some(replica));
    every_flip_is_noticed(&bytes, 1, |bytes| ReplicaRecord::decode(bytes).is_some());
}
