//! The socket's file: its existence, owner and mode.
//!
//! `/run/taskgate` belongs to root. If the host has a group `taskgate`, its members may traverse the folder to the
//! socket, but not list it; the state files in it belong to root alone. Only root can create files there, so a file
//! with the socket's name was left by a killed process or put there by root: it is replaced in one step.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Group};
use taskgate_net::eni::STATE_FOLDER;
use tokio::net::UnixListener;
use tracing::{debug, warn};

/// The group whose members may use the socket.
const GROUP: &str = "taskgate";
const SOCKET_MODE: u32 = 0o660;
const FOLDER_MODE: u32 = 0o700;
/// The folder's mode if the group exists.
const GROUP_FOLDER_MODE: u32 = 0o710;

/// A listening socket, and the file by which it is found.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// The file's device and inode.
    file: (u64, u64),
    /// The group whose members may use the socket, if it exists.
    group: Option<Gid>,
}

impl Socket {
    /// Listens on a path, replacing any file that is there. No client can connect before the socket has its owner and
    /// mode.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        open_folder()?;
        let next = path.with_added_extension("next");
        remove_file(&next)?;
        let listener = UnixListener::bind(&next)?;
        let group = group();
        give(&next, group, SOCKET_MODE)?;
        let file = identity(&next)?;
        fs::rename(&next, path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file,
            group,
        })
    }

    /// Whether the path still leads to this socket.
    pub(super) fn is_there(&self) -> bool {
        identity(&self.path).is_ok_and(|file| file == self.file)
    }

    /// Corrects the owner and mode of the socket and its folder. Returns the paths that had others.
    pub(super) fn put_right(&self) -> io::Result<Vec<PathBuf>> {
        let folder = Path::new(STATE_FOLDER);
        let mut put_right = Vec::new();
        for (path, mode) in [(folder, folder_mode(self.group)), (&self.path, SOCKET_MODE)] {
            if give(path, self.group, mode)? {
                put_right.push(path.to_owned());
            }
        }
        Ok(put_right)
    }
}

impl Drop for Socket {
    /// Removes the file, unless another socket has the path by now.
    fn drop(&mut self) {
        if self.is_there()
            && let Err(error) = remove_file(&self.path)
        {
            warn!("cannot remove `{}`: {error}", self.path.display());
        }
    }
}

/// Removes the socket that a killed process of an instance left, if there is one.
pub(crate) fn remove(instance: &str) -> io::Result<()> {
    let path = super::path(instance);
    remove_file(&path.with_added_extension("next"))?;
    remove_file(&path)
}

/// Creates the folder of sockets and state, or corrects the group and mode of an existing one. Fails if the folder is
/// not root's.
pub(crate) fn open_folder() -> io::Result<()> {
    let folder = Path::new(STATE_FOLDER);
    let made = fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder);
    made?;
    let metadata = fs::symlink_metadata(folder)?;
    if metadata.uid() != 0 {
        return Err(io::Error::other("it is no folder of root's"));
    }
    let group = group();
    give(folder, group, folder_mode(group)).map(drop)
}

fn folder_mode(group: Option<Gid>) -> u32 {
    group.map_or(FOLDER_MODE, |_| GROUP_FOLDER_MODE)
}

/// Sets the owner of a folder or socket to root and this group (root's where there is none), and its mode. Returns
/// whether anything had to be changed.
fn give(path: &Path, group: Option<Gid>, mode: u32) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    if !kind.is_dir() && !kind.is_socket() {
        return Err(io::Error::other("it is neither a folder nor a socket"));
    }
    let owner = (0, group.map_or(0, Gid::as_raw));
    let has_owner = (metadata.uid(), metadata.gid()) == owner;
    if has_owner && metadata.mode() & 0o7777 == mode {
        return Ok(false);
    }
    if !has_owner {
        // Drop the group's permissions first, so that the previous group never has those of the new mode.
        fs::set_permissions(path, Permissions::from_mode(mode & 0o700))?;
        chown(path, Some(owner.0), Some(owner.1))?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(true)
}

fn group() -> Option<Gid> {
    match Group::from_name(GROUP) {
        Ok(group) => group.map(|group| group.gid),
        Err(errno) => {
            debug!("the host's groups cannot be asked, so only root can use the socket: {errno}");
            None
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
