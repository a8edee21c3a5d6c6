//! Pins of maps and gates' BPF links in bpffs, which outlive the process.
//!
//! | under `/sys/fs/bpf/taskgate/INSTANCE/` | |
//! |---|---|
//! | `maps/NAME` | the tables, which the next process reuses |
//! | `images/N` | the image of the Nth process; gates use the last one, or the one before it during a takeover |
//! | `links/ID` | a BPF link of a gate, by its id |
//!
//! clsact filters need no pin: they stay until they are removed.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::BorrowedFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    sync::atomic::AtomicU64,
};

use aya::maps::{MapData, MapError};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::sys::{self, MmapArray};

/// The conventional mount point of bpffs.
const BPFFS: &str = "/sys/fs/bpf";

/// Why a pin cannot be found, made or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} `{path}`{}", advice(operation))]
pub struct PinError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    cause: io::Error,
}

fn advice(operation: &str) -> &'static str {
    match operation {
        MOUNT => ": mount it by hand, `mount -t bpf bpf /sys/fs/bpf`, or let taskgate do it (CAP_SYS_ADMIN)",
        TRUST => ": take it away, or give it to root alone",
        _ => "",
    }
}

const MOUNT: &str = "mount bpffs on";
const TRUST: &str = "trust";

impl PinError {
    pub(crate) fn of(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self { operation, path, cause }
    }
}

/// The pins of one instance.
#[derive(Clone, Debug)]
pub struct Pins {
    folder: PathBuf,
}

impl Pins {
    /// The pins of an instance, in folders that only root can use. bpffs is mounted if there is none.
    ///
    /// # Errors
    /// bpffs can't be mounted; a folder is not root's, is writable by others, or is no folder.
    pub fn of(instance: &str) -> Result<Self, PinError> {
        let folder = folder(&bpffs()?, instance);
        let pins = Self { folder };
        pins.make_folders()?;
        Ok(pins)
    }

    /// The pins of an instance as they are, possibly none; no folder is made.
    pub fn look(instance: &str) -> Self {
        let [own, first] = [Path::new(BPFFS), &first_bpffs()].map(|bpffs| folder(bpffs, instance));
        let folder = if own.is_dir() || !first.is_dir() { own } else { first };
        Self { folder }
    }

    /// Pins a map or a link, replacing an existing pin of this path. Folders that were removed meanwhile are made again, and
    /// bpffs is mounted again if it was mounted for this mount namespace.
    pub(crate) fn pin(&self, object: BorrowedFd<'_>, path: &Path) -> Result<(), PinError> {
        if !self.folder.is_dir() {
            if self.folder.starts_with(BPFFS) {
                bpffs()?;
            }
            self.make_folders()?;
        } else if path.parent().is_some_and(|folder| !folder.is_dir()) {
            self.make_folders()?;
        }
        remove(path)?;
        sys::pin(object, path).map_err(PinError::of("pin", path))
    }

