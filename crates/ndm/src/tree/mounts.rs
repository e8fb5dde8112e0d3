//! `/proc/PID/mountinfo` and `/proc/swaps` (proc_pid_mountinfo(5), proc_swaps(5)).

/// One mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Major and minor number of the file system's device; major 0 when it has none of its own.
    pub devno: (u32, u32),
    /// Where it is mounted.
    pub point: String,
    /// Kind of file system.
    pub fs_type: String,
    /// What is mounted, as it was named then.
    pub source: String,
}

/// The mounts of a mountinfo file; lines that cannot be understood are left out.
pub fn parse_mountinfo(text: &str) -> Vec<Mount> {
    text.lines().filter_map(mount).collect()
}

/// `36 35 98:0 /root /mnt/point rw,noatime master:1 - ext3 /dev/root rw`: optional fields end with a single `-`.
fn mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let (major, minor) = left.next()?.split_once(':')?;
    let point = unescape(left.nth(1)?);
    let mut right = right.split(' ');
    Some(Mount {
        devno: (major.parse().ok()?, minor.parse().ok()?),
        point,
        fs_type: right.next()?.to_owned(),
        source: unescape(right.next().unwrap_or_default()),
    })
}

/// The swap devices and files; the first line is a heading.
pub fn parse_swaps(text: &str) -> Vec<String> {
    text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(unescape).collect()
}

/// Space, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = |digits: &[u8]| {
            digits.iter().try_fold(0u32, |n, d| (b'0'..=b'7').contains(d).then(|| n * 8 + u32::from(d - b'0')))
        };
        match tail.get(..3).and_then(octal).and_then(|code| u8::try_from(code).ok()) {
            Some(byte) if first == b'\\' => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts() {
        let text = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
                    27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n\
                    nonsense\n\
                    30 27 0:55 /@ /mnt/with\\040space\\134 rw - btrfs /dev/sdb1 rw\n";
        let found = parse_mountinfo(text);
        assert_eq!(found.len(), 3);
        assert_eq!(found[1].devno, (254, 0));
        assert_eq!(
            (found[1].point.as_str(), found[1].fs_type.as_str(), found[1].source.as_str()),
            ("/", "ext4", "/dev/vda")
        );
        assert_eq!((found[2].point.as_str(), found[2].source.as_str()), ("/mnt/with space\\", "/dev/sdb1"));
    }

    #[test]
    fn swaps() {
        let text = "Filename Type Size Used Priority\n/dev/dm-1 partition 100 0 -2\n/swap\\040file file 1 0 -3\n";
        assert_eq!(parse_swaps(text), ["/dev/dm-1", "/swap file"]);
        assert!(parse_swaps("Filename Type\n").is_empty());
    }
}
