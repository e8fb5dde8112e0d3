//! Debian's tgt as a foreign target: what the tools find there is not our own bug.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::cluster::own_portal;
use crate::process::{self, PATIENCE};
use crate::scratch;

const IQN: &str = "iqn.2026-01.io.ballast.tests:tgt";

/// A tgtd with one unit (LUN 1) on a sparse file. Killed and removed when dropped.
pub struct Tgt {
    home: TempDir,
    portal: SocketAddr,
    network: Option<String>,
    daemon: Option<Child>,
}

impl Tgt {
    /// Makes the file and starts the daemon, inside the network namespace if one is given.
    pub fn start(size: u64, portal: Option<SocketAddr>, network: Option<&str>) -> Result<Self> {
        let home = scratch::directory()?;
        let portal = portal.unwrap_or_else(own_portal);
        let mut tgt = Self { home, portal, network: network.map(str::to_owned), daemon: None };
        File::create(tgt.file())?.set_len(size)?;
        tgt.up()?;
        Ok(tgt)
    }

    /// The file behind the unit.
    pub fn file(&self) -> PathBuf {
        self.home.path().join("unit.img")
    }

    /// A place for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.home.path()
    }

    /// The unit's URL.
    pub fn url(&self) -> String {
        format!("iscsi://{}/{IQN}/1", self.portal)
    }

    /// The target's name.
    pub fn iqn(&self) -> &'static str {
        IQN
    }

    /// The control port is a socket in /var/run that other daemons must not share; a pid is ours alone.
    fn control(&self) -> String {
        // tgtd makes a 16-bit number of it; the port tells several of one process apart.
        (1024 + (std::process::id() * 7 + u32::from(self.portal.port())) % 30000).to_string()
    }

    fn admin(&self, arguments: &[&str]) -> Result<String> {
        process::run(Command::new("tgtadm").args(["-C", &self.control(), "--lld", "iscsi"]).args(arguments), PATIENCE)
    }

    /// Starts the daemon (again).
    pub fn up(&mut self) -> Result<()> {
        let mut command = match &self.network {
            Some(network) => {
                let mut command = process::bound("ip");
                command.args(["netns", "exec", network, "tgtd"]);
                command
            }
            None => process::bound("tgtd"),
        };
        command.args(["-f", "-C", &self.control(), "--iscsi", &format!("portal={}", self.portal)]);
        let log = File::create(self.home.path().join("tgtd.log"))?;
        self.daemon = Some(command.stdout(log.try_clone()?).stderr(log).spawn()?);
        if !process::wait_until(PATIENCE, || self.admin(&["--mode", "target", "--op", "show"]).is_ok()) {
            bail!("tgtd does not answer\n{}", process::tail(&self.home.path().join("tgtd.log"), 20));
        }
        let file = self.file().to_string_lossy().into_owned();
        let unit = ["--mode", "logicalunit", "--tid", "1", "--lun", "1"];
        self.admin(&["--mode", "target", "--op", "new", "--tid", "1", "--targetname", IQN])?;
        self.admin(&[&unit[..], &["--op", "new", "--backing-store", &file]].concat())?;
        self.admin(&[&unit[..], &["--op", "update", "--params", "thin_provisioning=1"]].concat())?;
        self.admin(&["--mode", "target", "--op", "bind", "--tid", "1", "--initiator-address", "ALL"])?;
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill()?;
            daemon.wait()?;
        }
        // A killed daemon leaves its control socket behind.
        let socket = format!("/var/run/tgtd/socket.{}", self.control());
        for path in [format!("{socket}.lock"), socket] {
            let _may_not_exist = std::fs::remove_file(path);
        }
        Ok(())
    }
}

impl Drop for Tgt {
    fn drop(&mut self) {
        let _best_effort = self.kill();
    }
}
