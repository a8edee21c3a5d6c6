//! `bpf-linker`, which turns the compiler's bitcode into one BPF object with type information.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{Machine, apt, crates, say};
use crate::{exec, pins, workspace};

const WHY: &str = "the kernel program's linker is built against it";

fn path() -> PathBuf {
    crates::path("bpf-linker")
}

/// Whether the linker is installed in the pinned version, and starts.
pub(super) fn ready() -> bool {
    is_pinned(&path())
}

fn is_pinned(linker: &Path) -> bool {
    crates::is_version(linker, "bpf-linker", pins::BPF_LINKER)
}

/// The Debian packages for building the linker, with the reason; none if it is already installed.
pub(super) fn packages() -> Vec<(&'static str, &'static str)> {
    if ready() {
        Vec::new()
    } else {
        pins::LINKER_PACKAGES.map(|package| (package, WHY)).to_vec()
    }
}

pub(super) fn ensure(machine: &mut Machine) -> Result<()> {
    if ready() {
        return Ok(());
    }
    let debian = apt::here();
    if debian {
        let missing: Vec<_> = pins::LINKER_PACKAGES
            .into_iter()
            .filter(|package| !apt::installed(package))
            .collect();
        if !missing.is_empty() {
            bail!(
                "bpf-linker {} cannot be built without {}",
                pins::BPF_LINKER,
                missing.join(", ")
            );
        }
    } else if adopt()? {
        machine.changed = true;
        return Ok(());
    }

    say(&format!(
        "bpf-linker {}: built from crates.io into target/tools, takes a minute or two",
        pins::BPF_LINKER
    ));
    let mut command = crates::install(&[("bpf-linker", pins::BPF_LINKER)]);
    let done = if debian {
        command
            .args(["--no-default-features", "--features"])
            .arg(format!("llvm-{}", pins::LLVM));
        command.env("LLVM_PREFIX", format!("/usr/lib/llvm-{}", pins::LLVM));
        crates::run(&mut command)
    } else {
        exec::advised(
            exec::quiet(&mut command, pins::PATIENCE),
            "without apt it is built with its default features: your distribution has to provide the LLVM that it asks \
             for above, with headers and `llvm-config`, and zlib, zstd and libxml2; a ready-made `bpf-linker` of this \
             version in PATH does as well",
        )
    };
    done?;
    machine.changed = true;
    if !ready() {
        bail!("`{}` was installed and does not start", path().display());
    }
    Ok(())
}

/// Uses the user's own linker if PATH has one of the right version.
fn adopt() -> Result<bool> {
    let Some(found) = exec::find("bpf-linker").filter(|found| is_pinned(found)) else {
        return Ok(false);
    };
    say(&format!("bpf-linker {}: `{}` does", pins::BPF_LINKER, found.display()));
    let (path, folder) = (path(), workspace::tools().join("bin"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    // An error is ignored: the file may not exist.
    drop(fs::remove_file(&path));
    symlink(&found, &path).with_context(|| format!("cannot make the link `{}`", path.display()))?;
    Ok(true)
}
