//! `--watch`: reports changes of the configuration's folder once its files have settled.
//!
//! inotify watches the folder that had the path when the watch was added, and nothing further up. It misses a symbolic
//! link that is switched two folders above, a file system that is mounted over the folder, and a change behind a
//! symbolic link inside it. So the paths are also polled every few seconds, on a separate thread, since a file system
//! may hang.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs, io, mem,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf, absolute},
    sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel, error::TrySendError},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

/// Quiet period after the last change, before files are read.
const SETTLED: Duration = Duration::from_millis(500);
/// Upper bound on the wait for files that never settle.
const LONGEST: Duration = Duration::from_secs(10);
/// Interval at which paths are polled, regardless of inotify events.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The watch over the configuration folder. Without a folder it never reports a change.
#[derive(Debug, Default)]
pub(super) struct ConfigWatch {
    watched: Option<Watched>,
}

#[derive(Debug)]
struct Watched {
    folder: PathBuf,
    /// Receives change notifications. Dropping the receiver ends the watching thread.
    told: Receiver<()>,
    pending: Option<Pending>,
}

/// Changes that were reported and not yet acted on.
#[derive(Clone, Copy, Debug)]
struct Pending {
    first: Instant,
    last: Instant,
}

impl Pending {
    fn new() -> Self {
        let now = Instant::now();
        Self { first: now, last: now }
    }

    fn due(self) -> Instant {
        (self.last + SETTLED).min(self.first + LONGEST)
    }
}

impl ConfigWatch {
    /// Watches a folder from now on. The folder has not been read yet, so its current state is no change to report.
    pub(super) fn over(folder: &Path) -> io::Result<Self> {
        let folder = absolute(folder)?;
        let looked = Looked::at(&folder);
        Self::begin(folder, Some(looked))
    }

    fn begin(folder: PathBuf, looked: Option<Looked>) -> io::Result<Self> {
        let (told, receiver) = channel(1);
        let pending = looked.is_none().then(Pending::new);
        let mut names = Names {
            folder: folder.clone(),
            told,
            watcher: None,
            looked: looked.unwrap_or_default(),
            said: false,
        };
        thread::Builder::new()
            .name("config-watch".to_owned())
            .spawn(move || names.follow())?;
        Ok(Self {
            watched: Some(Watched {
                folder,
                told: receiver,
                pending,
            }),
        })
    }

    /// Switches the watch to another folder, if watching is enabled. A change is reported at once, since the folder may
    /// have changed after it was read.
    pub(super) fn follow(&mut self, folder: &Path) -> io::Result<()> {
        let folder = absolute(folder)?;
        if self.watched.as_ref().is_some_and(|watched| watched.folder != folder) {
            *self = Self::begin(folder, None)?;
        }
        Ok(())
    }

    /// Waits until files of the folder have changed and then been left alone for half a second. Cancel safe.
    pub(super) async fn settled(&mut self) {
        match &mut self.watched {
            Some(watched) => watched.settled().await,
            None => std::future::pending().await,
        }
    }
}

impl Watched {
    async fn settled(&mut self) {
        loop {
            let Some(pending) = self.pending else {
                if self.told.recv().await.is_none() {
                    return std::future::pending().await;
                }
                self.pending = Some(Pending::new());
                continue;
            };
            tokio::select! {
                Some(()) = self.told.recv() => self.pending = Some(Pending { last: Instant::now(), ..pending }),
                () = sleep_until(pending.due()) => {
                    self.pending = None;
                    return;
                }
            }
        }
    }
}

/// The version of a file: device, inode, size, mtime and ctime (both as seconds and nanoseconds).
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

/// A snapshot of the files behind the watched paths. Symbolic links are followed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Looked {
    folder: Option<(u64, u64)>,
    /// `None` for files whose metadata cannot be read.
    files: BTreeMap<OsString, Option<Stamp>>,
}

impl Looked {
    fn at(folder: &Path) -> Self {
        let Ok(entries) = fs::read_dir(folder) else {
            return Self::default();
        };
        let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
        let stamp = |name: &OsStr| {
            let of = fs::metadata(folder.join(name)).ok()?;
            let changed = ((of.mtime(), of.mtime_nsec()), (of.ctime(), of.ctime_nsec()));
            Some((of.dev(), of.ino(), of.size(), changed.0, changed.1))
        };
        Self {
            folder: fs::metadata(folder).ok().map(|of| (of.dev(), of.ino())),
            files: names
                .filter(|name| !is_beside(name))
                .map(|name| (name.clone(), stamp(&name)))
                .collect(),
        }
    }
}

/// The watched paths, of the folder and of its files. Lives on the watching thread.
struct Names {
    folder: PathBuf,
    told: Sender<()>,
    /// The inotify watch; `None` where the kernel refused it.
    watcher: Option<RecommendedWatcher>,
    looked: Looked,
    /// Whether the failure to watch was already logged.
    said: bool,
}

