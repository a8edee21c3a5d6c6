//! QEMU, which boots other kernels for `cargo xtask vm`: the machine's own, or else Debian's packages, unpacked below
//! `target/tools` and not installed. Installing them could break another QEMU on the machine, and would need root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{Machine, apt, say};
use crate::{exec, pins, workspace};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

fn unpacked() -> PathBuf {
    workspace::tools().join("qemu")
}

/// Ensures that QEMU is available.
pub(super) fn ensure(machine: &mut Machine) -> Result<()> {
    if exec::find(PROGRAM).is_some() || unpacked().exists() {
        return Ok(());
    }
    if !apt::here() {
        let line = format!("`{PROGRAM}` ({PACKAGE} on Debian): `cargo xtask vm` boots other kernels in it");
        machine.by_hand.push(line);
        return Ok(());
    }
    say(&format!("{PACKAGE}: unpacked into target/tools, not installed"));
    unpack().with_context(|| format!("cannot unpack {PACKAGE}"))
}

/// Fetches the package and its dependencies that are not installed, and unpacks them. A QEMU that does not start is removed
/// again.
fn unpack() -> Result<()> {
    if exec::is_root() {
        apt::update()?;
    }
    let root = unpacked();
    apt::fetch(&apt::would_install(PACKAGE)?, &root)?;
    let starts = exec::quiet(at(&root).arg("--version"), pins::PATIENCE);
    if starts.is_err() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove `{}`", root.display()))?;
    }
    exec::advised(starts, &format!("install {PACKAGE} by hand"))
}

/// A command that starts QEMU.
pub(crate) fn command() -> Result<Command> {
    if exec::find(PROGRAM).is_some() {
        return Ok(Command::new(PROGRAM));
    }
    let root = unpacked();
    if !root.exists() {
        bail!("`{PROGRAM}` is not there: run `cargo xtask vm` again");
    }
    Ok(at(&root))
}

/// The QEMU that is unpacked at `root`, with its libraries, modules and firmware from there.
fn at(root: &Path) -> Command {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(root.join("usr/bin").join(PROGRAM));
    command.env("QEMU_MODULE_DIR", libraries.join("qemu"));
    let libraries = [libraries, root.join("lib/x86_64-linux-gnu")].map(|folder| folder.display().to_string());
    command.env("LD_LIBRARY_PATH", libraries.join(":"));
    for firmware in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(root.join(firmware));
    }
    command
}
