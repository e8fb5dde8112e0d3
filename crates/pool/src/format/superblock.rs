//! The superblock: what changes about a device. Two slots, written in turn; the newest good one counts.
//!
//! ```text
//! 0     8        10    26         34          42      43        51             59        67   owner
//! |magic|version|pool|generation|incarnation|clean|prepared|meta prepared|pid|boot id|host| .. crc|
//! ```

use ballast_api::PoolId;

use super::codec::{Reader, is_crc_only, put_bytes, seal_block, unseal};
use super::{BLOCK, FORMAT_VERSION};

const MAGIC: &[u8; 8] = b"BLSTSUPR";
/// Where the slots are.
pub(crate) const SUPERBLOCK_OFFSETS: [u64; 2] = [4 << 10, 68 << 10];

/// Who has (or last had) the pool open.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Owner {
    pub(crate) pid: u32,
    pub(crate) boot: String,
    pub(crate) host: String,
}

/// What changes about a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Superblock {
    pub(crate) pool: PoolId,
    /// Counts superblock writes.
    pub(crate) generation: u64,
    /// Counts openings of the pool; stamped on every journal batch.
    pub(crate) incarnation: u64,
    /// Closed properly: the checkpoint holds everything.
    pub(crate) clean: bool,
    /// Blocks of the extent area that have been written once.
    pub(crate) prepared: u64,
    /// Bytes of the metadata store in use (it grows inside its region).
    pub(crate) meta_len: u64,
    pub(crate) owner: Owner,
}

impl Superblock {
    /// The slot this generation goes to.
    pub(crate) fn offset(&self) -> u64 {
        SUPERBLOCK_OFFSETS[(self.generation % 2) as usize]
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK as usize);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(self.pool.as_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.push(u8::from(self.clean));
        out.extend_from_slice(&self.prepared.to_le_bytes());
        out.extend_from_slice(&self.meta_len.to_le_bytes());
        out.extend_from_slice(&self.owner.pid.to_le_bytes());
        put_bytes(&mut out, self.owner.boot.as_bytes());
        put_bytes(&mut out, self.owner.host.as_bytes());
        seal_block(out)
    }

    /// Whether a block that does not decode is a superblock of a pool that was being made, torn at its sectors: the fields
    /// lie in the first one and say "never opened", or only the crc in the last one arrived.
    pub(crate) fn is_torn_first(bytes: &[u8]) -> bool {
        const INCARNATION: std::ops::Range<usize> = 34..42;
        let never_opened = bytes.get(INCARNATION).is_some_and(|field| field.iter().all(|byte| *byte == 0));
        (bytes.starts_with(MAGIC) && never_opened) || is_crc_only(bytes)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != BLOCK as usize {
            return None;
        }
        let mut r = Reader::new(unseal(bytes)?);
        if r.array::<8>()? != *MAGIC || r.u16()? != FORMAT_VERSION {
            return None;
        }
        Some(Self {
            pool: PoolId::from_bytes(r.array()?),
            generation: r.u64()?,
            incarnation: r.u64()?,
            clean: match r.u8()? {
                0 => false,
                1 => true,
                _ => return None,
            },
            prepared: r.u64()?,
            meta_len: r.u64()?,
            owner: Owner {
                pid: r.u32()?,
                boot: String::from_utf8(r.bytes()?.to_vec()).ok()?,
                host: String::from_utf8(r.bytes()?.to_vec()).ok()?,
            },
        })
    }
}