impl Names {
    /// Reports each change, until the receiver is dropped.
    fn follow(&mut self) {
        let (changed, changes) = sync_channel(1);
        self.watch(&changed);
        loop {
            let is_told = match changes.recv_timeout(LOOK_EVERY) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if self.told.is_closed() {
                return;
            }
            let mut now = Looked::at(&self.folder);
            if self.watcher.is_none() || now.folder != self.looked.folder {
                self.watch(&changed);
                now = Looked::at(&self.folder);
            }
            // A full channel is no error: the pending notification covers this change.
            if (is_told || now != self.looked) && matches!(self.told.try_send(()), Err(TrySendError::Closed(()))) {
                return;
            }
            self.looked = now;
        }
    }

    /// Watches the folder that currently has the path, and its parent, since the folder may be replaced as a whole.
    fn watch(&mut self, changed: &SyncSender<()>) {
        let (sender, name) = (changed.clone(), self.folder.file_name().map(OsStr::to_owned));
        let folder = self.folder.clone();
        let told = move |event: notify::Result<Event>| {
            if event.map_or(true, |event| concerns(&event, &folder, name.as_deref())) {
                // A full channel is no error: the pending notification covers this change.
                let _told = sender.try_send(());
            }
        };
        let watched = notify::recommended_watcher(told).and_then(|mut watcher| {
            watcher.watch(&self.folder, RecursiveMode::NonRecursive)?;
            if let Some(above) = self.folder.parent().filter(|above| !above.as_os_str().is_empty()) {
                watcher.watch(above, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        let was_blind = self.watcher.is_none();
        match watched {
            Ok(watcher) => {
                if was_blind {
                    info!("`{}` is watched", self.folder.display());
                }
                self.watcher = Some(watcher);
                self.said = false;
            }
            Err(error) => {
                self.watcher = None;
                if !mem::replace(&mut self.said, true) {
                    warn!(
                        "`{}` cannot be watched, so it is looked at every {LOOK_EVERY:?}: {error}",
                        self.folder.display()
                    );
                }
            }
        }
    }
}

/// Whether an event may have changed a file that is read. Read accesses and editors' auxiliary files do not count.
fn concerns(event: &Event, folder: &Path, name: Option<&OsStr>) -> bool {
    let changes = match event.kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    };
    // An event without paths means that events were lost.
    changes && (event.paths.is_empty() || event.paths.iter().any(|path| is_read(path, folder, name)))
}

fn is_read(path: &Path, folder: &Path, name: Option<&OsStr>) -> bool {
    if path == folder {
        return true;
    }
    let Some(file) = path.file_name() else {
        return true;
    };
    if path.parent() != Some(folder) {
        return Some(file) == name;
    }
    // Kubernetes updates a volume by switching the symbolic link `..data`.
    file == "..data" || !is_beside(file)
}

/// Whether this is the name of an editor's auxiliary file, which is not read.
fn is_beside(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b".") || name.ends_with(b"~")
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, ModifyKind};

    use super::*;

    fn told_by(told: Receiver<()>) -> ConfigWatch {
        ConfigWatch {
            watched: Some(Watched {
                folder: "/nonexistent/taskgate".into(),
                told,
                pending: None,
            }),
        }
    }

    #[test]
    fn only_what_may_change_the_configuration_counts() {
        let folder = Path::new("/etc/taskgate");
        let changed = |path: &str, kind| {
            let event = Event::new(kind).add_path(path.into());
            concerns(&event, folder, folder.file_name())
        };
        let modified = EventKind::Modify(ModifyKind::Any);
        for (path, kind, expected) in [
            ("/etc/taskgate/web.yaml", modified, true),
            (
                "/etc/taskgate/web.yaml",
                EventKind::Access(AccessKind::Close(AccessMode::Write)),
                true,
            ),
            (
                "/etc/taskgate/web.yaml",
                EventKind::Access(AccessKind::Open(AccessMode::Any)),
                false,
            ),
            (
                "/etc/taskgate/web.yaml",
                EventKind::Access(AccessKind::Close(AccessMode::Read)),
                false,
            ),
            ("/etc/taskgate/.web.yaml.swp", modified, false),
            ("/etc/taskgate/web.yaml~", modified, false),
            ("/etc/taskgate/..data", EventKind::Create(CreateKind::Any), true),
            ("/etc/taskgate", EventKind::Create(CreateKind::Folder), true),
            ("/etc/hosts", modified, false),
        ] {
            assert_eq!(changed(path, kind), expected, "{path} {kind:?}");
        }
        assert!(concerns(&Event::new(EventKind::Other), folder, folder.file_name()));
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_change_all_the_time_are_read_all_the_same() {
        let (sender, told) = channel(1);
        let mut watch = told_by(told);
        let begun = Instant::now();
        tokio::spawn(async move {
            while sender.send(()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        watch.settled().await;
        assert!(
            (LONGEST..LONGEST + SETTLED).contains(&begun.elapsed()),
            "{:?}",
            begun.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_acted_on_half_a_second_after_the_last() {
        let (sender, told) = channel(1);
        let mut watch = told_by(told);
        let begun = Instant::now();
        tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(400)).await;
                assert!(sender.send(()).await.is_ok());
            }
            std::future::pending::<()>().await;
        });
        watch.settled().await;
        let elapsed = begun.elapsed();
        assert!((2500..2600).contains(&elapsed.as_millis()), "{elapsed:?}");
    }
}
