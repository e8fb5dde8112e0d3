//! What `ballast status --output json` says.

use serde::Deserialize;

/// The whole answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Where the target listens.
    pub portal: String,
    /// All supervised processes.
    pub processes: Vec<Process>,
    /// All volumes.
    pub volumes: Vec<Volume>,
    /// All pools.
    pub pools: Vec<Pool>,
}

/// One supervised process.
#[derive(Debug, Clone, Deserialize)]
pub struct Process {
    /// "pool-0", "target".
    pub name: String,
    /// "pool" or "target".
    pub kind: String,
    /// None while it does not run.
    pub pid: Option<u32>,
    /// "running", "restarting" or "stopped".
    pub state: String,
    /// How often it was started again.
    pub restarts: u64,
}

/// One volume.
#[derive(Debug, Clone, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// The iSCSI name of its target.
    pub iqn: String,
    /// Its capacity.
    pub size_bytes: u64,
    /// "Healthy", "Degraded", "Offline" or "Unknown".
    #[serde(default)]
    pub state: String,
    /// Its replicas.
    #[serde(default)]
    pub replicas: Vec<Replica>,
}

/// One replica of a volume.
#[derive(Debug, Clone, Deserialize)]
pub struct Replica {
    /// The pool it lies in.
    pub pool: String,
    /// "leader", "follower", ..., "unknown".
    pub role: String,
    /// The last log index it has applied.
    #[serde(default)]
    pub applied_index: Option<u64>,
}

/// One pool. The counters start with its process; they are absent while it does not answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Everything written to its devices.
    #[serde(default)]
    pub device_bytes_written: Option<u64>,
    /// The part of it that only prepared space for later (zeroes into a sparse file).
    #[serde(default)]
    pub prepare_bytes_written: Option<u64>,
    /// The part of it that was user data.
    #[serde(default)]
    pub payload_bytes_written: Option<u64>,
}

impl Status {
    /// The pid of a supervised process that runs.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.processes.iter().find(|process| process.name == name && process.state == "running")?.pid
    }

    /// The names of all pools' processes.
    pub fn pool_names(&self) -> Vec<String> {
        self.processes.iter().filter(|process| process.kind == "pool").map(|process| process.name.clone()).collect()
    }

    /// The volume of that name.
    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.name == name)
    }

    /// Everything runs, and every replica of every volume takes part.
    pub fn is_whole(&self) -> bool {
        self.processes.iter().all(|process| process.state == "running" && process.pid.is_some())
            && self.volumes.iter().all(Volume::is_whole)
    }
}

impl Volume {
    /// The pool that holds the leader.
    pub fn leader(&self) -> Option<&str> {
        self.replicas.iter().find(|replica| replica.role == "leader").map(|replica| replica.pool.as_str())
    }

    fn is_whole(&self) -> bool {
        self.state == "Healthy"
            && self.leader().is_some()
            && self.replicas.iter().all(|replica| matches!(replica.role.as_str(), "leader" | "follower"))
    }
}
