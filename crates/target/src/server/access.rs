//! Who may use a target: initiator names and a CHAP account.
//!
//! The name is what an initiator says of itself, so a list of names keeps mistakes away and not attackers; those are kept away
//! by the account, in a network that nobody else writes into.

use std::sync::Arc;

use crate::iscsi::login::{Access, ChapAccount, LoginStatus};

/// Who may log in to a target; the default is everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetAccess {
    /// Initiator names, or beginnings of names with `*` at the end; empty: all.
    pub initiators: Vec<String>,
    /// The name and secret that they have to know, and the target's own.
    pub chap: Option<Arc<ChapAccount>>,
}

impl TargetAccess {
    /// Is this initiator one of those?
    pub fn admits(&self, initiator: &str) -> bool {
        let fits = |allowed: &String| match allowed.strip_suffix('*') {
            // Names are compared in lower case (RFC 7143 section 4.2.7.2).
            Some(start) => initiator.get(..start.len()).is_some_and(|name| name.eq_ignore_ascii_case(start)),
            None => initiator.eq_ignore_ascii_case(allowed),
        };
        self.initiators.is_empty() || self.initiators.iter().any(fits)
    }

    pub(super) fn ask(&self, initiator: &str) -> Result<Access, LoginStatus> {
        if self.admits(initiator) { Ok(of(self.chap.as_ref())) } else { Err(LoginStatus::Forbidden) }
    }
}

pub(super) fn of(chap: Option<&Arc<ChapAccount>>) -> Access {
    chap.map_or(Access::Open, |account| Access::Chap(account.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let access =
            |names: &[&str]| TargetAccess { initiators: names.iter().map(|n| (*n).to_owned()).collect(), chap: None };
        assert!(access(&[]).admits("iqn.any"));
        assert!(access(&["iqn.a", "iqn.b"]).admits("iqn.B"));
        assert!(!access(&["iqn.a", "iqn.b"]).admits("iqn.bb"));
        assert!(access(&["iqn.1993-08.org.debian:*"]).admits("iqn.1993-08.org.debian:01:abc"));
        assert!(!access(&["iqn.1993-08.org.debian:*"]).admits("iqn.1993-08.org"));
        assert!(!access(&["iqn.é*"]).admits("iqn.e"));
        assert_eq!(access(&["iqn.a"]).ask("iqn.b"), Err(LoginStatus::Forbidden));
    }
}
