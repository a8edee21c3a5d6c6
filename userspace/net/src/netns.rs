//! Named network namespaces, as files in /run/netns like those of `ip netns`.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{
            fs::{MetadataExt as _, OpenOptionsExt as _},
            net::UnixDatagram,
        },
    },
    path::{Path, PathBuf},
    thread,
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidMessage},
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{
    netlink::{Netlink, NetlinkError},
    rtnl::Rtnl,
};
use crate::sys;

/// The conventional folder for names of network namespaces.
pub(super) const FOLDER: &str = "/run/netns";

/// The identity of a network namespace, unique since boot if it has a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NamespaceId {
    /// Its inode number, which may be reused once the namespace is gone.
    inode: u64,
    /// The kernel's cookie of it, which is never reused: from Linux 5.14 on.
    cookie: Option<u64>,
}

impl NamespaceId {
    /// The network namespace of the calling thread.
    pub fn here() -> Result<Self, NetlinkError> {
        const PATH: &str = "/proc/thread-self/ns/net";
        let id = || -> io::Result<Self> {
            Ok(Self {
                inode: fs::metadata(PATH)?.ino(),
                // A socket of any family has the cookie.
                cookie: sys::netns_cookie(UnixDatagram::unbound()?.as_fd())?,
            })
        };
        id().map_err(NetlinkError::of("look at network namespace", PATH))
    }
}

/// A named network namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// The name of a namespace from its path, if the path is directly in the folder.
    pub fn name_of(path: &Path) -> Option<String> {
        let folder = fs::canonicalize(path.parent()?).ok()?;
        let here = fs::canonicalize(FOLDER).ok()?;
        let name = path.file_name()?.to_str()?;
        (folder == here).then(|| name.to_owned())
    }

    /// The path of a namespace's name.
    pub fn path(name: &str) -> PathBuf {
        Path::new(FOLDER).join(name)
    }

    /// Opens a namespace by name; `None` if there is none.
    pub fn open(name: &str) -> Result<Option<Self>, NetlinkError> {
        let refused = || NetlinkError::of("open namespace", name);
        check(name).map_err(refused())?;
        // The name may be any file: a pipe is opened without blocking, and turns out to be no namespace.
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(Self::path(name));
        let file = match opened {
            // A socket cannot be opened, and is no namespace.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENXIO) => {
                return Ok(None);
            }
            file => file.map_err(refused())?,
        };
        // A file without a namespace on it is left over from a killed attempt.
        if fstatfs(&file)
            .map_err(NetlinkError::of("open namespace", name))?
            .filesystem_type()
            != NSFS_MAGIC
        {
            return Ok(None);
        }
        let name = name.to_owned();
        Ok(Some(Self { name, file }))
    }

    /// Makes a namespace. It gets its name after `prepare` has finished, and is not visible before. An existing file of the name is
    /// an error and stays unchanged.
    pub async fn make(
        name: &str,
        prepare: impl AsyncFnOnce(&Self) -> Result<(), NetlinkError>,
    ) -> Result<Self, NetlinkError> {
        let refused = || NetlinkError::of("make namespace", name);
        check(name).and_then(|()| vacant(name)).map_err(refused())?;
        let file = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = file.map_err(refused())?;
        let name = name.to_owned();
        let namespace = Self { name, file };
        prepare(&namespace).await?;
        share_folder().map_err(NetlinkError::of("share", FOLDER))?;
        namespace
            .mount()
            .map_err(NetlinkError::of("make namespace", &namespace.name))?;
        Ok(namespace)
    }

    /// Opens the namespace behind a file, such as `/proc/PID/ns/net`, with the name that it has or will get.
    fn of_file(path: &Path, name: &str) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        // Opening a pipe must not block.
        let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        if fstatfs(&file)?.filesystem_type() != NSFS_MAGIC {
            let why = "it is no network namespace";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let name = name.to_owned();
        Ok(Self { name, file })
    }

    /// Names the namespace behind a file, as `ip netns attach` does, after calling `announce`. Does nothing if the namespace has
    /// the name already; if another one has it, this is an error.
    pub(super) fn attach(
        name: &str,
        path: &Path,
        announce: impl FnOnce(&Self) -> Result<(), NetlinkError>,
    ) -> Result<Self, NetlinkError> {
        let refused = || NetlinkError::of("name namespace", path.display().to_string());
        let namespace = Self::of_file(path, name).map_err(refused())?;
        // Fails if it is a namespace of another kind.
        namespace.id()?;
        if let Some(there) = Self::open(name)? {
            if namespace.is_named()? {
                return Ok(there);
            }
            let why = format!("`{}` names another one", Self::path(name).display());
            return Err(refused()(io::Error::new(io::ErrorKind::AlreadyExists, why)));
        }
        check(name).and_then(|()| vacant(name)).map_err(refused())?;
        announce(&namespace)?;
        share_folder().map_err(NetlinkError::of("share", FOLDER))?;
        namespace.mount().map_err(refused())?;
        Ok(namespace)
    }

    fn mount(&self) -> io::Result<()> {
        let path = Self::path(&self.name);
        // As `ip netns add`: the file itself is never read or written.
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            // An existing file belongs to another program, even a dangling link.
            .create_new(true)
            .mode(0o444)
            .open(&path)?;
        let source = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let mounted = mount(Some(&*source), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        mounted.map_err(|error| match fs::remove_file(&path) {
            Ok(()) => error.into(),
            Err(left) => io::Error::new(left.kind(), format!("{error}, and `{}` stays: {left}", path.display())),
        })
    }

    /// The namespace's identity.
    pub fn id(&self) -> Result<NamespaceId, NetlinkError> {
        self.enter(NamespaceId::here)
            .map_err(NetlinkError::of("enter namespace", &self.name))?
    }

    /// Whether the name still leads to this namespace: it may have been removed, or given to another one.
    pub fn is_named(&self) -> Result<bool, NetlinkError> {
        let refused = || NetlinkError::of("look at namespace", &self.name);
        let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let own = self.file.metadata().map_err(refused())?;
        match fs::metadata(Self::path(&self.name)) {
            // The inode number is not reused while the file is open.
            Ok(named) => Ok(place(named) == place(own)),
            // `NotFound` also for a symbolic link to the namespace of a process that is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(refused()(error)),
        }
    }

    /// Removes the name, as `ip netns del` does. The namespace itself ends with the last process in it. A name that leads to
    /// another namespace by now stays.
    pub fn remove(self) -> Result<(), NetlinkError> {
        if !self.is_named()? {
            return Ok(());
        }
        let path = Self::path(&self.name);
        match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Another program removed it before.
            Err(nix::Error::ENOENT) => return Ok(()),
            Ok(()) | Err(nix::Error::EINVAL) => {}
            Err(error) => return Err(NetlinkError::of("remove namespace", self.name)(error)),
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(NetlinkError::of("remove namespace", self.name)(error))
            }
            _ => Ok(()),
        }
    }

    /// The name in /run/netns.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace itself, to enter it or to move a link there.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Connects to rtnetlink inside it.
    pub fn netlink(&self) -> Result<Netlink, NetlinkError> {
        let runtime = Handle::current();
        let refused = NetlinkError::of("enter namespace", &self.name);
        let opened = self.enter(|| {
            let _guard = runtime.enter();
            Netlink::open()
        });
        opened.map_err(refused)?
    }

    /// Runs `inside` in the namespace, on a new thread, as a thread does not return from a namespace.
    pub fn enter<R: Send>(&self, inside: impl FnOnce() -> R + Send) -> io::Result<R> {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(inside())
        })
    }
}

