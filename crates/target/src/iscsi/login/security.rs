//! The security stage (RFC 7143 sections 6.3.2 and 12): which method, and the steps of the method.
//!
//! `AuthMethod=None` is the only method so far. A method with steps of its own (CHAP, section 12.1.3) is a new
//! variant of [`Method`] that consumes its keys in [`Security::step`] and holds back the stage until it is done.

use super::{LoginStatus, text};

/// Keys that belong to this stage; they are errors in any other.
const KEYS: [&str; 6] = ["AuthMethod", "CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    None,
}

/// Progress of the security stage.
#[derive(Debug, Default)]
pub(super) struct Security {
    chosen: Option<Method>,
}

impl Security {
    /// Is this key one of the stage's?
    pub(super) fn owns(key: &str) -> bool {
        KEYS.contains(&key)
    }

    /// May this key come again within one login? Challenge and response go both ways in mutual CHAP.
    pub(super) fn repeats(key: &str) -> bool {
        key.starts_with("CHAP_")
    }

    /// Takes the keys of one request, appends the answers; true when the stage may be left.
    pub(super) fn step(&mut self, pairs: &[(String, String)], out: &mut Vec<u8>) -> Result<bool, LoginStatus> {
        for (key, value) in pairs {
            match key.as_str() {
                "AuthMethod" if self.chosen.is_none() => {
                    if !value.split(',').any(|m| m == "None") {
                        return Err(LoginStatus::AuthenticationFailed);
                    }
                    self.chosen = Some(Method::None);
                    text::put(out, "AuthMethod", "None");
                }
                // Keys of a method that was not chosen.
                _ => return Err(LoginStatus::InitiatorError),
            }
        }
        // Section 6.3.2: an initiator that offers nothing has taken the default, None.
        Ok(matches!(self.chosen, None | Some(Method::None)))
    }
}
