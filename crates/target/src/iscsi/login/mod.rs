//! The login phase (RFC 7143 section 6) as a state machine: Login Request in, Login Response out.
//!
//! ```text
//! first request -> [Security: AuthMethod] -> [Operational: keys] -> FullFeature
//! ```
//! A stage is left when the initiator sets T and the target agrees. Text may be spread over requests by the C bit.
//! The first complete text names the initiator, the session type and the target; nothing else is answered before.
//! Any error is answered with its status and ends the connection (section 6.3.1).

mod chap;
mod security;
mod status;
#[cfg(test)]
mod tests;

pub use chap::{Challenge, ChapAccount, Credentials, CredentialsError};
pub use status::LoginStatus;

use std::sync::Arc;

use bytes::Bytes;

use super::keys::{Answer, Offer, Params, negotiate, settle};
use super::pdu::{LoginRequest, LoginResponse, Numbers, OutPdu, Pdu, Stage, opcode, opcode_of};
use super::session::COMMAND_WINDOW;
use super::text;
use security::Security;

/// Text of one login: section 6.2 asks for no more than 64 KiB.
const MAX_LOGIN_TEXT: usize = 64 * 1024;
/// What an initiator has to be able to receive before it declared anything (section 13.12).
const MAX_ANSWER: usize = 8192;
/// Keys of one login; section 13 defines fewer than 40. Each new one is compared with all that came before.
const MAX_KEYS: usize = 256;
/// Requests in one login; a negotiation that does not end is an attack or a bug.
const MAX_REQUESTS: u32 = 64;
/// iSCSI names are at most 223 bytes (section 4.2.7.1).
const MAX_NAME: usize = 223;
/// The one target portal group.
pub const PORTAL_GROUP: u16 = 1;

/// What an initiator has to show before it is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Open,
    /// That it knows the secret.
    Chap(Arc<ChapAccount>),
}

/// What the login machine asks about targets.
pub trait Directory {
    /// What this initiator has to show for a session with a target, or, without one, for a discovery session. An error
    /// when there is no such target, or none for this initiator.
    fn access(&self, initiator: &str, target: Option<&str>) -> Result<Access, LoginStatus>;
}

/// A login that went through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginOutcome {
    /// InitiatorName.
    pub initiator: String,
    /// TargetName; `None` is a discovery session.
    pub target: Option<String>,
    /// Initiator session id.
    pub isid: [u8; 6],
    /// Target session handle given.
    pub tsih: u16,
    /// Connection id.
    pub cid: u16,
    /// What was agreed.
    pub params: Params,
    /// The CmdSN of the first command.
    pub exp_cmd_sn: u32,
    /// The next StatSN.
    pub stat_sn: u32,
}

/// What to do after a Login Request.
#[derive(Debug)]
pub enum LoginStep {
    /// Send this and wait for the next request.
    Continue(OutPdu),
    /// Send this; the full feature phase begins. Before sending, the session may be refused with
    /// [`LoginMachine::refuse`].
    Done(OutPdu, Box<LoginOutcome>),
    /// Send this and close.
    Fail(OutPdu, LoginStatus),
    /// Close without a word: what came is not a login (section 6.3).
    Drop,
}

/// One connection's login.
#[derive(Debug)]
pub struct LoginMachine {
    offer: Offer,
    tsih: u16,
    first: Option<LoginRequest>,
    last: Option<LoginRequest>,
    requests: u32,
    stage: Stage,
    stat_sn: u32,
    text: Vec<u8>,
    seen: Vec<String>,
    security: Security,
    params: Params,
    initiator: Option<String>,
    target: Option<String>,
    discovery: bool,
    declared: bool,
    named: bool,
}

type Pairs = Vec<(String, String)>;

impl LoginMachine {
    /// A machine for a new connection; `tsih` is the handle the session gets, not 0. The challenge is random, and no other
    /// connection's.
    pub fn new(offer: Offer, tsih: u16, challenge: Challenge) -> Self {
        Self {
            offer,
            tsih,
            first: None,
            last: None,
            requests: 0,
            stage: Stage::Security,
            stat_sn: 0,
            text: Vec::new(),
            seen: Vec::new(),
            security: Security::new(challenge),
            params: Params::default(),
            initiator: None,
            target: None,
            discovery: false,
            declared: false,
            named: false,
        }
    }

