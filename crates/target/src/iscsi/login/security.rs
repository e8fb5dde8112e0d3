//! The security stage (RFC 7143 sections 6.3.2 and 12): which method, and when the stage may be left.
//!
//! What the initiator has to show is the administrator's choice ([`Access`]): nothing, or that it knows a secret. An
//! initiator that leaves the stage out, or offers only None, does not get past a secret.

use super::chap::{Challenge, Chap};
use super::{Access, LoginStatus, text};

/// Keys that belong to this stage; they are errors in any other.
const KEYS: [&str; 6] = ["AuthMethod", "CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"];

#[derive(Debug)]
enum Method {
    /// AuthMethod was not heard yet; a challenge for a method that needs one.
    Open(Challenge),
    None,
    Chap(Chap),
}

/// Progress of the security stage.
#[derive(Debug)]
pub(super) struct Security {
    access: Access,
    method: Method,
}

impl Security {
    pub(super) fn new(challenge: Challenge) -> Self {
        Self { access: Access::Open, method: Method::Open(challenge) }
    }

    /// Is this key one of the stage's?
    pub(super) fn owns(key: &str) -> bool {
        KEYS.contains(&key)
    }

    /// May this key come again within one login? Challenge and response go both ways in mutual CHAP.
    pub(super) fn repeats(key: &str) -> bool {
        key.starts_with("CHAP_")
    }

    /// What the initiator has to show; known as soon as it has named itself and its target.
    pub(super) fn require(&mut self, access: Access) {
        self.access = access;
    }

    /// May the stage be left, or left out?
    pub(super) fn is_satisfied(&self) -> bool {
        match (&self.access, &self.method) {
            (_, Method::Chap(chap)) => chap.is_done(),
            // Section 6.3.2: an initiator that offers nothing has taken the default, None.
            (Access::Open, Method::None | Method::Open(_)) => true,
            (Access::Chap(_), Method::None | Method::Open(_)) => false,
        }
    }

    /// Takes the keys of one request and appends the answers; `leave`: the initiator wants the next stage.
    pub(super) fn step(
        &mut self,
        pairs: &[(String, String)],
        leave: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), LoginStatus> {
        let mut chap_pairs = Vec::new();
        for (key, value) in pairs {
            match key.as_str() {
                "AuthMethod" => self.choose(value, out)?,
                key => chap_pairs.push((key, value.as_str())),
            }
        }
        match &mut self.method {
            Method::Chap(chap) => chap.step(&chap_pairs, out),
            // Keys of a method that was not chosen.
            _ if !chap_pairs.is_empty() => Err(LoginStatus::InitiatorError),
            // It will not offer anything better.
            Method::Open(_) if leave && matches!(self.access, Access::Chap(_)) => {
                Err(LoginStatus::AuthenticationFailed)
            }
            _ => Ok(()),
        }
    }

    /// The one method that the administrator allows, if the initiator offers it.
    fn choose(&mut self, list: &str, out: &mut Vec<u8>) -> Result<(), LoginStatus> {
        let Method::Open(challenge) = &self.method else { return Err(LoginStatus::InitiatorError) };
        let (name, method) = match &self.access {
            Access::Open => ("None", Method::None),
            Access::Chap(account) => ("CHAP", Method::Chap(Chap::new(account.clone(), challenge.clone()))),
        };
        if !list.split(',').any(|method| method == name) {
            return Err(LoginStatus::AuthenticationFailed);
        }
        self.method = method;
        text::put(out, "AuthMethod", name);
        Ok(())
    }
}
