//! What to do when a peer's connection breaks: perhaps a leader died, and its groups need another one soon.
//!
//! The followers of a dead leader would find out by its silence. A broken connection is a hint that comes earlier: they
//! ask for votes as soon as the leader's lease is over. It is only a hint. If the leader lives, the others still hear it
//! and refuse the *pre-vote*, which changes no term, so a wrong guess disturbs nobody.

use std::sync::Arc;
use std::time::Duration;

use ballast_api::PoolId;

use crate::member::Member;
use crate::members::Members;
use crate::raft::settings::ELECTION_MAX_MS;

/// How often a group asks until it has a leader or its own timer takes over.
const STEP: Duration = Duration::from_millis(60);

/// Follows the groups that `gone` led until each has another leader, or `gone` is back.
pub async fn follow_up(members: &Members, gone: PoolId) {
    let mut led: Vec<Arc<Member>> =
        members.all().into_iter().filter(|member| member.leader_pool() == Some(gone)).collect();
    if led.is_empty() {
        return;
    }
    tracing::info!(pool = %gone, groups = led.len(), "the connection of a leading pool ended");
    let steps = Duration::from_millis(2 * ELECTION_MAX_MS).as_millis() / STEP.as_millis();
    for _ in 0..steps {
        led.retain(|member| member.leader_pool() == Some(gone));
        if led.is_empty() {
            return;
        }
        // Spread over the step: hundreds of groups must not ask in one burst.
        let pause = STEP / u32::try_from(led.len()).unwrap_or(u32::MAX);
        for member in &led {
            tokio::time::sleep(pause).await;
            _ = member.raft().trigger().elect(true).await;
        }
    }
}
