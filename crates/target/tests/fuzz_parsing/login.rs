//! Logins that nobody would make: keys in odd places, stages in odd orders, texts in pieces, wrong and right secrets.

use std::sync::Arc;

use ballast_target::iscsi::keys::{FIRST_BURST, MAX_BURST, MAX_OUTSTANDING_R2T, Offer, Params, negotiate, settle};
use ballast_target::iscsi::login::{
    Access, Challenge, ChapAccount, Credentials, Directory, LoginMachine, LoginStatus, LoginStep,
};
use ballast_target::iscsi::pdu::{LoginRequest, LoginResponse, OutPdu, Pdu, opcode, opcode_of};
use ballast_target::iscsi::text;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::random::{Rng, Tally};

const OPEN: &str = "iqn.2026-01.test:open";
const GUARDED: &str = "iqn.2026-01.test:guarded";
const SECRET: &str = "initiator-secret";
const CHALLENGE: Challenge = Challenge { id: 9, bytes: [0x3c; 32] };

/// Requests that one login may take, with room: the machine has its own, lower limit.
const MAX_REQUESTS: usize = 100;

const KEYS: [&str; 29] = [
    "InitiatorName",
    "TargetName",
    "SessionType",
    "AuthMethod",
    "CHAP_A",
    "CHAP_N",
    "CHAP_R",
    "CHAP_I",
    "CHAP_C",
    "HeaderDigest",
    "DataDigest",
    "MaxConnections",
    "InitialR2T",
    "ImmediateData",
    "MaxRecvDataSegmentLength",
    "MaxBurstLength",
    "FirstBurstLength",
    "DefaultTime2Wait",
    "DefaultTime2Retain",
    "MaxOutstandingR2T",
    "DataPDUInOrder",
    "DataSequenceInOrder",
    "ErrorRecoveryLevel",
    "iSCSIProtocolLevel",
    "TaskReporting",
    "IFMarker",
    "OFMarkInt",
    "InitiatorAlias",
    "SendTargets",
];

const VALUES: [&str; 26] = [
    "",
    "Yes",
    "No",
    "None",
    "CRC32C",
    "CRC32C,None",
    "None,CRC32C",
    "CHAP",
    "CHAP,None",
    "5",
    "7,5",
    "0",
    "1",
    "512",
    "511",
    "65536",
    "16777215",
    "16777216",
    "4294967295",
    "4294967296",
    "0x200",
    "0xzz",
    "-1",
    "Normal",
    "Discovery",
    "RFC3720",
];

struct Targets;

impl Directory for Targets {
    fn access(&self, _: &str, target: Option<&str>) -> Result<Access, LoginStatus> {
        match target {
            None | Some(OPEN) => Ok(Access::Open),
            Some(GUARDED) => {
                let user = Credentials::new("user", SECRET).expect("a good secret");
                let own = Credentials::new("target", "the-target-secret").expect("a good secret");
                Ok(Access::Chap(Arc::new(ChapAccount::new(user, Some(own)).expect("two secrets"))))
            }
            Some(_) => Err(LoginStatus::NotFound),
        }
    }
}

fn right_response() -> String {
    let hash = Sha256::new().chain_update([CHALLENGE.id]).chain_update(SECRET).chain_update(CHALLENGE.bytes);
    format!("CHAP_R=0x{}", HEXLOWER.encode(&hash.finalize()))
}

fn any_pair(rng: &mut Rng, out: &mut Vec<u8>) {
    let value = match rng.below(20) {
        0 => "x".repeat(*rng.pick(&[255, 256, 1025, 8192, 8193])),
        1 => rng.edge().to_string(),
        2 => format!("0x{}", HEXLOWER.encode(&rng.bytes(16))),
        _ => (*rng.pick(&VALUES)).to_owned(),
    };
    match rng.below(30) {
        0 => text::put(out, &"k".repeat(1 + rng.index(70)), &value),
        1 => {
            let n = rng.index(40);
            out.extend(rng.bytes(n));
        }
        2 => text::put(out, &format!("X-{}", rng.below(300)), &value),
        _ => text::put(out, KEYS[rng.index(KEYS.len())], &value),
    }
}

/// A text that may well be a good one; without `wild` it is what CHAP wants next.
fn any_text(rng: &mut Rng, round: usize, csg: u8, wild: bool) -> Vec<u8> {
    let (mut out, first) = (Vec::new(), round == 0);
    if first && rng.percent(95) {
        text::put(&mut out, "InitiatorName", "iqn.2026-01.test:i");
        match rng.below(10) {
            0 => text::put(&mut out, "SessionType", "Discovery"),
            1..6 => text::put(&mut out, "TargetName", GUARDED),
            6 => text::put(&mut out, "TargetName", "iqn.2026-01.test:none"),
            _ => text::put(&mut out, "TargetName", OPEN),
        }
    }
    if csg == 0 && rng.percent(if wild { 90 } else { 100 }) {
        match if wild { rng.below(4) } else { round as u64 } {
            0 => text::put(&mut out, "AuthMethod", "CHAP,None"),
            1 => text::put(&mut out, "CHAP_A", "7,5"),
            2 => {
                text::put(&mut out, "CHAP_N", "user");
                out.extend(right_response().into_bytes());
                out.push(0);
            }
            _ => text::put(&mut out, "CHAP_A", "8"),
        }
    }
    let more = if rng.percent(3) { 300 } else { rng.below(if wild { 4 } else { 2 }) };
    for _ in 0..more {
        any_pair(rng, &mut out);
    }
    if rng.percent(5) {
        rng.damage(&mut out);
    }
    out
}

