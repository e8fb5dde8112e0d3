//! The options of `ballast ndm`. Names in the environment are those of cStor's DaemonSet.

use std::path::PathBuf;

use crate::tree::Roots;

/// Options of the node disk manager.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// This node's name in the cluster [default: the host's name]
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node: Option<String>,
    /// Namespace of the BlockDevice objects
    #[arg(long, env = "NAMESPACE", default_value = "openebs", value_name = "NAME")]
    pub namespace: String,
    /// Filters and probes: node-disk-manager.config of cStor's ConfigMap
    #[arg(long, env = "NDM_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory for sparse files that play disks; none without it
    #[arg(long, env = "SPARSE_FILE_DIR", value_name = "DIR")]
    pub sparse_dir: Option<PathBuf>,
    /// Bytes of each new sparse file, at least 1 GiB
    #[arg(long, env = "SPARSE_FILE_SIZE", default_value_t = 10 << 30, value_name = "BYTES")]
    pub sparse_size: u64,
    /// Sparse files to make; those that are there already stay
    #[arg(long, env = "SPARSE_FILE_COUNT", default_value_t = 1, value_name = "COUNT")]
    pub sparse_count: u32,
    /// Ask disks for their health where smartctl is installed
    #[arg(long, env = "NDM_SMART")]
    pub smart: bool,
    /// Seconds between two looks at everything; changes are noticed at once
    #[arg(long, env = "NDM_RESCAN_SECONDS", default_value_t = 60, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub rescan: u64,
    /// The node's /sys
    #[arg(long, default_value = "/sys", value_name = "DIR")]
    pub sys: PathBuf,
    /// The node's /proc; in a pod usually mounted as /host/proc
    #[arg(long, env = "NDM_PROC", default_value = "/proc", value_name = "DIR")]
    pub proc: PathBuf,
    /// The node's /dev
    #[arg(long, default_value = "/dev", value_name = "DIR")]
    pub dev: PathBuf,
    /// The node's /run/udev
    #[arg(long, default_value = "/run/udev", value_name = "DIR")]
    pub udev: PathBuf,
}

impl Options {
    /// Where the node's trees are.
    pub fn roots(&self) -> Roots {
        Roots { sys: self.sys.clone(), proc: self.proc.clone(), dev: self.dev.clone(), udev: self.udev.clone() }
    }

    /// The node's name: as told, else the host's.
    pub fn node_name(&self) -> String {
        let host = || std::fs::read_to_string(self.proc.join("sys/kernel/hostname")).unwrap_or_default();
        match self.node.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => name.to_owned(),
            None => {
                Some(host().trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
            }
        }
    }
}
