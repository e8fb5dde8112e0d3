//! Which pools get replicas: a pure function, the same answer for the same input.
//!
//! A pool can take one replica of a volume at most. Among those that can, in this order: a node that is not cordoned (it will
//! go down soon), a failure domain (node, then zone) that has none yet, the node that was asked for, fewer replicas of volumes to keep apart, more free space in steps of an
//! eighth of the pool, fewer replicas in all, the name.

use std::collections::BTreeSet;

/// A pool as placement sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the CStorPool.
    pub pool: String,
    /// Its node.
    pub node: String,
    /// The node's zone, or "".
    pub zone: String,
    /// Free bytes.
    pub free_bytes: u64,
    /// All bytes.
    pub capacity_bytes: u64,
    /// Replicas it holds.
    pub replicas: usize,
    /// Replicas in it of volumes that this one is to be kept apart from.
    pub kept_apart: usize,
    /// Whether its node is cordoned.
    pub cordoned: bool,
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// How many pools.
    pub count: usize,
    /// Nodes and zones of the replicas that stay.
    pub present: Vec<(String, String)>,
    /// A node that should have a replica.
    pub preferred_node: Option<String>,
    /// Whether pools with replicas to be kept apart from are out of the question.
    pub apart_required: bool,
}

/// There are too few pools.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not enough pools available to create replicas: {wanted} are needed and {found} can take one now. Look at `kubectl get \
     cstorpools`, raise maxPools of the StoragePoolClaim, or lower ReplicaCount"
)]
pub struct TooFewPools {
    /// Pools that are needed.
    pub wanted: usize,
    /// Pools that can take a replica.
    pub found: usize,
}

/// Chooses pools for a wish. The caller leaves out pools that hold a replica of the volume or cannot take one.
pub fn place(mut candidates: Vec<Candidate>, wish: &Wish) -> Result<Vec<String>, TooFewPools> {
    candidates.retain(|pool| pool.free_bytes > 0 && !(wish.apart_required && pool.kept_apart > 0));
    if candidates.len() < wish.count {
        return Err(TooFewPools { wanted: wish.count, found: candidates.len() });
    }
    let mut nodes: BTreeSet<String> = wish.present.iter().map(|(node, _)| node.clone()).collect();
    let mut zones: BTreeSet<String> = wish.present.iter().map(|(_, zone)| zone.clone()).collect();
    let mut chosen = Vec::new();
    while chosen.len() < wish.count {
        let best = candidates.iter().enumerate().min_by_key(|(_, pool)| {
            (
                pool.cordoned,
                nodes.contains(&pool.node),
                !pool.zone.is_empty() && zones.contains(&pool.zone),
                wish.preferred_node.as_ref() != Some(&pool.node),
                pool.kept_apart,
                // Volumes are thin: exact free bytes would send all new volumes to the same pools.
                std::cmp::Reverse(pool.free_bytes.saturating_mul(8).div_ceil(pool.capacity_bytes.max(1))),
                pool.replicas,
                pool.pool.clone(),
            )
        });
        let Some(position) = best.map(|(position, _)| position) else { break };
        let pool = candidates.swap_remove(position);
        nodes.insert(pool.node);
        zones.insert(pool.zone);
        chosen.push(pool.pool);
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, node: &str, zone: &str, free: u64) -> Candidate {
        Candidate {
            pool: name.to_owned(),
            node: node.to_owned(),
            zone: zone.to_owned(),
            free_bytes: free,
            capacity_bytes: 800,
            ..Candidate::default()
        }
    }

    fn wish(count: usize) -> Wish {
        Wish { count, ..Wish::default() }
    }

    #[test]
    fn nodes_and_zones_are_spread_before_space_counts() {
        let pools = vec![
            pool("a", "n1", "z1", 800),
            pool("b", "n1", "z1", 800),
            pool("c", "n2", "z1", 800),
            pool("d", "n3", "z2", 100),
        ];
        assert_eq!(place(pools.clone(), &wish(2)).unwrap(), ["a", "d"]);
        assert_eq!(place(pools.clone(), &wish(3)).unwrap(), ["a", "d", "c"]);
        // Two on one node only when there is no other way.
        assert_eq!(place(pools.clone(), &wish(4)).unwrap(), ["a", "d", "c", "b"]);
        assert_eq!(place(pools, &wish(5)), Err(TooFewPools { wanted: 5, found: 4 }));
    }

    #[test]
    fn replicas_that_stay_count_as_taken_domains() {
        let pools = vec![pool("a", "n1", "", 800), pool("b", "n2", "", 400)];
        let present = vec![(String::from("n1"), String::new())];
        assert_eq!(place(pools, &Wish { present, ..wish(1) }).unwrap(), ["b"]);
    }

    #[test]
    fn wishes() {
        let mut pools = vec![pool("a", "n1", "", 800), pool("b", "n2", "", 800), pool("c", "n3", "", 0)];
        pools[0].replicas = 3;
        assert_eq!(place(pools.clone(), &wish(1)).unwrap(), ["b"]);
        let near = Wish { preferred_node: Some(String::from("n1")), ..wish(1) };
        assert_eq!(place(pools.clone(), &near).unwrap(), ["a"]);
        pools[1].kept_apart = 1;
        assert_eq!(place(pools.clone(), &wish(1)).unwrap(), ["a"]);
        assert_eq!(place(pools.clone(), &wish(2)).unwrap(), ["a", "b"]);
        let required = Wish { apart_required: true, ..wish(2) };
        assert_eq!(place(pools, &required), Err(TooFewPools { wanted: 2, found: 1 }));
    }

    #[test]
    fn a_cordoned_node_is_the_last_resort() {
        let mut pools = vec![pool("a", "n1", "z1", 800), pool("b", "n2", "z2", 800), pool("c", "n2", "z2", 800)];
        pools[0].cordoned = true;
        assert_eq!(place(pools.clone(), &wish(2)).unwrap(), ["b", "c"]);
        assert_eq!(place(pools, &wish(3)).unwrap(), ["b", "c", "a"]);
    }

    #[test]
    fn thin_volumes_go_round() {
        // Nothing is written yet, so free space stays the same: the number of replicas decides.
        let mut pools: Vec<_> = (0..4).map(|n| pool(&format!("p{n}"), &format!("n{n}"), "", 800 - n)).collect();
        for _ in 0..8 {
            let chosen = place(pools.clone(), &wish(2)).unwrap();
            for name in chosen {
                pools.iter_mut().filter(|pool| pool.pool == name).for_each(|pool| pool.replicas += 1);
            }
        }
        assert!(pools.iter().all(|pool| pool.replicas == 4), "{pools:?}");
    }
}
