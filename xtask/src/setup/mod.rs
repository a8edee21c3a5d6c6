//! `cargo xtask setup`: installs the missing tools for building and testing, and leaves the others alone.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{exec, pins};

pub(crate) mod apt;
mod bpffs;
mod checkers;
mod compiler;
mod crates;
pub(crate) mod emulator;
mod fuzzer;
mod linker;
mod prometheus;

/// Install what building and testing takes; does nothing when all is there
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install system packages without asking first
    #[arg(long, short)]
    yes: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    bring_all(args.yes, &[("the programs of `lint`", checkers::ensure)])
}

/// Prints a line about the next step.
fn say(line: &str) {
    eprintln!("setup: {line}");
}

/// The permission to change the machine, and the steps that are left to the user.
struct Machine {
    /// Whether system packages may be installed without asking.
    consent: bool,
    /// Commands for root, in order.
    for_root: Vec<String>,
    /// Missing tools that no command here can install.
    by_hand: Vec<String>,
    /// Whether anything was changed.
    changed: bool,
    /// Whether this run has updated the package lists.
    lists_updated: bool,
}

impl Machine {
    fn new(consent: bool) -> Self {
        Self {
            consent,
            for_root: Vec::new(),
            by_hand: Vec::new(),
            changed: false,
            lists_updated: false,
        }
    }

    /// Whether system packages may be installed: only by root, after a question if there is a terminal.
    fn may_install(&mut self, packages: &[&str]) -> Result<bool> {
        if !exec::is_root() {
            return Ok(false);
        }
        if self.consent || !io::stdin().is_terminal() {
            return Ok(true);
        }
        eprint!("setup: install the Debian packages {} now? [Y/n] ", packages.join(", "));
        io::stderr().flush().context("cannot write to the terminal")?;
        let mut answer = String::new();
        io::stdin()
            .lock()
            .read_line(&mut answer)
            .context("cannot read the answer")?;
        self.consent = matches!(answer.trim().to_ascii_lowercase().as_str(), "" | "y" | "yes");
        Ok(self.consent)
    }
}

/// Installs one tool if it is missing.
type Step = fn(&mut Machine) -> Result<()>;

/// Installs everything that is missing, with a line for each step. An error if a build is still not possible; missing tools
/// that only running taskgate needs are just listed.
pub(crate) fn ensure(yes: bool) -> Result<()> {
    bring_all(yes, &[])
}

fn bring_all(yes: bool, more: &[(&str, Step)]) -> Result<()> {
    let mut machine = Machine::new(yes);
    let mut failures = Vec::new();
    let steps: [(&str, Step); 5] = [
        ("programs", programs),
        ("the kernel program's linker", linker::ensure),
        ("the kernel program's compiler", compiler::ensure),
        ("the BPF file system", bpffs::ensure),
        ("Prometheus", prometheus::ensure),
    ];
    for (name, step) in steps.iter().chain(more) {
        if let Err(error) = step(&mut machine) {
            failures.push(format!("{name}: {error:#}"));
        }
    }

    for missing in &machine.by_hand {
        say(&format!("missing: {missing}"));
    }
    if !machine.for_root.is_empty() {
        say("root has to do this, and then run `cargo xtask setup` again:");
        for command in &machine.for_root {
            eprintln!("    {command}");
        }
    }
    if !failures.is_empty() {
        bail!("setup is not complete\n  {}", failures.join("\n  "));
    }
    if machine.for_root.is_empty() && machine.by_hand.is_empty() {
        let state = if machine.changed { "done" } else { "nothing to do" };
        say(&format!(
            "{state}, the kernel program is built by {} and bpf-linker {}",
            compiler::chosen()?,
            pins::BPF_LINKER
        ));
    }
    Ok(())
}

/// Installs the tools that only `cargo xtask vm` needs; an error if that is not possible.
pub(crate) fn ensure_guests(yes: bool) -> Result<()> {
    let mut machine = Machine::new(yes);
    bring(&mut machine, &pins::GUEST_PROGRAMS, Vec::new())?;
    emulator::ensure(&mut machine)?;
    let missing: Vec<_> = machine.by_hand.into_iter().chain(machine.for_root).collect();
    if !missing.is_empty() {
        bail!(
            "guests cannot be booted yet; what is missing:\n  {}",
            missing.join("\n  ")
        );
    }
    Ok(())
}

/// Whether a build is possible, as an error in one sentence if not.
pub(crate) fn check() -> Result<()> {
    if !linker::ready() || !compiler::ready() {
        bail!("the tools for the kernel program are not there: run `cargo xtask setup` first");
    }
    Ok(())
}

/// Whether the programs for `lint` are installed, as an error in one sentence if not.
pub(crate) fn check_checkers() -> Result<()> {
    if !checkers::ready() {
        bail!("the programs that lint runs are not there: run `cargo xtask setup` first");
    }
    Ok(())
}

/// The command of a program for `lint`.
pub(crate) fn checker(program: &str) -> Command {
    checkers::command(program)
}

/// `cargo fuzz`, installed if it is missing.
pub(crate) fn fuzzer() -> Result<Command> {
    fuzzer::ensure()
}

/// Whether the kernel program's compiler is the pinned nightly, not Debian's.
pub(crate) fn has_nightly() -> bool {
    compiler::chosen().is_ok_and(|name| name == pins::NIGHTLY)
}

/// Installs prebuilt programs, together with the linker's packages, so that there is one question.
fn programs(machine: &mut Machine) -> Result<()> {
    bring(machine, &pins::PROGRAMS, linker::packages())
}

/// Installs programs by their Debian packages, and `more` packages; without apt it lists them.
fn bring(
    machine: &mut Machine,
    programs: &[(&str, &'static str, &'static str)],
    more: Vec<(&'static str, &'static str)>,
) -> Result<()> {
    let missing = programs.iter().filter(|(program, ..)| exec::find(program).is_none());
    if !apt::here() {
        let line = |(program, package, why): &_| format!("`{program}` ({package} on Debian): {why}");
        machine.by_hand.extend(missing.map(line));
        return Ok(());
    }
    let packages: Vec<_> = missing.map(|&(_, package, why)| (package, why)).chain(more).collect();
    apt::install(machine, &packages)
}
