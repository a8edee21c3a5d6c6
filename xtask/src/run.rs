//! `cargo xtask run`: builds the `taskgate` binary and runs it as root.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{build, exec};

/// Build taskgate and run it as root
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Arguments for `taskgate`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let binary = build::release()?;
    let mut command = if exec::is_root() {
        Command::new(&binary)
    } else if exec::find("sudo").is_some() {
        let mut command = Command::new("sudo");
        command.arg(&binary);
        command
    } else {
        bail!(
            "taskgate needs root and there is no `sudo`: run `{}` as root",
            binary.display()
        );
    };
    // Replaces this process, so that signals and the exit status are taskgate's.
    let error = command.args(&args.args).exec();
    Err(error).with_context(|| format!("cannot run {}", exec::shown(&command)))
}
