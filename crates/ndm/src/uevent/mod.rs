//! Hotplug: messages of the kernel and of udev that something happened to a block device.
//!
//! They only say "look again": what is true comes from a scan. So none of them is kept: any number of messages becomes one
//! instant at which a scan is due ([`Debounce`]), and messages that were lost cost nothing but a scan.

mod debounce;
mod socket;

pub use debounce::Debounce;
pub use socket::{Heard, Socket};

/// Whether a message is about a block device. The kernel's is `ACTION@DEVPATH\0KEY=VALUE\0...`; udev's begins with
/// "libudev\0" and a header, and has the same properties behind it.
pub fn is_block(message: &[u8]) -> bool {
    message.split(|byte| *byte == 0).any(|property| property == b"SUBSYSTEM=block")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert!(is_block(b"add@/devices/x/block/sdb\0ACTION=add\0SUBSYSTEM=block\0DEVNAME=sdb\0SEQNUM=5\0"));
        assert!(is_block(b"libudev\0\xfe\xed\xca\xfe\x28\0\0\0UDEV\0SUBSYSTEM=block\0ID_WWN=0x1\0"));
        assert!(!is_block(b"add@/devices/x/net/eth0\0ACTION=add\0SUBSYSTEM=net\0"));
        assert!(!is_block(b""));
    }
}
