//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use ballast_pool::DeviceConfig;
use clap::{Args, Parser, Subcommand};

use crate::commands::{CheckArgs, CrdsArgs, UninstallArgs};
use crate::logging::LogFormat;
use crate::memory::parse_cache;
use crate::names::VolumeName;
use crate::output::Format;
use crate::size::ByteSize;

/// Replicated block storage: every volume is a Raft log, every block is written once.
#[derive(Debug, Parser)]
#[command(name = "ballast", version, propagate_version = true)]
pub(crate) struct Cli {
    /// What is logged to standard error: error, warn, info, or a filter such as 'warn,ballast=info' [env: RUST_LOG]
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log_level: Option<String>,
    /// How a line of the log looks
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run pools, a target and volumes on this machine until stopped; keeps its data between runs
    Up(UpArgs),
    /// Show processes, pools and volumes as they are now
    Status(ReadArgs),
    /// Pools: storage on disks, partitions or sparse files
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Volumes: make, list, delete; how long their I/O takes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// The iSCSI target process
    #[command(subcommand)]
    Target(TargetCommand),
    /// Kubernetes: make pools and volumes as their objects say, until stopped
    Operator(OperatorArgs),
    /// Kubernetes: make volumes for PersistentVolumeClaims, until stopped
    Provisioner(ProvisionerArgs),
    /// The node disk manager: tells Kubernetes which disks this node has (a pod on each node; stops on SIGTERM)
    Ndm(NdmArgs),
    /// Print the definitions of the Kubernetes objects, or install them
    Crds(CrdsArgs),
    /// Say whether the installation in a cluster works, part by part (the chart's test)
    Check(CheckArgs),
    /// Fail while the cluster holds volumes or pools (run by the chart before it is uninstalled)
    UninstallCheck(UninstallArgs),
    /// Delete what is left in the API of a cluster without volumes and pools (run by the chart after it is uninstalled)
    UninstallClean(UninstallArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// List the pools of a running `ballast up`
    List(ReadArgs),
    /// Make a pool on devices; refuses devices that carry data
    Create(PoolCreateArgs),
    /// Check the devices of a pool that does not run, without changing anything
    Inspect(PoolInspectArgs),
    /// Serve one pool (started by `ballast up`; stops on SIGTERM)
    Serve(PoolServeArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume
    Create(VolumeCreateArgs),
    /// List the volumes
    List(ReadArgs),
    /// Make a volume larger, while it is in use
    Grow(VolumeGrowArgs),
    /// Show how long I/O takes, stage by stage
    Stats(VolumeStatsArgs),
    /// Delete a volume and all its data
    Delete(VolumeDeleteArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TargetCommand {
    /// Serve volumes over iSCSI (started by `ballast up`; stops on SIGTERM)
    Serve(TargetServeArgs),
}

/// Which running ballast is meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataDirArg {
    /// The data directory
    #[arg(long, env = "BALLAST_DATA_DIR", default_value = "./ballast-data", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
}

/// Arguments of the commands that only show something.
#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    pub(crate) dir: DataDirArg,
    /// For people or for scripts
    #[arg(long, short, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) dir: DataDirArg,
    /// Pools to run; more than there are adds new ones, fewer changes nothing [default: 3, or as many as there are]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) pools: Option<u32>,
    /// Size of each new pool; the file is sparse and grows as it is written [default: 10Gi]
    #[arg(long, value_name = "SIZE")]
    pub(crate) pool_size: Option<ByteSize>,
    /// Replicas of each new volume [default: 3, or as many as there are pools]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=5))]
    pub(crate) replicas: Option<u32>,
    /// Volume to make when it does not exist; may be repeated [default: demo=1Gi at the first start]
    #[arg(long = "volume", value_name = "NAME=SIZE")]
    pub(crate) volumes: Vec<VolumeArg>,
    /// Where the iSCSI target listens
    #[arg(long, default_value = "127.0.0.1:3260", value_name = "ADDRESS:PORT")]
    pub(crate) portal: SocketAddr,
    /// Directory of CHAP accounts: files node.session.auth.username and .password, for mutual CHAP also .username_in and
    /// .password_in; discovery.sendtargets.auth.* likewise for discovery. Without it every initiator is let in
    #[arg(long, env = "BALLAST_CHAP_DIR", value_name = "DIR")]
    pub(crate) chap: Option<PathBuf>,
    /// Memory for recently written blocks, all pools together; 0 for none [default: an eighth of the memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_cache)]
    pub(crate) cache: Option<u64>,
    #[command(flatten)]
    pub(crate) busy_poll: BusyPollArg,
}

/// `NAME=SIZE`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeArg {
    /// The volume's name.
    pub(crate) name: VolumeName,
    /// Its size.
    pub(crate) size: ByteSize,
}

impl std::str::FromStr for VolumeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, size) =
            text.split_once('=').ok_or_else(|| format!("'{text}' is not NAME=SIZE: write for example demo=1Gi"))?;
        let name = name.parse::<VolumeName>().map_err(|error| error.to_string())?;
        Ok(Self { name, size: size.parse::<ByteSize>().map_err(|error| error.to_string())? })
    }
}

