//! A volume through ready-made initiators: it is listed, it opens, and a file system written to it reads back the same,
//! whatever process has died in between.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Result, ensure};
use ballast_tests::cluster::{Cluster, Options, iqn};
use ballast_tests::initiator;
use ballast_tests::process::{self, PATIENCE};
use ballast_tests::random::Random;
use ballast_tests::runner::{self, Outcome, TestResult};
use ballast_tests::{skip_if, tools};

const MIB: u64 = 1 << 20;

fn main() -> ExitCode {
    runner::main(&[
        ("initiators_see_the_volume", initiators_see_the_volume),
        ("a_file_system_survives_every_death", a_file_system_survives_every_death),
    ])
}

fn lacking() -> Option<String> {
    let no_qemu =
        || tools::qemu_img().is_none().then(|| "no qemu-img that knows iSCSI (scripts/install-tools.sh)".to_owned());
    tools::missing(&["iscsi-ls", "mkfs.ext4"]).or_else(no_qemu)
}

fn initiators_see_the_volume() -> TestResult {
    skip_if!(lacking());
    let mut cluster = Cluster::start(Options::with_volumes(&[("one", "64Mi"), ("two", "96Mi")]))?;
    let listing = initiator::list(cluster.portal())?;
    for volume in ["one", "two"] {
        ensure!(listing.contains(&iqn(volume)), "iscsi-ls does not list {volume}:\n{listing}");
    }
    ensure!(initiator::capacity(&cluster.url("one"))? == 64 * MIB, "qemu-img sees another capacity of one");
    ensure!(initiator::capacity(&cluster.url("two"))? == 96 * MIB, "qemu-img sees another capacity of two");
    cluster.stop()?;
    Ok(Outcome::Passed)
}

/// An ext4 image of `size` bytes with seeded files in it.
fn file_system_image(directory: &Path, size: u64) -> Result<PathBuf> {
    let tree = directory.join("tree");
    let mut random = Random::new(7);
    for folder in 0..4 {
        let folder = tree.join(format!("folder-{folder}"));
        fs::create_dir_all(&folder)?;
        for file in 0..8 {
            let length = random.below(2 * MIB) as usize;
            fs::write(folder.join(format!("file-{file}")), random.bytes(length))?;
        }
    }
    let image = directory.join("files.img");
    fs::File::create(&image)?.set_len(size)?;
    let mkfs = tools::find("mkfs.ext4").unwrap_or_default();
    process::run(Command::new(mkfs).args(["-q", "-F", "-d"]).arg(&tree).arg(&image), PATIENCE)?;
    Ok(image)
}

fn a_file_system_survives_every_death() -> TestResult {
    skip_if!(lacking());
    let mut cluster = Cluster::start(Options::with_volumes(&[("files", "96Mi")]))?;
    let scratch = cluster.scratch().to_owned();
    let url = cluster.url("files");
    let image = file_system_image(&scratch, 96 * MIB)?;
    initiator::write_file(&image, &url)?;
    initiator::expect_same(&image, &url, &scratch)?;

    for pool in cluster.status()?.pool_names() {
        let pid = cluster.kill(&pool)?;
        initiator::expect_same(&image, &url, &scratch)?;
        cluster.wait_replaced(&pool, pid)?;
        initiator::expect_same(&image, &url, &scratch)?;
    }
    let pid = cluster.kill("target")?;
    cluster.wait_replaced("target", pid)?;
    initiator::expect_same(&image, &url, &scratch)?;

    cluster.kill_everything()?;
    cluster.up()?;
    initiator::expect_same(&image, &url, &scratch)?;
    cluster.stop()?;
    cluster.inspect_pools()?;
    Ok(Outcome::Passed)
}
