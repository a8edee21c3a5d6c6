//! `cargo xtask lint`: format, clippy, and project rules.

use anyhow::{Result, bail};

use crate::{exec, setup};

mod circles;
mod dependencies;
mod kernel;
mod manifest;
mod source;
mod type_names;

/// Check format, lints and the rules of the house
#[derive(clap::Args)]
pub(crate) struct Args {}

/// One check: its name, its function, and the remedy for its findings.
struct Check {
    name: &'static str,
    find: fn() -> Result<()>,
    fix: &'static str,
}

const CHECKS: [Check; 11] = [
    Check {
        name: "rustfmt",
        find: format,
        fix: "run `cargo fmt --all`, for what it names there with `--manifest-path tests/fuzz/Cargo.toml`",
    },
    Check {
        name: "clippy",
        find: clippy,
        fix: "mend what it names; where it is wrong, `#[expect(clippy::name, reason = \"...\")]` at that place",
    },
    Check {
        name: "kernel program",
        find: kernel::check,
        fix: "as for clippy; this one looks at what is compiled for BPF only",
    },
    Check {
        name: "manifests",
        find: manifest::check,
        fix: "let the member inherit it: `name.workspace = true`, with the value in the root's Cargo.toml",
    },
    Check {
        name: "file length",
        find: source::check,
        fix: "split the file by subject",
    },
    Check {
        name: "circles",
        find: circles::check,
        fix: "move what both need into the file that knows less, or into one of its own",
    },
    Check {
        name: "names of types",
        find: type_names::check,
        fix: "give one of them the name of what it is in its own field",
    },
    Check {
        name: "spelling",
        find: spelling,
        fix: "mend the word; one that is right goes into typos.toml, with the reason",
    },
    Check {
        name: "dependencies",
        find: dependencies::check,
        fix: "take the version or crate that the rest takes; what has to be let through goes into deny.toml, with the reason",
    },
    Check {
        name: "unused dependencies",
        find: dependencies::unused,
        fix: "take them out, or under `[dev-dependencies]`",
    },
    Check {
        name: "advisories",
        find: dependencies::advisories,
        fix: "take a version without the hole; one that does not concern taskgate goes into deny.toml, with the reason",
    },
];

pub(crate) fn run(_: &Args) -> Result<()> {
    // clippy also builds the kernel program.
    setup::check()?;
    setup::check_checkers()?;
    let mut failed = Vec::new();
    for Check { name, find, fix } in &CHECKS {
        eprintln!("lint: {name}");
        if let Err(error) = find() {
            eprintln!("lint: {name}: {error:#}");
            failed.push(format!("{name}: {fix}"));
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
    // The fuzz targets are a separate workspace, which needs a compiler of its own.
    for arguments in [&["--all"][..], &["--manifest-path", "tests/fuzz/Cargo.toml"]] {
        exec::loud(exec::cargo().arg("fmt").args(arguments).args(["--", "--check"]))?;
    }
    Ok(())
}

fn spelling() -> Result<()> {
    exec::loud(setup::checker("typos").args(["--format", "brief"]))
}

fn clippy() -> Result<()> {
    exec::loud(exec::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}