#[derive(Debug, Args)]
pub(crate) struct VolumeCreateArgs {
    /// 1 to 63 of a-z, 0-9 and '-'
    pub(crate) name: VolumeName,
    /// For example 20Gi
    pub(crate) size: ByteSize,
    /// Copies, each in a pool of its own [default: 3, or as many as there are pools]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=5))]
    pub(crate) replicas: Option<u32>,
    #[command(flatten)]
    pub(crate) dir: DataDirArg,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeGrowArgs {
    /// The volume
    pub(crate) name: VolumeName,
    /// Its new size, for example 40Gi
    pub(crate) size: ByteSize,
    #[command(flatten)]
    pub(crate) dir: DataDirArg,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeStatsArgs {
    /// Only this volume
    pub(crate) name: Option<String>,
    /// Print again and again what came since the last time, until Ctrl-C
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) watch: Option<u64>,
    /// Ask the target whose control service listens there (unix:PATH or ADDRESS:PORT) instead of that of the data directory
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) target: Option<String>,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeDeleteArgs {
    /// The volume
    pub(crate) name: VolumeName,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) dir: DataDirArg,
}

#[derive(Debug, Args)]
pub(crate) struct PoolCreateArgs {
    /// Name of the pool, for messages
    #[arg(long)]
    pub(crate) name: String,
    /// Device of the pool, in order; with size= a sparse file is made when it is missing
    #[arg(long = "device", required = true, value_name = "PATH[,size=SIZE]")]
    pub(crate) devices: Vec<DeviceArg>,
}

/// `PATH[,size=SIZE]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceArg {
    /// The device.
    pub(crate) path: PathBuf,
    /// Size of a sparse file.
    pub(crate) size: Option<ByteSize>,
}

impl std::str::FromStr for DeviceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, size) = match text.rsplit_once(",size=") {
            Some((path, size)) => (path, Some(size.parse::<ByteSize>().map_err(|error| error.to_string())?)),
            None => (text, None),
        };
        if path.is_empty() {
            return Err("the path of a device is empty: write PATH or PATH,size=10Gi".to_owned());
        }
        Ok(Self { path: path.into(), size })
    }
}

