//! What a device says of itself.

use crate::tree::{Block, Tree};

/// Models that give the same serial number, or none, to many devices (cStor's node disk manager names them too).
const SHARED_MODELS: [&str; 2] = ["EphemeralDisk", "Virtual_disk"];

/// What a device says of itself; partitions say what their disk says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    /// Who made it.
    pub vendor: String,
    /// Model.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// World-wide name: lower-case hexadecimal digits, or empty.
    pub wwn: String,
    /// Firmware.
    pub firmware: String,
}

impl Hardware {
    /// udev's words before the kernel's: its rules know many devices' habits.
    pub fn of(tree: &Tree, block: &Block) -> Self {
        // What is built from others has no hardware of its own.
        if block.mapper.is_some() || block.raid.is_some() || block.backing_file.is_some() {
            return Self::default();
        }
        let disk = block.parent.as_ref().and_then(|parent| tree.blocks.get(parent)).unwrap_or(block);
        let udev = |keys: &[&str]| {
            let udev = disk.udev.as_ref()?;
            keys.iter().find_map(|key| udev.get(key)).map(str::to_owned)
        };
        let or = |known: Option<String>, kernel: &str| known.unwrap_or_else(|| kernel.trim().to_owned());
        let wwn = udev(&["ID_WWN_WITH_EXTENSION", "ID_WWN"]);
        Self {
            vendor: or(udev(&["ID_VENDOR"]), vendor_name(&disk.vendor)),
            model: or(udev(&["ID_MODEL"]), &disk.model).replace(' ', "_"),
            serial: or(udev(&["ID_SERIAL_SHORT", "ID_SCSI_SERIAL"]), &disk.serial),
            wwn: plain_wwn(wwn.as_deref().unwrap_or(&disk.wwid)),
            firmware: or(udev(&["ID_REVISION"]), &disk.revision),
        }
    }

    /// Whether its serial number and name may be those of other devices too.
    pub fn is_shared_model(&self) -> bool {
        SHARED_MODELS.iter().any(|model| self.model.eq_ignore_ascii_case(model))
    }
}

/// Virtio and PCI devices have a number here (0x1af4), not a name.
fn vendor_name(vendor: &str) -> &str {
    if vendor.starts_with("0x") { "" } else { vendor }
}

/// A name that the device's maker was given for this one device: NAA, EUI-64 or a UUID (SPC-4 section 7.8.6; NVMe base
/// specification, "Namespace Globally Unique Identifier"), in one form whoever wrote it. Names that say nothing - zeroes,
/// one digit again and again, the kernel's own `nvme.` and `t10.` texts made of vendor, model and serial - are none.
fn plain_wwn(text: &str) -> String {
    let text = text.trim().to_ascii_lowercase();
    if text.starts_with("nvme.") || text.starts_with("t10.") {
        return String::new();
    }
    let known = ["0x", "naa.", "eui.", "uuid."].iter().find_map(|prefix| text.strip_prefix(prefix));
    let digits = known.unwrap_or(&text).replace('-', "");
    let good = (16..=32).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let varied = digits.as_bytes().get(1..).is_some_and(|rest| rest.iter().any(|byte| Some(byte) != rest.first()));
    if good && varied { digits } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form_for_all_writers() {
        assert_eq!(plain_wwn("0x5000C500A1B2C3D4"), "5000c500a1b2c3d4");
        assert_eq!(plain_wwn("naa.5000c500a1b2c3d4"), "5000c500a1b2c3d4");
        assert_eq!(plain_wwn("eui.0025385b71b0a1c2"), "0025385b71b0a1c2");
        assert_eq!(plain_wwn("uuid.01234567-89ab-cdef-0123-456789abcdef"), "0123456789abcdef0123456789abcdef");
    }

    #[test]
    fn names_that_say_nothing() {
        for text in [
            "",
            "0x0000000000000000",
            "naa.5000000000000000",
            "0xffffffffffffffff",
            "0x12",
            "t10.ATA QEMU HARDDISK QM00001",
            "nvme.8086-6465616462656566-51454d55-00000001",
            "garbage-with-letters",
        ] {
            assert_eq!(plain_wwn(text), "", "{text}");
        }
    }
}
