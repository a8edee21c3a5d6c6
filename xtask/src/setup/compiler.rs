//! A compiler with a `core` for BPF: the pinned nightly with its library's sources, or else Debian's compiler for the web
//! with a prebuilt `core`.
//!
//! The choice is stored in `target/tools/bpf-toolchain`, for `userspace/bpf/build.rs`: a toolchain's name, or a folder with
//! `bin/rustc` and `bin/cargo`.

use std::{env, fs, os::unix::fs::symlink, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::{Machine, apt, say};
use crate::{exec, pins, workspace};

const WHY: &str = "it compiles the kernel program where rustup cannot";

fn choice_file() -> std::path::PathBuf {
    workspace::tools().join("bpf-toolchain")
}

fn debian_folder() -> std::path::PathBuf {
    workspace::tools().join("debian-rust")
}

/// The choice of the last setup, as text.
pub(super) fn chosen() -> Result<String> {
    let file = choice_file();
    let choice = fs::read_to_string(&file).with_context(|| format!("cannot read `{}`", file.display()))?;
    Ok(if choice.contains('/') {
        "Debian's rustc-web".to_owned()
    } else {
        choice.trim().to_owned()
    })
}

/// Whether there is a choice that this version of setup would make, and that still works.
pub(super) fn ready() -> bool {
    let Ok(choice) = fs::read_to_string(choice_file()) else {
        return false;
    };
    match choice.trim() {
        pins::NIGHTLY => nightly_works().is_ok(),
        folder => Path::new(folder) == debian_folder() && debian_works().is_ok(),
    }
}

pub(super) fn ensure(machine: &mut Machine) -> Result<()> {
    if ready() {
        return Ok(());
    }
    machine.changed = true;
    let Err(refused) = nightly() else {
        return choose(pins::NIGHTLY);
    };
    if !apt::here() {
        let advice = "install rustup (https://rustup.rs), then run `cargo xtask setup` again where its server answers";
        return exec::advised(Err(refused), advice);
    }
    say(&format!(
        "{} cannot be had, Debian's rustc-web instead: {refused:#}",
        pins::NIGHTLY
    ));
    debian(machine)?;
    choose(&debian_folder().to_string_lossy())
}

fn choose(toolchain: &str) -> Result<()> {
    let file = choice_file();
    fs::create_dir_all(workspace::tools())
        .and_then(|()| fs::write(&file, format!("{toolchain}\n")))
        .with_context(|| format!("cannot write `{}`", file.display()))
}

/// Installs the pinned nightly.
pub(super) fn nightly() -> Result<()> {
    if nightly_works().is_ok() {
        return Ok(());
    }
    if exec::find("rustup").is_none() {
        bail!("`rustup` is not in PATH");
    }
    say(&format!(
        "{} with rust-src: the kernel program is compiled by it",
        pins::NIGHTLY
    ));
    let mut command = Command::new("rustup");
    command.args([
        "toolchain",
        "install",
        pins::NIGHTLY,
        "--profile",
        "minimal",
        "--component",
        "rust-src",
    ]);
    exec::quiet(
        command.arg("--no-self-update").env_remove("RUST_BACKTRACE"),
        pins::PATIENCE,
    )?;
    nightly_works()
}

fn nightly_works() -> Result<()> {
    let mut command = Command::new("rustup");
    let sysroot = exec::stdout(command.args(["run", pins::NIGHTLY, "rustc", "--print", "sysroot"]))?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !core.exists() {
        bail!("{} has no rust-src", pins::NIGHTLY);
    }
    Ok(())
}

fn debian(machine: &mut Machine) -> Result<()> {
    apt::install(machine, &pins::COMPILER_PACKAGES.map(|package| (package, WHY)))?;
    // The package has no cargo: the cargo of this workspace runs Debian's compiler.
    let bin = debian_folder().join("bin");
    let cargo = env::var_os("CARGO").context("`CARGO` is not set: start this by `cargo xtask`")?;
    fs::create_dir_all(&bin).with_context(|| format!("cannot make `{}`", bin.display()))?;
    for (name, target) in [("rustc", Path::new("/usr/bin/rustc")), ("cargo", Path::new(&cargo))] {
        let link = bin.join(name);
        // An error is ignored: the link may not exist.
        drop(fs::remove_file(&link));
        symlink(target, &link).with_context(|| format!("cannot make the link `{}`", link.display()))?;
    }
    debian_works()
}

fn debian_works() -> Result<()> {
    let bin = debian_folder().join("bin");
    exec::stdout(Command::new(bin.join("cargo")).arg("--version"))?;
    let version = exec::stdout(Command::new(bin.join("rustc")).arg("-vV"))?;
    let llvm = format!("LLVM version: {}.", pins::LLVM);
    if !version.contains(&llvm) {
        bail!(
            "the compiler /usr/bin/rustc is not built on LLVM {}: `rustc-web` is not what it comes from",
            pins::LLVM
        );
    }
    let target = if cfg!(target_endian = "big") {
        "bpfeb-unknown-none"
    } else {
        "bpfel-unknown-none"
    };
    let core = Path::new("/usr/lib/rustlib").join(target);
    if !core.exists() {
        bail!("there is no `{}`: `libstd-rust-web-dev-bpf` brings it", core.display());
    }
    Ok(())
}
