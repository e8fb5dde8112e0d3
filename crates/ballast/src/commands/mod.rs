//! One module per command.

mod address;
mod causes;
mod check;
mod crds;
#[cfg(test)]
mod fake_server;
mod ndm;
mod operator;
mod pool_create;
mod pool_inspect;
mod pool_serve;
mod provisioner;
mod read;
mod stats;
mod target_serve;
mod uninstall;
mod up;
mod volume;

use std::ffi::OsString;
use std::future::Future;
use std::time::Duration;

use ballast_kubeutil::Stop;
use ballast_kubeutil::lease::{Ended, LeaseOptions, lead};
pub(crate) use check::CheckArgs;
pub(crate) use crds::CrdsArgs;
pub(crate) use uninstall::UninstallArgs;

use crate::cli::{Cli, Command, PoolCommand, RuntimeArgs, TargetCommand, VolumeCommand};
use crate::logging::{self, LogFormat};

/// Runs the command.
pub(crate) fn run(cli: Cli) -> anyhow::Result<()> {
    let default = match &cli.command {
        // openraft tells each step of each vote of each volume.
        Command::Up(_) | Command::Pool(PoolCommand::Serve(_)) | Command::Target(TargetCommand::Serve(_)) => {
            "info,openraft=error"
        }
        Command::Operator(_) | Command::Provisioner(_) => "info",
        Command::Ndm(args) if !args.once => "info",
        _ => "warn",
    };
    logging::start(cli.log_level.as_deref(), cli.log_format, default)?;
    let children = child_args(&cli);
    match cli.command {
        Command::Up(args) => small_runtime(up::run(args, children)),
        Command::Status(args) => small_runtime(read::status(args)),
        Command::Pool(PoolCommand::List(args)) => small_runtime(read::pool_list(args)),
        Command::Pool(PoolCommand::Create(args)) => pool_create::run(&args),
        Command::Pool(PoolCommand::Inspect(args)) => pool_inspect::run(&args),
        Command::Pool(PoolCommand::Serve(args)) => big_runtime(args.runtime, pool_serve::run(args)),
        Command::Volume(VolumeCommand::Create(args)) => small_runtime(volume::create(args)),
        Command::Volume(VolumeCommand::List(args)) => small_runtime(read::volume_list(args)),
        Command::Volume(VolumeCommand::Grow(args)) => small_runtime(volume::grow(args)),
        Command::Volume(VolumeCommand::Stats(args)) => small_runtime(stats::run(args)),
        Command::Volume(VolumeCommand::Delete(args)) => small_runtime(volume::delete(args)),
        Command::Operator(args) => small_runtime(operator::run(args)),
        Command::Provisioner(args) => small_runtime(provisioner::run(args)),
        Command::Target(TargetCommand::Serve(args)) => big_runtime(args.runtime, target_serve::run(args)),
        Command::Crds(args) => small_runtime(crds::run(args)),
        Command::Check(args) => small_runtime(check::run(args)),
        Command::UninstallCheck(args) => small_runtime(uninstall::check(args)),
        Command::UninstallClean(args) => small_runtime(uninstall::clean(args)),
        Command::Ndm(args) => ndm::run(args),
    }
}

/// Works as the one active process of its kind, until it is told to stop.
async fn leading<W>(lease: &LeaseOptions, work: W) -> anyhow::Result<()>
where
    W: AsyncFnOnce(kube::Client, Stop) -> anyhow::Result<()>,
{
    let mut signals = StopSignals::new()?;
    let client = ballast_kubeutil::connect().await?;
    let shutdown = async {
        let signal = signals.next().await;
        tracing::info!(signal, "stopping");
    };
    match lead(client.clone(), lease, shutdown, |stop| work(client, stop)).await {
        Ended::Done(result) => result,
        Ended::NeverLed => Ok(()),
        Ended::Lost => anyhow::bail!("another process may lead now; this one ends and starts anew as a candidate"),
    }
}

/// What was said on the command line about the log and the processor holds for the children too; the environment they
/// inherit.
fn child_args(cli: &Cli) -> Vec<OsString> {
    let level = cli.log_level.iter().flat_map(|level| ["--log-level".into(), level.into()]);
    let format = match cli.log_format {
        LogFormat::Text => None,
        LogFormat::Json => Some(["--log-format".into(), "json".into()]),
    };
    let busy_poll = match &cli.command {
        Command::Up(up) => Some(["--busy-poll".into(), up.busy_poll.microseconds.to_string().into()]),
        _ => None,
    };
    level.chain(format.into_iter().flatten()).chain(busy_poll.into_iter().flatten()).collect()
}

/// For commands and the supervisor: everything on the main thread. The kernel's "parent died" signal to children goes
/// by the thread that started them, so the supervisor must never start one from a thread that may end.
fn small_runtime(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// For the processes that carry data.
fn big_runtime(args: RuntimeArgs, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let threads = args.worker_threads.max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        ballast_rpc::busy_poll::start(Duration::from_micros(args.busy_poll.microseconds));
        work.await
    })
}

/// The signals that ask this process to stop.
struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    /// From now on SIGTERM and SIGINT do not end the process by themselves.
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one; says which.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
