//! `ballast up` in a directory of its own: start, stop, kill, and look.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::process::{self, PATIENCE, Signal};
use crate::runner::leave_evidence;
use crate::scratch;
use crate::status::Status;
use crate::tools;

/// The iSCSI name of a volume.
pub fn iqn(volume: &str) -> String {
    format!("iqn.2016-09.com.openebs.cstor:{volume}")
}

/// A portal that nobody else uses: an address of the loopback net made of this process' id (which is unique while we
/// run), and a port that counts up. A port on 127.0.0.1 could be taken by somebody else while the target is down.
pub fn own_portal() -> SocketAddr {
    static PORT: AtomicU16 = AtomicU16::new(3260);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, (high & 0x3f) + 1, middle, low);
    SocketAddr::V4(SocketAddrV4::new(address, PORT.fetch_add(1, Ordering::Relaxed)))
}

/// What to start.
pub struct Options {
    /// Number of pools.
    pub pools: u32,
    /// Size of each pool's sparse file, as the command line takes it.
    pub pool_size: &'static str,
    /// Replicas of each volume.
    pub replicas: u32,
    /// Names and sizes of the volumes to make.
    pub volumes: Vec<(String, String)>,
    /// Where the target listens; [`own_portal`] when there is no reason for another.
    pub portal: SocketAddr,
    /// Run it inside this network namespace.
    pub network: Option<String>,
    /// The directory of CHAP accounts; without it every initiator is let in.
    pub chap: Option<PathBuf>,
}

impl Default for Options {
    /// Three pools of 4 GiB, three replicas, no volume, a portal of its own.
    fn default() -> Self {
        Self {
            pools: 3,
            pool_size: "4Gi",
            replicas: 3,
            volumes: Vec::new(),
            portal: own_portal(),
            network: None,
            chap: None,
        }
    }
}

impl Options {
    /// The default and these volumes.
    pub fn with_volumes(volumes: &[(&str, &str)]) -> Self {
        let volumes = volumes.iter().map(|(name, size)| ((*name).to_owned(), (*size).to_owned())).collect();
        Self { volumes, ..Self::default() }
    }
}

/// A running (or stopped) `ballast up` and its directory. Ended and removed when dropped.
pub struct Cluster {
    options: Options,
    home: TempDir,
    supervisor: Option<Child>,
}

impl Cluster {
    /// Starts it and waits until everything is whole.
    pub fn start(options: Options) -> Result<Self> {
        let mut cluster = Self { options, home: scratch::directory()?, supervisor: None };
        cluster.up()?;
        Ok(cluster)
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// A place for the test's own files that goes away with the cluster.
    pub fn scratch(&self) -> &Path {
        self.home.path()
    }

    /// Where the target listens.
    pub fn portal(&self) -> SocketAddr {
        self.options.portal
    }

    /// libiscsi's and qemu's name for a volume.
    pub fn url(&self, volume: &str) -> String {
        format!("iscsi://{}/{}/0", self.portal(), iqn(volume))
    }

    /// A `ballast` command with the global arguments set.
    pub fn ballast(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(tools::ballast()?);
        command.args(arguments).arg("--data-dir").arg(self.data_dir());
        Ok(command)
    }

    /// The `ballast up` command of this cluster.
    pub fn up_command(&self) -> Result<Command> {
        let binary = tools::ballast()?;
        let mut command = match &self.options.network {
            Some(network) => {
                let mut command = process::bound("ip");
                command.args(["netns", "exec", network]).arg(binary);
                command
            }
            None => process::bound(binary),
        };
        let options = &self.options;
        command.arg("up").arg("--data-dir").arg(self.data_dir());
        command.args(["--pools", &options.pools.to_string(), "--pool-size", options.pool_size]);
        command.args(["--replicas", &options.replicas.to_string(), "--portal", &options.portal.to_string()]);
        for (name, size) in &options.volumes {
            command.args(["--volume", &format!("{name}={size}")]);
        }
        if let Some(directory) = &options.chap {
            command.arg("--chap").arg(directory);
        }
        Ok(command)
    }

    /// Starts `ballast up` (again) and waits until everything is whole.
    pub fn up(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.home.path().join("up.log"))?;
        let mut command = self.up_command()?;
        let child = command.stdout(log.try_clone()?).stderr(log).spawn().context("cannot start ballast up")?;
        self.supervisor = Some(child);
        self.wait_whole(PATIENCE).map(drop)
    }

    /// What `ballast status` says now.
    pub fn status(&self) -> Result<Status> {
        let mut command = self.ballast(&["status", "--output", "json"])?;
        let text = process::run(&mut command, Duration::from_secs(20))?;
        serde_json::from_str(&text).with_context(|| format!("ballast status printed no such JSON:\n{text}"))
    }

