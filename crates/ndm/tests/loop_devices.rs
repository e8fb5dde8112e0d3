//! Real block devices, where root may make them: loop devices over files, and what the kernel says about them.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ballast_ndm::Scanner;
use ballast_ndm::config::Config;
use ballast_ndm::device::Device;
use ballast_ndm::tree::Roots;
use ballast_ndm::uevent::{Heard, Socket};
use ballast_pool::{DeviceConfig, Pool, PoolConfig, PoolError};

fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output =
        Command::new(program).args(args).stdin(Stdio::null()).output().map_err(|e| format!("{program}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(format!("{program}: {}", text(&output.stderr))) }
}

/// A loop device; detached when it goes.
struct Loop(String);

impl Loop {
    fn over(file: &Path) -> Result<Self, String> {
        run("losetup", &["--find", "--show", file.to_str().unwrap()]).map(Self)
    }

    fn name(&self) -> &str {
        self.0.strip_prefix("/dev/").unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = run("losetup", &["--detach", &self.0]);
    }
}

/// A mount; undone when it goes.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run("umount", &[self.0.to_str().unwrap()]);
    }
}

/// One at a time: both listen to what the kernel says about all loop devices.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn roots() -> Roots {
    Roots { sys: "/sys".into(), proc: "/proc".into(), dev: "/dev".into(), udev: "/run/udev".into() }
}

async fn look(path: &str) -> Option<Device> {
    let mut config = Config::default();
    config.paths.exclude.clear();
    // A loop device on the root file system is not on its disk.
    let mut scanner = Scanner::new("node".into(), roots(), config, None, None);
    let (scan, _) = scanner.scan().await.unwrap();
    scan.devices.into_iter().find(|device| device.path == path)
}

#[tokio::test]
async fn a_loop_device_from_blank_to_wiped() {
    let _one = ONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk");
    std::fs::File::create(&file).unwrap().set_len(192 << 20).unwrap();
    let mut socket = match Socket::open() {
        Ok(socket) => socket,
        Err(error) => return println!("SKIPPED: no netlink socket for uevents: {error}"),
    };
    let device = match Loop::over(&file) {
        Ok(device) => device,
        Err(error) => return println!("SKIPPED: no loop devices: {error}"),
    };
    // The kernel tells of it.
    let heard = tokio::time::timeout(Duration::from_secs(20), socket.next()).await;
    assert_eq!(heard.expect("a message about the new device").unwrap(), Heard::Block);

    let found = look(&device.0).await.expect("listed");
    assert_eq!((found.kind, found.size, found.blank), ("loop", 192 << 20, true));
    assert_eq!(found.refusal, None);

    let devices = vec![DeviceConfig { path: device.0.clone().into(), size: None }];
    let pool = Pool::create(&PoolConfig { name: "p".into(), devices, ..PoolConfig::default() }).unwrap();
    let found = look(&device.0).await.unwrap();
    assert_eq!(found.label.map(|label| label.pool), Some(pool));

    // In use by a pool, then free.
    let path = PathBuf::from(&device.0);
    let open = Pool::open(std::slice::from_ref(&path), Default::default()).unwrap();
    assert!(matches!(ballast_pool::wipe(&path), Err(PoolError::Locked { .. })));
    open.close().unwrap();
    ballast_pool::wipe(&path).unwrap();
    assert!(look(&device.0).await.unwrap().blank);

    // A file system, mounted.
    if let Err(error) = run("mkfs.ext4", &["-q", &device.0]) {
        return println!("SKIPPED the rest: {error}");
    }
    let found = look(&device.0).await.unwrap();
    assert_eq!(found.fs_type, "ext4");
    let point = dir.path().join("mnt");
    std::fs::create_dir(&point).unwrap();
    if let Err(error) = run("mount", &[&device.0, point.to_str().unwrap()]) {
        return println!("SKIPPED the rest: {error}");
    }
    let mounted = Mounted(point.clone());
    // The pool's wipe asks the kernel too; a mounted device is not opened exclusively.
    assert!(matches!(ballast_pool::wipe(&path), Err(PoolError::Locked { owner, .. }) if owner.contains("kernel")));
    let own = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let one = std::fs::read_to_string("/proc/1/mountinfo").unwrap();
    if one.contains(point.to_str().unwrap()) || own == one {
        assert_eq!(look(&device.0).await.unwrap().mount_point, point.to_str().unwrap());
    }
    drop(mounted);
    assert!(matches!(ballast_pool::wipe(&path), Err(PoolError::ForeignDevice { .. })));
}

/// More messages than the socket holds: some are lost, and we are told.
#[tokio::test]
async fn a_flood_of_messages_overflows_into_one_more_look() {
    let _one = ONE.lock().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk");
    std::fs::File::create(&file).unwrap().set_len(1 << 20).unwrap();
    let (mut socket, device) = match (Socket::open(), Loop::over(&file)) {
        (Ok(socket), Ok(device)) => (socket, device),
        (Err(error), _) => return println!("SKIPPED: no netlink socket for uevents: {error}"),
        (_, Err(error)) => return println!("SKIPPED: no loop devices: {error}"),
    };
    let trigger = format!("/sys/class/block/{}/uevent", device.name());
    for _ in 0..10_000 {
        if let Err(error) = std::fs::write(&trigger, "change") {
            return println!("SKIPPED: {trigger}: {error}");
        }
    }
    let (mut heard, mut lost) = (0, 0);
    while let Ok(message) = tokio::time::timeout(Duration::from_secs(1), socket.next()).await {
        match message.unwrap() {
            Heard::Block => heard += 1,
            Heard::Lost => lost += 1,
        }
    }
    assert!(lost >= 1, "{heard} messages and no overflow");
    assert!(heard < 10_000);
    // And it still hears.
    std::fs::write(&trigger, "change").unwrap();
    let message = tokio::time::timeout(Duration::from_secs(20), socket.next()).await;
    assert_eq!(message.expect("a message").unwrap(), Heard::Block);
}
