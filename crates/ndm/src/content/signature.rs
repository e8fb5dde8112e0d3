//! The signatures of file systems, volume managers and partition tables.
//!
//! Offsets are those of the formats' own documents and kernel headers: ext4 superblock at 1024, magic 0xEF53 at 56;
//! XFS "XFSB" at 0; btrfs superblock at 64 KiB; LVM2 label in one of the first four sectors; LUKS header at 0; swap
//! signature at the end of the first page; md superblocks 0.90 and 1.0 near the end, 1.1 at 0, 1.2 at 4 KiB; ZFS
//! uberblocks from 128 KiB in each 256 KiB label; GPT header in sector 1 and in the last one (UEFI section 5.3).

use super::Content;

/// A signature at a fixed place near the start.
struct Magic {
    at: usize,
    bytes: &'static [u8],
    kind: &'static str,
    uuid: Option<Uuid>,
}

/// Where and how a format keeps its id.
enum Uuid {
    /// 16 bytes.
    Raw(usize),
    /// This many characters.
    Text(usize, usize),
}

const fn magic(at: usize, bytes: &'static [u8], kind: &'static str) -> Magic {
    Magic { at, bytes, kind, uuid: None }
}

const fn with_uuid(at: usize, bytes: &'static [u8], kind: &'static str, uuid: usize) -> Magic {
    Magic { at, bytes, kind, uuid: Some(Uuid::Raw(uuid)) }
}

const MD_MAGIC: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];
const BCACHE_MAGIC: &[u8] =
    &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81];
const GPT: &[u8] = b"EFI PART";

const MAGICS: &[Magic] = &[
    Magic { at: 0, bytes: b"LUKS\xba\xbe", kind: "crypto_LUKS", uuid: Some(Uuid::Text(168, 36)) },
    magic(0x4000, b"SKUL\xba\xbe", "crypto_LUKS"),
    with_uuid(0, b"XFSB", "xfs", 32),
    with_uuid(0x10040, b"_BHRfS_M", "btrfs", 0x10020),
    with_uuid(0, MD_MAGIC, "linux_raid_member", 16),
    with_uuid(4096, MD_MAGIC, "linux_raid_member", 4096 + 16),
    with_uuid(4096 + 24, BCACHE_MAGIC, "bcache", 4096 + 40),
    magic(0, b"bluestore block device", "ceph_bluestore"),
    magic(516, b"!Stra0tis\x86\xff\x02^\x41rh", "stratis"),
    magic(0, b"dmvdo001", "vdo"),
    with_uuid(1024, &[0x10, 0x20, 0xf5, 0xf2], "f2fs", 1024 + 108),
    magic(1024, &[0xe2, 0xe1, 0xf5, 0xe0], "erofs"),
    magic(0, b"hsqs", "squashfs"),
    magic(0x8000, b"JFS1", "jfs"),
    magic(0x10034, b"ReIsEr", "reiserfs"),
    magic(0x406, &[0x34, 0x34], "nilfs2"),
    magic(0x10000, &[0x01, 0x16, 0x19, 0x70], "gfs2"),
    magic(0x2000, b"OCFSV2", "ocfs2"),
    magic(0x8001, b"CD001", "iso9660"),
    magic(3, b"NTFS    ", "ntfs"),
    magic(3, b"EXFAT   ", "exfat"),
    magic(82, b"FAT32", "vfat"),
    magic(54, b"FAT1", "vfat"),
    magic(54, b"FAT  ", "vfat"),
];

/// Says what a device of `size` bytes holds, from its first bytes and its last ones.
pub fn examine(head: &[u8], tail: &[u8], size: u64) -> Content {
    let gpt = [512, 4096].into_iter().find(|at| starts(head, *at, GPT));
    if let Some(at) = gpt {
        return Content::PartitionTable { kind: "gpt", uuid: guid(head, at + 56) };
    }
    if let Some(found) = fixed(head).or_else(|| ext(head)).or_else(|| lvm(head)).or_else(|| swap(head)) {
        return found;
    }
    if let Some(found) = at_the_end(tail, size) {
        return found;
    }
    if zfs(head, 0) || zfs(tail, size - tail.len() as u64) {
        return Content::Signature { kind: "zfs_member", uuid: None };
    }
    if dos_table(head) {
        return Content::PartitionTable { kind: "dos", uuid: None };
    }
    if head.iter().all(|byte| *byte == 0) { Content::Blank } else { Content::Unknown }
}

