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
    Density(DensityArgs),
    Reading(ReadingArgs),
    Window(WindowArgs),
}

/// What passes a link that comes before its gate stands: while nothing else happens, while another task floods, and while a
/// reload reads a large prefix list
#[derive(clap::Args)]
struct WindowArgs {
    /// Take a few rounds, whose figures are not to be quoted
    #[arg(long)]
    quick: bool,
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

/// 4,094 branches on a trunk and 2,000 tasks on veth links beside one of each: nanoseconds for a packet, and how long a
/// running taskgate takes to start, reload and end, and in how much memory
#[derive(clap::Args)]
struct DensityArgs {
    /// Take half a minute: fewer tasks and rounds, whose figures are not to be quoted
    #[arg(long)]
    quick: bool,
}

/// How long `taskgate check` takes to read a large account, 2,500 groups and 20,000 interfaces as the AWS CLI prints them,
/// and in how much memory; needs no root
#[derive(clap::Args)]
struct ReadingArgs {
    /// Take a small account, whose figures are not to be quoted
    #[arg(long)]
    quick: bool,
    /// Only write the account into this folder
    #[arg(long, value_name = "FOLDER")]
    write: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !exec::is_root() && !matches!(args.what, What::Reading(_)) {
        bail!("loading the kernel program to measure it needs root: run `cargo xtask bench` as root");
    }
    match &args.what {
        What::Reading(args) => reading(args),
        What::Path(args) => path(args),
        What::Density(args) => by_tests("bench_density", args.quick),
        What::Window(args) => by_tests("bench_window", args.quick),
    }
}

/// Runs a program that starts taskgate.
fn by_tests(program: &str, is_quick: bool) -> Result<ExitCode> {
    let taskgate = build::binary("taskgate", "taskgate")?;
    let binary = build::binary("taskgate-bench", program)?;
    let mut command = Command::new(binary);
    command.env("TASKGATE_BIN", taskgate);
    if is_quick {
        command.arg("--quick");
    }
    let good = exec::status(&mut command)?.success();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn reading(args: &ReadingArgs) -> Result<ExitCode> {
    let taskgate = build::binary("taskgate", "taskgate")?;
    let binary = build::binary("taskgate-bench", "bench_reading")?;
    let mut command = Command::new(binary);
    command.env("TASKGATE_BIN", taskgate);
    if args.quick {
        command.arg("--quick");
    }
    if let Some(folder) = &args.write {
        command.arg("--write").arg(folder);
    }
    let good = exec::status(&mut command)?.success();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn path(args: &PathArgs) -> Result<ExitCode> {
    let binary = build::binary("taskgate-bench", "bench_path")?;
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
