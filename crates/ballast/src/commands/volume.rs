//! `ballast volume create`, `ballast volume grow` and `ballast volume delete`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::bail;

use crate::cli::{VolumeCreateArgs, VolumeDeleteArgs, VolumeGrowArgs};
use crate::datadir::DataDir;
use crate::output::progress;
use crate::protocol::{Request, Response, ask};
use crate::size::ByteSize;

pub(super) async fn create(args: VolumeCreateArgs) -> anyhow::Result<()> {
    let dir = DataDir::new(&args.dir.data_dir)?;
    let replicas = args.replicas.map(usize::try_from).transpose()?;
    let request = Request::CreateVolume { name: args.name.clone(), bytes: args.size.0, replicas };
    match ask(&dir, &request).await? {
        Response::Created { served } => {
            progress(&format!("volume {} created, {}: {}", args.name, args.size, args.name.iqn()));
            if !served {
                progress("the target does not answer right now; it serves the volume as soon as it does");
            }
            Ok(())
        }
        other => bail!("the running ballast gave an answer to another question ({other:?}): use the same ballast"),
    }
}

pub(super) async fn grow(args: VolumeGrowArgs) -> anyhow::Result<()> {
    let dir = DataDir::new(&args.dir.data_dir)?;
    match ask(&dir, &Request::GrowVolume { name: args.name.clone(), bytes: args.size.0 }).await? {
        Response::Grown { served } => {
            progress(&format!("volume {} has {} now", args.name, args.size));
            progress(
                "on its initiator: iscsiadm --mode session --rescan, then grow the file system (resize2fs, xfs_growfs)",
            );
            if !served {
                progress("the target does not answer right now; it tells initiators as soon as it does");
            }
            Ok(())
        }
        other => bail!("the running ballast gave an answer to another question ({other:?}): use the same ballast"),
    }
}

pub(super) async fn delete(args: VolumeDeleteArgs) -> anyhow::Result<()> {
    let dir = DataDir::new(&args.dir.data_dir)?;
    if !args.yes {
        let report = super::read::report(&args.dir).await?;
        let volume = report.volumes.iter().find(|volume| volume.name == args.name.as_str());
        let Some(volume) = volume else { bail!("there is no volume {}: see `ballast volume list`", args.name) };
        if !io::stdin().is_terminal() {
            bail!("deleting volume {} removes all its data: say --yes when nobody can be asked", args.name);
        }
        let sessions = volume.sessions.unwrap_or(0);
        write!(
            io::stderr(),
            "Delete volume {} ({}, {sessions} initiators connected) and all its data? Type its name to confirm: ",
            args.name,
            ByteSize(volume.size_bytes)
        )?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if answer.trim() != args.name.as_str() {
            bail!("not confirmed: nothing was deleted");
        }
    }
    match ask(&dir, &Request::DeleteVolume { name: args.name.clone() }).await? {
        Response::Deleted { complete } => {
            progress(&format!("volume {} deleted", args.name));
            if !complete {
                progress("some of its replicas are in pools that do not answer; they go when the pools come back");
            }
            Ok(())
        }
        other => bail!("the running ballast gave an answer to another question ({other:?}): use the same ballast"),
    }
}
