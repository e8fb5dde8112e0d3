//! Operational keys (RFC 7143 section 13): limits, defaults and the result function of each.

use super::digest::Digests;
use super::text::{boolean, number, yes_no};

/// Largest data segment we take: one PDU then holds any request a block layer usually makes (128-256 KiB), and one
/// such buffer per connection is cheap.
pub const MAX_RECV_DATA: u32 = 256 * 1024;
/// Data segments before negotiation, and the default of MaxRecvDataSegmentLength (section 13.12).
pub const DEFAULT_RECV_DATA: u32 = 8192;
/// Largest sequence of solicited data: the most that a 24-bit length holds in whole 4 KiB blocks.
pub const MAX_BURST: u32 = 16 * 1024 * 1024 - 4096;
/// Largest amount of unsolicited data of one command: 128 commands of it are the most a session can push unasked.
pub const FIRST_BURST: u32 = 256 * 1024;
/// R2Ts of one command that may be open at a time; more than a few only help on long fat networks.
pub const MAX_OUTSTANDING_R2T: u32 = 8;

/// What the target offers; the limits above with the administrator's choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Header digests allowed: none.
    pub header_none: bool,
    /// Header digests allowed: CRC32C.
    pub header_crc32c: bool,
    /// Data digests allowed: none.
    pub data_none: bool,
    /// Data digests allowed: CRC32C.
    pub data_crc32c: bool,
    /// MaxRecvDataSegmentLength that we declare.
    pub max_recv_data: u32,
    /// Upper limit of MaxBurstLength.
    pub max_burst: u32,
    /// Upper limit of FirstBurstLength.
    pub first_burst: u32,
    /// Take data in the command PDU.
    pub immediate_data: bool,
    /// Insist on R2T before the first data.
    pub initial_r2t: bool,
    /// Upper limit of MaxOutstandingR2T.
    pub max_outstanding_r2t: u32,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            header_none: true,
            header_crc32c: true,
            data_none: true,
            data_crc32c: true,
            max_recv_data: MAX_RECV_DATA,
            max_burst: MAX_BURST,
            first_burst: FIRST_BURST,
            immediate_data: true,
            initial_r2t: false,
            max_outstanding_r2t: MAX_OUTSTANDING_R2T,
        }
    }
}

/// What both sides agreed on; starts with the RFC's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// Digests of the full feature phase.
    pub digests: Digests,
    /// Largest data segment we may send.
    pub max_send_data: u32,
    /// MaxBurstLength.
    pub max_burst: u32,
    /// FirstBurstLength.
    pub first_burst: u32,
    /// InitialR2T.
    pub initial_r2t: bool,
    /// ImmediateData.
    pub immediate_data: bool,
    /// MaxOutstandingR2T.
    pub max_outstanding_r2t: u32,
    /// DefaultTime2Wait in seconds.
    pub time2wait: u16,
    /// DefaultTime2Retain in seconds.
    pub time2retain: u16,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            digests: Digests::default(),
            max_send_data: DEFAULT_RECV_DATA,
            max_burst: 262_144,
            first_burst: 65_536,
            initial_r2t: true,
            immediate_data: true,
            max_outstanding_r2t: 1,
            time2wait: 2,
            time2retain: 20,
        }
    }
}

/// The answer to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Declared by the initiator: no answer.
    Silent,
    /// The result, or `Reject` / `NotUnderstood`.
    Value(String),
    /// The value cannot be used and there is no way to say so but to end the login.
    Invalid,
}

fn reject() -> Answer {
    Answer::Value("Reject".into())
}

/// Section 6.2.1: lists are taken in the order of the offer, the first value that we support is the result.
fn choose_digest(value: &str, none: bool, crc32c: bool) -> Option<bool> {
    value.split(',').find_map(|v| match v {
        "None" if none => Some(false),
        "CRC32C" if crc32c => Some(true),
        _ => None,
    })
}