fn starts(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// 16 bytes as people write a uuid; nothing when they are all zero.
fn raw_uuid(bytes: &[u8], at: usize) -> Option<String> {
    let raw: [u8; 16] = array(bytes, at)?;
    let hex: Vec<String> = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |range: std::ops::Range<usize>| hex[range].concat();
    raw.iter().any(|byte| *byte != 0).then(|| [part(0..4), part(4..6), part(6..8), part(8..10), part(10..16)].join("-"))
}

/// A GUID of UEFI: the first three fields little-endian (UEFI appendix A).
fn guid(bytes: &[u8], at: usize) -> Option<String> {
    let mut raw: [u8; 16] = array(bytes, at)?;
    raw[0..4].reverse();
    raw[4..6].reverse();
    raw[6..8].reverse();
    raw_uuid(&raw, 0)
}

fn fixed(head: &[u8]) -> Option<Content> {
    let found = MAGICS.iter().find(|magic| starts(head, magic.at, magic.bytes))?;
    let uuid = match found.uuid {
        Some(Uuid::Raw(at)) => raw_uuid(head, at),
        Some(Uuid::Text(at, len)) => head
            .get(at..at + len)
            .map(|text| String::from_utf8_lossy(text).trim_matches(char::from(0)).to_owned())
            .filter(|text| !text.is_empty()),
        None => None,
    };
    Some(Content::Signature { kind: found.kind, uuid })
}

/// ext2, 3 and 4 differ by their features: a journal makes 3, extents or 64 bits make 4.
fn ext(head: &[u8]) -> Option<Content> {
    const SUPER: usize = 1024;
    if !starts(head, SUPER + 56, &[0x53, 0xef]) {
        return None;
    }
    let compat = u32::from_le_bytes(array(head, SUPER + 0x5c)?);
    let incompat = u32::from_le_bytes(array(head, SUPER + 0x60)?);
    let kind = match (incompat & (0x40 | 0x80) != 0, compat & 0x4 != 0) {
        (true, _) => "ext4",
        (false, true) => "ext3",
        (false, false) => "ext2",
    };
    Some(Content::Signature { kind, uuid: raw_uuid(head, SUPER + 0x68) })
}

fn lvm(head: &[u8]) -> Option<Content> {
    let at = (0..4).map(|sector| sector * 512).find(|at| starts(head, *at, b"LABELONE"))?;
    let uuid = head.get(at + 32..at + 64).map(|id| String::from_utf8_lossy(id).into_owned());
    Some(Content::Signature { kind: "LVM2_member", uuid })
}

/// The signature ends the first page, and pages have 4 to 64 KiB.
fn swap(head: &[u8]) -> Option<Content> {
    let mut pages = [4, 8, 16, 32, 64].into_iter().map(|kib| kib * 1024 - 10);
    let found = pages.any(|at| starts(head, at, b"SWAPSPACE2") || starts(head, at, b"SWAP-SPACE"));
    found.then(|| Content::Signature { kind: "swap", uuid: raw_uuid(head, 1024 + 12) })
}

/// What keeps its signature behind the data.
fn at_the_end(tail: &[u8], size: u64) -> Option<Content> {
    let start = size - tail.len() as u64;
    let has = |at: Option<u64>, magic: &[u8]| {
        let at = at.and_then(|at| at.checked_sub(start)).and_then(|at| usize::try_from(at).ok());
        at.is_some_and(|at| starts(tail, at, magic))
    };
    let raid_10 = (size / 512).checked_sub(16).map(|sector| (sector & !7) * 512);
    let raid_090 = (size & !0xffff).checked_sub(0x10000);
    if has(raid_10, MD_MAGIC) || has(raid_090, MD_MAGIC) || has(raid_090, &[0xa9, 0x2b, 0x4e, 0xfc]) {
        return Some(Content::Signature { kind: "linux_raid_member", uuid: None });
    }
    let backup = [512, 4096].into_iter().any(|sector| has(size.checked_sub(sector), GPT));
    backup.then_some(Content::PartitionTable { kind: "gpt", uuid: None })
}

/// An uberblock at the start of any KiB of the second half of a label; labels lie on 256 KiB.
fn zfs(bytes: &[u8], start: u64) -> bool {
    const MAGIC: [u8; 8] = [0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0];
    let mut reversed = MAGIC;
    reversed.reverse();
    let aligned = (start.next_multiple_of(1024) - start) as usize;
    let places = (aligned..bytes.len()).step_by(1024);
    places
        .filter(|at| (start + *at as u64) % (256 << 10) >= 128 << 10)
        .any(|at| starts(bytes, at, &MAGIC) || starts(bytes, at, &reversed))
}

/// A boot sector whose four entries can be partitions: each is active or not, and nothing else.
fn dos_table(head: &[u8]) -> bool {
    starts(head, 510, &[0x55, 0xaa])
        && (0..4).all(|n| head.get(446 + 16 * n).is_some_and(|flag| matches!(flag, 0 | 0x80)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64 << 20;

    fn blank() -> (Vec<u8>, Vec<u8>) {
        (vec![0; 1 << 20], vec![0; 1 << 20])
    }

    fn head_with(pieces: &[(usize, &[u8])]) -> Content {
        let (mut head, tail) = blank();
        for (at, bytes) in pieces {
            head[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        examine(&head, &tail, SIZE)
    }

    fn tail_with(from_end: usize, bytes: &[u8]) -> Content {
        let (head, mut tail) = blank();
        let at = tail.len() - from_end;
        tail[at..at + bytes.len()].copy_from_slice(bytes);
        examine(&head, &tail, SIZE)
    }

    fn kind(content: Content) -> &'static str {
        match content {
            Content::Signature { kind, .. } | Content::PartitionTable { kind, .. } => kind,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_fixed_signature_is_known_by_itself() {
        for magic in MAGICS {
            assert_eq!(kind(head_with(&[(magic.at, magic.bytes)])), magic.kind);
        }
    }

    #[test]
    fn nothing_and_something() {
        assert_eq!(head_with(&[]), Content::Blank);
        assert_eq!(head_with(&[(700_000, b"x")]), Content::Unknown);
        assert_eq!(examine(&[], &[], 0), Content::Blank);
        assert_eq!(examine(&[0; 100], &[0; 100], 100), Content::Blank);
    }

    #[test]
    fn ext_versions_and_ids() {
        let base: (usize, &[u8]) = (1080, &[0x53, 0xef]);
        assert_eq!(kind(head_with(&[base])), "ext2");
        assert_eq!(kind(head_with(&[base, (1024 + 0x5c, &[4])])), "ext3");
        let uuid: Vec<u8> = (1..=16).collect();
        let found = head_with(&[base, (1024 + 0x5c, &[4]), (1024 + 0x60, &[0x40]), (1024 + 0x68, &uuid)]);
        let uuid = Some("01020304-0506-0708-090a-0b0c0d0e0f10".to_owned());
        assert_eq!(found, Content::Signature { kind: "ext4", uuid });
    }

    #[test]
    fn partition_tables() {
        let uuid: Vec<u8> = (1..=16).collect();
        let pmbr: (usize, &[u8]) = (510, &[0x55, 0xaa]);
        for at in [512, 4096] {
            let found = head_with(&[pmbr, (at, GPT), (at + 56, &uuid)]);
            let uuid = Some("04030201-0605-0807-090a-0b0c0d0e0f10".to_owned());
            assert_eq!(found, Content::PartitionTable { kind: "gpt", uuid });
        }
        assert_eq!(kind(tail_with(512, GPT)), "gpt");
        assert_eq!(kind(tail_with(4096, GPT)), "gpt");
        assert_eq!(kind(head_with(&[pmbr])), "dos");
        // Boot code of something that is not in the table above.
        assert_eq!(head_with(&[pmbr, (446, &[0x33])]), Content::Unknown);
        // FAT has the boot signature too.
        assert_eq!(kind(head_with(&[pmbr, (82, b"FAT32")])), "vfat");
    }

    #[test]
    fn the_rest() {
        assert_eq!(kind(head_with(&[(4086, b"SWAPSPACE2")])), "swap");
        assert_eq!(kind(head_with(&[(65526, b"SWAPSPACE2")])), "swap");
        assert_eq!(kind(head_with(&[(512, b"LABELONE")])), "LVM2_member");
        assert_eq!(kind(tail_with(8192, MD_MAGIC)), "linux_raid_member");
        assert_eq!(kind(tail_with(65536, MD_MAGIC)), "linux_raid_member");
        let uberblock: &[u8] = &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0];
        assert_eq!(kind(head_with(&[((128 << 10) + 3 * 1024, uberblock)])), "zfs_member");
        assert_eq!(kind(tail_with(128 << 10, uberblock)), "zfs_member");
        assert_eq!(head_with(&[(64 << 10, uberblock)]), Content::Unknown, "not where uberblocks are");
    }
}
