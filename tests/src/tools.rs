//! The programs that tests need: which are missing, and our own C tools, compiled on first use.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;

/// The directory of the build's profile (`target/release`): two above the running test.
fn profile_dir() -> Result<PathBuf> {
    let exe = env::current_exe().context("cannot find the running test's own file")?;
    exe.parent().and_then(Path::parent).map(Path::to_owned).context("the test does not lie in target/PROFILE/deps")
}

/// The directory of everything built (`target`).
fn target_dir() -> Result<PathBuf> {
    Ok(profile_dir()?.parent().context("the test does not lie in target/PROFILE/deps")?.to_owned())
}

/// The `ballast` binary under test: `$BALLAST_BIN`, or the one that was built beside this test.
pub fn ballast() -> Result<PathBuf> {
    let path = match env::var_os("BALLAST_BIN") {
        Some(path) => PathBuf::from(path),
        None => profile_dir()?.join("ballast"),
    };
    if !path.is_file() {
        bail!("there is no {}. Build it with `cargo build --release -p ballast`, or set BALLAST_BIN.", path.display());
    }
    fs::canonicalize(&path).with_context(|| path.display().to_string())
}

/// Where a program is, in PATH or in the directories of the superuser's tools.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    places.into_iter().map(|place| place.join(program)).find(|file| file.is_file())
}

/// Why a test that needs these programs cannot run here, if it cannot.
pub fn missing(programs: &[&str]) -> Option<String> {
    let lacking: Vec<&str> = programs.iter().copied().filter(|program| find(program).is_none()).collect();
    (!lacking.is_empty()).then(|| format!("{} not installed (scripts/install-tools.sh)", lacking.join(", ")))
}

/// Why a test that needs the superuser cannot run here, if it cannot.
pub fn not_root() -> Option<String> {
    (!rustix::process::geteuid().is_root()).then(|| "needs root (network namespaces)".to_owned())
}

/// A `qemu-img` that knows iSCSI: the system's, or the private copy that `scripts/install-tools.sh` unpacks when the
/// system's cannot load its module.
pub fn qemu_img() -> Option<Command> {
    static FOUND: OnceLock<Option<(PathBuf, Option<PathBuf>)>> = OnceLock::new();
    let (program, modules) = FOUND.get_or_init(find_qemu_img).as_ref()?;
    let mut command = process::bound(program);
    if let Some(modules) = modules {
        command.env("QEMU_MODULE_DIR", modules);
    }
    Some(command)
}

fn find_qemu_img() -> Option<(PathBuf, Option<PathBuf>)> {
    let private = target_dir().ok()?.join("tools/qemu/usr");
    let modules =
        fs::read_dir(private.join("lib")).ok().and_then(|mut entries| Some(entries.next()?.ok()?.path().join("qemu")));
    let candidates = [(find("qemu-img"), None), (Some(private.join("bin/qemu-img")).filter(|p| p.is_file()), modules)];
    candidates.into_iter().find_map(|(program, modules)| {
        let program = program?;
        let mut probe = Command::new(&program);
        // Nothing listens on port 1: the answer tells whether the driver was found at all.
        probe.args(["info", "iscsi://127.0.0.1:1/iqn.2016-09.com.openebs.cstor:probe/0"]);
        if let Some(modules) = &modules {
            probe.env("QEMU_MODULE_DIR", modules);
        }
        let output = process::run_any(&mut probe, Duration::from_secs(30)).ok()?;
        (!String::from_utf8_lossy(&output.stderr).contains("Unknown protocol")).then_some((program, modules))
    })
}

/// Why our own C tools cannot be built here, if they cannot.
pub fn missing_for_own() -> Option<String> {
    missing(&["gcc"]).or_else(|| {
        let header = Path::new("/usr/include/iscsi/iscsi.h");
        (!header.exists()).then(|| "libiscsi-dev not installed (scripts/install-tools.sh)".to_owned())
    })
}

/// Compiles `tools/NAME.c` (with tools/initiator.c) when it is newer than what is there, and returns the program.
pub fn own(name: &str) -> Result<PathBuf> {
    let main = format!("{name}.c");
    compile(name, &[&main, "initiator.c"], &["initiator.h"], &["-liscsi"])
}

/// Compiles `tools/NAME.c` into a library for `LD_PRELOAD`, likewise.
pub fn own_library(name: &str) -> Result<PathBuf> {
    compile(&format!("{name}.so"), &[&format!("{name}.c")], &[], &["-shared", "-fPIC"])
}

fn compile(name: &str, sources: &[&str], headers: &[&str], flags: &[&str]) -> Result<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools");
    let out = target_dir()?.join("tools").join(name);
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let newest = sources.iter().chain(headers).filter_map(|file| modified(&directory.join(file))).max();
    if modified(&out).is_some() && modified(&out) > newest {
        return Ok(out);
    }
    fs::create_dir_all(out.parent().context("no parent directory")?)?;
    // Under a name of its own first, so that runs side by side never execute a half-written file.
    let fresh = out.with_file_name(format!("{name}.{}", std::process::id()));
    let mut compiler = Command::new("gcc");
    compiler.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&fresh);
    compiler.args(sources.iter().map(|file| directory.join(file))).args(flags);
    process::run(&mut compiler, process::PATIENCE).with_context(|| format!("cannot compile {name}"))?;
    fs::rename(&fresh, &out)?;
    Ok(out)
}
