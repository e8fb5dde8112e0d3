//! The fault plan: which requests go wrong, and how.
//!
//! ```
//! use ballast_apisim::{Fault, Verb};
//! // The third write of a persistent volume is done, but its answer never arrives.
//! let lost = Fault::nth(3).on(Verb::Apply).kind("persistentvolumes").disconnect().applied();
//! // One request in twenty is told to come back later.
//! let busy = Fault::random(5).status(429);
//! ```

use std::time::Duration;

use crate::random::Random;
use crate::route::Verb;

#[derive(Clone, Copy, Debug)]
enum When {
    Nth(u64),
    Every(u64),
    First(u64),
    Random(u8),
}

/// How the caller hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Undisturbed.
    Own,
    Status(u16),
    Disconnect,
    /// The connection is frozen: its client hears nothing any more.
    Freeze,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) answer: Answer,
    pub(crate) applied: bool,
    pub(crate) delay: Duration,
}

/// One line of the fault plan. Without a filter it is about every request; without an effect, a disturbed request is
/// refused with 500.
#[derive(Clone, Debug)]
pub struct Fault {
    when: When,
    verbs: Vec<Verb>,
    writes: bool,
    plural: Option<String>,
    name: Option<String>,
    connection: Option<String>,
    effect: Effect,
    seen: u64,
    done: u64,
}

/// What a fault looks at.
pub(crate) struct Subject<'a> {
    pub(crate) connection: &'a str,
    pub(crate) verb: Verb,
    pub(crate) plural: &'a str,
    pub(crate) name: Option<&'a str>,
}

impl Fault {
    fn when(when: When) -> Self {
        Self {
            when,
            verbs: Vec::new(),
            writes: false,
            plural: None,
            name: None,
            connection: None,
            effect: Effect { answer: Answer::Status(500), applied: false, delay: Duration::ZERO },
            seen: 0,
            done: 0,
        }
    }

    /// Only the n-th request that the filter lets through, counted from 1.
    pub fn nth(n: u64) -> Self {
        Self::when(When::Nth(n))
    }

    /// Every k-th one.
    pub fn every(k: u64) -> Self {
        Self::when(When::Every(k.max(1)))
    }

    /// The first n of them.
    pub fn first(n: u64) -> Self {
        Self::when(When::First(n))
    }

    /// So many of a hundred, by the seed of the API server.
    pub fn random(percent: u8) -> Self {
        Self::when(When::Random(percent))
    }

    /// Only requests of this kind; may be repeated.
    #[must_use]
    pub fn on(mut self, verb: Verb) -> Self {
        self.verbs.push(verb);
        self
    }

    /// Only requests that can change something.
    #[must_use]
    pub fn writes(mut self) -> Self {
        self.writes = true;
        self
    }

    /// Only requests for objects of this kind, by its plural.
    #[must_use]
    pub fn kind(mut self, plural: &str) -> Self {
        self.plural = Some(plural.to_owned());
        self
    }

    /// Only requests for the object of this name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Only requests of this client.
    #[must_use]
    pub fn from(mut self, connection: &str) -> Self {
        self.connection = Some(connection.to_owned());
        self
    }

    /// The answer is this status: 409, 429, 500, 503, 504.
    #[must_use]
    pub fn status(mut self, code: u16) -> Self {
        self.effect.answer = Answer::Status(code);
        self
    }

    /// There is no answer: the connection breaks.
    #[must_use]
    pub fn disconnect(mut self) -> Self {
        self.effect.answer = Answer::Disconnect;
        self
    }

    /// The request is carried out all the same; only its answer is lost.
    #[must_use]
    pub fn applied(mut self) -> Self {
        self.effect.applied = true;
        self
    }

    /// The request takes so long, and then succeeds.
    #[must_use]
    pub fn delay(mut self, time: Duration) -> Self {
        self.effect.delay = time;
        self.effect.applied = true;
        self.effect.answer = Answer::Own;
        self
    }

    /// The client is killed before this request reaches the server: neither it nor any later one is heard of again.
    #[must_use]
    pub fn freeze(mut self) -> Self {
        self.effect.answer = Answer::Freeze;
        self
    }

    fn concerns(&self, subject: &Subject<'_>) -> bool {
        (self.verbs.is_empty() || self.verbs.contains(&subject.verb))
            && (!self.writes || subject.verb.writes())
            && self.plural.as_deref().is_none_or(|plural| plural == subject.plural)
            && self.name.as_deref().is_none_or(|name| Some(name) == subject.name)
            && self.connection.as_deref().is_none_or(|connection| connection == subject.connection)
    }

    fn strikes(&mut self, subject: &Subject<'_>, random: &mut Random) -> bool {
        if !self.concerns(subject) {
            return false;
        }
        self.seen += 1;
        let now = match self.when {
            When::Nth(n) => self.seen == n,
            When::Every(k) => self.seen.is_multiple_of(k),
            When::First(n) => self.seen <= n,
            When::Random(percent) => random.percent(percent),
        };
        self.done += u64::from(now);
        now
    }
}

/// All faults; the first that strikes counts.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    faults: Vec<Fault>,
    /// Of faults that are gone.
    past: u64,
}

impl Plan {
    pub(crate) fn add(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(crate) fn clear(&mut self) {
        self.past = self.struck();
        self.faults.clear();
    }

    pub(crate) fn struck(&self) -> u64 {
        self.past + self.faults.iter().map(|fault| fault.done).sum::<u64>()
    }

    pub(crate) fn effect(&mut self, subject: &Subject<'_>, random: &mut Random) -> Option<Effect> {
        let mut found = None;
        for fault in &mut self.faults {
            // All count, also those that come too late.
            if fault.strikes(subject, random) && found.is_none() {
                found = Some(fault.effect);
            }
        }
        found
    }
}
