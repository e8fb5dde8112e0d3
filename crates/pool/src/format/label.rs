//! The label: what a device is. Written when the pool is made, and again whenever the pool grows by a device (`grow`).
//!
//! ```text
//! 0   8        10       26         42     43      44    52       60          68         76            84          92   name
//! |magic|version|pool id|device id|index|devices|size|meta off|meta len|journal off|journal len|extents off|len+name|roster 4|..crc|
//! ```
//! Two copies (at 0 and 64 KiB), so that a damaged first block does not lose the pool. One of them is good at any time: a
//! label is changed copy by copy, with a flush between.
//!
//! A pool grows by one device at a time. From `n` to `n + 1` devices: the new device gets its label (index `n`, `n + 1`
//! devices), then the old ones get theirs with the new number. So the labels of a pool say the same number of devices, or,
//! while it grows, this number and the one before it. The pool has as many devices as the largest number says; the new
//! device belongs to it from the moment when one old device knows it.
//!
//! The *roster* is the crc32 of the ids of all `devices` devices, in their order: it tells the device that the pool grew by
//! from one that it began to grow by before, at the same index, and was then started without. 0 says nothing (labels
//! written before there were rosters).

use ballast_api::PoolId;

use super::codec::{Reader, is_crc_only, put_bytes, seal_block, unseal};
use super::{BLOCK, FORMAT_VERSION};

const MAGIC: &[u8; 8] = b"BLSTLABL";
/// Where the copies are.
pub(crate) const LABEL_OFFSETS: [u64; 2] = [0, 64 << 10];
/// The first byte behind labels and superblocks.
pub(crate) const DATA_START: u64 = 1 << 20;

/// Where things are on one device, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) size: u64,
    pub(crate) meta_offset: u64,
    pub(crate) meta_bytes: u64,
    pub(crate) journal_offset: u64,
    pub(crate) journal_bytes: u64,
    pub(crate) extents_offset: u64,
}

impl Layout {
    /// Blocks in the extent area.
    pub(crate) fn extent_blocks(&self) -> u64 {
        self.size.saturating_sub(self.extents_offset) / BLOCK
    }

    /// The device's blocks that are in the extent area.
    pub(crate) fn extent_range(&self) -> std::ops::Range<u64> {
        self.extents_offset / BLOCK..self.size / BLOCK
    }

    fn valid(&self) -> bool {
        let parts = [self.meta_offset, self.meta_bytes, self.journal_offset, self.journal_bytes, self.extents_offset];
        parts.iter().all(|part| part % BLOCK == 0)
            && self.meta_offset >= DATA_START
            && self.meta_offset.checked_add(self.meta_bytes).is_some_and(|end| end <= self.journal_offset)
            && self.journal_bytes >= BLOCK
            && self.journal_offset.checked_add(self.journal_bytes).is_some_and(|end| end <= self.extents_offset)
            && self.extents_offset <= self.size
            && self.size / BLOCK < 1 << 40
    }
}

/// What a device is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Label {
    pub(crate) pool: PoolId,
    pub(crate) device: [u8; 16],
    pub(crate) index: u8,
    pub(crate) devices: u8,
    pub(crate) layout: Layout,
    pub(crate) name: String,
    pub(crate) roster: u32,
}

/// The roster of a pool of devices with these ids.
pub(crate) fn roster(ids: &[[u8; 16]]) -> u32 {
    // 0 is no roster.
    crc32fast::hash(&ids.concat()).max(1)
}

/// What was found where a label may be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Label(Label),
    OtherVersion(u16),
    Nothing,
}

impl Label {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK as usize);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(self.pool.as_bytes());
        out.extend_from_slice(&self.device);
        out.push(self.index);
        out.push(self.devices);
        let l = &self.layout;
        for field in [l.size, l.meta_offset, l.meta_bytes, l.journal_offset, l.journal_bytes, l.extents_offset] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        let mut end = self.name.len().min(255);
        while !self.name.is_char_boundary(end) {
            end -= 1;
        }
        put_bytes(&mut out, &self.name.as_bytes()[..end]);
        out.extend_from_slice(&self.roster.to_le_bytes());
        seal_block(out)
    }

    /// Whether a block that does not decode may be a label torn at its sectors.
    pub(crate) fn is_torn(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC) || is_crc_only(bytes)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Found {
        if bytes.len() != BLOCK as usize || !bytes.starts_with(MAGIC) {
            return Found::Nothing;
        }
        let Some(body) = unseal(bytes) else { return Found::Nothing };
        Self::decode_body(body).unwrap_or(Found::Nothing)
    }

    fn decode_body(body: &[u8]) -> Option<Found> {
        let mut r = Reader::new(body);
        r.take(MAGIC.len())?;
        let version = r.u16()?;
        if version != FORMAT_VERSION {
            return Some(Found::OtherVersion(version));
        }
        let pool = PoolId::from_bytes(r.array()?);
        let device = r.array()?;
        let (index, devices) = (r.u8()?, r.u8()?);
        let layout = Layout {
            size: r.u64()?,
            meta_offset: r.u64()?,
            meta_bytes: r.u64()?,
            journal_offset: r.u64()?,
            journal_bytes: r.u64()?,
            extents_offset: r.u64()?,
        };
        let name = String::from_utf8(r.bytes()?.to_vec()).ok()?;
        let roster = r.u32()?;
        (index < devices && layout.valid()).then_some(Found::Label(Label {
            pool,
            device,
            index,
            devices,
            layout,
            name,
            roster,
        }))
    }
}
