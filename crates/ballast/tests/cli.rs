//! The program as a user meets it when nothing runs: every refusal says what to do next.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn ballast(args: &[&str], data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ballast"));
    command.args(args).env("BALLAST_DATA_DIR", data_dir).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Runs a command that must fail; returns what it said.
fn refused(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the program runs");
    let said = String::from_utf8(stderr).expect("text");
    assert!(!status.success(), "{said}");
    assert!(stdout.is_empty(), "errors go to standard error");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn commands_without_a_running_ballast_say_what_to_start() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["status"][..],
        &["pool", "list", "--output", "json"],
        &["volume", "list"],
        &["volume", "stats"],
        &["volume", "stats", "demo", "--watch", "1", "--output", "json"],
        &["volume", "create", "demo", "1Gi"],
        &["volume", "delete", "demo", "--yes"],
    ] {
        let said = refused(&mut ballast(args, dir.path()));
        assert!(said.contains("ballast up --data-dir") && said.contains(dir.path().to_str().unwrap()), "{said}");
    }
}

#[test]
fn bad_arguments_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let said = refused(&mut ballast(&["volume", "create", "Not_A_Name", "1Gi"], dir.path()));
    assert!(said.contains("RFC 1123"), "{said}");
    let said = refused(&mut ballast(&["volume", "create", "demo", "1Zi"], dir.path()));
    assert!(said.contains("not a unit"), "{said}");
    let said = refused(&mut ballast(&["up", "--volume", "demo"], dir.path()));
    assert!(said.contains("NAME=SIZE"), "{said}");
    let said = refused(&mut ballast(&["status", "--log-level", "a=b=c"], dir.path()));
    assert!(said.contains("log filter"), "{said}");
    let said = refused(&mut ballast(&["volume", "stats", "--watch", "0"], dir.path()));
    assert!(said.contains("1..="), "{said}");
    let said = refused(&mut ballast(&["volume", "stats", "--target", "nowhere"], dir.path()));
    assert!(said.contains("host:port"), "{said}");
    let said = refused(&mut ballast(&["volume", "stats", "--target", "127.0.0.1:1"], dir.path()));
    assert!(said.contains("127.0.0.1:1") && said.contains("cannot be reached"), "{said}");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was made");
}

#[test]
fn up_refuses_a_directory_that_is_too_deep() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("x".repeat(100));
    let said = refused(&mut ballast(&["up"], &deep));
    assert!(said.contains("shorter --data-dir"), "{said}");
    assert!(!deep.exists());
}

#[test]
fn up_refuses_a_directory_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let lock = std::fs::File::create(dir.path().join("lock")).unwrap();
    std::fs::write(dir.path().join("lock"), "4711\n").unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let said = refused(&mut ballast(&["up"], dir.path()));
    assert!(said.contains("in use") && said.contains("4711"), "{said}");
    assert!(!dir.path().join("pools/pool-0").exists());
}

#[test]
fn a_child_whose_supervisor_is_gone_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    // Pid 1 is not the parent of this command.
    let said = refused(ballast(&["status"], dir.path()).env("BALLAST_SUPERVISOR_PID", "1"));
    assert!(said.contains("supervisor (pid 1)"), "{said}");
    let said = refused(ballast(&["status"], dir.path()).env("BALLAST_SUPERVISOR_PID", "x"));
    assert!(said.contains("not a pid"), "{said}");
    let own = std::process::id().to_string();
    let said = refused(ballast(&["status"], dir.path()).env("BALLAST_SUPERVISOR_PID", own));
    assert!(said.contains("no ballast runs"), "{said}");
}

#[test]
fn a_closed_pipe_is_not_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = ballast(&["--help"], dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
}

