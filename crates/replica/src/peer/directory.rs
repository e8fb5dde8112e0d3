//! Who the other pools are and where they listen. Told from outside; changes while groups run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ballast_api::PoolId;

use super::link::{Link, LinkError};
use ballast_rpc::Endpoint;

/// The address book of a pool process.
#[derive(Clone)]
pub struct Directory {
    own: PoolId,
    links: Arc<Mutex<HashMap<PoolId, Arc<Link>>>>,
}

impl Directory {
    /// An empty one, for the pool `own`.
    pub fn new(own: PoolId) -> Self {
        Self { own, links: Arc::default() }
    }

    /// Replaces the table. Links whose address did not change keep their connection.
    pub fn set(&self, peers: impl IntoIterator<Item = (PoolId, Endpoint)>) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = HashMap::new();
        for (pool, endpoint) in peers {
            let kept = links.remove(&pool).filter(|link| *link.endpoint() == endpoint);
            new.insert(pool, kept.unwrap_or_else(|| Link::new(self.own, endpoint)));
        }
        *links = new;
    }

    /// The table in use, ordered by pool.
    pub fn table(&self) -> Vec<(PoolId, Endpoint)> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table: Vec<_> = links.iter().map(|(pool, link)| (*pool, link.endpoint().clone())).collect();
        table.sort_by_key(|(pool, _)| *pool);
        table
    }

    /// The way to a pool.
    pub fn link(&self, pool: PoolId) -> Result<Arc<Link>, LinkError> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.get(&pool).cloned().ok_or(LinkError::Unknown(pool))
    }
}
