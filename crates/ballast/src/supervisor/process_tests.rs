use super::*;

fn shell(dir: &DataDir, script: &str) -> Process {
    let spec = ChildSpec {
        name: "pool-0".to_owned(),
        kind: ProcessKind::Pool,
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
    };
    Process::start(spec, dir.clone())
}

fn temp() -> (tempfile::TempDir, DataDir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = DataDir::new(temp.path()).unwrap();
    dir.create().unwrap();
    (temp, dir)
}

async fn until(process: &Process, what: impl FnMut(&ProcessStatus) -> bool) -> ProcessStatus {
    let mut status = process.status();
    // Far beyond what is needed; a failure to get there must not hang the run.
    let found = tokio::time::timeout(Duration::from_secs(60), status.wait_for(what)).await;
    found.expect("state is reached").unwrap().clone()
}

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

fn alive(pid: u32) -> bool {
    rustix::process::test_kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap()).is_ok()
}

#[tokio::test]
async fn a_killed_child_is_started_again() {
    let (_temp, dir) = temp();
    let process = shell(&dir, "exec sleep 1000");
    let first = until(&process, |s| s.state == ProcessState::Running).await;
    kill(first.pid.unwrap(), Signal::KILL);
    let second = until(&process, |s| s.state == ProcessState::Running && s.starts == 2).await;
    assert_ne!(first.pid, second.pid);
    assert_eq!(second.last_exit.as_deref(), Some("killed by signal 9"));
    process.stop(Duration::from_secs(60)).await;
    assert!(!alive(second.pid.unwrap()));
}

#[tokio::test]
async fn a_child_that_keeps_dying_is_started_again_and_again() {
    let (_temp, dir) = temp();
    let process = shell(&dir, "echo trouble >&2; exit 3");
    let status = until(&process, |s| s.failures >= 3).await;
    assert_eq!(status.last_exit.as_deref(), Some("exited with code 3"));
    assert_eq!(dir.last_log_line("pool-0").as_deref(), Some("trouble"));
    let watched = process.status();
    // Also stops while it waits for the next start.
    process.stop(Duration::from_secs(60)).await;
    assert_eq!(watched.borrow().state, ProcessState::Stopped);
}

#[tokio::test]
async fn a_program_that_is_missing_is_reported() {
    let (_temp, dir) = temp();
    let spec = ChildSpec {
        name: "target".to_owned(),
        kind: ProcessKind::Target,
        program: "/nonexistent/ballast".into(),
        args: Vec::new(),
    };
    let process = Process::start(spec, dir);
    let status = until(&process, |s| s.failures >= 2).await;
    assert!(status.last_exit.unwrap().contains("/nonexistent/ballast"));
    process.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn a_stop_is_polite_first() {
    let (temp, dir) = temp();
    let (ready, done) = (temp.path().join("ready"), temp.path().join("done"));
    let script = format!(
        "trap 'echo bye > {}; exit 0' TERM; : > {}; while :; do sleep 0.05; done",
        done.display(),
        ready.display()
    );
    let process = shell(&dir, &script);
    while !ready.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let watched = process.status();
    process.stop(Duration::from_secs(60)).await;
    assert!(done.exists());
    assert_eq!(watched.borrow().last_exit.as_deref(), Some("exited with code 0"));
}

#[tokio::test]
async fn a_child_that_ignores_the_stop_is_killed() {
    let (temp, dir) = temp();
    let ready = temp.path().join("ready");
    let script = format!("trap '' TERM; : > {}; while :; do sleep 0.05; done", ready.display());
    let process = shell(&dir, &script);
    while !ready.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let watched = process.status();
    process.stop(Duration::from_millis(100)).await;
    assert_eq!(watched.borrow().last_exit.as_deref(), Some("killed by signal 9"));
}