    /// The pools with their counters, as `ballast pool list` has them.
    pub fn pools(&self) -> Result<Vec<crate::status::Pool>> {
        let text = process::run(&mut self.ballast(&["pool", "list", "--output", "json"])?, Duration::from_secs(20))?;
        serde_json::from_str(&text).with_context(|| format!("ballast pool list printed no such JSON:\n{text}"))
    }

    /// Waits until everything runs, every replica takes part and the portal answers.
    pub fn wait_whole(&mut self, limit: Duration) -> Result<Status> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.supervisor.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("ballast up ended by itself: {status}");
            }
            let said = self.status();
            if let Ok(status) = &said {
                let expected = self.options.volumes.iter().all(|(name, _)| status.volume(name).is_some());
                if status.is_whole() && expected && self.portal_answers() {
                    return said;
                }
            }
            if begun.elapsed() > limit {
                bail!("not whole within {} s; status: {said:#?}", limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn portal_answers(&self) -> bool {
        // From outside of its network namespace it cannot be reached; there the status has to do.
        self.options.network.is_some() || TcpStream::connect_timeout(&self.portal(), Duration::from_secs(2)).is_ok()
    }

    /// `kill -9` of one supervised process. Returns the pid that it had.
    pub fn kill(&self, name: &str) -> Result<u32> {
        let pid = self.status()?.pid(name).with_context(|| format!("{name} does not run"))?;
        process::signal(pid, Signal::KILL);
        Ok(pid)
    }

    /// Waits until a process that was killed runs again under another pid, and everything is whole.
    pub fn wait_replaced(&mut self, name: &str, old_pid: u32) -> Result<Status> {
        let replaced = process::wait_until(PATIENCE, || {
            self.status().is_ok_and(|status| status.pid(name).is_some_and(|pid| pid != old_pid))
        });
        if !replaced {
            bail!("{name} was killed and did not come back within {} s", PATIENCE.as_secs());
        }
        self.wait_whole(PATIENCE)
    }

    /// `kill -9` of everything at once, the supervisor first so that it restarts nothing.
    pub fn kill_everything(&mut self) -> Result<()> {
        let mut victims: Vec<u32> = self.supervisor.as_ref().map(Child::id).into_iter().collect();
        victims.extend(process::mentioning(&self.data_dir()));
        victims.iter().for_each(|&pid| process::signal(pid, Signal::KILL));
        if let Some(mut supervisor) = self.supervisor.take() {
            supervisor.wait()?;
        }
        if !process::wait_until(PATIENCE, || victims.iter().all(|&pid| !process::alive(pid))) {
            bail!("some processes survived kill -9");
        }
        Ok(())
    }

    /// A clean stop by SIGTERM; nothing may be left afterwards.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut supervisor) = self.supervisor.take() else { return Ok(()) };
        process::signal(supervisor.id(), Signal::TERM);
        let mut ended = None;
        process::wait_until(PATIENCE, || {
            ended = supervisor.try_wait().ok().flatten();
            ended.is_some()
        });
        let Some(status) = ended else {
            self.supervisor = Some(supervisor);
            bail!("ballast up did not end within {} s of SIGTERM", PATIENCE.as_secs());
        };
        if !status.success() {
            bail!("ballast up ended with {status} after SIGTERM");
        }
        let log = fs::read_to_string(self.home.path().join("up.log")).unwrap_or_default();
        if log.contains("did not stop in time") {
            bail!(
                "a process did not heed SIGTERM and was killed:\n{}",
                process::tail(&self.home.path().join("up.log"), 5)
            );
        }
        let left = process::mentioning(&self.data_dir());
        if !left.is_empty() {
            bail!("ballast up ended and left processes behind: {left:?}");
        }
        Ok(())
    }

    /// Checks every pool of a stopped cluster offline, all checksums.
    pub fn inspect_pools(&self) -> Result<()> {
        for pool in 0..self.options.pools {
            let device = self.data_dir().join(format!("pools/pool-{pool}/disk-0.img"));
            let mut command = Command::new(tools::ballast()?);
            command.args(["pool", "inspect", "--verify"]).arg(&device);
            process::run(&mut command, PATIENCE).with_context(|| format!("pool-{pool} is damaged"))?;
        }
        Ok(())
    }

    fn logs(&self) -> String {
        let mut files = vec![self.home.path().join("up.log")];
        if let Ok(entries) = fs::read_dir(self.data_dir().join("log")) {
            files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        }
        files.sort();
        files.iter().map(|file| process::tail(file, 25)).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        leave_evidence(self.logs());
        if self.stop().is_err() || !process::mentioning(&self.data_dir()).is_empty() {
            let _best_effort = self.kill_everything();
        }
    }
}
