//! The one binary of Ballast.
//!
//! `ballast up` supervises processes of this same program: `ballast pool serve` for each pool and
//! `ballast target serve`. The other commands talk to the running `ballast up` through a socket in its data directory.

mod cli;
mod cluster;
mod commands;
mod datadir;
mod hints;
mod logging;
mod memory;
mod names;
mod output;
mod parent;
mod protocol;
mod report;
mod rpc;
mod size;
mod stats;
mod supervisor;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let run = || -> anyhow::Result<()> {
        // Before anything that takes time: a supervisor that dies meanwhile would not be noticed.
        parent::die_with_supervisor()?;
        commands::run(cli::Cli::parse())
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Each error carries its cause in its own text. A closed standard error leaves only the exit code.
            let _ = writeln!(std::io::stderr(), "ballast: {error}");
            ExitCode::FAILURE
        }
    }
}
