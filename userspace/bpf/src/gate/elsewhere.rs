//! Closes links that lost their filters when they were moved to another network namespace.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io, mem,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    thread,
};

use nix::sched::{CloneFlags, setns};
use taskgate_net::{netns, watch::Moved};

use super::GatePrograms;

impl GatePrograms {
    /// Closes a link in the network namespace that it was moved to, permanently: it stays closed when taskgate ends. The
    /// namespace is searched among those named by `ip netns` and those of processes.
    ///
    /// # Errors
    /// No name and no process leads to the namespace, or the kernel refuses.
    pub fn close_moved(&self, moved: Moved) -> io::Result<()> {
        let found = namespace_files().find_map(|path| {
            let file = File::open(path).ok()?;
            (netns::id_of(&file).ok()? == moved.namespace).then_some(file)
        });
        let file = found.ok_or_else(|| io::Error::other("neither a name nor a process leads to that namespace"))?;
        let close = || {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            // Filters outlive the process that attached them.
            self.cover(moved.ifindex).map(mem::forget)
        };
        // A separate thread, as it does not return from the namespace.
        thread::scope(|scope| match scope.spawn(close).join() {
            Ok(closed) => closed,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

/// Files that name network namespaces, one for each.
fn namespace_files() -> impl Iterator<Item = PathBuf> {
    let entries = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries("/run/netns").map(|entry| entry.path());
    let processes = entries("/proc").map(|entry| entry.path().join("ns/net"));
    let mut seen = BTreeSet::new();
    named
        .chain(processes)
        .filter(move |path| fs::metadata(path).is_ok_and(|file| seen.insert((file.dev(), file.ino()))))
}