fn in_range(value: &str, low: u32, high: u32) -> Option<u32> {
    number(value).filter(|n| (low..=high).contains(n))
}

/// Applies one key offered by the initiator. Keys of identity and security are the login machine's own.
pub fn negotiate(params: &mut Params, offer: &Offer, key: &str, value: &str) -> Answer {
    let minimum = |low, high, ours: u32, slot: &mut u32| match in_range(value, low, high) {
        Some(theirs) => {
            *slot = theirs.min(ours);
            Answer::Value(slot.to_string())
        }
        None => reject(),
    };
    let digest = |none, crc32c, slot: &mut bool| match choose_digest(value, none, crc32c) {
        Some(on) => {
            *slot = on;
            Answer::Value(if on { "CRC32C" } else { "None" }.into())
        }
        None => reject(),
    };
    const LENGTH: u32 = (1 << 24) - 1; // sections 13.12-13.14: 512 to 2^24-1
    match key {
        "HeaderDigest" => digest(offer.header_none, offer.header_crc32c, &mut params.digests.header), // 13.1
        "DataDigest" => digest(offer.data_none, offer.data_crc32c, &mut params.digests.data),
        "MaxConnections" => minimum(1, 65535, 1, &mut 0), // 13.2: one connection a session
        "InitialR2T" => match boolean(value) {
            // 13.10: OR
            Some(theirs) => {
                params.initial_r2t = theirs || offer.initial_r2t;
                Answer::Value(yes_no(params.initial_r2t).into())
            }
            None => reject(),
        },
        "ImmediateData" => match boolean(value) {
            // 13.11: AND
            Some(theirs) => {
                params.immediate_data = theirs && offer.immediate_data;
                Answer::Value(yes_no(params.immediate_data).into())
            }
            None => reject(),
        },
        "MaxRecvDataSegmentLength" => match in_range(value, 512, LENGTH) {
            // 13.12: declarative; what the initiator takes is what we may send
            Some(theirs) => {
                params.max_send_data = theirs;
                Answer::Silent
            }
            None => Answer::Invalid,
        },
        "MaxBurstLength" => minimum(512, LENGTH, offer.max_burst, &mut params.max_burst), // 13.13
        "FirstBurstLength" => minimum(512, LENGTH, offer.first_burst, &mut params.first_burst), // 13.14
        "DefaultTime2Wait" => match in_range(value, 0, 3600) {
            // 13.15: maximum
            Some(theirs) => {
                params.time2wait = (theirs as u16).max(Params::default().time2wait);
                Answer::Value(params.time2wait.to_string())
            }
            None => reject(),
        },
        "DefaultTime2Retain" => match in_range(value, 0, 3600) {
            // 13.16: minimum; level 0 keeps no task of a lost connection
            Some(_) => {
                params.time2retain = 0;
                Answer::Value("0".into())
            }
            None => reject(),
        },
        "MaxOutstandingR2T" => minimum(1, 65535, offer.max_outstanding_r2t, &mut params.max_outstanding_r2t), // 13.17
        // 13.18, 13.19: OR with Yes: data always comes in order.
        "DataPDUInOrder" | "DataSequenceInOrder" => match boolean(value) {
            Some(_) => Answer::Value("Yes".into()),
            None => reject(),
        },
        "ErrorRecoveryLevel" => minimum(0, 2, 0, &mut 0),  // 13.20
        "iSCSIProtocolLevel" => minimum(0, 31, 1, &mut 0), // RFC 7144 section 7.1.1: RFC 7143 is level 1
        "TaskReporting" => Answer::Value(
            // 13.23: RFC 3720 semantics of task management
            if value.split(',').any(|v| v == "RFC3720") { "RFC3720" } else { "Reject" }.into(),
        ),
        // 13.25: markers are obsolete; No is the only answer left, the intervals do not matter then
        "IFMarker" | "OFMarker" => Answer::Value("No".into()),
        "IFMarkInt" | "OFMarkInt" => Answer::Value("Irrelevant".into()),
        "InitiatorAlias" => Answer::Silent,
        _ => Answer::Value("NotUnderstood".into()),
    }
}

