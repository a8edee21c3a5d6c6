//! `cargo-fuzz`, which is installed when fuzzing is first requested.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};

use super::{compiler, crates, say};
use crate::{exec, pins};

fn path() -> PathBuf {
    crates::path("cargo-fuzz")
}

/// Ensures that cargo-fuzz and its nightly toolchain are installed, and returns a command that runs cargo-fuzz.
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
    // cargo passes its own compiler to child processes.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "CARGO_TARGET_DIR"] {
        command.env_remove(name);
    }
    Ok(command)
}

fn ready() -> bool {
    crates::is_version(&path(), "cargo-fuzz", pins::CARGO_FUZZ)
}