#[test]
fn the_node_disk_manager_tells_what_it_would_report() {
    let dir = tempfile::tempdir().unwrap();
    let (path, tree) = (|name: &str| dir.path().join(name), dir.path().to_str().unwrap());
    for name in ["sys/class/block", "sys/devices/sdb", "proc/1", "dev", "udev", "sparse"] {
        std::fs::create_dir_all(path(name)).unwrap();
    }
    for (name, text) in [
        ("sys/devices/sdb/dev", "8:16"),
        ("sys/devices/sdb/size", "2097152"),
        ("proc/1/mountinfo", ""),
        ("dev/sdb", "XFSB"),
        ("config", "filterconfigs:\n- {key: path-filter, state: true, exclude: nothing}\n"),
        ("bad", "filterconfigs: 5"),
    ] {
        std::fs::write(path(name), text).unwrap();
    }
    std::os::unix::fs::symlink(path("sys/devices/sdb"), path("sys/class/block/sdb")).unwrap();
    std::fs::File::create(path("sparse/0-ndm-sparse.img")).unwrap().set_len(1 << 30).unwrap();
    let at = |name: &str| format!("{tree}/{name}");
    let roots = ["sys", "proc", "dev", "udev"].map(|name| format!("--{name}={}", at(name)));
    let ndm = |more: &[&str]| {
        let mut command = ballast(&["ndm", "--once", "--node=n1"], dir.path());
        command.args(&roots).arg(format!("--sparse-dir={}", at("sparse"))).args(more);
        command
    };
    let output = ndm(&["--output=json", &format!("--config={}", at("config"))]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let [disk, file] = report["devices"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert_eq!((disk["spec"]["path"].as_str(), disk["offered"].as_bool()), (Some("/dev/sdb"), Some(false)));
    assert_eq!(disk["spec"]["filesystem"]["fsType"], "xfs");
    assert_eq!(
        (file["spec"]["path"].as_str(), file["offered"].as_bool()),
        (Some(&*at("sparse/0-ndm-sparse.img")), Some(true))
    );

    let output = ndm(&[]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("/dev/sdb: not offered: it holds xfs"), "{text}");

    let said = refused(&mut ndm(&[&format!("--config={}", at("bad"))]));
    assert!(said.contains("filterconfigs"), "{said}");
    let said = refused(ballast(&["ndm", "--output=json"], dir.path()).env_remove("KUBECONFIG"));
    assert!(said.contains("--once"), "{said}");
}

/// Starts a pool, waits until it listens, asks it to stop; returns what it logged.
fn serve_for_a_moment(dir: &Path, args: &[&str]) -> String {
    let socket = dir.join("pool.sock");
    let listen = format!("unix:{}", socket.display());
    let mut command = ballast(&["pool", "serve", "--name", "a", "--listen", &listen], dir);
    let child = command.args(args).stderr(Stdio::piped()).spawn().expect("the program runs");
    for _ in 0..1200 {
        if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn a_pool_makes_itself_once_and_starts_without_good_hints() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (device, peers) = (path("disk.img"), path("peers.json"));
    let sized = format!("{device},size=256Mi");
    let create = ["--device", &sized, "--create", "--peers", &peers];
    let said = serve_for_a_moment(dir.path(), &create);
    assert!(said.contains("pool made") && said.contains("no hints"), "{said}");
    std::fs::write(&peers, "{").unwrap();
    let said = serve_for_a_moment(dir.path(), &create);
    assert!(!said.contains("pool made") && said.contains("malformed"), "{said}");
    std::fs::write(&peers, r#"{"peers": []}"#).unwrap();
    let said = serve_for_a_moment(dir.path(), &["--device", &device, "--peers", &peers]);
    assert!(said.contains("starting with hints"), "{said}");

    let other = path("other.img");
    std::fs::write(&other, vec![7; 64 << 20]).unwrap();
    let listen = format!("unix:{}", path("pool.sock"));
    let args = ["pool", "serve", "--name", "a", "--listen", &listen, "--device", &other, "--create"];
    let said = refused(&mut ballast(&args, dir.path()));
    assert!(said.contains("left alone"), "{said}");
}
