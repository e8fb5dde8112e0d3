//! CHAP (RFC 7143 section 12.1.3 over RFC 1994): the initiator proves that it knows a secret, and, if it asks for it, so
//! does the target.
//!
//! ```text
//! initiator                                                   target
//!   CHAP_A=<algorithms>                                  ->
//!                                                        <-   CHAP_A=<chosen> CHAP_I=<id> CHAP_C=<challenge>
//!   CHAP_N=<name> CHAP_R=<response> [CHAP_I= CHAP_C=]    ->
//!                                                        <-   [CHAP_N=<name> CHAP_R=<response>]
//!
//!   response = H(id | secret | challenge)
//! ```
//! Whatever does not fit ends the login with one status, so that a wrong name looks like a wrong secret. A connection has
//! one challenge and one attempt.

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use md5::Md5;
use sha2::Sha256;
use sha3::Sha3_256;
use sha3::digest::Digest;
use subtle::ConstantTimeEq;

use super::{LoginStatus, text};
use crate::iscsi::text::number;

/// Shortest secret: 96 bits (RFC 7143 section 12.1.3 asks for them without IPsec).
pub(super) const MIN_SECRET: usize = 12;
/// Longest secret that initiators take.
pub(super) const MAX_SECRET: usize = 255;
/// Longest name.
const MAX_NAME: usize = 255;
/// Longest challenge taken (RFC 7143 section 12.1.3).
const MAX_CHALLENGE: usize = 1024;

/// One side's name and secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    name: String,
    secret: Vec<u8>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What is wrong with a name or a secret. The secret itself is never told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// No name, or one that no initiator could send.
    #[error("a CHAP name has 1 to {MAX_NAME} bytes and no control characters: {0:?}")]
    Name(String),
    /// Too short to resist guessing, or too long for initiators.
    #[error("the CHAP secret of {name} has {length} bytes; it must have {MIN_SECRET} to {MAX_SECRET}")]
    Secret {
        /// Whose.
        name: String,
        /// Its length.
        length: usize,
    },
    /// Whoever knows one side's secret could play the other.
    #[error("the CHAP secrets of {0} and {1} are the same; the target needs one of its own")]
    Same(String, String),
}

impl Credentials {
    /// A name and its secret.
    pub fn new(name: impl Into<String>, secret: impl Into<Vec<u8>>) -> Result<Self, CredentialsError> {
        let (name, secret) = (name.into(), secret.into());
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(CredentialsError::Name(name));
        }
        if !(MIN_SECRET..=MAX_SECRET).contains(&secret.len()) {
            return Err(CredentialsError::Secret { name, length: secret.len() });
        }
        Ok(Self { name, secret })
    }
}

/// Who may log in, and as whom the target answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChapAccount {
    initiator: Credentials,
    target: Option<Credentials>,
}

impl ChapAccount {
    /// The initiator's credentials, and the target's for initiators that ask for them (mutual CHAP).
    pub fn new(initiator: Credentials, target: Option<Credentials>) -> Result<Self, CredentialsError> {
        match target {
            Some(target) if target.secret == initiator.secret => {
                Err(CredentialsError::Same(initiator.name, target.name))
            }
            target => Ok(Self { initiator, target }),
        }
    }
}

/// What the target asks with: random for each connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// CHAP_I.
    pub id: u8,
    /// CHAP_C; as long as the longest response, so that guessing it is no easier than guessing that.
    pub bytes: [u8; 32],
}

/// Hash functions by their number on the wire (IANA: PPP authentication algorithms).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Md5,
    Sha256,
    Sha3,
}

impl Algorithm {
    fn from_number(number: u32) -> Option<Self> {
        match number {
            5 => Some(Self::Md5),
            7 => Some(Self::Sha256),
            8 => Some(Self::Sha3),
            _ => None,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Md5 => 5,
            Self::Sha256 => 7,
            Self::Sha3 => 8,
        }
    }

