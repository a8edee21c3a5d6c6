//! A sandbox for each test: a network namespace, and a mount namespace with an empty /run and an empty bpffs.

use std::{
    io::Write as _,
    panic,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Runs `test` on a thread in fresh network and mount namespaces, inside a tokio runtime on that same thread, with only
/// `lo` up. The kernel removes the namespaces with the thread, also when the process is killed.
///
/// Fails without root: a test that cannot run must not look as if it had passed.
pub fn sandbox<F>(test: impl FnOnce() -> F + Send) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let run = || {
        enter().context("cannot make namespaces for a test: run it as root")?;
        ip("link set lo up")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(test())
    };
    thread::scope(|scope| {
        scope
            .spawn(run)
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    // Nothing that is mounted from here on may reach the host.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    for (filesystem, place) in [("tmpfs", "/run"), ("bpf", "/sys/fs/bpf")] {
        mount(
            Some(filesystem),
            place,
            Some(filesystem),
            MsFlags::empty(),
            None::<&str>,
        )?;
    }
    Ok(())
}

/// Runs iproute2's `ip` with these arguments and returns its output.
pub fn ip(words: &str) -> Result<String> {
    let output = Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .context("cannot run `ip`: is iproute2 installed?")?;
    if !output.status.success() {
        bail!("`ip {words}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs several `ip` commands at once, one a line.
pub fn ip_batch(lines: &str) -> Result<()> {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    child
        .stdin
        .take()
        .context("no standard input")?
        .write_all(lines.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "`ip -batch` ended with {status}");
    Ok(())
}