    /// Takes one PDU.
    pub fn on_pdu(&mut self, pdu: &Pdu, directory: &dyn Directory) -> LoginStep {
        if opcode_of(&pdu.bhs) != opcode::LOGIN_REQUEST {
            // Section 6.3: anything else before the full feature phase is a protocol error. With a login under way
            // the initiator is told (status 020b), otherwise there is nothing to answer to.
            return match self.last {
                Some(_) => self.fail(LoginStatus::InvalidDuringLogin),
                None => LoginStep::Drop,
            };
        }
        let request = LoginRequest::decode(&pdu.bhs);
        self.requests += 1;
        self.last = Some(request);
        match self.step(&request, &pdu.data, directory) {
            Ok(step) => step,
            Err(status) => self.fail(status),
        }
    }

    /// The answer that refuses a login which was [`LoginStep::Done`] but cannot be served after all.
    pub fn refuse(&mut self, status: LoginStatus) -> OutPdu {
        let request = self.last.unwrap_or_else(|| LoginRequest::decode(&[0; 48]));
        self.response(&request, false, status, Vec::new())
    }

    fn fail(&mut self, status: LoginStatus) -> LoginStep {
        LoginStep::Fail(self.refuse(status), status)
    }

    fn step(&mut self, request: &LoginRequest, data: &Bytes, dir: &dyn Directory) -> Result<LoginStep, LoginStatus> {
        let csg = Stage::from_code(request.csg).ok_or(LoginStatus::InitiatorError)?;
        match self.first {
            None => self.begin(request, csg)?,
            // Section 11.12: ISID, TSIH, CID and the tag stay the same through a login.
            Some(first)
                if (first.isid, first.cid, first.itt, first.tsih)
                    != (request.isid, request.cid, request.itt, request.tsih) =>
            {
                return Err(LoginStatus::InitiatorError);
            }
            Some(_) => {}
        }
        if csg != self.stage || csg == Stage::FullFeature || self.requests > MAX_REQUESTS {
            return Err(LoginStatus::InitiatorError);
        }
        if self.text.len() + data.len() > MAX_LOGIN_TEXT {
            return Err(LoginStatus::OutOfResources);
        }
        self.text.extend_from_slice(data);
        if request.more {
            if request.transit {
                return Err(LoginStatus::InitiatorError); // section 11.12.2: C and T exclude each other
            }
            return Ok(LoginStep::Continue(self.response(request, false, LoginStatus::Success, Vec::new())));
        }
        let pairs = text::parse(&std::mem::take(&mut self.text)).map_err(|_| LoginStatus::InitiatorError)?;
        self.answer(request, pairs, dir)
    }

    fn begin(&mut self, request: &LoginRequest, csg: Stage) -> Result<(), LoginStatus> {
        self.first = Some(*request);
        self.stage = csg;
        // Section 11.13.4: the target may start StatSN anywhere; taking ExpStatSN keeps both sides' logs alike.
        self.stat_sn = request.exp_stat_sn;
        if request.version_min > 0 {
            return Err(LoginStatus::UnsupportedVersion); // only version 0 exists
        }
        if request.tsih != 0 {
            // Section 6.3.1: a TSIH asks for one more connection in a session; with MaxConnections=1 there is none.
            return Err(LoginStatus::NoSession);
        }
        Ok(())
    }

