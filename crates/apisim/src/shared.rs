//! What the handle, the connections and the watches share.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use crate::faults::Plan;
use crate::kinds::Kind;
use crate::random::Random;
use crate::route::Verb;
use crate::store::Store;

/// Whether a client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Up,
    /// The client is dead: its requests are neither carried out nor answered.
    Frozen,
    /// The server cannot be reached: requests fail at once.
    Cut,
}

pub(crate) struct LinkState {
    pub(crate) name: String,
    pub(crate) link: Link,
}

/// One request, as it was asked and answered.
#[derive(Clone, Debug, PartialEq)]
pub struct LogEntry {
    /// Which client.
    pub connection: String,
    /// What it asked for.
    pub verb: Verb,
    /// Of which kind.
    pub kind: Kind,
    /// Where; None for all namespaces and for kinds without.
    pub namespace: Option<String>,
    /// Which object; None for collections.
    pub name: Option<String>,
    /// Whether it was about the subresource `status`.
    pub status: bool,
    /// What it sent, null when nothing.
    pub body: Value,
    /// The status code that the client got; None when it got no answer.
    pub code: Option<u16>,
    /// Whether the server carried it out.
    pub applied: bool,
}

pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) plan: Plan,
    /// Chance of the fault plan, apart from the store's so that faults do not change names.
    pub(crate) random: Random,
    pub(crate) links: Vec<LinkState>,
    pub(crate) log: Vec<LogEntry>,
    pub(crate) watch_round: u64,
    pub(crate) watches_held: bool,
    pub(crate) watch_delay: Duration,
    pub(crate) lose_events: usize,
    /// Rests of long lists, by continue token.
    pub(crate) pages: Vec<(String, u64, Vec<Value>)>,
}

pub(crate) struct Inner {
    state: Mutex<State>,
    /// Counts anything that a waiting watch or test should look at.
    pub(crate) ticks: watch::Sender<u64>,
}

#[derive(Clone)]
pub(crate) struct Shared(Arc<Inner>);

impl Deref for Shared {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Shared {
    pub(crate) fn new(state: State) -> Self {
        Self(Arc::new(Inner { state: Mutex::new(state), ticks: watch::Sender::new(0) }))
    }
}

impl Inner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes who waits for that.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.ticks.send_modify(|tick| *tick += 1);
        result
    }
}