impl DeviceArg {
    /// For the pool.
    pub(crate) fn config(&self) -> DeviceConfig {
        DeviceConfig { path: self.path.clone(), size: self.size.map(|size| size.0) }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PoolInspectArgs {
    /// All devices of one pool, in any order
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Also read all payload and check its checksums
    #[arg(long)]
    pub(crate) verify: bool,
    /// For people or for scripts
    #[arg(long, short, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct PoolServeArgs {
    /// Name of the pool, for messages
    #[arg(long)]
    pub(crate) name: String,
    /// Device of the pool; give all of them, in any order. size= is for --create
    #[arg(long = "device", required = true, value_name = "PATH[,size=SIZE]")]
    pub(crate) devices: Vec<DeviceArg>,
    /// Make the pool first when all its devices are blank, or missing and given with size=. Beside a whole pool, such devices
    /// are added to it. Devices that carry anything else are refused, never wiped
    #[arg(long)]
    pub(crate) create: bool,
    /// Where to listen: unix:PATH or ADDRESS:PORT, for example 0.0.0.0:7000 or `[::]:7000`
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) listen: String,
    /// JSON file that says where the other pools are, until this one is told:
    /// {"peers": [{"pool": UUID, "endpoint": "host:port"}]}. Missing: no hints
    #[arg(long, value_name = "FILE")]
    pub(crate) peers: Option<PathBuf>,
    /// Memory for recently written blocks; 0 for none [default: an eighth of the memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_cache)]
    pub(crate) cache: Option<u64>,
    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TargetServeArgs {
    /// Where to listen for initiators
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) portal: SocketAddr,
    /// The address that discovery tells initiators, when it is not the one they connect to, for example a Service's
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) advertise: Option<SocketAddr>,
    /// Directory of CHAP accounts: files node.session.auth.username and .password, for mutual CHAP also .username_in and
    /// .password_in; discovery.sendtargets.auth.* likewise for discovery. Without it every initiator is let in
    #[arg(long, env = "BALLAST_CHAP_DIR", value_name = "DIR")]
    pub(crate) chap: Option<PathBuf>,
    /// Where to listen for control: unix:PATH or ADDRESS:PORT, for example 0.0.0.0:7777 or `[::]:7777`
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) control: String,
    /// JSON file that says which volumes to serve, until this target is told: {"volumes": [{"volume": UUID, "name": NAME,
    /// "iqn": IQN, "blocks": NUMBER OF 4 KIB, "replicas": [{"pool": UUID, "endpoint": "host:port"}]}]}. Missing: no hints
    #[arg(long, value_name = "FILE")]
    pub(crate) volumes: Option<PathBuf>,
    /// Where to serve metrics (GET /metrics, Prometheus' text format), for example 0.0.0.0:9500. Without it nowhere
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) runtime: RuntimeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct OperatorArgs {
    /// Namespace of pools, targets and volumes
    #[arg(long, env = "NAMESPACE", default_value = "openebs")]
    pub(crate) namespace: String,
    /// Image of the pods that are made: the one that this process runs from
    #[arg(long, env = "BALLAST_IMAGE")]
    pub(crate) image: String,
    /// When that image is pulled
    #[arg(long, env = "BALLAST_IMAGE_PULL_POLICY", default_value = "IfNotPresent",
        value_parser = ["Always", "IfNotPresent", "Never"])]
    pub(crate) image_pull_policy: String,
    /// Directory of the sparse files on the nodes
    #[arg(long, env = "BALLAST_SPARSE_DIR", default_value = "/var/openebs/sparse", value_name = "DIR")]
    pub(crate) sparse_dir: String,
    /// Seconds that a pool may be away before its replicas are made anew elsewhere
    #[arg(long, env = "BALLAST_REPLICA_GRACE_PERIOD", default_value_t = 300, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(15..))]
    pub(crate) replica_grace_period: u64,
    /// ServiceAccount of pool and target pods; they use no API
    #[arg(long, env = "BALLAST_POOL_SERVICE_ACCOUNT", value_name = "NAME")]
    pub(crate) pool_service_account: Option<String>,
    /// PriorityClass of pool and target pods
    #[arg(long, env = "BALLAST_PRIORITY_CLASS", value_name = "NAME")]
    pub(crate) priority_class: Option<String>,
    /// Name of this process in the Lease and in events; no two processes may have the same
    #[arg(long, env = "POD_NAME", default_value_t = process_name(), value_name = "NAME")]
    pub(crate) identity: String,
}

