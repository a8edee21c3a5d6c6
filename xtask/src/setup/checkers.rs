//! The programs for `cargo xtask lint` that are not part of cargo.

use std::process::Command;

use anyhow::{Result, bail};

use super::{Machine, crates, say};
use crate::{pins, workspace};

/// The command of a checker, in the workspace's root.
pub(super) fn command(program: &str) -> Command {
    let pin = pins::CHECKERS.into_iter().find(|(.., name)| *name == program);
    let path = pin.and_then(|(krate, version, _)| crates::installed(program, krate, version));
    // [`ready`] has already checked that it is installed.
    let mut command = Command::new(path.unwrap_or_else(|| crates::path(program)));
    command.current_dir(workspace::root());
    command
}

/// Whether all checkers are installed in the pinned versions, and start.
pub(super) fn ready() -> bool {
    missing().is_empty()
}

/// The crates of the missing checkers.
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
    // The checkers run briefly, so optimisation does not pay: unoptimised they build in half the time, and without debug
    // information in a tenth of the space.
    command
        .arg("--debug")
        .args(["--target-dir"])
        .arg(workspace::tools().join("build"));
    command.envs([("CARGO_PROFILE_DEV_DEBUG", "0"), ("CARGO_PROFILE_DEV_STRIP", "symbols")]);
    let built = crates::run(&mut command);
    // The intermediate files are no longer needed.
    let swept = workspace::remove(&workspace::tools().join("build"));
    built.and(swept)?;
    machine.changed = true;
    if !ready() {
        bail!("{} were installed and one of them does not start", names.join(", "));
    }
    Ok(())
}