/// Checks that a name is valid as a file name.
fn check(name: &str) -> io::Result<()> {
    let fits = !name.is_empty() && name != "." && name != ".." && name.len() <= 255 && !name.contains(['/', '\0']);
    if fits {
        Ok(())
    } else {
        let why = "a namespace's name has 1 to 255 bytes, none of them `/`, and is not `.` or `..`";
        Err(io::Error::new(io::ErrorKind::InvalidInput, why))
    }
}

/// Checks that no file has the name.
fn vacant(name: &str) -> io::Result<()> {
    let path = Namespace::path(name);
    let kind = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?.file_type(),
    };
    let what = match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_symlink() => "a symbolic link that leads to no network namespace",
        () if kind.is_file() => "an ordinary file, with no network namespace on it",
        () => "a pipe, a socket or a device",
    };
    let why = format!(
        "`{}` is {what}: take it away, or name another namespace for the task",
        path.display()
    );
    Err(io::Error::new(io::ErrorKind::AlreadyExists, why))
}

/// Makes the folder, and shares its mounts with other mount namespaces, as `ip netns` does.
fn share_folder() -> io::Result<()> {
    fs::create_dir_all(FOLDER)?;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, FOLDER, None::<&str>, flags, None::<&str>)
    };
    match share() {
        // The folder is no mount point yet.
        Err(nix::Error::EINVAL) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(FOLDER), FOLDER, None::<&str>, flags, None::<&str>)?;
            Ok(share()?)
        }
        shared => Ok(shared?),
    }
}

fn on_thread<R: Send>(run: impl FnOnce() -> io::Result<R> + Send) -> io::Result<R> {
    thread::scope(|scope| match scope.spawn(run).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// The id of a network namespace within that of the calling thread; an error if it has none.
pub fn id_of(namespace: &File) -> io::Result<i32> {
    let mut message = NsidMessage::default();
    message
        .attributes
        .push(NsidAttribute::Fd(namespace.as_raw_fd().cast_unsigned()));
    let answer = Rtnl::open()?.ask(RouteNetlinkMessage::GetNsId(message))?;
    let id = match answer {
        RouteNetlinkMessage::NewNsId(message) => message.attributes.into_iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if id >= 0 => Some(id),
            _ => None,
        }),
        _ => None,
    };
    id.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the namespace has no id here"))
}
