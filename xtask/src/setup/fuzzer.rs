//! `cargo-fuzz`, which only fuzzing needs: it comes when that is asked for first.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};

use super::{compiler, crates, say};
use crate::{exec, pins};

fn path() -> PathBuf {
    crates::path("cargo-fuzz")
}

/// Brings it, and the nightly that it drives, and gives a command that runs it.
pub(super) fn ensure() -> Result<Command> {
    exec::advised(
        compiler::nightly(),
        "fuzzing needs this very compiler: libFuzzer's instrumentation is unstable",
    )?;
    if !ready() {
        say(&format!(
            "cargo-fuzz {}: built from crates.io into target/tools, takes a minute",
            pins::CARGO_FUZZ
        ));
        crates::run(&mut crates::install(&[("cargo-fuzz", pins::CARGO_FUZZ)]))?;
        if !ready() {
            bail!("`{}` was installed and does not start", path().display());
        }
    }
    let mut command = Command::new("rustup");
    command.args(["run", pins::NIGHTLY]).arg(path());
    // cargo sets its own compiler for its children.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "CARGO_TARGET_DIR"] {
        command.env_remove(name);
    }
    Ok(command)
}

fn ready() -> bool {
    crates::is_version(&path(), "cargo-fuzz", pins::CARGO_FUZZ)
}
