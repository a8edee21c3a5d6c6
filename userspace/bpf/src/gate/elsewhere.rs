//! Links that lost their filters with a move to another network namespace: found again, and closed there.

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
    /// Closes a link in the network namespace that it was moved to, for good: it stays closed when taskgate ends. The
    /// namespace is looked for among those that `ip netns` names and those that processes are in.
    ///
    /// # Errors
    /// Nobody names the namespace, or the kernel refuses.
    pub fn close_moved(&self, moved: Moved) -> io::Result<()> {
        let found = namespace_files().find_map(|path| {
            let file = File::open(path).ok()?;
            (netns::id_of(&file).ok()? == moved.namespace).then_some(file)
        });
        let file = found.ok_or_else(|| io::Error::other("neither a name nor a process leads to that namespace"))?;
        let close = || {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            // Filters outlive whoever put them up.
            self.cover(moved.ifindex).map(mem::forget)
        };
        // A thread that goes in does not come out.
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
