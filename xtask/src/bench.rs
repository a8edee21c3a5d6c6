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
    Peers(PeersArgs),
    Compare(CompareArgs),
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

/// taskgate beside what a user would take instead: no filter, nftables with linear rules, with sets, with a flowtable, and
/// iptables with ipset, at 1, 100 and 1,000 rules; docs/performance.md says how it is measured
#[derive(clap::Args)]
struct PeersArgs {
    /// Write what was measured into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw it into this file, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Measure nothing, and take what an earlier run wrote with --json; needs no root
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "json"])]
    from: Option<PathBuf>,
    /// Take seconds: few and short rounds, whose figures are not to be quoted
    #[arg(long)]
    quick: bool,
    /// Measure nothing, and print what each filter is given for so many rules, 1 to 1,000; needs no root
    #[arg(long, value_name = "RULES", exclusive = true)]
    show: Option<u16>,
}

/// The medians of two runs, from the files that `path` or `peers` wrote with --json; needs no root
#[derive(clap::Args)]
struct CompareArgs {
    /// The run before
    a: PathBuf,
    /// The run after
    b: PathBuf,
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
    if !exec::is_root() && args.what.needs_root() {
        bail!("loading the kernel program to measure it needs root: run `cargo xtask bench` as root");
    }
    match &args.what {
        What::Path(args) => path(args),
        What::Peers(args) => peers(args),
        What::Compare(CompareArgs { a, b }) => {
            let mut command = program("bench_compare")?;
            command.arg(a).arg(b);
            measured(command)
        }
        What::Density(args) => measured(quick(by_taskgate("bench_density")?, args.quick)),
        What::Reading(args) => {
            let command = quick(by_taskgate("bench_reading")?, args.quick);
            measured(file(command, "--write", args.write.as_ref()))
        }
        What::Window(args) => measured(quick(by_taskgate("bench_window")?, args.quick)),
    }
}

impl What {
    fn needs_root(&self) -> bool {
        match self {
            Self::Reading(_) | Self::Compare(_) => false,
            Self::Peers(args) => args.from.is_none() && args.show.is_none(),
            Self::Path(_) | Self::Density(_) | Self::Window(_) => true,
        }
    }
}

/// A program of the benchmarks, built.
fn program(name: &str) -> Result<Command> {
    Ok(Command::new(build::binary("taskgate-bench", name)?))
}

/// One that starts taskgate.
fn by_taskgate(name: &str) -> Result<Command> {
    let taskgate = build::binary("taskgate", "taskgate")?;
    let mut command = program(name)?;
    command.env("TASKGATE_BIN", taskgate);
    Ok(command)
}

/// Tells it to be quick.
fn quick(mut command: Command, is_quick: bool) -> Command {
    if is_quick {
        command.arg("--quick");
    }
    command
}

/// Gives it a file, if there is one.
fn file(mut command: Command, option: &str, file: Option<&PathBuf>) -> Command {
    if let Some(file) = file {
        command.arg(option).arg(file);
    }
    command
}

fn measured(mut command: Command) -> Result<ExitCode> {
    let good = exec::status(&mut command)?.success();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn peers(args: &PeersArgs) -> Result<ExitCode> {
    let command = if args.from.is_some() || args.show.is_some() {
        program("bench_peers")?
    } else {
        by_taskgate("bench_peers")?
    };
    let mut command = quick(command, args.quick);
    for (option, path) in [("--json", &args.json), ("--plot", &args.plot), ("--from", &args.from)] {
        command = file(command, option, path.as_ref());
    }
    if let Some(rules) = args.show {
        command.arg("--show").arg(rules.to_string());
    }
    measured(command)
}

fn path(args: &PathArgs) -> Result<ExitCode> {
    let command = quick(program("bench_path")?, args.quick);
    let done = measured(file(command, "--json", args.json.as_ref()))?;
    if done == ExitCode::SUCCESS {
        vm::print_verified()?;
    }
    Ok(done)
}
