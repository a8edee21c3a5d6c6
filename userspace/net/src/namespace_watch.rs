//! Watches the names of network namespaces: added, removed, or changed to another namespace.
//!
//! A name is a file in /run/netns with a namespace mounted on it, or a symbolic link to one. A mount causes no inotify event in
//! the folder, and a symbolic link is no mount: so both the folder and the mounts are watched.

use std::{
    fs::File,
    future::pending,
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};

use super::netns::FOLDER;
use crate::sys;

/// Events within this time are reported once: a container's start causes some dozens of mounts.
const TOGETHER: Duration = Duration::from_millis(20);
/// The polling interval if a watch is not available.
const UNTOLD: Duration = Duration::from_secs(5);

/// Reports that names may have changed, not which ones.
pub struct NamespaceWatch {
    folder: Option<Folder>,
    mounts: Option<AsyncFd<OwnedFd>>,
    /// When the events so far are reported.
    due: Option<Instant>,
    /// When to report without an event, if a watch is not available.
    look: Instant,
}

struct Folder {
    inotify: Inotify,
    ready: AsyncFd<OwnedFd>,
}

impl Folder {
    fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let ready = sys::register(inotify.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        Ok(Self { inotify, ready })
    }

    /// Watches the present folder, unless it is watched already.
    fn follow(&self) {
        let changes = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE;
        // The folder may be made later, with a mount.
        self.inotify.add_watch(FOLDER, changes | AddWatchFlags::IN_ONLYDIR).ok();
    }

    async fn changed(&self) -> io::Result<()> {
        let mut guard = self.ready.readable().await?;
        guard.clear_ready();
        while self.inotify.read_events().is_ok() {}
        Ok(())
    }
}

/// A file that polls as priority (POLLPRI) after each mount in this mount namespace.
fn mounts() -> io::Result<AsyncFd<OwnedFd>> {
    let file = File::open("/proc/thread-self/mountinfo")?;
    sys::register(file.into(), Interest::PRIORITY)
}

impl NamespaceWatch {
    /// Begins to watch, on the current tokio runtime. If a watch is not available, it reports a change every few seconds.
    pub fn new() -> Self {
        let or_look = |error: io::Error| {
            tracing::warn!(
                "names of network namespaces are looked at every {UNTOLD:?}, since they cannot be watched: {error}"
            );
        };
        let folder = Folder::new().map_err(or_look).ok();
        if let Some(folder) = &folder {
            folder.follow();
        }
        Self {
            folder,
            mounts: mounts().inspect_err(untold).ok(),
            due: None,
            look: Instant::now() + UNTOLD,
        }
    }

    /// Waits until names may have changed. Nothing is lost when the future is dropped before it is ready.
    pub async fn changed(&mut self) {
        if self.due.is_none() {
            self.told().await;
            self.due = Some(Instant::now() + TOGETHER);
        }
        if let Some(due) = self.due {
            sleep_until(due).await;
        }
        self.due = None;
        self.look = Instant::now() + UNTOLD;
        if let Some(folder) = &self.folder {
            folder.follow();
        }
    }

    async fn told(&mut self) {
        let (folder, mounts) = (self.folder.as_ref(), self.mounts.as_ref());
        let in_folder = async {
            match folder {
                Some(folder) => folder.changed().await,
                None => pending().await,
            }
        };
        let mounted = async {
            match mounts {
                Some(mounts) => mounts
                    .ready(Interest::PRIORITY)
                    .await
                    .map(|mut guard| guard.clear_ready()),
                None => pending().await,
            }
        };
        let is_blind = folder.is_none() || mounts.is_none();
        tokio::select! {
            told = in_folder => if let Err(error) = told {
                self.folder = None;
                untold(&error);
            },
            told = mounted => if let Err(error) = told {
                self.mounts = None;
                untold(&error);
            },
            () = sleep_until(self.look), if is_blind => {}
        }
    }
}

fn untold(error: &io::Error) {
    tracing::warn!("names of network namespaces are looked at every {UNTOLD:?}, since they cannot be watched: {error}");
}

impl Default for NamespaceWatch {
    fn default() -> Self {
        Self::new()
    }
}
