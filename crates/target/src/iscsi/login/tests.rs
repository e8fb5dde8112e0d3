use super::*;
use crate::iscsi::pdu::Pdu;
use proptest::prelude::*;

struct One;
impl Directory for One {
    fn access(&self, _: &str, target: Option<&str>) -> Result<Access, LoginStatus> {
        if target.is_none_or(|iqn| iqn == "iqn.t") { Ok(Access::Open) } else { Err(LoginStatus::NotFound) }
    }
}

const CHALLENGE: Challenge = Challenge { id: 3, bytes: [0x5a; 32] };

fn machine() -> LoginMachine {
    LoginMachine::new(Offer::default(), 77, CHALLENGE)
}

/// Wants CHAP from everybody, and lets nobody else in than iqn.i.
struct Guarded;
impl Directory for Guarded {
    fn access(&self, initiator: &str, _: Option<&str>) -> Result<Access, LoginStatus> {
        if initiator != "iqn.i" {
            return Err(LoginStatus::Forbidden);
        }
        let account = Credentials::new("user", "initiator-secret").unwrap();
        Ok(Access::Chap(Arc::new(ChapAccount::new(account, None).unwrap())))
    }
}

fn answer() -> String {
    // printf '\003initiator-secretZZZ...' | md5sum, with 32 times Z (5ah)
    "CHAP_N=user\nCHAP_R=0x6349f60d623a81c87fe9722bbe5fb8b2\n".to_owned()
}

fn request(csg: u8, nsg: u8, transit: bool) -> LoginRequest {
    LoginRequest {
        transit,
        more: false,
        csg,
        nsg,
        version_max: 0,
        version_min: 0,
        isid: [0x80, 1, 2, 3, 4, 5],
        tsih: 0,
        itt: 9,
        cid: 1,
        cmd_sn: 100,
        exp_stat_sn: 50,
    }
}

fn pdu(request: LoginRequest, text: &str) -> Pdu {
    Pdu { bhs: request.encode(), ahs: Bytes::new(), data: Bytes::from(text.replace('\n', "\0")), data_ok: true }
}

const NAMES: &str = "InitiatorName=iqn.i\nTargetName=iqn.t\n";

fn failed(step: LoginStep) -> LoginStatus {
    match step {
        LoginStep::Fail(reply, status) => {
            assert_eq!(LoginResponse::decode(&reply.bhs).status, status.code());
            status
        }
        other => panic!("login went on: {other:?}"),
    }
}

fn text_of(reply: &OutPdu) -> String {
    String::from_utf8(reply.data.to_vec()).unwrap().replace('\0', "\n")
}

#[test]
fn both_stages_then_full_feature() {
    let mut m = machine();
    let LoginStep::Continue(reply) =
        m.on_pdu(&pdu(request(0, 1, true), &format!("{NAMES}AuthMethod=CHAP,None\n")), &One)
    else {
        panic!()
    };
    let r = LoginResponse::decode(&reply.bhs);
    assert_eq!((r.transit, r.csg, r.nsg, r.tsih, r.status, r.numbers.stat), (true, 0, 1, 0, 0, 50));
    assert_eq!((r.numbers.exp_cmd, r.numbers.max_cmd), (100, 100 + COMMAND_WINDOW - 1));
    assert_eq!(text_of(&reply), "TargetPortalGroupTag=1\nAuthMethod=None\n");

    let keys = "HeaderDigest=CRC32C,None\nDataDigest=None\nInitialR2T=No\nImmediateData=Yes\nMaxBurstLength=1048576\n\
                MaxRecvDataSegmentLength=65536\nX-vendor=1\n";
    let LoginStep::Done(reply, outcome) = m.on_pdu(&pdu(request(1, 3, true), keys), &One) else { panic!() };
    let r = LoginResponse::decode(&reply.bhs);
    assert_eq!((r.transit, r.nsg, r.tsih, r.numbers.stat), (true, 3, 77, 51));
    assert_eq!(
        text_of(&reply),
        "HeaderDigest=CRC32C\nDataDigest=None\nInitialR2T=No\nImmediateData=Yes\n\
        MaxBurstLength=1048576\nX-vendor=NotUnderstood\nMaxRecvDataSegmentLength=262144\n"
    );
    assert_eq!((outcome.stat_sn, outcome.exp_cmd_sn, outcome.target.as_deref()), (52, 100, Some("iqn.t")));
    assert_eq!(outcome.params.max_send_data, 65536);
    assert!(outcome.params.digests.header && !outcome.params.digests.data && !outcome.params.initial_r2t);
}

#[test]
fn operational_stage_alone_and_discovery() {
    let text = "InitiatorName=iqn.i\nSessionType=Discovery\n";
    let LoginStep::Done(_, outcome) = machine().on_pdu(&pdu(request(1, 3, true), text), &One) else { panic!() };
    assert_eq!(outcome.target, None);
    assert_eq!(outcome.params, Params::default());
}