    fn answer(&mut self, request: &LoginRequest, pairs: Pairs, dir: &dyn Directory) -> Result<LoginStep, LoginStatus> {
        let mut out = Vec::new();
        let mut security = Vec::new();
        for (key, value) in pairs {
            if self.seen.contains(&key) && !Security::repeats(&key) {
                return Err(LoginStatus::InitiatorError); // section 6.3: a key is negotiated once
            }
            if self.seen.len() == MAX_KEYS {
                return Err(LoginStatus::OutOfResources);
            }
            self.seen.push(key.clone());
            if Security::owns(&key) {
                security.push((key, value));
                continue;
            }
            match self.identity(&key, &value)? {
                true => {}
                false => match negotiate(&mut self.params, &self.offer, &key, &value) {
                    Answer::Silent => {}
                    Answer::Value(v) => text::put(&mut out, &key, &v),
                    Answer::Invalid => return Err(LoginStatus::InitiatorError),
                },
            }
        }
        self.require_names(dir, &mut out)?;
        if self.stage == Stage::Security {
            self.security.step(&security, request.transit, &mut out)?;
        } else if !security.is_empty() {
            return Err(LoginStatus::InitiatorError);
        } else if !self.security.is_satisfied() {
            return Err(LoginStatus::AuthenticationFailed); // it began with the operational stage
        }
        if self.stage == Stage::Operational && !std::mem::replace(&mut self.declared, true) {
            text::put(&mut out, "MaxRecvDataSegmentLength", &self.offer.max_recv_data.to_string());
        }
        if out.len() > MAX_ANSWER {
            return Err(LoginStatus::InitiatorError);
        }
        if !(request.transit && self.security.is_satisfied()) {
            return Ok(LoginStep::Continue(self.response(request, false, LoginStatus::Success, out)));
        }
        let next = Stage::from_code(request.nsg).filter(|n| n.code() > self.stage.code());
        let next = next.ok_or(LoginStatus::InitiatorError)?;
        self.check_policy(next)?;
        let reply = self.response(request, true, LoginStatus::Success, out);
        self.stage = next;
        if next != Stage::FullFeature {
            return Ok(LoginStep::Continue(reply));
        }
        settle(&mut self.params);
        let outcome = LoginOutcome {
            initiator: self.initiator.clone().ok_or(LoginStatus::MissingParameter)?,
            target: self.target.clone().filter(|_| !self.discovery),
            isid: request.isid,
            tsih: self.tsih,
            cid: request.cid,
            params: self.params.clone(),
            exp_cmd_sn: request.cmd_sn,
            stat_sn: self.stat_sn,
        };
        Ok(LoginStep::Done(reply, Box::new(outcome)))
    }

    /// Keys of identity (section 13.4-13.9, 13.21); true when the key was one.
    fn identity(&mut self, key: &str, value: &str) -> Result<bool, LoginStatus> {
        let name = |v: &str| match v.len() {
            1..=MAX_NAME => Ok(Some(v.to_owned())),
            _ => Err(LoginStatus::InitiatorError),
        };
        match key {
            "InitiatorName" => self.initiator = name(value)?,
            "TargetName" => self.target = name(value)?,
            "SessionType" => match value {
                "Normal" => self.discovery = false,
                "Discovery" => self.discovery = true,
                _ => return Err(LoginStatus::SessionType),
            },
            _ => return Ok(false),
        }
        if self.named {
            return Err(LoginStatus::InitiatorError); // section 6.3: only in the first request
        }
        Ok(true)
    }

    fn require_names(&mut self, dir: &dyn Directory, out: &mut Vec<u8>) -> Result<(), LoginStatus> {
        if std::mem::replace(&mut self.named, true) {
            return Ok(());
        }
        let initiator = self.initiator.as_deref().ok_or(LoginStatus::MissingParameter)?;
        let target = match self.discovery {
            true => None,
            false => Some(self.target.as_deref().ok_or(LoginStatus::MissingParameter)?),
        };
        self.security.require(dir.access(initiator, target)?);
        if target.is_some() {
            // Section 13.9: the portal group tag comes with the first response of a session to a named target.
            text::put(out, "TargetPortalGroupTag", &PORTAL_GROUP.to_string());
        }
        Ok(())
    }

    /// A digest the administrator insists on is not optional for an initiator that never offered it.
    fn check_policy(&self, next: Stage) -> Result<(), LoginStatus> {
        let missing = |none: bool, on: bool| !none && !on;
        let digests = self.params.digests;
        if next == Stage::FullFeature
            && !self.discovery
            && (missing(self.offer.header_none, digests.header) || missing(self.offer.data_none, digests.data))
        {
            return Err(LoginStatus::InitiatorError);
        }
        Ok(())
    }

    fn response(&mut self, request: &LoginRequest, transit: bool, status: LoginStatus, text: Vec<u8>) -> OutPdu {
        let response = LoginResponse {
            transit,
            more: false,
            csg: request.csg,
            nsg: if transit { request.nsg } else { 0 },
            isid: request.isid,
            // Section 11.13.3: the handle is told with the last response.
            tsih: if transit && request.nsg == Stage::FullFeature.code() { self.tsih } else { request.tsih },
            itt: request.itt,
            numbers: Numbers {
                stat: self.stat_sn,
                exp_cmd: request.cmd_sn,
                max_cmd: request.cmd_sn.wrapping_add(COMMAND_WINDOW - 1),
            },
            status: status.code(),
        };
        self.stat_sn = self.stat_sn.wrapping_add(1);
        OutPdu::new(response.encode(), Bytes::from(text))
    }
}
