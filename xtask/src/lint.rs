//! `cargo xtask lint`: format, clippy, and the rules of the house that a program can check.

use anyhow::{Result, bail};

use crate::{exec, setup};

mod manifest;
mod source;

/// Check format, lints and the rules of the house
#[derive(clap::Args)]
pub(crate) struct Args {}

/// One check: its name, what it does, and how to mend what it finds.
struct Check {
    name: &'static str,
    find: fn() -> Result<()>,
    mend: &'static str,
}

const CHECKS: [Check; 5] = [
    Check {
        name: "rustfmt",
        find: format,
        mend: "run `cargo fmt --all`",
    },
    Check {
        name: "clippy",
        find: clippy,
        mend: "mend what it names; where it is wrong, `#[expect(clippy::name, reason = \"...\")]` at that place",
    },
    Check {
        name: "kernel program",
        find: kernel_program,
        mend: "mend what the compiler warns of; it is compiled for BPF only, where clippy does not look",
    },
    Check {
        name: "manifests",
        find: manifest::check,
        mend: "let the member inherit it: `name.workspace = true`, with the value in the root's Cargo.toml",
    },
    Check {
        name: "file length",
        find: source::check,
        mend: "split the file by subject",
    },
];

pub(crate) fn run(_: &Args) -> Result<()> {
    // clippy builds the kernel program too.
    setup::check()?;
    let mut failed = Vec::new();
    for Check { name, find, mend } in &CHECKS {
        eprintln!("lint: {name}");
        if let Err(error) = find() {
            eprintln!("lint: {name}: {error:#}");
            failed.push(format!("{name}: {mend}"));
        }
    }
    if !failed.is_empty() {
        bail!(
            "{} of {} checks failed\n  {}",
            failed.len(),
            CHECKS.len(),
            failed.join("\n  ")
        );
    }
    Ok(())
}

fn format() -> Result<()> {
    exec::loud(exec::cargo().args(["fmt", "--all", "--", "--check"]))
}

const CLIPPY: [&str; 6] = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];

fn clippy() -> Result<()> {
    exec::loud(exec::cargo().args(CLIPPY))
}

/// The warnings of the kernel program's compiler reach cargo as those of the build script, which no lint level touches.
/// cargo repeats them when there is nothing to do.
fn kernel_program() -> Result<()> {
    let output = exec::cargo().args(CLIPPY).output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    let warnings: Vec<_> = words
        .lines()
        .filter(|line| line.starts_with("warning: taskgate@"))
        .collect();
    if !warnings.is_empty() {
        bail!("it compiles with warnings\n{}", warnings.join("\n"));
    }
    Ok(())
}
