//! `cargo xtask bench`: the program that measures, built optimised and run as root.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::{build, exec, vm};

/// Measure taskgate on this machine
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Path(PathArgs),
}

/// Nanoseconds for one packet on each path of the kernel program, what it leaves of the traffic over veth pairs, its
/// verified instructions here and on kernels that `cargo xtask vm` left, and the compile time of a rule set; docs/performance.md says how it is measured
#[derive(clap::Args)]
struct PathArgs {
    /// Write what was measured into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Take seconds: few and short rounds, whose figures are not to be quoted
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let What::Path(args) = &args.what;
    if !exec::is_root() {
        bail!("loading the kernel program to measure it needs root: run `cargo xtask bench path` as root");
    }
    let binary = build::binary("taskgate-tests", "bench_path")?;
    let mut command = Command::new(binary);
    if let Some(file) = &args.json {
        command.arg("--json").arg(file);
    }
    if args.quick {
        command.arg("--quick");
    }
    let good = exec::status(&mut command)?.success();
    if good {
        vm::print_verified()?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