/// Section 13.14: FirstBurstLength must not exceed MaxBurstLength; called once at the end of negotiation.
pub fn settle(params: &mut Params) {
    params.first_burst = params.first_burst.min(params.max_burst);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(key: &str, value: &str) -> (Answer, Params) {
        let mut p = Params::default();
        let a = negotiate(&mut p, &Offer::default(), key, value);
        (a, p)
    }

    fn value(s: &str) -> Answer {
        Answer::Value(s.into())
    }

    #[test]
    fn result_functions() {
        assert_eq!(one("InitialR2T", "No").0, value("No"));
        assert_eq!(one("InitialR2T", "Yes").0, value("Yes"));
        assert_eq!(one("ImmediateData", "No").0, value("No"));
        assert_eq!(one("MaxBurstLength", "16776192").0, value(&MAX_BURST.min(16_776_192).to_string()));
        assert_eq!(one("FirstBurstLength", "0x10000").0, value("65536"));
        assert_eq!(one("MaxConnections", "8").0, value("1"));
        assert_eq!(one("ErrorRecoveryLevel", "2").0, value("0"));
        assert_eq!(one("DataPDUInOrder", "No").0, value("Yes"));
        assert_eq!(one("DefaultTime2Wait", "5").0, value("5"));
        assert_eq!(one("DefaultTime2Retain", "60").0, value("0"));
        assert_eq!(one("OFMarkInt", "2048~2048").0, value("Irrelevant"));
        assert_eq!(one("X-com.example.key", "1").0, value("NotUnderstood"));
        assert_eq!(one("TaskReporting", "FastAbort,RFC3720").0, value("RFC3720"));
    }

    #[test]
    fn digests_follow_the_order_of_the_offer() {
        assert_eq!(one("HeaderDigest", "CRC32C,None").0, value("CRC32C"));
        assert!(one("HeaderDigest", "CRC32C,None").1.digests.header);
        assert_eq!(one("DataDigest", "None,CRC32C").0, value("None"));
        assert_eq!(one("DataDigest", "X-md5,CRC32C").0, value("CRC32C"));
        assert_eq!(one("DataDigest", "X-md5").0, value("Reject"));
        let strict = Offer { header_none: false, ..Offer::default() };
        assert_eq!(negotiate(&mut Params::default(), &strict, "HeaderDigest", "None"), value("Reject"));
    }

    #[test]
    fn bad_values_are_rejected() {
        assert_eq!(one("MaxBurstLength", "100").0, value("Reject"));
        assert_eq!(one("MaxBurstLength", "16777216").0, value("Reject"));
        assert_eq!(one("InitialR2T", "maybe").0, value("Reject"));
        assert_eq!(one("MaxRecvDataSegmentLength", "0").0, Answer::Invalid);
        assert_eq!(
            one("MaxRecvDataSegmentLength", "4096"),
            (Answer::Silent, Params { max_send_data: 4096, ..Params::default() })
        );
    }

    #[test]
    fn first_burst_stays_below_max_burst() {
        let mut p = Params { max_burst: 4096, ..Params::default() };
        settle(&mut p);
        assert_eq!(p.first_burst, 4096);
    }

    proptest! {
        #[test]
        fn results_never_exceed_the_offer(key in prop::sample::select(vec!["MaxBurstLength", "FirstBurstLength", "MaxOutstandingR2T"]), n: u32) {
            let (_, p) = one(key, &n.to_string());
            prop_assert!(p.max_burst <= MAX_BURST && p.first_burst <= FIRST_BURST && p.max_outstanding_r2t <= MAX_OUTSTANDING_R2T);
        }
    }
}
