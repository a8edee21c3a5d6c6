//! Builds the kernel program and leaves it as `$OUT_DIR/taskgate-gate`, for `include_bytes_aligned!`.
//!
//! The tools are in `target/tools` of the workspace, installed by `cargo xtask setup`: the linker as `bin/bpf-linker`, and
//! `bpf-toolchain`, a file with one line: the toolchain that has a `core` for BPF. `AYA_BUILD_SKIP=1` leaves
//! an empty file instead, for a check of the user-space code alone.
#![allow(
    clippy::print_stdout,
    reason = "a build script talks to cargo on its standard output"
)]

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain, build_ebpf};

/// The variable that is set when this script runs in the inner build's environment.
const INNER: &str = "TASKGATE_BUILD_TOOLCHAIN";
const SKIP: &str = "AYA_BUILD_SKIP";
/// The crates that use unstable features; RUSTC_BOOTSTRAP allows these on a compiler that is no nightly.
const UNSTABLE: &str = "aya_ebpf,taskgate_ebpf,taskgate_gate";

fn main() {
    let done = match env::var(INNER) {
        Ok(toolchain) => build(&toolchain),
        Err(_) if skipped() => stub(),
        Err(_) => prepare(),
    };
    if let Err(error) = done {
        println!("cargo::error={}", format!("{error:#}").replace('\n', " "));
    }
}

/// Whether the build is skipped, by the same values that `aya-build` accepts.
fn skipped() -> bool {
    println!("cargo::rerun-if-env-changed={SKIP}");
    env::var(SKIP).is_ok_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
}

fn stub() -> Result<()> {
    println!("cargo::warning={SKIP} is set: this `taskgate` has no kernel program in it");
    // Without a `rerun-if-changed` line cargo would run this script again on any change of the package.
    println!("cargo::rerun-if-changed=build.rs");
    let path = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?).join("taskgate-gate");
    fs::write(&path, []).with_context(|| format!("cannot write `{}`", path.display()))
}

/// Finds the tools, then runs this script again in the environment that the inner build needs: setting variables in the
/// running process would be unsafe.
fn prepare() -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tools = workspace.join("target/tools");
    let (choice, linker) = (tools.join("bpf-toolchain"), tools.join("bin/bpf-linker"));
    for path in [
        &choice,
        &linker,
        &workspace.join("Cargo.toml"),
        &PathBuf::from("build.rs"),
    ] {
        println!("cargo::rerun-if-changed={}", path.display());
    }

    let Ok(toolchain) = fs::read_to_string(&choice) else {
        bail!("the kernel program has no compiler: run `cargo xtask setup` first");
    };
    let toolchain = toolchain.trim();
    if !linker.exists() {
        bail!("the kernel program has no linker: run `cargo xtask setup` first");
    }

    // A toolchain without rustup is given as a folder, and found through PATH.
    let mut path: Vec<PathBuf> = vec![tools.join("bin")];
    if toolchain.contains('/') {
        path.push(Path::new(toolchain).join("bin"));
    }
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let path = env::join_paths(path).context("the workspace's folder cannot stand in PATH")?;

    let mut inner = Command::new(env::current_exe().context("this script's own path")?);
    for (name, _) in env::vars_os().filter(|(name, _)| outer_only(name)) {
        inner.env_remove(name);
    }
    inner.env("PATH", &path).env(INNER, toolchain);
    if !is_nightly(toolchain, &path)? {
        inner.env("RUSTC_BOOTSTRAP", UNSTABLE);
    }
    let output = inner
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run the build script again")?;
    // cargo repeats a script's warnings at each build: pass on real warnings, not the inner build's progress.
    for line in String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| !is_progress(line))
    {
        println!("{line}");
    }
    if !output.status.success() {
        bail!("the build of the kernel program ended with {}", output.status);
    }
    Ok(())
}

/// Whether a line is the inner cargo's progress, such as `Compiling aya-ebpf v0.2.1`, which `aya-build` turns into a warning.
fn is_progress(line: &str) -> bool {
    const VERBS: [&str; 8] = [
        "Adding",
        "Blocking",
        "Compiling",
        "Downloaded",
        "Downloading",
        "Finished",
        "Locking",
        "Updating",
    ];
    let words = line.strip_prefix("cargo:warning=").map(str::trim_start);
    words.is_some_and(|words| words.is_empty() || VERBS.contains(&words.split(' ').next().unwrap_or_default()))
}

/// Whether a variable configures the outer build: its toolchain, its profile, its target folder. The kernel program is
/// always built with the workspace's profile, because another one does not pass the verifier.
fn outer_only(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
        || [
            "CARGO",
            "CARGO_INCREMENTAL",
            "RUSTC",
            "RUSTC_BOOTSTRAP",
            "RUSTDOC",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
        ]
        .contains(&name.as_ref())
}

fn is_nightly(toolchain: &str, path: &OsString) -> Result<bool> {
    let output = Command::new("rustup")
        .args(["run", toolchain, "rustc", "--version"])
        .env("PATH", path)
        .output()
        .or_else(|_| Command::new("rustc").arg("--version").env("PATH", path).output());
    match output {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).contains("-nightly")),
        _ => bail!("the kernel program's compiler `{toolchain}` is not there any more: run `cargo xtask setup` again"),
    }
}

fn build(toolchain: &str) -> Result<()> {
    let package = Package {
        name: "taskgate-ebpf",
        root_dir: "../../ebpf",
        ..Package::default()
    };
    build_ebpf([package], Toolchain::Custom(toolchain))
        .context("the kernel program does not build, the compiler's words stand above")
}
