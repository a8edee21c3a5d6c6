//! Prometheus and its `promtool`, with which the tests read metrics: the machine's own, or else Debian's package, unpacked
//! below `target/tools` and not installed, since installing it would start a service.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::{Machine, apt, say};
use crate::{exec, pins, workspace};

const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];
const PACKAGE: &str = "prometheus";

fn unpacked() -> PathBuf {
    workspace::tools().join(PACKAGE)
}

/// Ensures that Prometheus is available.
pub(super) fn ensure(machine: &mut Machine) -> Result<()> {
    if PROGRAMS.iter().all(|program| exec::find(program).is_some()) || unpacked().exists() {
        return Ok(());
    }
    if !apt::here() {
        let line = format!("`prometheus` and `promtool` ({PACKAGE} on Debian): tests of metrics run them");
        machine.by_hand.push(line);
        return Ok(());
    }
    say(&format!("{PACKAGE}: unpacked into target/tools, not installed"));
    if exec::is_root() {
        apt::update()?;
    }
    let root = unpacked();
    apt::fetch(&[PACKAGE.to_owned()], &root).with_context(|| format!("cannot unpack {PACKAGE}"))?;
    exec::quiet(
        Command::new(root.join("usr/bin/promtool")).arg("--version"),
        pins::PATIENCE,
    )
}
