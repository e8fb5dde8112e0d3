//! What a CStorPool says: a pure function of what its pool said last.

use std::time::Duration;

use ballast_api::control::PoolStatus;
use ballast_api::k8s::pool::{CStorPoolStatus, PoolCapacity};
use ballast_api::k8s::quantity::short;

/// What is known of a pool.
#[derive(Clone, Debug, PartialEq)]
pub enum Known {
    /// It answers.
    Answers(PoolStatus),
    /// It has not answered for so long; whether its pod runs as far as Kubernetes knows.
    Silent {
        /// How long.
        since: Duration,
        /// What the last question ended with.
        error: String,
        /// Whether its pod is ready.
        pod_ready: bool,
    },
    /// It was asked not long ago and has not answered, or was not asked yet.
    Waiting,
    /// It cannot be served.
    Broken(String),
}

/// The new status.
pub fn status(
    old: &CStorPoolStatus,
    known: &Known,
    now: &dyn Fn() -> String,
    minute: &dyn Fn() -> String,
) -> CStorPoolStatus {
    let mut new = old.clone();
    match known {
        Known::Answers(pool) => {
            let broken: Vec<String> = pool
                .devices
                .iter()
                .filter(|device| !device.healthy)
                .map(|device| format!("{}: {}", device.path, device.detail))
                .collect();
            let failed = pool.replicas.iter().filter(|replica| replica.role == "failed").count();
            (new.phase, new.message) = match (broken.is_empty(), failed) {
                (false, _) => (String::from("Degraded"), format!("devices failed: {}", broken.join("; "))),
                (true, 0) => (String::from("Healthy"), String::new()),
                (true, failed) => {
                    (String::from("Degraded"), format!("{failed} replicas do not start: see the pool's log"))
                }
            };
            new.capacity = PoolCapacity {
                total: short(pool.capacity_bytes),
                free: short(pool.free_bytes),
                used: short(pool.allocated_bytes),
            };
            new.replicas = i32::try_from(pool.replicas.len()).unwrap_or(i32::MAX);
            new.last_update_time = Some(minute());
        }
        Known::Silent { since, error, pod_ready } => {
            new.phase = String::from(if *pod_ready { "Unknown" } else { "Offline" });
            let minutes = since.as_secs() / 60;
            let long = if minutes == 0 { String::from("for some seconds") } else { format!("for {minutes} min") };
            new.message = format!("the pool has not answered {long} ({error}): look at its pod and its node");
        }
        Known::Waiting => {
            if new.phase.is_empty() {
                new.phase = String::from("Init");
            }
        }
        Known::Broken(problem) => {
            new.phase = String::from("Error");
            new.message.clone_from(problem);
        }
    }
    if new.phase != old.phase {
        new.last_transition_time = Some(now());
    }
    new
}

#[cfg(test)]
mod tests {
    use ballast_api::control::DeviceStatus;

    use super::*;

    fn after(old: &CStorPoolStatus, known: &Known) -> CStorPoolStatus {
        status(old, known, &|| String::from("T"), &|| String::from("M"))
    }

    #[test]
    fn a_pool_comes_and_goes() {
        let waiting = after(&CStorPoolStatus::default(), &Known::Waiting);
        assert_eq!(waiting.phase, "Init");
        let pool = PoolStatus {
            capacity_bytes: 10_672_000_000,
            free_bytes: 10_670_000_000,
            allocated_bytes: 1_656_750,
            ..PoolStatus::default()
        };
        let healthy = after(&waiting, &Known::Answers(pool.clone()));
        assert_eq!((healthy.phase.as_str(), healthy.last_transition_time.as_deref()), ("Healthy", Some("T")));
        assert_eq!((healthy.capacity.total.as_str(), healthy.capacity.used.as_str()), ("9.94G", "1.58M"));
        assert_eq!(after(&healthy, &Known::Waiting), healthy);
        let silent = |pod_ready| {
            let since = Duration::from_secs(11);
            Known::Silent { since, error: String::from("refused"), pod_ready }
        };
        assert_eq!(after(&healthy, &silent(true)).phase, "Unknown");
        assert_eq!(after(&healthy, &silent(false)).phase, "Offline");
        let device =
            DeviceStatus { path: String::from("/dev/sdb"), detail: String::from("EIO"), ..DeviceStatus::default() };
        let degraded = after(&healthy, &Known::Answers(PoolStatus { devices: vec![device], ..pool }));
        assert_eq!(degraded.phase, "Degraded");
        assert!(degraded.message.contains("/dev/sdb: EIO"));
    }
}