    /// Makes missing folders, and checks the owners of all.
    fn make_folders(&self) -> Result<(), PinError> {
        let all = self.folder.parent().map(Path::to_owned);
        let own = [self.folder.clone(), self.maps(), self.images_folder(), self.links()];
        for folder in all.into_iter().chain(own) {
            match DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(PinError::of("make", &folder))?,
            }
            check_owner(&folder)?;
        }
        Ok(())
    }

    fn maps(&self) -> PathBuf {
        self.folder.join("maps")
    }

    fn images_folder(&self) -> PathBuf {
        self.folder.join("images")
    }

    fn links(&self) -> PathBuf {
        self.folder.join("links")
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub(crate) fn image(&self, number: u32) -> PathBuf {
        self.images_folder().join(number.to_string())
    }

    pub(crate) fn link(&self, id: u32) -> PathBuf {
        self.links().join(id.to_string())
    }

    /// The numbers of the images, ascending.
    pub(crate) fn image_numbers(&self) -> Result<Vec<u32>, PinError> {
        let mut numbers: Vec<u32> = names(&self.images_folder())?
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The images, in the order of their numbers.
    pub fn images(&self) -> Result<Vec<MmapArray<AtomicU64>>, PinError> {
        let open = |number| {
            let path = self.image(number);
            MmapArray::new(&open_map(&path)?).map_err(PinError::of("map", &path))
        };
        self.image_numbers()?.into_iter().map(open).collect()
    }

    /// A table of an earlier process.
    pub(crate) fn open_map(&self, name: &str) -> Result<MapData, PinError> {
        open_map(&self.map(name))
    }

    /// The paths of pinned BPF links.
    pub(crate) fn link_paths(&self) -> Result<Vec<PathBuf>, PinError> {
        let links = self.links();
        Ok(names(&links)?.into_iter().map(|name| links.join(name)).collect())
    }

    /// Whether there are pinned tables.
    pub fn has_maps(&self) -> Result<bool, PinError> {
        Ok(!names(&self.maps())?.is_empty())
    }

    /// Unpins the tables and images. Attached programs keep theirs.
    pub fn release_maps(&self) -> Result<(), PinError> {
        for folder in [self.maps(), self.images_folder()] {
            for name in names(&folder)? {
                remove(&folder.join(name))?;
            }
        }
        Ok(())
    }

    /// Unpins images that no gate ever used: those of processes that ended before they attached or switched one.
    pub fn release_unused_images(&self, is_used: impl Fn(&MmapArray<AtomicU64>) -> bool) -> Result<(), PinError> {
        for (number, image) in self.image_numbers()?.into_iter().zip(self.images()?) {
            if !is_used(&image) {
                remove(&self.image(number))?;
            }
        }
        Ok(())
    }

    /// Unpins the images before the last one: no gate uses them any more.
    pub fn release_old_images(&self) -> Result<(), PinError> {
        let mut numbers = self.image_numbers()?;
        numbers.pop();
        numbers.into_iter().try_for_each(|number| remove(&self.image(number)))
    }

    /// Unpins everything and removes the folder: each object ends with its last handle.
    pub fn release(&self) -> Result<(), PinError> {
        self.release_maps()?;
        for path in self.link_paths()? {
            remove(&path)?;
        }
        for folder in [self.maps(), self.images_folder(), self.links(), self.folder.clone()] {
            match fs::remove_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(PinError::of("remove", &folder))?,
            }
        }
        Ok(())
    }
}

fn folder(bpffs: &Path, instance: &str) -> PathBuf {
    // bpffs allows no dots in names.
    bpffs.join("taskgate").join(instance.replace('.', "%2E"))
}

/// The mount point of bpffs as process 1 sees it.
fn first_bpffs() -> PathBuf {
    Path::new("/proc/1/root").join("sys/fs/bpf")
}

/// The bpffs to use: that of this mount namespace, else that of process 1 (`ip netns exec` hides it), else a new one.
fn bpffs() -> Result<PathBuf, PinError> {
    let own = Path::new(BPFFS);
    let first = first_bpffs();
    let is_bpffs = |path: &Path| statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    if let Some(there) = [own, &first].into_iter().find(|path| is_bpffs(path)) {
        return Ok(there.to_owned());
    }
    // By default other users may make folders there.
    let mounted = mount(Some("bpf"), own, Some("bpf"), MsFlags::empty(), Some("mode=0700"));
    mounted.map_err(|errno| PinError::of(MOUNT, own)(errno.into()))?;
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    if namespace("self") != namespace("1") {
        tracing::warn!(
            "bpffs is mounted on `{BPFFS}` of this mount namespace alone: gates fall with its last process, unless bpffs is \
             mounted on the host first (`mount -t bpf bpf /sys/fs/bpf`)"
        );
    }
    Ok(own.to_owned())
}

/// Refuses a folder that is not root's or that others can write to, and a symbolic link.
fn check_owner(folder: &Path) -> Result<(), PinError> {
    let metadata = fs::symlink_metadata(folder).map_err(PinError::of("look at", folder))?;
    let fault = if !metadata.is_dir() {
        "it is no folder"
    } else if metadata.uid() != 0 {
        "it is not root's"
    } else if metadata.mode() & 0o022 != 0 {
        "others may write to it"
    } else {
        return Ok(());
    };
    Err(PinError::of(TRUST, folder)(io::Error::other(fault)))
}

/// Removes a pin, if it exists.
pub(crate) fn remove(path: &Path) -> Result<(), PinError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(PinError::of("remove", path)),
    }
}

fn open_map(path: &Path) -> Result<MapData, PinError> {
    let cause = |error| match error {
        MapError::SyscallError(error) => error.io_error,
        error => io::Error::other(error),
    };
    MapData::from_pin(path).map_err(|error| PinError::of("open", path)(cause(error)))
}

fn names(folder: &Path) -> Result<Vec<String>, PinError> {
    let read = || -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    read().map_err(PinError::of("read", folder))
}
