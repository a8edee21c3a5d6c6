//! `cargo xtask demo`: builds the demo program optimised and runs it as root.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::{build, exec, setup, test};

/// Show taskgate at work: three tasks on one host, traffic between them, verdicts, rules and flow records
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Result<ExitCode> {
    if !exec::is_root() {
        bail!(
            "the demo makes network namespaces and loads programs into the kernel: run it as root, for example with \
             `sudo env \"PATH=$PATH\" cargo xtask demo`"
        );
    }
    setup::ensure(false)?;
    eprintln!("demo: building taskgate");
    let taskgate = build::release()?;
    let demo = build::binary(test::KERNEL, "demo")?;
    let good = exec::status(Command::new(demo).env("TASKGATE_BIN", taskgate))?.success();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
