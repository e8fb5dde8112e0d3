//! udev's database: `/run/udev/data/bMAJOR:MINOR`, lines `E:KEY=VALUE` (properties) and `S:disk/by-id/...` (links).

use std::collections::BTreeMap;
use std::path::Path;

/// What udev knows of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Udev {
    /// Properties: ID_SERIAL_SHORT, ID_WWN, ID_PATH ...
    pub properties: BTreeMap<String, String>,
    /// Links to the device, as paths below /dev.
    pub links: Vec<String>,
}

impl Udev {
    /// A property that is there and not empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.properties.get(key).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// Reads the lines of a database file.
    pub fn parse(text: &str) -> Self {
        let mut udev = Self::default();
        for line in text.lines() {
            match line.split_once(':') {
                Some(("E", property)) => {
                    if let Some((key, value)) = property.split_once('=') {
                        udev.properties.insert(key.to_owned(), value.to_owned());
                    }
                }
                Some(("S", link)) => udev.links.push(format!("/dev/{link}")),
                _ => {}
            }
        }
        udev.links.sort();
        udev
    }
}

/// `None` while udev has not looked at the device (or does not run).
pub(super) fn read(root: &Path, (major, minor): (u32, u32)) -> Option<Udev> {
    let bytes = std::fs::read(root.join(format!("data/b{major}:{minor}"))).ok()?;
    Some(Udev::parse(&String::from_utf8_lossy(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_file() {
        let udev = Udev::parse(
            "S:disk/by-path/pci-1\nS:disk/by-id/wwn-0x1\nI:123\nE:ID_WWN=0x1\nE:ID_MODEL= \nE:odd\nG:systemd\n",
        );
        assert_eq!(udev.links, ["/dev/disk/by-id/wwn-0x1", "/dev/disk/by-path/pci-1"]);
        assert_eq!(udev.get("ID_WWN"), Some("0x1"));
        assert_eq!((udev.get("ID_MODEL"), udev.get("odd")), (None, None));
    }
}