#[test]
fn text_spread_over_requests_by_the_c_bit() {
    let mut m = machine();
    let mut first = request(1, 0, false);
    first.more = true;
    let LoginStep::Continue(reply) = m.on_pdu(&pdu(first, "InitiatorName=iqn.i\nTarget"), &One) else { panic!() };
    assert_eq!(reply.data.len(), 0); // section 6.2: an empty response until C is clear
    let step = m.on_pdu(&pdu(request(1, 3, true), "Name=iqn.t\n"), &One);
    assert!(matches!(step, LoginStep::Done(..)));
}

#[test]
fn refusals() {
    let first = |r: LoginRequest, text: &str| failed(machine().on_pdu(&pdu(r, text), &One));
    assert_eq!(first(request(1, 3, true), "TargetName=iqn.t\n"), LoginStatus::MissingParameter);
    assert_eq!(first(request(1, 3, true), "InitiatorName=iqn.i\n"), LoginStatus::MissingParameter);
    assert_eq!(first(request(1, 3, true), "InitiatorName=iqn.i\nTargetName=iqn.other\n"), LoginStatus::NotFound);
    assert_eq!(first(request(1, 3, true), &format!("{NAMES}SessionType=Odd\n")), LoginStatus::SessionType);
    assert_eq!(first(request(0, 1, true), &format!("{NAMES}AuthMethod=KRB5\n")), LoginStatus::AuthenticationFailed);
    assert_eq!(first(request(0, 1, true), &format!("{NAMES}CHAP_A=5\n")), LoginStatus::InitiatorError);
    assert_eq!(first(request(2, 3, true), NAMES), LoginStatus::InitiatorError);
    assert_eq!(first(request(3, 3, true), NAMES), LoginStatus::InitiatorError);
    assert_eq!(first(request(1, 1, true), NAMES), LoginStatus::InitiatorError);
    assert_eq!(
        first(request(1, 3, true), &format!("{NAMES}MaxRecvDataSegmentLength=1\n")),
        LoginStatus::InitiatorError
    );
    assert_eq!(first(request(1, 3, true), "InitiatorName=a\nInitiatorName=b\n"), LoginStatus::InitiatorError);
    assert_eq!(first(LoginRequest { version_min: 1, ..request(1, 3, true) }, NAMES), LoginStatus::UnsupportedVersion);
    assert_eq!(first(LoginRequest { tsih: 5, ..request(1, 3, true) }, NAMES), LoginStatus::NoSession);
    assert_eq!(first(LoginRequest { more: true, ..request(1, 3, true) }, NAMES), LoginStatus::InitiatorError);
}

#[test]
fn identity_must_not_change_and_stages_must_not_go_back() {
    let mut m = machine();
    assert!(matches!(m.on_pdu(&pdu(request(1, 0, false), NAMES), &One), LoginStep::Continue(_)));
    let other = LoginRequest { isid: [1; 6], ..request(1, 3, true) };
    assert_eq!(failed(m.on_pdu(&pdu(other, ""), &One)), LoginStatus::InitiatorError);
    let mut m = machine();
    assert!(matches!(m.on_pdu(&pdu(request(1, 0, false), NAMES), &One), LoginStep::Continue(_)));
    assert_eq!(failed(m.on_pdu(&pdu(request(0, 1, true), ""), &One)), LoginStatus::InitiatorError);
}

#[test]
fn other_pdus_during_login() {
    let nop = Pdu { bhs: [0; 48], ahs: Bytes::new(), data: Bytes::new(), data_ok: true };
    assert!(matches!(machine().on_pdu(&nop, &One), LoginStep::Drop));
    let mut m = machine();
    let _ = m.on_pdu(&pdu(request(1, 0, false), NAMES), &One);
    assert_eq!(failed(m.on_pdu(&nop, &One)), LoginStatus::InvalidDuringLogin);
}

#[test]
fn endless_logins_end() {
    let mut m = machine();
    let _ = m.on_pdu(&pdu(request(1, 0, false), NAMES), &One);
    let ended =
        (0..MAX_REQUESTS).any(|_| matches!(m.on_pdu(&pdu(request(1, 0, false), ""), &One), LoginStep::Fail(..)));
    assert!(ended);
}

#[test]
fn digests_that_are_required() {
    let offer = Offer { header_none: false, ..Offer::default() };
    let mut m = LoginMachine::new(offer.clone(), 1, CHALLENGE);
    assert_eq!(failed(m.on_pdu(&pdu(request(1, 3, true), NAMES), &One)), LoginStatus::InitiatorError);
    let mut m = LoginMachine::new(offer, 1, CHALLENGE);
    let text = format!("{NAMES}HeaderDigest=CRC32C\n");
    assert!(matches!(m.on_pdu(&pdu(request(1, 3, true), &text), &One), LoginStep::Done(..)));
}

