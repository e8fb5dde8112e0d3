//! The Linux kernel's own iSCSI initiator without touching the host's kernel: User-Mode Linux.
//!
//! Debian's `user-mode-linux` is a real kernel that runs as a process, with iscsi_tcp, sd, ext4 and xfs. The guest sees
//! the host's file system read-only, with tmpfs over what must be writable, so every tool installed here is there too.
//! It talks through a tap device inside a network namespace that only this test uses; the target runs in the same one.
//!
//! ```text
//!   namespace ballast-test-PID       guest
//!   target 10.99.0.1:3260 <- tap0 <-> vec0 10.99.0.2: open-iscsi, sd, ext4/xfs, fio
//! ```

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{self, PATIENCE};
use crate::runner::leave_evidence;
use crate::scratch;
use crate::tools;

/// Where the kernel's modules lie in Debian's package.
const MODULES: &str = "/usr/lib/uml/modules";

/// Where a target listens that a guest shall reach.
pub fn portal() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 99, 0, 1), 3260))
}

/// Why no guest can be run here, if none can.
pub fn lacking() -> Option<String> {
    let programs =
        ["linux.uml", "iscsid", "iscsiadm", "mkfs.ext4", "mkfs.xfs", "fio", "ip", "ethtool", "modprobe", "busybox"];
    tools::missing(&programs).or_else(tools::not_root).or_else(|| {
        let tap = Path::new("/dev/net/tun").exists();
        (!tap).then(|| "no /dev/net/tun here (the guest's network needs it)".to_owned())
    })
}

/// A network namespace with the host's end of the guest's cable. Removed when dropped.
pub struct Network {
    name: String,
}

impl Network {
    /// Makes it.
    pub fn new() -> Result<Self> {
        let network = Self { name: scratch::network_name() };
        ip(&["netns", "add", &network.name])?;
        network.inside("ip", &["link", "set", "lo", "up"])?;
        network.inside("ip", &["tuntap", "add", "dev", "tap0", "mode", "tap"])?;
        network.inside("ip", &["addr", "add", "10.99.0.1/24", "dev", "tap0"])?;
        network.inside("ip", &["link", "set", "tap0", "up"])?;
        // Offloaded segments reach the guest as frames that it drops: large reads would crawl.
        network.inside("ethtool", &["-K", "tap0", "tso", "off", "gso", "off", "gro", "off"])?;
        Ok(network)
    }

    /// The namespace's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn inside(&self, program: &str, arguments: &[&str]) -> Result<String> {
        ip(&[&["netns", "exec", &self.name, program], arguments].concat())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _best_effort = ip(&["netns", "delete", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Result<String> {
    process::run(Command::new("ip").args(arguments), PATIENCE)
}

/// A running guest. Killed when dropped.
pub struct Guest {
    child: Child,
    console: Receiver<String>,
    seen: Vec<String>,
    directory: PathBuf,
}

impl Guest {
    /// Boots a guest that runs `script` (sh, as root) and powers off. `directory` must exist and be the guest's alone.
    pub fn boot(network: &Network, script: &str, directory: &Path) -> Result<Self> {
        let init = directory.join("init");
        fs::write(directory.join("script"), script)?;
        fs::write(&init, init_script(directory))?;
        process::run(Command::new("chmod").arg("+x").arg(&init), PATIENCE)?;
        let mut command = process::bound("ip");
        command.args([
            "netns",
            "exec",
            network.name(),
            "linux.uml",
            "mem=512M",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
        ]);
        command.arg(format!("init={}", init.display()));
        // Its pid file and control socket would else stay below the home directory.
        command.arg(format!("uml_dir={}/", directory.display()));
        command.args(["vec0:transport=tap,ifname=tap0,depth=128,gro=1", "panic=-1", "quiet"]);
        command.args(["con=null", "con0=null,fd:1", "con1=null,fd:1"]);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("cannot start linux.uml")?;
        let stdout = child.stdout.take().context("no console")?;
        let (sender, console) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, console, seen: Vec::new(), directory: directory.to_owned() })
    }

    /// Waits for a console line that starts with `start`, and returns the rest of it.
    pub fn wait_line(&mut self, start: &str, limit: Duration) -> Result<String> {
        let begun = Instant::now();
        loop {
            match self.console.recv_timeout(limit.saturating_sub(begun.elapsed())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if let Some(rest) = line.strip_prefix(start) {
                        return Ok(rest.to_owned());
                    }
                    if line.starts_with("GUEST-FAILED") {
                        bail!("{line}\n{}", self.console_tail());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the guest did not say {start:?} within {} s\n{}", limit.as_secs(), self.console_tail())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the guest ended before {start:?}\n{}", self.console_tail())
                }
            }
        }
    }

    /// Has the guest printed a line with this start? Does not wait.
    pub fn has_said(&mut self, start: &str) -> bool {
        self.seen.extend(self.console.try_iter());
        self.seen.iter().any(|line| line.starts_with(start) || line.starts_with("GUEST-FAILED"))
    }

    /// Waits until the script has ended well and the guest has powered off.
    pub fn finish(mut self, limit: Duration) -> Result<()> {
        if !self.has_said("GUEST-END ") {
            self.wait_line("GUEST-END ", limit)?;
        }
        if !self.seen.iter().any(|line| line == "GUEST-END 0") {
            bail!("the guest's script failed\n{}", self.console_tail());
        }
        let mut ended = false;
        process::wait_until(PATIENCE, || {
            ended = matches!(self.child.try_wait(), Ok(Some(_)));
            ended
        });
        if !ended {
            bail!("the guest did not power off");
        }
        Ok(())
    }

    fn console_tail(&self) -> String {
        self.seen[self.seen.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        leave_evidence(format!("---- the guest's console ----\n{}", self.console_tail()));
        let _gone_is_fine = self.child.kill();
        let _reaped = self.child.wait();
        // The guest's processes are processes here too, with the kernel's command line.
        for pid in process::mentioning(&self.directory) {
            process::signal(pid, process::Signal::KILL);
        }
    }
}

/// The guest's first process: makes the read-only tree usable, runs the script, powers off.
fn init_script(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"#!/bin/sh
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run; mkdir -p /run/lock /run/iscsi /run/modules/lib /run/mnt
cp {directory}/script /run/script
mount -t tmpfs etc-iscsi /etc/iscsi; mount -t tmpfs var-lib /var/lib; mkdir -p /var/lib/iscsi
echo InitiatorName=iqn.2016-09.io.ballast.tests:guest > /etc/iscsi/initiatorname.iscsi
ln -s {MODULES} /run/modules/lib/modules
printf '#!/bin/sh\nexec modprobe -d /run/modules "$@"\n' > /run/modprobe; chmod +x /run/modprobe
echo /run/modprobe > /proc/sys/kernel/modprobe
ip link set lo up; ip link set vec0 up; ip addr add 10.99.0.2/24 dev vec0
echo "GUEST-UP $(uname -r)"
sh /run/script; echo "GUEST-END $?"
busybox poweroff -f
"#
    )
}
