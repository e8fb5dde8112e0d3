//! `ballast up`: the whole of Ballast on one machine, in the foreground.
//!
//! Order: lock the data directory, make missing pools, start the children, bring them in as they answer, make missing
//! volumes, say what to type next, wait for a signal, stop. A pool that does not start does not stop the others: the
//! volumes run on the majority that is there.

mod pools;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ballast_target::server::secrets::{SecretsError, read_accounts};

use super::{StopSignals, address};
use crate::cli::UpArgs;
use crate::cluster::{self, Cluster, NewVolume, Node, Registry, VolumeError};
use crate::datadir::{DataDir, DataDirError, PoolDir};
use crate::memory;
use crate::output::{print, progress};
use crate::protocol::Listener;
use crate::report::ProcessKind;
use crate::size::{ByteSize, SizeError};
use crate::supervisor::{self, STOP_GRACE, Supervisor, TARGET};

/// A child that has not answered by then is left to itself: recovery of a long journal on a busy disk.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// Deaths in a row after which a child is not waited for any longer (about three seconds).
const HOPELESS: u32 = 6;
/// After this long without an answer the user is told what is waited for.
const IMPATIENT: Duration = Duration::from_secs(3);
/// A target that was just killed may hold its port for a moment.
const PORT_PATIENCE: Duration = Duration::from_secs(3);