#[test]
fn keys_of_one_login_are_bounded() {
    let mut m = machine();
    let mut ask = |i: usize| {
        let keys: String = (0..100).map(|k| format!("X-{}=1\n", i * 100 + k)).collect();
        let names = if i == 0 { NAMES } else { "" };
        m.on_pdu(&pdu(request(1, 3, false), &format!("{names}{keys}")), &One)
    };
    assert!((0..2).all(|i| matches!(ask(i), LoginStep::Continue(_))));
    assert_eq!(failed(ask(2)), LoginStatus::OutOfResources);
}

#[test]
fn a_secret_is_asked_for_and_shown() {
    for names in [NAMES, "InitiatorName=iqn.i\nSessionType=Discovery\n"] {
        let mut m = machine();
        let text = format!("{names}AuthMethod=CHAP,None\n");
        let LoginStep::Continue(reply) = m.on_pdu(&pdu(request(0, 1, true), &text), &Guarded) else { panic!() };
        assert!(!LoginResponse::decode(&reply.bhs).transit, "not yet");
        assert!(text_of(&reply).ends_with("AuthMethod=CHAP\n"));
        let LoginStep::Continue(reply) = m.on_pdu(&pdu(request(0, 1, true), "CHAP_A=5\n"), &Guarded) else { panic!() };
        assert!(!LoginResponse::decode(&reply.bhs).transit);
        assert_eq!(text_of(&reply), format!("CHAP_A=5\nCHAP_I=3\nCHAP_C=0x{}\n", "5a".repeat(32)));
        let LoginStep::Continue(reply) = m.on_pdu(&pdu(request(0, 1, true), &answer()), &Guarded) else { panic!() };
        assert!(LoginResponse::decode(&reply.bhs).transit);
        assert!(matches!(m.on_pdu(&pdu(request(1, 3, true), ""), &Guarded), LoginStep::Done(..)));
    }
}

#[test]
fn nobody_gets_past_a_secret() {
    let first = |r: LoginRequest, text: &str| failed(machine().on_pdu(&pdu(r, &format!("{NAMES}{text}")), &Guarded));
    // The stage left out, the stage without a method, no method that helps, a guess without a challenge.
    assert_eq!(first(request(1, 3, true), ""), LoginStatus::AuthenticationFailed);
    assert_eq!(first(request(0, 3, true), ""), LoginStatus::AuthenticationFailed);
    assert_eq!(first(request(0, 1, true), "AuthMethod=None\n"), LoginStatus::AuthenticationFailed);
    assert_eq!(first(request(0, 1, true), &answer()), LoginStatus::InitiatorError);
    let stranger = "InitiatorName=iqn.j\nTargetName=iqn.t\n";
    assert_eq!(failed(machine().on_pdu(&pdu(request(0, 1, true), stranger), &Guarded)), LoginStatus::Forbidden);
    // A second try needs a new connection, and a failed one cannot be talked round.
    let mut m = machine();
    for text in [format!("{NAMES}AuthMethod=CHAP\n"), "CHAP_A=5\n".into()] {
        assert!(matches!(m.on_pdu(&pdu(request(0, 1, true), &text), &Guarded), LoginStep::Continue(_)));
    }
    let wrong = pdu(request(0, 1, true), "CHAP_N=user\nCHAP_R=0x00\n");
    assert_eq!(failed(m.on_pdu(&wrong, &Guarded)), LoginStatus::AuthenticationFailed);
    assert!(!m.security.is_satisfied());
    // Neither can the method be changed.
    let mut m = machine();
    let _ = m.on_pdu(&pdu(request(0, 1, true), &format!("{NAMES}AuthMethod=CHAP\n")), &Guarded);
    let again = pdu(request(0, 1, true), "AuthMethod=None\n");
    assert_eq!(failed(m.on_pdu(&again, &Guarded)), LoginStatus::InitiatorError);
}

proptest! {
    #[test]
    fn arbitrary_requests_never_panic(
        requests in prop::collection::vec((prop::collection::vec(any::<u8>(), 48), prop::collection::vec(any::<u8>(), 0..200)), 1..8),
    ) {
        let mut m = machine();
        for (header, data) in requests {
            let mut bhs = [0; 48];
            bhs.copy_from_slice(&header);
            bhs[0] = 0x43;
            bhs[14..16].fill(0);
            let _ = m.on_pdu(&Pdu { bhs, ahs: Bytes::new(), data: Bytes::from(data), data_ok: true }, &One);
        }
    }
}
