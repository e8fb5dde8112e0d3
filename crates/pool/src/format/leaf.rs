//! A map leaf: 512 blocks (2 MiB) of a volume's address space.
//!
//! In memory every entry has 16 bytes. On the device only the present ones are stored, with as few bytes for address
//! and birth as the leaf's spread needs: a full leaf of a young volume has about 5 KiB.
//!
//! ```text
//! | widths: addr 4 bits, birth 3 bits, list 1 bit | base addr (var) | base birth (var) | places | n x (addr-base, birth-base, crc 4) | crc |
//! places: a bitmap of 64 bytes, or (list) their number 1 and 2 bytes each
//! ```

use super::codec::{Reader, put_varint, seal, unseal};

/// Blocks in a leaf.
pub(crate) const LEAF_BLOCKS: u64 = 512;
const ENTRIES: usize = LEAF_BLOCKS as usize;
const MAX48: u64 = (1 << 48) - 1;
/// With fewer entries than this a list of places is shorter than the bitmap.
const LIST_BELOW: usize = 32;
const LIST: u8 = 0x80;

/// Where a volume's block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct MapEntry {
    /// Pool block address in the low 48 bits, low 16 bits of the birth above.
    word: u64,
    birth_high: u32,
    pub(crate) crc: u32,
}

impl MapEntry {
    pub(crate) fn new(addr: u64, birth: u64, crc: u32) -> Self {
        Self { word: (addr & MAX48) | (birth << 48), birth_high: (birth >> 16) as u32, crc }
    }

    pub(crate) fn addr(&self) -> u64 {
        self.word & MAX48
    }

    /// The log index that wrote the block.
    pub(crate) fn birth(&self) -> u64 {
        (self.word >> 48) | (u64::from(self.birth_high) << 16)
    }

    pub(crate) fn is_some(&self) -> bool {
        self.addr() != 0
    }
}

/// 512 entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Leaf {
    pub(crate) entries: [MapEntry; ENTRIES],
}

impl Default for Leaf {
    fn default() -> Self {
        Self { entries: [MapEntry::default(); ENTRIES] }
    }
}

fn width(value: u64) -> usize {
    (64 - value.leading_zeros() as usize).div_ceil(8)
}

impl Leaf {
    pub(crate) fn is_empty(&self) -> bool {
        !self.entries.iter().any(MapEntry::is_some)
    }

    pub(crate) fn present(&self) -> impl Iterator<Item = (usize, &MapEntry)> {
        self.entries.iter().enumerate().filter(|(_, entry)| entry.is_some())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let (mut addr_min, mut addr_max, mut birth_min, mut birth_max, mut count) = (MAX48, 0, MAX48, 0, 0);
        let mut bitmap = [0u8; ENTRIES / 8];
        for (at, entry) in self.present() {
            bitmap[at / 8] |= 1 << (at % 8);
            addr_min = addr_min.min(entry.addr());
            addr_max = addr_max.max(entry.addr());
            birth_min = birth_min.min(entry.birth());
            birth_max = birth_max.max(entry.birth());
            count += 1;
        }
        if count == 0 {
            (addr_min, addr_max, birth_min, birth_max) = (0, 0, 0, 0);
        }
        let (wa, wb) = (width(addr_max - addr_min), width(birth_max - birth_min));
        let mut out = Vec::with_capacity(96 + count * (wa + wb + 4));
        let list = count < LIST_BELOW;
        out.push((wa | (wb << 4)) as u8 | if list { LIST } else { 0 });
        put_varint(&mut out, addr_min);
        put_varint(&mut out, birth_min);
        if list {
            out.push(count as u8);
            self.present().for_each(|(at, _)| out.extend_from_slice(&(at as u16).to_le_bytes()));
        } else {
            out.extend_from_slice(&bitmap);
        }
        for (_, entry) in self.present() {
            out.extend_from_slice(&(entry.addr() - addr_min).to_le_bytes()[..wa]);
            out.extend_from_slice(&(entry.birth() - birth_min).to_le_bytes()[..wb]);
            out.extend_from_slice(&entry.crc.to_le_bytes());
        }
        seal(&mut out);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(unseal(bytes)?);
        let widths = r.u8()?;
        let (wa, wb) = (usize::from(widths & 15), usize::from((widths & !LIST) >> 4));
        let (addr_min, birth_min) = (r.varint()?, r.varint()?);
        let places: Vec<usize> = if widths & LIST != 0 {
            let count = usize::from(r.u8()?);
            (0..count).map(|_| r.u16().map(usize::from).filter(|at| *at < ENTRIES)).collect::<Option<_>>()?
        } else {
            let bitmap: [u8; ENTRIES / 8] = r.array()?;
            (0..ENTRIES).filter(|at| bitmap[at / 8] & (1 << (at % 8)) != 0).collect()
        };
        let mut leaf = Self::default();
        for at in places {
            let addr = addr_min.checked_add(r.uint(wa)?)?;
            let birth = birth_min.checked_add(r.uint(wb)?)?;
            if addr == 0 || addr > MAX48 || birth > MAX48 {
                return None;
            }
            leaf.entries[at] = MapEntry::new(addr, birth, r.u32()?);
        }
        r.is_empty().then_some(leaf)
    }
}
