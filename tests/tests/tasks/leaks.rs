//! Tasks that come and go leave nothing behind. `TASKGATE_TEST_LONG=1` takes two thousand.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    env, fs,
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use testkit::{Daemon, Process, Topology, kernel::Objects, netns::until, pins};

use crate::{DB, add, check_clean, check_gate, db, end, remove, server};

/// Tasks that exist at the same time.
const AT_ONCE: usize = 3;
/// The accepted growth of memory, in KiB, for memory that allocators keep.
const GROWN: u64 = 4096;
/// Threads for blocking work, which end after they have been idle for a while.
const IDLE_THREADS: usize = 4;

/// The resources that a daemon holds.
#[derive(Debug)]
struct Held {
    /// Its open files by kind.
    files: BTreeMap<String, usize>,
    threads: usize,
    /// Programs, maps and links.
    objects: [usize; 3],
    pins: Vec<BTreeSet<String>>,
}

impl Held {
    fn by(topology: &Topology, daemon: &Daemon) -> Result<Self> {
        let process = PathBuf::from(format!("/proc/{}", daemon.pid()?));
        let mut files = BTreeMap::new();
        for file in fs::read_dir(process.join("fd"))? {
            // A descriptor may be closed by now: the socket of a client.
            let Ok(target) = fs::read_link(file?.path()) else {
                continue;
            };
            let target = target.to_string_lossy();
            let kind = target.split_once(":[").map_or(&*target, |(kind, _)| kind);
            *files.entry(kind.to_owned()).or_default() += 1;
        }
        let pins = ["links", "maps", "images"].map(|folder| pins::names(&topology.instance("main"), folder));
        let pins = pins.into_iter().collect::<Result<_>>()?;
        let Objects { programs, maps, links } = daemon.objects()?;
        Ok(Self {
            objects: [programs, maps, links].map(|ids| ids.len()),
            files,
            threads: fs::read_dir(process.join("task"))?.count(),
            pins,
        })
    }

    /// Whether `other` has no further kinds of files, and not more of any resource.
    fn has_all_of(&self, other: &Self) -> bool {
        let mut files = other.files.iter();
        files.all(|(kind, number)| self.files.get(kind).is_some_and(|before| number <= before))
            && other.threads <= self.threads + IDLE_THREADS
            && (&self.objects, &self.pins) == (&other.objects, &other.pins)
    }
}

/// Adds and removes this many tasks, [`AT_ONCE`] of them at the same time.
fn come_and_go(topology: &Topology, tasks: usize) -> Result<()> {
    let mut there = VecDeque::new();
    for at in 0..tasks {
        let name = format!("t{}", at % (2 * AT_ONCE));
        let namespace = topology.config().namespace(&name);
        let address = format!("10.88.{}.{}", 1 + at / 250 % 250, at % 250 + 1);
        add(
            topology,
            &json!({ "name": name, "groups": ["server"], "addresses": [address], "namespace": namespace }),
        )?;
        there.push_back(name);
        if there.len() > AT_ONCE {
            remove(topology, &there.pop_front().context("none")?)?;
        }
    }
    for name in there {
        remove(topology, &name)?;
    }
    Ok(())
}

#[test]
fn tasks_that_come_and_go_leave_nothing() -> Result<()> {
    let tasks = if env::var_os("TASKGATE_TEST_LONG").is_some() {
        2000
    } else {
        24
    };
    let topology = Topology::new()?;
    let daemon = topology.start(&server(&topology))?;
    let links = topology.host.links()?;
    // Makes everything that is made only once.
    come_and_go(&topology, 2 * AT_ONCE)?;
    let (before, memory) = (Held::by(&topology, &daemon)?, Process::of(&daemon)?.resident);
    // Gates that are tc filters are not BPF links.
    let [programs, maps, _links] = before.objects;
    ensure!(programs != 0 && maps != 0, "{before:?}");
    come_and_go(&topology, tasks)?;
    // At any moment the daemon may serve a client or inspect its gates: files that are open for that are closed soon.
    until("nothing is left", || {
        Ok(before.has_all_of(&Held::by(&topology, &daemon)?))
    })
    .with_context(|| format!("before: {before:?}"))?;
    let grown = Process::of(&daemon)?.resident.saturating_sub(memory);
    ensure!(grown < GROWN, "{grown} KiB more");
    check_clean(&topology, &links)?;
    // Slots, rows, names and links are used again by the next task.
    add(&topology, &db(&topology))?;
    check_gate(&topology.outside, &topology.task("db-1")?, DB)?;
    remove(&topology, "db-1")?;
    end(&topology, daemon)
}
