//! Sense data (SPC-4 section 4.5) and the one table from device errors to SCSI status.

use super::Completion;
use crate::block_device::DeviceError;

/// Sense keys (SPC-4 table 48).
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SenseKey {
    NoSense = 0x0,
    NotReady = 0x2,
    MediumError = 0x3,
    HardwareError = 0x4,
    IllegalRequest = 0x5,
    UnitAttention = 0x6,
    DataProtect = 0x7,
    CopyAborted = 0xa,
    AbortedCommand = 0xb,
    Miscompare = 0xe,
}

/// Which byte (and bit) of a CDB or parameter list was wrong (SPC-4 section 4.5.2.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldPointer {
    /// In the CDB, otherwise in the parameter list.
    pub in_cdb: bool,
    /// First byte of the field.
    pub byte: u16,
    /// Leftmost bit of the field, when it is not the whole byte.
    pub bit: Option<u8>,
}

/// Sense data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: SenseKey,
    /// Additional sense code in the high byte, its qualifier in the low one.
    pub code: u16,
    /// INFORMATION field: the LBA that the error is about.
    pub information: Option<u64>,
    /// Field pointer.
    pub field: Option<FieldPointer>,
}

/// Additional sense codes (SPC-4 annex F.2), ASC and ASCQ.
pub mod code {
    /// NO ADDITIONAL SENSE INFORMATION
    pub const NONE: u16 = 0x0000;
    /// LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN UNAVAILABLE STATE
    pub const PORT_UNAVAILABLE: u16 = 0x040c;
    /// UNEXPECTED UNSOLICITED DATA
    pub const UNEXPECTED_DATA: u16 = 0x0c0c;
    /// NOT ENOUGH UNSOLICITED DATA
    pub const NOT_ENOUGH_DATA: u16 = 0x0c0d;
    /// INVALID FIELD IN COMMAND INFORMATION UNIT
    pub const INVALID_FIELD_IN_IU: u16 = 0x0e03;
    /// COPY TARGET DEVICE NOT REACHABLE
    pub const COPY_TARGET_UNREACHABLE: u16 = 0x0d02;
    /// UNRECOVERED READ ERROR
    pub const UNRECOVERED_READ: u16 = 0x1100;
    /// PARAMETER LIST LENGTH ERROR
    pub const LIST_LENGTH: u16 = 0x1a00;
    /// MISCOMPARE DURING VERIFY OPERATION
    pub const MISCOMPARE: u16 = 0x1d00;
    /// INVALID COMMAND OPERATION CODE
    pub const INVALID_OPCODE: u16 = 0x2000;
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE
    pub const OUT_OF_RANGE: u16 = 0x2100;
    /// INVALID FIELD IN CDB
    pub const INVALID_FIELD: u16 = 0x2400;
    /// LOGICAL UNIT NOT SUPPORTED
    pub const NO_UNIT: u16 = 0x2500;
    /// INVALID FIELD IN PARAMETER LIST
    pub const INVALID_PARAMETER: u16 = 0x2600;
    /// INVALID RELEASE OF PERSISTENT RESERVATION
    pub const INVALID_RELEASE: u16 = 0x2604;
    /// TOO MANY TARGET DESCRIPTORS
    pub const TOO_MANY_TARGETS: u16 = 0x2606;
    /// UNSUPPORTED TARGET DESCRIPTOR TYPE CODE
    pub const UNKNOWN_TARGET: u16 = 0x2607;
    /// TOO MANY SEGMENT DESCRIPTORS
    pub const TOO_MANY_SEGMENTS: u16 = 0x2608;
    /// UNSUPPORTED SEGMENT DESCRIPTOR TYPE CODE
    pub const UNKNOWN_SEGMENT: u16 = 0x2609;
    /// WRITE PROTECTED
    pub const WRITE_PROTECTED: u16 = 0x2700;
    /// SPACE ALLOCATION FAILED WRITE PROTECT
    pub const NO_SPACE: u16 = 0x2707;
    /// POWER ON, RESET, OR BUS DEVICE RESET OCCURRED
    pub const POWER_ON: u16 = 0x2900;
    /// BUS DEVICE RESET FUNCTION OCCURRED
    pub const RESET: u16 = 0x2903;
    /// I_T NEXUS LOSS OCCURRED
    pub const NEXUS_LOSS: u16 = 0x2907;
    /// RESERVATIONS PREEMPTED
    pub const RESERVATIONS_PREEMPTED: u16 = 0x2a03;
    /// RESERVATIONS RELEASED
    pub const RESERVATIONS_RELEASED: u16 = 0x2a04;
    /// REGISTRATIONS PREEMPTED
    pub const REGISTRATIONS_PREEMPTED: u16 = 0x2a05;
    /// CAPACITY DATA HAS CHANGED
    pub const CAPACITY_CHANGED: u16 = 0x2a09;
    /// COMMANDS CLEARED BY ANOTHER INITIATOR
    pub const COMMANDS_CLEARED: u16 = 0x2f00;
    /// SAVING PARAMETERS NOT SUPPORTED
    pub const NO_SAVING: u16 = 0x3900;
    /// INTERNAL TARGET FAILURE
    pub const INTERNAL: u16 = 0x4400;
    /// PROTOCOL SERVICE CRC ERROR
    pub const CRC: u16 = 0x4705;
    /// INSUFFICIENT REGISTRATION RESOURCES
    pub const NO_REGISTRATION_ROOM: u16 = 0x5504;
}

impl Sense {
    /// A key and a code, nothing else.
    pub const fn new(key: SenseKey, code: u16) -> Self {
        Self { key, code, information: None, field: None }
    }

    /// ILLEGAL REQUEST with a code.
    pub const fn illegal(code: u16) -> Self {
        Self::new(SenseKey::IllegalRequest, code)
    }