/// `ballast up` cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] cluster::RegistryError),
    /// The portal.
    #[error("the target cannot listen on {portal}: {source}; choose another address with --portal")]
    Portal {
        /// Where.
        portal: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Port 0.
    #[error("--portal {0} needs a fixed port, initiators come back to it: for example 127.0.0.1:3260")]
    PortalPort(SocketAddr),
    /// The CHAP accounts.
    #[error("--chap: {0}")]
    Chap(#[from] SecretsError),
    /// A pool cannot be made.
    #[error("pool-{number} cannot be made: {detail}")]
    MakePool {
        /// Which.
        number: u32,
        /// Why.
        detail: String,
    },
    /// More replicas than pools.
    #[error("--replicas {replicas} needs as many pools, there are {pools}: add --pools {replicas}")]
    TooFewPools {
        /// Asked for.
        replicas: u32,
        /// Known.
        pools: usize,
    },
    /// Nothing works without it.
    #[error("{0}")]
    DoesNotStart(String),
    /// A volume cannot be made.
    #[error("volume {name}: {source}")]
    Volume {
        /// Which.
        name: String,
        /// Why.
        source: Box<VolumeError>,
    },
    /// The default volume's size.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// Something with this process itself.
    #[error("cannot {action}: {source}; check limits and permissions")]
    Own {
        /// What.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
}

pub(super) async fn run(args: UpArgs, child_args: Vec<OsString>) -> anyhow::Result<()> {
    let own = |action| move |source| UpError::Own { action, source };
    let program = std::env::current_exe().map_err(own("find this program"))?;
    let mut signals = StopSignals::new().map_err(own("listen for signals"))?;
    let dir = DataDir::new(&args.dir.data_dir)?;
    dir.create()?;
    let _lock = dir.lock()?;
    let initialized = dir.check_format()?;
    check_portal(args.portal).await?;
    // A clear message now is better than a target that dies again and again.
    args.chap.as_deref().map(read_accounts).transpose()?;
    let prepared = tokio::select! {
        prepared = pools::prepare(&program, &dir, &args) => prepared?,
        signal = signals.next() => {
            progress(&format!("{signal}: stopped before anything ran"));
            return Ok(());
        }
    };
    let running = Running::start(&program, &dir, &prepared, &args, &child_args)?;
    let started = tokio::select! {
        started = running.bring_up(&args, initialized) => started.map(|()| None),
        signal = signals.next() => Ok(Some(signal)),
    };
    let asked = match &started {
        Ok(Some(signal)) => signal,
        Ok(None) => signals.next().await,
        Err(_) => "the start failed",
    };
    progress(&format!("{asked}: stopping the target, then the pools"));
    tokio::select! {
        () = running.stop() => progress("stopped"),
        // Children are killed when the runtime ends.
        signal = signals.next() => progress(&format!("{signal} again: killing what still runs")),
    }
    Ok(started.map(|_| ())?)
}

/// The portal must be free: a clear message now is better than a target that dies again and again.
async fn check_portal(portal: SocketAddr) -> Result<(), UpError> {
    if portal.port() == 0 {
        return Err(UpError::PortalPort(portal));
    }
    let deadline = tokio::time::Instant::now() + PORT_PATIENCE;
    loop {
        match tokio::net::TcpListener::bind(portal).await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(source) => return Err(UpError::Portal { portal, source }),
        }
    }
}

/// Everything that runs.
struct Running {
    dir: DataDir,
    supervisor: Supervisor,
    cluster: Arc<Cluster>,
    tasks: tokio::task::JoinSet<()>,
}

impl Running {
    fn start(
        program: &Path,
        dir: &DataDir,
        pools: &[PoolDir],
        args: &UpArgs,
        child_args: &[OsString],
    ) -> Result<Self, UpError> {
        let (registry, note) = Registry::open(&dir.registry())?;
        if let Some(note) = note {
            progress(&note);
        }
        let listener = Listener::bind(dir).map_err(|source| UpError::Own { action: "listen for commands", source })?;
        let share = args.cache.unwrap_or_else(memory::default_cache) / pools.len().max(1) as u64;
        let spec = |pool| supervisor::pool_spec(program.to_owned(), dir, pool, share);
        let mut specs: Vec<_> = pools.iter().map(spec).collect();
        specs.push(supervisor::target_spec(program.to_owned(), dir, args.portal, args.chap.as_deref()));
        for spec in &mut specs {
            spec.args.extend_from_slice(child_args);
        }
        let supervisor = Supervisor::start(specs, dir);
        let nodes = supervisor.processes().iter().map(|process| {
            let name = &process.spec.name;
            let devices = pools.iter().find(|pool| pool.name == *name).map(|pool| pool.devices.clone());
            Node::new(dir, name, process.spec.kind, devices.unwrap_or_default(), process.status())
        });
        let cluster = Arc::new(Cluster::new(dir.clone(), args.portal, nodes.collect(), registry));
        let mut tasks = cluster::keep(&cluster);
        tasks.spawn(listener.serve(Arc::clone(&cluster)));
        Ok(Self { dir: dir.clone(), supervisor, cluster, tasks })
    }

    /// Waits for the children, makes missing volumes, prints the address block.
    async fn bring_up(&self, args: &UpArgs, initialized: bool) -> Result<(), UpError> {
        progress(&format!("starting {} pools and the target", self.cluster.nodes().len() - 1));
        let waits = self.cluster.nodes().iter().map(async |node| (node, self.wait_for(node).await));
        let mut pools = 0;
        let mut trouble = Vec::new();
        for (node, ready) in futures_util::future::join_all(waits).await {
            match ready {
                Ok(()) if node.kind == ProcessKind::Pool => pools += 1,
                Ok(()) => {}
                Err(problem) if node.kind == ProcessKind::Target => return Err(UpError::DoesNotStart(problem)),
                Err(problem) => trouble.push(problem),
            }
        }
        if pools == 0 {
            return Err(UpError::DoesNotStart(trouble.join("\n")));
        }
        for problem in &trouble {
            progress(&format!("WARNING: {problem}\n  going on without it; it is started again and again"));
        }
        self.make_volumes(args, initialized).await?;
        self.dir.set_initialized()?;
        let default_dir = args.dir.data_dir == Path::new("./ballast-data");
        let block = address::address_block(&self.cluster.status().await, self.dir.root(), default_dir);
        print(&block).unwrap_or_else(|error| tracing::debug!(%error, "nobody reads the addresses"));
        Ok(())
    }

    async fn wait_for(&self, node: &Node) -> Result<(), String> {
        let mut configured = node.configured();
        let mut status = node.status.clone();
        let waiting = async {
            tokio::select! {
                done = configured.wait_for(|start| *start > 0) => done.is_ok(),
                _ = status.wait_for(|status| status.failures >= HOPELESS) => false,
                () = tokio::time::sleep(READY_TIMEOUT) => false,
            }
        };
        tokio::pin!(waiting);
        let ready = match tokio::time::timeout(IMPATIENT, &mut waiting).await {
            Ok(ready) => ready,
            Err(_) => {
                progress(&format!("waiting for {}", node.name));
                waiting.await
            }
        };
        if ready {
            return Ok(());
        }
        let log = self.dir.log_file(&node.name);
        let said = self.dir.last_log_line(&node.name).unwrap_or_else(|| "nothing".to_owned());
        let exit = node.status.borrow().last_exit.clone().unwrap_or_else(|| "it does not answer".to_owned());
        Err(format!("{} does not start: {exit}; its log {} ends with: {said}", node.name, log.display()))
    }

    async fn make_volumes(&self, args: &UpArgs, initialized: bool) -> Result<(), UpError> {
        let known = self.cluster.table();
        let mut wanted = args.volumes.clone();
        if wanted.is_empty() && !initialized && known.volumes.is_empty() {
            let name =
                "demo".parse().map_err(|error: crate::names::NameError| UpError::DoesNotStart(error.to_string()))?;
            wanted.push(crate::cli::VolumeArg { name, size: "1Gi".parse()? });
        }
        for volume in wanted {
            if let Some(existing) = known.by_name(&volume.name) {
                let has = existing.blocks.saturating_mul(ballast_api::BLOCK_SIZE as u64);
                if has != volume.size.0.next_multiple_of(ballast_api::BLOCK_SIZE as u64) {
                    progress(&format!(
                        "volume {} keeps its size of {}: --volume only makes volumes that do not exist",
                        volume.name,
                        ByteSize(has)
                    ));
                }
                continue;
            }
            progress(&format!("making volume {}, {}", volume.name, volume.size));
            let replicas = args.replicas.and_then(|replicas| usize::try_from(replicas).ok());
            let new = NewVolume { name: volume.name.clone(), bytes: volume.size.0, replicas };
            self.cluster
                .create_volume(new)
                .await
                .map_err(|source| UpError::Volume { name: volume.name.to_string(), source: Box::new(source) })?;
        }
        Ok(())
    }

    async fn stop(mut self) {
        // No more commands, and nobody takes a stopping process for one that has died.
        self.tasks.shutdown().await;
        self.supervisor.stop(STOP_GRACE).await;
        for name in self.cluster.nodes().iter().map(|node| node.name.as_str()).chain([TARGET]) {
            let path: PathBuf = self.dir.socket(name);
            if let Err(error) = crate::protocol::remove_socket(&path) {
                tracing::debug!(%error, "a socket is left over");
            }
        }
    }
}

#[cfg(test)]
mod tests;
