//! A piece of the log index as a checkpoint stores it: up to 64 entries in a row, the records of [`super::batch`].

use super::batch::{Record, StoredEntry, TagState, get_record, put_entry};
use super::codec::{Reader, seal, unseal};

/// Entries with the same `index / CHUNK` are stored together.
pub(crate) const CHUNK: u64 = 64;

pub(crate) fn encode_chunk<'a>(slot: u32, entries: impl Iterator<Item = &'a StoredEntry>) -> Vec<u8> {
    let mut out = Vec::with_capacity(4096);
    let mut tags = TagState::default();
    for entry in entries {
        put_entry(&mut out, slot, entry, &mut tags);
    }
    seal(&mut out);
    out
}

pub(crate) fn decode_chunk(slot: u32, bytes: &[u8]) -> Option<Vec<StoredEntry>> {
    let mut r = Reader::new(unseal(bytes)?);
    let mut tags = TagState::default();
    let mut entries: Vec<StoredEntry> = Vec::new();
    while !r.is_empty() {
        match get_record(&mut r, &mut tags)? {
            Record::Append { slot: of, entry } if of == slot => {
                if entries.last().is_some_and(|last| last.mark.index.checked_add(1) != Some(entry.mark.index)) {
                    return None;
                }
                entries.push(entry);
            }
            _ => return None,
        }
    }
    Some(entries)
}