fn check_reply(reply: &OutPdu, request: &LoginRequest) -> LoginResponse {
    assert_eq!(opcode_of(&reply.bhs), opcode::LOGIN_RESPONSE);
    assert!(reply.data.len() <= 8192, "an answer of {} bytes", reply.data.len());
    let response = LoginResponse::decode(&reply.bhs);
    assert_eq!(response.itt, request.itt);
    response
}

fn check_params(p: &Params, offer: &Offer) {
    assert!((512..1 << 24).contains(&p.max_send_data), "{p:?}");
    assert!((512..=offer.max_burst).contains(&p.max_burst), "{p:?}");
    assert!((512..=p.max_burst.min(offer.first_burst)).contains(&p.first_burst), "{p:?}");
    assert!((1..=offer.max_outstanding_r2t).contains(&p.max_outstanding_r2t), "{p:?}");
    assert!(p.time2wait <= 3600 && p.time2retain <= 3600, "{p:?}");
}

/// A login from its first request to its end.
pub fn run(rng: &mut Rng, tally: &mut Tally) {
    let offer = Offer::default();
    let mut machine = LoginMachine::new(offer.clone(), 77, CHALLENGE);
    let (wild, first_stage) = (rng.percent(50), u8::from(rng.percent(30)));
    let mut request = LoginRequest {
        transit: true,
        more: false,
        csg: first_stage,
        nsg: if first_stage == 1 { 3 } else { 1 },
        version_max: 0,
        version_min: 0,
        isid: [0x80, 1, 2, 3, 4, 5],
        tsih: 0,
        itt: rng.edge(),
        cid: 0,
        cmd_sn: rng.edge(),
        exp_stat_sn: rng.edge(),
    };
    let mut shown = false;
    for round in 0.. {
        assert!(round < MAX_REQUESTS, "a login without an end");
        request.more = wild && rng.percent(if round > 0 { 60 } else { 5 });
        request.transit = !request.more && rng.percent(80);
        let data = any_text(rng, round, request.csg, wild);
        // Hexadecimal digits may be of either case, and damage changes the case now and then.
        let said = String::from_utf8_lossy(&data).to_lowercase();
        shown |= said.contains(&right_response().to_lowercase());
        let mut pdu = Pdu { bhs: request.encode(), ahs: Bytes::new(), data: Bytes::from(data), data_ok: true };
        if wild && rng.percent(10) {
            rng.damage(&mut pdu.bhs);
        }
        let seen = LoginRequest::decode(&pdu.bhs);
        match machine.on_pdu(&pdu, &Targets) {
            LoginStep::Drop => {
                assert!(round == 0 && opcode_of(&pdu.bhs) != opcode::LOGIN_REQUEST);
                return tally.count("login: not a login");
            }
            LoginStep::Fail(reply, status) => {
                assert_eq!(LoginResponse::decode(&reply.bhs).status, status.code());
                return tally.count("login: refused");
            }
            LoginStep::Done(reply, outcome) => {
                let response = check_reply(&reply, &seen);
                assert!(response.transit && response.nsg == 3 && response.status == 0 && response.tsih == 77);
                check_params(&outcome.params, &offer);
                assert!(outcome.target.as_deref().is_none_or(|t| t == OPEN || t == GUARDED));
                if outcome.target.as_deref() == Some(GUARDED) {
                    assert!(shown, "let in without the secret");
                    tally.count("login: full feature phase by CHAP");
                }
                assert_eq!(check_reply(&machine.refuse(LoginStatus::OutOfResources), &seen).status, 0x0302);
                return tally.count("login: full feature phase");
            }
            LoginStep::Continue(reply) => {
                let response = check_reply(&reply, &seen);
                assert_eq!(response.status, 0);
                if response.transit {
                    (request.csg, request.nsg) = (response.nsg, 3);
                }
            }
        }
    }
}

/// Texts alone, and every key with every value.
pub fn run_text(rng: &mut Rng, tally: &mut Tally) {
    let (round, stage) = (rng.index(4), rng.below(2) as u8);
    let bytes = any_text(rng, round, stage, true);
    let Ok(pairs) = text::parse(&bytes) else { return tally.count("text: refused") };
    tally.count("text: pairs");
    assert!(pairs.len() <= 256);
    let (mut params, mut again) = (Params::default(), Vec::new());
    for (key, value) in &pairs {
        text::put(&mut again, key, value);
        let _ = (text::number(value), text::boolean(value));
        let _ = negotiate(&mut params, &Offer::default(), key, value);
    }
    assert_eq!(text::parse(&again).as_ref(), Ok(&pairs));
    settle(&mut params);
    let offer = Offer { max_burst: MAX_BURST, first_burst: FIRST_BURST, ..Offer::default() };
    assert_eq!(offer.max_outstanding_r2t, MAX_OUTSTANDING_R2T);
    check_params(&params, &offer);
}
