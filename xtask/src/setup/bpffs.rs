//! The BPF file system, which holds pinned maps and links.

use anyhow::{Context as _, Result};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{Machine, say};
use crate::exec;

const PATH: &str = "/sys/fs/bpf";

pub(super) fn ensure(machine: &mut Machine) -> Result<()> {
    if statfs(PATH).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    if !exec::is_root() {
        machine.for_root.push(format!("mount -t bpf bpf {PATH}"));
        return Ok(());
    }
    say(&format!("mount -t bpf bpf {PATH}: taskgate pins its maps there"));
    mount(Some("bpf"), PATH, Some("bpf"), MsFlags::empty(), None::<&str>).with_context(|| {
        format!("cannot mount the BPF file system on `{PATH}`: the kernel needs CONFIG_BPF_SYSCALL")
    })?;
    machine.changed = true;
    Ok(())
}
