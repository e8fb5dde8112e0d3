//! What each pool said last, and when: shared by the controllers of pools (who ask) and of volumes (who conclude).
//!
//! Memory only: a new operator asks again. Nothing is concluded from a pool that has not been asked yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use ballast_api::control::{PoolStatus, ReplicaStatus};
use ballast_api::{PoolId, VolumeId};
use tokio::time::Instant;

/// A pool that has not answered for so long is Unknown. Longer than two questions that time out.
pub const STALE: Duration = Duration::from_secs(10);

/// One pool, as it was last heard.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Its identity.
    pub id: PoolId,
    /// What it said.
    pub status: Arc<PoolStatus>,
    /// When it was asked.
    pub at: Instant,
}

/// A pool's entry.
#[derive(Clone, Debug)]
struct Entry {
    heard: Option<Heard>,
    /// When it was asked first.
    since: Instant,
    error: String,
}

/// All pools by name of their CStorPool.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    pools: Arc<RwLock<HashMap<String, Entry>>>,
}

impl Observations {
    /// A pool answered a question of `asked`. Answers may overtake each other: that to the later question counts.
    pub fn answered(&self, pool: &str, id: PoolId, status: PoolStatus, asked: Instant) {
        let heard = Some(Heard { id, status: Arc::new(status), at: asked });
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        let entry = pools.get(pool);
        if entry.and_then(|entry| entry.heard.as_ref()).is_some_and(|heard| heard.at > asked) {
            return;
        }
        let since = entry.map_or(asked, |entry| entry.since);
        pools.insert(pool.to_owned(), Entry { heard, since, error: String::new() });
    }

    /// A pool did not answer.
    pub fn silent(&self, pool: &str, error: String) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        let entry =
            pools.entry(pool.to_owned()).or_insert(Entry { heard: None, since: Instant::now(), error: String::new() });
        entry.error = error;
    }

    /// A pool is gone for good.
    pub fn forget(&self, pool: &str) {
        self.pools.write().unwrap_or_else(PoisonError::into_inner).remove(pool);
    }

    /// What the pool said, when that is not too long ago.
    pub fn fresh(&self, pool: &str) -> Option<Heard> {
        self.last(pool).filter(|heard| heard.at.elapsed() < STALE)
    }

    /// What the pool said last.
    pub fn last(&self, pool: &str) -> Option<Heard> {
        self.pools.read().unwrap_or_else(PoisonError::into_inner).get(pool)?.heard.clone()
    }

    /// For how long it has not answered, and what went wrong; None while it answers or was never asked.
    pub fn silence(&self, pool: &str) -> Option<(Duration, String)> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        let entry = pools.get(pool)?;
        let since = entry.heard.as_ref().map_or(entry.since, |heard| heard.at);
        let silent = since.elapsed();
        (silent >= STALE).then(|| (silent, entry.error.clone()))
    }

    /// The replica of a volume in a pool, as that said it just now.
    pub fn replica(&self, pool: &str, volume: VolumeId) -> Option<ReplicaStatus> {
        let heard = self.fresh(pool)?;
        heard.status.replicas.iter().find(|replica| replica.volume[..] == volume.as_bytes()[..]).cloned()
    }
}

/// Since when each target serves its volume, or does not.
#[derive(Debug, Default)]
pub struct Heartbeats {
    last: Mutex<HashMap<String, Instant>>,
}

impl Heartbeats {
    /// The target of a volume was asked and serves it, or not. Returns for how long it has not, when that is long enough to
    /// be told: one answer that is late is no news.
    pub fn asked(&self, volume: &str, serves: bool) -> Option<Duration> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let at = last.entry(volume.to_owned()).or_insert_with(Instant::now);
        if serves {
            *at = Instant::now();
        }
        let silent = at.elapsed();
        (silent >= STALE).then_some(silent)
    }

    /// A volume is gone for good.
    pub fn forget(&self, volume: &str) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).remove(volume);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_heard_gets_old() {
        let pools = Observations::default();
        assert!(pools.fresh("a").is_none() && pools.silence("a").is_none());
        let asked = Instant::now();
        pools.answered("a", PoolId::from_bytes([1; 16]), PoolStatus::default(), asked);
        pools.answered("a", PoolId::from_bytes([2; 16]), PoolStatus::default(), asked - Duration::from_secs(1));
        assert_eq!(pools.last("a").map(|heard| heard.id), Some(PoolId::from_bytes([1; 16])));
        tokio::time::advance(Duration::from_secs(9)).await;
        pools.silent("a", String::from("refused"));
        assert!(pools.fresh("a").is_some() && pools.silence("a").is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(pools.fresh("a").is_none() && pools.last("a").is_some());
        assert_eq!(pools.silence("a"), Some((Duration::from_secs(10), String::from("refused"))));
        // One that never answered counts from the first question.
        pools.silent("b", String::from("no route"));
        assert!(pools.silence("b").is_none());
        tokio::time::advance(STALE).await;
        assert!(pools.silence("b").is_some());
        pools.forget("b");
        assert!(pools.silence("b").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_is_silent_when_it_lasts() {
        let targets = Heartbeats::default();
        assert_eq!(targets.asked("v", false), None);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(targets.asked("v", true), None);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(targets.asked("v", false), None);
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(targets.asked("v", false), Some(Duration::from_secs(10)));
        assert_eq!(targets.asked("v", true), None);
    }
}
