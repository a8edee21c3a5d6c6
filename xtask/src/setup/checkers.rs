//! The programs that `cargo xtask lint` runs and cargo does not bring.

use std::process::Command;

use anyhow::{Result, bail};

use super::{Machine, crates, say};
use crate::{pins, workspace};

/// One of them, to be run in the workspace's root.
pub(super) fn command(program: &str) -> Command {
    let pin = pins::CHECKERS.into_iter().find(|(.., name)| *name == program);
    let path = pin.and_then(|(krate, version, _)| crates::installed(program, krate, version));
    // [`ready`] said before that it is there.
    let mut command = Command::new(path.unwrap_or_else(|| crates::path(program)));
    command.current_dir(workspace::root());
    command
}

/// Whether all are there, start, and are the pinned versions.
pub(super) fn ready() -> bool {
    missing().is_empty()
}

/// The crates that bring those that are not there.
fn missing() -> Vec<(&'static str, &'static str)> {
    pins::CHECKERS
        .into_iter()
        .filter(|(krate, version, program)| crates::installed(program, krate, version).is_none())
        .map(|(krate, version, _)| (krate, version))
        .collect()
}

pub(super) fn ensure(machine: &mut Machine) -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing
        .iter()
        .map(|(krate, version)| format!("{krate} {version}"))
        .collect();
    say(&format!(
        "{}: built from crates.io into target/tools for `cargo xtask lint`, takes two minutes or three",
        names.join(", ")
    ));
    let mut command = crates::install(&missing);
    // They are short of work, not of speed: unoptimised they are there in half the time, and without what debuggers read in
    // a tenth of the space.
    command
        .arg("--debug")
        .args(["--target-dir"])
        .arg(workspace::tools().join("build"));
    command.envs([("CARGO_PROFILE_DEV_DEBUG", "0"), ("CARGO_PROFILE_DEV_STRIP", "symbols")]);
    let built = crates::run(&mut command);
    // The intermediate files are of no further use.
    let swept = workspace::remove(&workspace::tools().join("build"));
    built.and(swept)?;
    machine.changed = true;
    if !ready() {
        bail!("{} were installed and one of them does not start", names.join(", "));
    }
    Ok(())
}