#[derive(Debug, Args)]
pub(crate) struct ProvisionerArgs {
    /// Namespace of the volumes: the operator's
    #[arg(long, env = "NAMESPACE", default_value = "openebs")]
    pub(crate) namespace: String,
    /// Classes with this provisioner are served
    #[arg(long, default_value = "openebs.io/provisioner-iscsi", value_name = "NAME")]
    pub(crate) provisioner: String,
    /// Name of this process in the Lease and in events; no two processes may have the same
    #[arg(long, env = "POD_NAME", default_value_t = process_name(), value_name = "NAME")]
    pub(crate) identity: String,
}

#[derive(Debug, Args)]
pub(crate) struct NdmArgs {
    #[command(flatten)]
    pub(crate) options: ballast_ndm::Options,
    /// Only print what would be reported; needs no cluster and changes nothing
    #[arg(long)]
    pub(crate) once: bool,
    /// With --once: for people or for scripts
    #[arg(long, short, value_enum, default_value = "table", requires = "once")]
    pub(crate) output: Format,
}

/// How a process that carries data uses its processors.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct RuntimeArgs {
    /// Threads of the runtime
    #[arg(long, hide = true, env = "BALLAST_WORKER_THREADS", default_value_t = runtime_threads())]
    pub(crate) worker_threads: usize,
    #[command(flatten)]
    pub(crate) busy_poll: BusyPollArg,
}

/// The latency or the processor.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct BusyPollArg {
    /// Microseconds that a process which carries data stays awake for its next message while messages come that fast; 0
    /// lets it sleep, which saves processor time and makes single commands slower
    #[arg(long = "busy-poll", env = "BALLAST_BUSY_POLL", value_name = "MICROSECONDS", default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(..=10_000))]
    pub(crate) microseconds: u64,
}

/// A quarter of the processors, at most four: a process's work is mostly hand-offs between its own tasks, which are
/// cheapest on one thread, and staying awake for the next message works best there (docs/write-cost.md).
fn runtime_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 4).clamp(1, 4))
}

/// A name that no other process has: two that hold a Lease under one name would both lead.
fn process_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn pools_and_targets_as_an_operator_starts_them() {
        let line = "ballast pool serve --name a --device /dev/sdb --device a.img,size=1Gi --create --listen [::]:7000 \
                    --peers /etc/ballast/peers.json";
        let Command::Pool(PoolCommand::Serve(args)) = Cli::parse_from(line.split_whitespace()).command else {
            panic!()
        };
        assert!(args.create && args.devices[1].config().size == Some(1 << 30));
        let line = "ballast target serve --portal [::]:3260 --control 0.0.0.0:7777 --volumes v.json";
        let Command::Target(TargetCommand::Serve(args)) = Cli::parse_from(line.split_whitespace()).command else {
            panic!()
        };
        assert_eq!(args.volumes, Some("v.json".into()));
    }

    #[test]
    fn volumes_and_devices() {
        let volume: VolumeArg = "demo=1Gi".parse().unwrap();
        assert_eq!((volume.name.as_str(), volume.size.0), ("demo", 1 << 30));
        for text in ["demo", "=1Gi", "demo=", "De=1Gi", "demo=0"] {
            assert!(text.parse::<VolumeArg>().is_err(), "{text}");
        }
        let device: DeviceArg = "/dev/sdb".parse().unwrap();
        assert_eq!(device, DeviceArg { path: "/dev/sdb".into(), size: None });
        let device: DeviceArg = "a,b.img,size=1Mi".parse().unwrap();
        assert_eq!(device, DeviceArg { path: "a,b.img".into(), size: Some(ByteSize(1 << 20)) });
        assert!(",size=1Mi".parse::<DeviceArg>().is_err());
        assert!("x,size=".parse::<DeviceArg>().is_err());
    }
}
