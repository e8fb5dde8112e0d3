//! Watches: a stream of JSON lines that follows the history.

use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::error::ApiError;
use crate::kinds::Kind;
use crate::select::Selector;
use crate::shared::{Link, Shared};
use crate::store::{Change, Store};

/// Idle watches get a bookmark so often.
const BOOKMARK: Duration = Duration::from_secs(60);

/// One watch.
pub(crate) struct Watch {
    pub(crate) connection: usize,
    pub(crate) kind: Kind,
    pub(crate) namespace: Option<String>,
    pub(crate) selector: Selector,
    /// Everything up to this revision was sent.
    pub(crate) seen: u64,
    pub(crate) bookmarks: bool,
    pub(crate) ends: Option<Instant>,
    /// Closing all watches ends those of an older round.
    pub(crate) round: u64,
    /// Lines that are ready.
    pub(crate) lines: Vec<Value>,
    pub(crate) last_line: Instant,
    pub(crate) over: bool,
}

enum Next {
    Lines(Vec<Value>),
    Wait(Option<Instant>),
    End,
    Broken,
}

/// The event that this watch sees of a change.
fn event(change: &Change, watch: &Watch) -> Option<Value> {
    let namespace = watch.namespace.as_deref();
    if change.key.kind != watch.kind || namespace.is_some_and(|namespace| namespace != change.key.namespace) {
        return None;
    }
    let matching = |object: &Option<Value>| object.clone().filter(|object| watch.selector.matches(object));
    match (matching(&change.old), matching(&change.new)) {
        (None, None) => None,
        (None, Some(new)) => Some(json!({"type": "ADDED", "object": new})),
        (Some(_), Some(new)) => Some(json!({"type": "MODIFIED", "object": new})),
        (Some(mut old), None) => {
            old["metadata"]["resourceVersion"] = json!(change.revision.to_string());
            Some(json!({"type": "DELETED", "object": old}))
        }
    }
}

pub(crate) fn bookmark(store: &Store, kind: &Kind, revision: u64, initial_end: bool) -> Value {
    let (version, name) = store.names.get(kind).cloned().unwrap_or_default();
    let mut object =
        json!({"apiVersion": version, "kind": name, "metadata": {"resourceVersion": revision.to_string()}});
    if initial_end {
        object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    json!({"type": "BOOKMARK", "object": object})
}

impl Watch {
    fn next(&mut self, shared: &Shared) -> Next {
        let mut state = shared.lock();
        match state.links[self.connection].link {
            Link::Up => {}
            Link::Frozen => return Next::Wait(None),
            Link::Cut => return Next::Broken,
        }
        if !self.lines.is_empty() {
            return Next::Lines(std::mem::take(&mut self.lines));
        }
        let now = Instant::now();
        if self.over || self.round < state.watch_round || self.ends.is_some_and(|ends| ends <= now) {
            return Next::End;
        }
        if state.watches_held {
            return Next::Wait(self.ends);
        }
        if self.seen < state.store.oldest {
            self.over = true;
            return Next::Lines(vec![json!({"type": "ERROR", "object": ApiError::expired().status()})]);
        }
        let (mut lines, mut later) = (Vec::new(), None);
        let first = state.store.history.partition_point(|change| change.revision <= self.seen);
        let mut lost = 0;
        for change in &state.store.history[first..] {
            let due = change.at + state.watch_delay;
            if due > now {
                later = Some(due);
                break;
            }
            self.seen = change.revision;
            if let Some(line) = event(change, self) {
                if lost < state.lose_events {
                    lost += 1;
                } else {
                    lines.push(line);
                }
            }
        }
        state.lose_events -= lost;
        if lines.is_empty() && self.bookmarks && now >= self.last_line + BOOKMARK {
            lines.push(bookmark(&state.store, &self.kind, self.seen, false));
        }
        if lines.is_empty() {
            let bookmark = self.bookmarks.then(|| self.last_line + BOOKMARK);
            return Next::Wait([self.ends, later, bookmark].into_iter().flatten().min());
        }
        self.last_line = now;
        Next::Lines(lines)
    }
}

/// The lines of a watch as they come.
pub(crate) fn stream(
    shared: Shared,
    watch: Watch,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static {
    futures_util::stream::unfold(Some((shared, watch)), |held| async move {
        let (shared, mut watch) = held?;
        let mut ticks = shared.ticks.subscribe();
        loop {
            // Marked seen before looking, so that no tick is missed between looking and waiting.
            ticks.mark_unchanged();
            match watch.next(&shared) {
                Next::Lines(lines) => {
                    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
                    return Some((Ok(Bytes::from(text)), Some((shared, watch))));
                }
                Next::End => return None,
                Next::Broken => {
                    let error = std::io::Error::other("the connection to the API server is cut");
                    return Some((Err(error), None));
                }
                Next::Wait(until) => {
                    let timer = async {
                        match until {
                            Some(until) => tokio::time::sleep_until(until).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        result = ticks.changed() => {
                            if result.is_err() {
                                return None;
                            }
                        }
                        () = timer => {}
                    }
                }
            }
        }
    })
}
