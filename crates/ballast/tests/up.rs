//! `ballast up` with its real children: start, use, kill, start again, stop.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

/// Far beyond what is needed, so that only a hang fails.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running `ballast up`; killed when the test ends early, and its children with it.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            _ = self.0.wait();
        }
    }
}

fn ballast(data_dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ballast"));
    command.args(args).env("BALLAST_DATA_DIR", data_dir).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Starts and waits for the address block.
fn up(data_dir: &Path, portal: &str, args: &[&str]) -> Up {
    let mut command = ballast(data_dir, &["up", "--portal", portal, "--pool-size", "1Gi"]);
    let mut child = command.args(args).stdout(Stdio::piped()).spawn().expect("the program runs");
    let stdout = BufReader::new(child.stdout.take().expect("is piped"));
    let up = Up(child);
    let mut said = String::new();
    for line in stdout.lines() {
        let line = line.expect("text");
        said += &format!("{line}\n");
        if line.starts_with("Ctrl-C") {
            assert!(said.contains(portal), "{said}");
            return up;
        }
    }
    panic!("ballast up ended: {said}");
}

fn run(data_dir: &Path, args: &[&str]) -> (bool, String) {
    let Output { status, stdout, stderr } = ballast(data_dir, args).output().expect("the program runs");
    (status.success(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

fn status(data_dir: &Path) -> Value {
    let (good, text) = run(data_dir, &["status", "--output", "json"]);
    assert!(good, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn pids(status: &Value) -> Vec<Pid> {
    let processes = status["processes"].as_array().expect("a list");
    let pid = |process: &Value| Pid::from_raw(i32::try_from(process["pid"].as_i64()?).ok()?);
    processes.iter().filter_map(pid).collect()
}

fn names(status: &Value) -> Vec<&str> {
    status["volumes"].as_array().expect("a list").iter().filter_map(|volume| volume["name"].as_str()).collect()
}

fn wait_healthy(data_dir: &Path) {
    until("all volumes are Healthy", || {
        let status = status(data_dir);
        let volumes = status["volumes"].as_array()?;
        volumes.iter().all(|volume| volume["state"] == "Healthy").then_some(())
    });
}

#[test]
fn a_life_of_ballast_up() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let portal = format!("127.0.0.1:{port}");

    let mut first = up(dir, &portal, &["--volume", "demo=64Mi"]);
    wait_healthy(dir);
    let now = status(dir);
    assert_eq!((pids(&now).len(), names(&now)), (4, vec!["demo"]));
    assert_eq!(now["portal"], portal.as_str());
    assert_eq!(now["volumes"][0]["replicas"].as_array().map(Vec::len), Some(3));
    assert!(now["pools"].as_array().is_some_and(|pools| pools.iter().all(|pool| pool["state"] == "Online")));

    let (good, said) = run(dir, &["up", "--portal", &portal]);
    assert!(!good && said.contains("in use"), "{said}");
    let (good, said) = run(dir, &["volume", "stats"]);
    assert!(good && said == "volume demo, since the target began to serve it: no commands\n", "{said}");
    let (good, said) = run(dir, &["volume", "stats", "demo", "--output", "json"]);
    let stats: Value = serde_json::from_str(&said).expect("JSON");
    assert!(good && stats[0]["kinds"][1]["stages"][4]["stage"] == "total", "{said}");
    let (good, said) = run(dir, &["volume", "stats", "other"]);
    assert!(!good && said.contains("ballast volume list"), "{said}");
    let (good, said) = run(dir, &["volume", "create", "more", "32Mi", "--replicas", "1"]);
    assert!(good && said.contains("cstor:more"), "{said}");
    let (good, said) = run(dir, &["volume", "create", "more", "32Mi"]);
    assert!(!good && said.contains("exists already"), "{said}");
    let (good, said) = run(dir, &["volume", "delete", "more"]);
    assert!(!good && said.contains("--yes"), "{said}");
    wait_healthy(dir);

    // A killed pool and a killed target come back, and the volumes with them.
    for index in [0, 3] {
        let before = pids(&status(dir));
        kill_process(before[index], Signal::KILL).expect("it runs");
        until("the process is back", || {
            let process = status(dir)["processes"][index].clone();
            (process["restarts"] == 1 && process["state"] == "running").then_some(())
        });
    }
    wait_healthy(dir);

    // Without the supervisor nothing goes on running.
    let children = pids(&status(dir));
    first.0.kill().expect("it runs");
    first.0.wait().expect("it ends");
    until("all children are gone", || children.iter().all(|pid| test_kill_process(*pid).is_err()).then_some(()));

    // Everything is found again, also without the registry.
    std::fs::remove_dir_all(dir.join("registry")).expect("the registry is there");
    let mut second = up(dir, &portal, &[]);
    wait_healthy(dir);
    assert_eq!(names(&status(dir)), ["demo", "more"]);
    let (good, said) = run(dir, &["volume", "delete", "more", "--yes"]);
    assert!(good, "{said}");
    assert_eq!(names(&status(dir)), ["demo"]);

    let children = pids(&status(dir));
    kill_process(Pid::from_child(&second.0), Signal::TERM).expect("it runs");
    assert!(second.0.wait().expect("it ends").success());
    assert!(children.iter().all(|pid| test_kill_process(*pid).is_err()), "a child outlived an orderly stop");

    // The pools are whole, and the deleted volume does not come back.
    for pool in 0..3 {
        let image = dir.join(format!("pools/pool-{pool}/disk-0.img"));
        let (good, said) = run(dir, &["pool", "inspect", image.to_str().expect("text"), "--verify"]);
        assert!(good, "{said}");
    }
    let _third = up(dir, &portal, &["--pools", "4"]);
    wait_healthy(dir);
    let now = status(dir);
    assert_eq!((names(&now), pids(&now).len()), (vec!["demo"], 5));
}
