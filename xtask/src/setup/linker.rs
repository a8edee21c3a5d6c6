//! `bpf-linker`, which turns the compiler's bitcode into one BPF object with type information.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{Machine, apt, say};
use crate::{exec, pins, workspace};

const WHY: &str = "the kernel program's linker is built against it";

fn path() -> PathBuf {
    workspace::tools().join("bin/bpf-linker")
}

/// Whether the linker is there, starts, and is the pinned version.
pub(super) fn ready() -> bool {
    is_pinned(&path())
}

fn is_pinned(linker: &Path) -> bool {
    let expected = format!("bpf-linker {}", pins::BPF_LINKER);
    exec::stdout(Command::new(linker).arg("--version")).is_ok_and(|words| words.trim() == expected)
}

fn llvm_prefix() -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{}", pins::LLVM))
}

/// The Debian packages that building it takes, with the reason; none when it is there.
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
    let own_llvm = llvm_prefix().join("bin/llvm-config").exists();
    if !own_llvm && !apt::here() && adopt()? {
        machine.changed = true;
        return Ok(());
    }
    anyhow::ensure!(
        own_llvm || !apt::here(),
        "bpf-linker {} needs LLVM {} in {} to be built",
        pins::BPF_LINKER,
        pins::LLVM,
        llvm_prefix().display()
    );

    say(&format!(
        "bpf-linker {}: built from crates.io into target/tools, takes a minute or two",
        pins::BPF_LINKER
    ));
    // `--force`, because cargo's own list may name a binary that is gone or does not start.
    let mut command = exec::cargo();
    command.args([
        "install",
        "bpf-linker",
        "--version",
        pins::BPF_LINKER,
        "--locked",
        "--force",
        "--root",
    ]);
    command.arg(workspace::tools());
    let advice = if own_llvm {
        command
            .args(["--no-default-features", "--features"])
            .arg(format!("llvm-{}", pins::LLVM));
        command.env("LLVM_PREFIX", llvm_prefix());
        "check that crates.io can be reached, then run `cargo xtask setup` again"
    } else {
        "without apt it is built with its default features, for which your distribution has to provide LLVM's newest \
         release with headers and `llvm-config`, zlib, zstd and libxml2; a ready-made `bpf-linker` of this version in PATH \
         does as well"
    };
    command.env_remove("CARGO_TARGET_DIR");
    exec::quiet(&mut command, pins::PATIENCE).context(advice)?;
    machine.changed = true;
    anyhow::ensure!(ready(), "`{}` was installed and does not start", path().display());
    Ok(())
}

/// Takes the user's own linker of the right version, if PATH has one.
fn adopt() -> Result<bool> {
    let Some(found) = exec::find("bpf-linker").filter(|found| is_pinned(found)) else {
        return Ok(false);
    };
    say(&format!("bpf-linker {}: `{}` does", pins::BPF_LINKER, found.display()));
    let (path, folder) = (path(), workspace::tools().join("bin"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    // Gone already is as good as removed.
    drop(fs::remove_file(&path));
    symlink(&found, &path).with_context(|| format!("cannot make the link `{}`", path.display()))?;
    Ok(true)
}
