//! `ballast status`, `ballast pool list`, `ballast volume list`: three views of one answer.

use anyhow::bail;

use crate::cli::{DataDirArg, ReadArgs};
use crate::datadir::DataDir;
use crate::output::{show, table};
use crate::protocol::{Request, Response, ask};
use crate::report::StatusReport;

/// Asks the running ballast for its status.
pub(super) async fn report(dir: &DataDirArg) -> anyhow::Result<StatusReport> {
    match ask(&DataDir::new(&dir.data_dir)?, &Request::Status).await? {
        Response::Status(report) => Ok(*report),
        other => bail!("the running ballast gave an answer to another question ({other:?}): use the same ballast"),
    }
}

pub(super) async fn status(args: ReadArgs) -> anyhow::Result<()> {
    show(&report(&args.dir).await?, args.output, table::status)
}

pub(super) async fn pool_list(args: ReadArgs) -> anyhow::Result<()> {
    show(&report(&args.dir).await?.pools, args.output, |pools| table::pools(pools))
}

pub(super) async fn volume_list(args: ReadArgs) -> anyhow::Result<()> {
    show(&report(&args.dir).await?.volumes, args.output, |volumes| table::volumes(volumes))
}