    fn response(self, id: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        fn hash<D: Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
            parts.iter().fold(D::new(), |hash, part| hash.chain_update(part)).finalize().to_vec()
        }
        let parts = [&[id], secret, challenge];
        match self {
            Self::Md5 => hash::<Md5>(parts),
            Self::Sha256 => hash::<Sha256>(parts),
            Self::Sha3 => hash::<Sha3_256>(parts),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Waits for CHAP_A.
    Algorithms,
    /// Waits for CHAP_N and CHAP_R.
    Response(Algorithm),
    /// The initiator is who it says.
    Done,
    /// It is not, or broke the rules: this connection gets no other attempt.
    Failed,
}

/// Progress of one exchange.
#[derive(Debug)]
pub(super) struct Chap {
    account: std::sync::Arc<ChapAccount>,
    challenge: Challenge,
    state: State,
}

impl Chap {
    pub(super) fn new(account: std::sync::Arc<ChapAccount>, challenge: Challenge) -> Self {
        Self { account, challenge, state: State::Algorithms }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the CHAP keys of one request and appends the answers.
    pub(super) fn step(&mut self, pairs: &[(&str, &str)], out: &mut Vec<u8>) -> Result<(), LoginStatus> {
        let get = |key: &str| pairs.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
        match self.state {
            _ if pairs.is_empty() => Ok(()), // the initiator has only asked to go on
            State::Algorithms => match pairs {
                [("CHAP_A", list)] => self.choose(list, out),
                _ => Err(LoginStatus::InitiatorError),
            },
            State::Response(algorithm) => {
                let (Some(name), Some(response)) = (get("CHAP_N"), get("CHAP_R")) else {
                    return Err(LoginStatus::InitiatorError);
                };
                let own = match (get("CHAP_I"), get("CHAP_C"), pairs.len()) {
                    (None, None, 2) => None,
                    (Some(id), Some(challenge), 4) => Some((id, challenge)),
                    _ => return Err(LoginStatus::InitiatorError),
                };
                self.state = State::Failed;
                self.verify(algorithm, name, response)?;
                if let Some((id, challenge)) = own {
                    self.answer(algorithm, id, challenge, out)?;
                }
                self.state = State::Done;
                Ok(())
            }
            State::Done | State::Failed => Err(LoginStatus::InitiatorError),
        }
    }

    /// The first algorithm of the initiator's list that is supported (section 6.2.1).
    fn choose(&mut self, list: &str, out: &mut Vec<u8>) -> Result<(), LoginStatus> {
        let chosen = list.split(',').filter_map(number).find_map(Algorithm::from_number);
        let chosen = chosen.ok_or(LoginStatus::AuthenticationFailed)?;
        text::put(out, "CHAP_A", &chosen.number().to_string());
        text::put(out, "CHAP_I", &self.challenge.id.to_string());
        text::put(out, "CHAP_C", &encode(&self.challenge.bytes));
        self.state = State::Response(chosen);
        Ok(())
    }

    fn verify(&self, algorithm: Algorithm, name: &str, response: &str) -> Result<(), LoginStatus> {
        let Credentials { name: known, secret } = &self.account.initiator;
        let wanted = algorithm.response(self.challenge.id, secret, &self.challenge.bytes);
        let got = decode(response).ok_or(LoginStatus::InitiatorError)?;
        // Both are compared, always: how long it takes tells nothing about either.
        let fits = wanted.ct_eq(&got) & known.as_bytes().ct_eq(name.as_bytes());
        if fits.into() { Ok(()) } else { Err(LoginStatus::AuthenticationFailed) }
    }

    fn answer(&self, algorithm: Algorithm, id: &str, challenge: &str, out: &mut Vec<u8>) -> Result<(), LoginStatus> {
        let id = number(id).and_then(|id| u8::try_from(id).ok()).ok_or(LoginStatus::InitiatorError)?;
        let challenge = decode(challenge).filter(|c| (1..=MAX_CHALLENGE).contains(&c.len()));
        let challenge = challenge.ok_or(LoginStatus::InitiatorError)?;
        // Our own challenge, sent back, would make us answer it for the initiator's next connection (section 12.1.3).
        if challenge == self.challenge.bytes {
            return Err(LoginStatus::AuthenticationFailed);
        }
        let own = self.account.target.as_ref().ok_or(LoginStatus::AuthenticationFailed)?;
        text::put(out, "CHAP_N", &own.name);
        text::put(out, "CHAP_R", &encode(&algorithm.response(id, &own.secret, &challenge)));
        Ok(())
    }
}

/// A binary value (section 6.1): hexadecimal behind 0x.
fn encode(bytes: &[u8]) -> String {
    format!("0x{}", HEXLOWER.encode(bytes))
}

/// A binary value: hexadecimal behind 0x, or base64 behind 0b.
fn decode(value: &str) -> Option<Vec<u8>> {
    let (form, digits) = value.split_at_checked(2)?;
    match form {
        "0x" | "0X" => HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok(),
        "0b" | "0B" => BASE64.decode(digits.as_bytes()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    const CHALLENGE: Challenge = Challenge { id: 7, bytes: *b"0123456789abcdef0123456789abcdef" };

    fn chap(mutual: bool) -> Chap {
        let initiator = Credentials::new("user", "initiator-secret").unwrap();
        let target = mutual.then(|| Credentials::new("me", "the-target-secret").unwrap());
        Chap::new(Arc::new(ChapAccount::new(initiator, target).unwrap()), CHALLENGE)
    }

    fn say(chap: &mut Chap, pairs: &[(&str, &str)]) -> Result<String, LoginStatus> {
        let mut out = Vec::new();
        chap.step(pairs, &mut out)?;
        Ok(String::from_utf8(out).unwrap().replace('\0', "\n"))
    }

    fn response(algorithm: Algorithm, secret: &str) -> String {
        encode(&algorithm.response(7, secret.as_bytes(), &CHALLENGE.bytes))
    }

    #[test]
    fn responses_are_those_of_the_standards() {
        // Made with `printf '\007secret0123456789abcdef0123456789abcdef' | md5sum` and its like.
        let of = |a: Algorithm| HEXLOWER.encode(&a.response(7, b"secret", &CHALLENGE.bytes));
        assert_eq!(of(Algorithm::Md5), "214a2632c3ffb9f8cba7706510f86cfb");
        assert_eq!(of(Algorithm::Sha256), "960dbd2a5a452d81dfc7527aa14735776fbacc2c5af11e9bae0d9c4257d10799");
        assert_eq!(of(Algorithm::Sha3), "a91d5f7f79414ce6241e62cc68aad041126ffad36e1c20a0ae9d1cfb7de0f7ad");
    }

    #[test]
    fn one_way_with_each_algorithm() {
        for (algorithm, list) in [(Algorithm::Md5, "5"), (Algorithm::Sha256, "6,7,5"), (Algorithm::Sha3, "8,7,6,5")] {
            let mut chap = chap(false);
            let asked = say(&mut chap, &[("CHAP_A", list)]).unwrap();
            let challenge = HEXLOWER.encode(&CHALLENGE.bytes);
            assert_eq!(asked, format!("CHAP_A={}\nCHAP_I=7\nCHAP_C=0x{challenge}\n", algorithm.number()));
            assert!(!chap.is_done());
            let answer = response(algorithm, "initiator-secret");
            assert_eq!(say(&mut chap, &[("CHAP_N", "user"), ("CHAP_R", &answer)]).unwrap(), "");
            assert!(chap.is_done());
        }
    }

    #[test]
    fn mutual() {
        let mut chap = chap(true);
        say(&mut chap, &[("CHAP_A", "5")]).unwrap();
        let answer = response(Algorithm::Md5, "initiator-secret");
        let pairs = [("CHAP_N", "user"), ("CHAP_R", &answer[..]), ("CHAP_I", "0x9"), ("CHAP_C", "0bAQIDBAUGBwg=")];
        let told = say(&mut chap, &pairs).unwrap();
        let own = encode(&Algorithm::Md5.response(9, b"the-target-secret", &[1, 2, 3, 4, 5, 6, 7, 8]));
        assert_eq!(told, format!("CHAP_N=me\nCHAP_R={own}\n"));
        assert!(chap.is_done());
    }

    #[test]
    fn refusals() {
        use LoginStatus::{AuthenticationFailed, InitiatorError};
        let md5 = response(Algorithm::Md5, "initiator-secret");
        let mine = encode(&CHALLENGE.bytes);
        let cases: &[(&[(&str, &str)], LoginStatus)] = &[
            (&[("CHAP_N", "user"), ("CHAP_R", &response(Algorithm::Md5, "another-secret!!"))], AuthenticationFailed),
            (&[("CHAP_N", "other"), ("CHAP_R", &md5)], AuthenticationFailed),
            (&[("CHAP_N", "user"), ("CHAP_R", "0x")], AuthenticationFailed),
            (&[("CHAP_N", "user"), ("CHAP_R", &response(Algorithm::Sha256, "initiator-secret"))], AuthenticationFailed),
            (&[("CHAP_N", "user"), ("CHAP_R", "zz")], InitiatorError),
            (&[("CHAP_N", "user"), ("CHAP_R", "0xabc")], InitiatorError),
            (&[("CHAP_N", "user")], InitiatorError),
            (&[("CHAP_R", &md5)], InitiatorError),
            (&[("CHAP_A", "5")], InitiatorError),
            (&[("CHAP_N", "user"), ("CHAP_R", &md5), ("CHAP_I", "1")], InitiatorError),
            (&[("CHAP_N", "user"), ("CHAP_R", &md5), ("CHAP_I", "256"), ("CHAP_C", "0x01")], InitiatorError),
            (&[("CHAP_N", "user"), ("CHAP_R", &md5), ("CHAP_I", "1"), ("CHAP_C", "0x")], InitiatorError),
            (&[("CHAP_N", "user"), ("CHAP_R", &md5), ("CHAP_I", "1"), ("CHAP_C", &mine)], AuthenticationFailed),
        ];
        for (pairs, status) in cases {
            let mut chap = chap(true);
            say(&mut chap, &[("CHAP_A", "5")]).unwrap();
            assert_eq!(say(&mut chap, pairs), Err(*status), "{pairs:?}");
            assert!(!chap.is_done());
        }
        // Nobody can be told who we are when nobody has said it.
        let mut one_way = chap(false);
        say(&mut one_way, &[("CHAP_A", "5")]).unwrap();
        let pairs = [("CHAP_N", "user"), ("CHAP_R", &md5[..]), ("CHAP_I", "1"), ("CHAP_C", "0x01")];
        assert_eq!(say(&mut one_way, &pairs), Err(AuthenticationFailed));
        assert!(!one_way.is_done());
        assert_eq!(say(&mut chap(false), &[("CHAP_A", "6,9")]), Err(AuthenticationFailed));
        assert_eq!(say(&mut chap(false), &[("CHAP_N", "user"), ("CHAP_R", &md5)]), Err(InitiatorError));
    }

    #[test]
    fn credentials_that_are_not_taken() {
        assert!(matches!(Credentials::new("", "123456789012"), Err(CredentialsError::Name(_))));
        assert!(matches!(Credentials::new("a\0b", "123456789012"), Err(CredentialsError::Name(_))));
        let short = Credentials::new("a", "12345678901").unwrap_err();
        assert!(!short.to_string().contains("12345678901") && short.to_string().contains("11 bytes"), "{short}");
        let same = Credentials::new("a", "123456789012").unwrap();
        let other = Credentials::new("b", "123456789012").unwrap();
        assert!(matches!(ChapAccount::new(same.clone(), Some(other)), Err(CredentialsError::Same(..))));
        assert!(!format!("{same:?}").contains("123456789012"));
    }

    proptest! {
        #[test]
        fn arbitrary_texts_never_panic_and_never_pass(
            texts in prop::collection::vec(prop::collection::vec(("CHAP_[AINCR]", "[ -~]{0,20}"), 0..5), 1..4),
        ) {
            let mut chap = chap(true);
            for text in &texts {
                let pairs: Vec<_> = text.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                let _ = say(&mut chap, &pairs);
                prop_assert!(!chap.is_done());
            }
        }
    }
}