    /// INVALID FIELD IN CDB, pointing at a byte.
    pub const fn field(byte: u16) -> Self {
        let field = FieldPointer { in_cdb: true, byte, bit: None };
        Self { field: Some(field), ..Self::illegal(code::INVALID_FIELD) }
    }

    /// INVALID FIELD IN CDB, pointing at a bit.
    pub const fn bit(byte: u16, bit: u8) -> Self {
        let field = FieldPointer { in_cdb: true, byte, bit: Some(bit) };
        Self { field: Some(field), ..Self::illegal(code::INVALID_FIELD) }
    }

    /// INVALID FIELD IN PARAMETER LIST, pointing at a byte.
    pub const fn parameter(byte: u16) -> Self {
        let field = FieldPointer { in_cdb: false, byte, bit: None };
        Self { field: Some(field), ..Self::illegal(code::INVALID_PARAMETER) }
    }

    /// The same with the INFORMATION field set.
    pub const fn at(self, lba: u64) -> Self {
        Self { information: Some(lba), ..self }
    }

    fn specific(&self) -> [u8; 3] {
        let Some(f) = self.field else { return [0; 3] };
        let bit = f.bit.map_or(0, |b| 0x08 | b & 7);
        let [hi, lo] = f.byte.to_be_bytes();
        [0x80 | u8::from(f.in_cdb) << 6 | bit, hi, lo]
    }

    /// Fixed format, current error (SPC-4 section 4.5.3).
    pub fn fixed(&self) -> [u8; 18] {
        let mut b = [0; 18];
        b[0] = 0x70;
        if let Some(info) = self.information.and_then(|i| u32::try_from(i).ok()) {
            b[0] |= 0x80; // VALID
            b[3..7].copy_from_slice(&info.to_be_bytes());
        }
        b[2] = self.key as u8;
        b[7] = 10;
        b[12..14].copy_from_slice(&self.code.to_be_bytes());
        b[15..18].copy_from_slice(&self.specific());
        b
    }

    /// Descriptor format, current error (SPC-4 section 4.5.2).
    pub fn descriptors(&self) -> Vec<u8> {
        let [asc, ascq] = self.code.to_be_bytes();
        let mut b = vec![0x72, self.key as u8, asc, ascq, 0, 0, 0, 0];
        if let Some(info) = self.information {
            b.extend([0x00, 0x0a, 0x80, 0]);
            b.extend(info.to_be_bytes());
        }
        if self.field.is_some() {
            b.extend([0x02, 0x06, 0, 0]);
            b.extend(self.specific());
            b.push(0);
        }
        b[7] = (b.len() - 8) as u8;
        b
    }
}

/// How a device error looks to an initiator. The choice decides what the initiator does next:
/// BUSY is retried by every block layer until its own time limit; a fenced device ends the session, so that the
/// initiator comes back through the new target (the sense is for the log); DATA PROTECT 27h/07h is ENOSPC; MEDIUM
/// ERROR is never retried blindly.
pub fn device_error(error: &DeviceError) -> Completion {
    let sense = match error {
        DeviceError::Unavailable(_) => return Completion::busy(),
        DeviceError::Fenced => {
            let sense = Sense::new(SenseKey::NotReady, code::PORT_UNAVAILABLE); // SPC-4 section 5.15.2.4.5
            return Completion { fenced: true, ..Completion::check(sense) };
        }
        DeviceError::NoSpace => Sense::new(SenseKey::DataProtect, code::NO_SPACE), // SBC-3 section 4.7.3.6
        DeviceError::Corrupt { lba512 } => Sense::new(SenseKey::MediumError, code::UNRECOVERED_READ).at(*lba512),
        DeviceError::OutOfRange => Sense::illegal(code::OUT_OF_RANGE),
        DeviceError::Internal(_) => Sense::new(SenseKey::HardwareError, code::INTERNAL),
    };
    Completion::check(sense)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::Status;

    #[test]
    fn fixed_format_bytes() {
        let s = Sense::bit(1, 7).at(0x1234).fixed();
        assert_eq!(s, [0xf0, 0, 5, 0, 0, 0x12, 0x34, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcf, 0, 1]);
        // An LBA that does not fit into the four bytes is left out, not cut.
        assert_eq!(Sense::field(2).at(1 << 40).fixed()[0], 0x70);
    }

    #[test]
    fn descriptor_format_bytes() {
        let s = Sense::parameter(8).at(1 << 40).descriptors();
        assert_eq!(s[..8], [0x72, 5, 0x26, 0, 0, 0, 0, 20]);
        assert_eq!(s[8..20], [0, 0x0a, 0x80, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(s[20..], [2, 6, 0, 0, 0x80, 0, 8, 0]);
    }

    #[test]
    fn every_device_error_has_its_answer() {
        let of = |e: DeviceError| {
            let c = device_error(&e);
            (c.status, c.sense.map(|s| (s.key, s.code, s.information)))
        };
        let check = |k, c, i| (Status::CheckCondition, Some((k, c, i)));
        assert_eq!(of(DeviceError::NoSpace), check(SenseKey::DataProtect, 0x2707, None));
        assert_eq!(of(DeviceError::Fenced), check(SenseKey::NotReady, 0x040c, None));
        assert_eq!(of(DeviceError::Unavailable("x".into())), (Status::Busy, None));
        assert_eq!(of(DeviceError::Corrupt { lba512: 8 }), check(SenseKey::MediumError, 0x1100, Some(8)));
        assert_eq!(of(DeviceError::OutOfRange), check(SenseKey::IllegalRequest, 0x2100, None));
        assert_eq!(of(DeviceError::Internal("x".into())), check(SenseKey::HardwareError, 0x4400, None));
    }
}
