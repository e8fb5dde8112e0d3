//! Which pools get the replicas of a new volume: those with the most free space, each at most one.
//!
//! Volumes are thin, so a new volume leaves the free space as it was; among equals the pool with fewer replicas, then
//! the lower name, so that the same input always gives the same answer.

use ballast_api::{PoolId, ReplicaId};

use super::model::Member;

/// A pool that can take a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its identity.
    pub(crate) pool: PoolId,
    /// Its name.
    pub(crate) name: String,
    /// Free bytes.
    pub(crate) free_bytes: u64,
    /// Replicas it holds.
    pub(crate) replicas: usize,
}

/// There is no room for the volume.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlacementError {
    /// A volume needs at least one replica.
    #[error("a volume needs at least 1 replica: use --replicas 1 or more")]
    None,
    /// Fewer pools than replicas.
    #[error(
        "{wanted} replicas need {wanted} pools with free space, {found} can take one now: start more with \
         `ballast up --pools {wanted}`, look at `ballast pool list`, or use --replicas {found}"
    )]
    TooFew {
        /// Replicas asked for.
        wanted: usize,
        /// Pools that can take one.
        found: usize,
    },
}

/// Chooses `replicas` pools. The members get the ids 1 to n.
pub(crate) fn place(mut candidates: Vec<Candidate>, replicas: usize) -> Result<Vec<Member>, PlacementError> {
    if replicas == 0 {
        return Err(PlacementError::None);
    }
    candidates.retain(|candidate| candidate.free_bytes > 0);
    if candidates.len() < replicas {
        return Err(PlacementError::TooFew { wanted: replicas, found: candidates.len() });
    }
    candidates.sort_by(|a, b| {
        b.free_bytes.cmp(&a.free_bytes).then(a.replicas.cmp(&b.replicas)).then_with(|| a.name.cmp(&b.name))
    });
    let members = candidates.iter().take(replicas).zip(1..);
    Ok(members.map(|(candidate, id)| Member { replica: ReplicaId(id), pool: candidate.pool }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(n: u8, free_bytes: u64, replicas: usize) -> Candidate {
        Candidate { pool: PoolId::from_bytes([n; 16]), name: format!("pool-{n}"), free_bytes, replicas }
    }

    fn placed(candidates: Vec<Candidate>, replicas: usize) -> Vec<u8> {
        place(candidates, replicas).unwrap().iter().map(|member| member.pool.as_bytes()[0]).collect()
    }

    #[test]
    fn most_free_space_first() {
        assert_eq!(placed(vec![pool(0, 5, 0), pool(1, 9, 9), pool(2, 7, 0)], 2), [1, 2]);
    }

    #[test]
    fn equals_share_the_load() {
        assert_eq!(placed(vec![pool(0, 5, 2), pool(1, 5, 1), pool(2, 5, 1)], 2), [1, 2]);
    }

    #[test]
    fn ids_count_from_one() {
        let members = place(vec![pool(0, 5, 0), pool(1, 5, 0), pool(2, 5, 0)], 3).unwrap();
        assert_eq!(members.iter().map(|m| m.replica.0).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn refused_when_pools_are_missing_or_full() {
        let wanted = PlacementError::TooFew { wanted: 3, found: 2 };
        assert_eq!(place(vec![pool(0, 5, 0), pool(1, 5, 0)], 3), Err(PlacementError::TooFew { wanted: 3, found: 2 }));
        assert_eq!(place(vec![pool(0, 5, 0), pool(1, 5, 0), pool(2, 0, 0)], 3), Err(wanted));
        assert_eq!(place(vec![pool(0, 5, 0)], 0), Err(PlacementError::None));
    }
}
