//! A user's file access rights, for a thread that opens files on the user's behalf.

use std::{io, os::fd::BorrowedFd};

use super::sys;

/// A user with his groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Rights {
    /// The rights of the process that connected a Unix socket, at that time. `uid`, `gid`: the peer's credentials from the kernel.
    ///
    /// # Errors
    /// The kernel does not report the peer's groups.
    pub fn of_peer(socket: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<Self> {
        let groups = sys::peer_groups(socket)?;
        Ok(Self { uid, gid, groups })
    }

    /// Gives the calling thread, permanently, exactly these file access rights and no effective capability.
    ///
    /// # Errors
    /// The thread lacks the permission. The rights may be set in part, so it must not open any file.
    pub fn take(&self) -> io::Result<()> {
        sys::take_rights(self.uid, self.gid, &self.groups)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        io::ErrorKind,
        os::unix::fs::{PermissionsExt as _, chown},
        thread,
    };

    use super::*;

    /// Needs root, as only root can set such rights.
    #[test]
    fn a_thread_reads_what_the_user_could() {
        const NOBODY: u32 = 65534;
        const OTHER: u32 = 54321;
        let file = std::env::temp_dir().join(format!("taskgate-rights-{}", std::process::id()));
        fs::write(&file, "text").unwrap();
        let read = |owner: (u32, u32), mode: u32, groups: &[u32]| {
            chown(&file, Some(owner.0), Some(owner.1)).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let rights = Rights {
                uid: NOBODY,
                gid: NOBODY,
                groups: groups.to_owned(),
            };
            let read = thread::scope(|scope| {
                let thread = scope.spawn(|| {
                    rights.take().unwrap();
                    fs::read_to_string(&file)
                });
                thread.join().unwrap()
            });
            assert_eq!(
                fs::read_to_string(&file).unwrap(),
                "text",
                "the others have lost nothing"
            );
            read.map_err(|error| error.kind())
        };
        let text = Ok(String::from("text"));
        assert_eq!(read((0, 0), 0o644, &[]), text);
        assert_eq!(read((0, 0), 0o640, &[]), Err(ErrorKind::PermissionDenied));
        assert_eq!(read((0, OTHER), 0o640, &[]), Err(ErrorKind::PermissionDenied));
        assert_eq!(read((0, OTHER), 0o640, &[1, OTHER]), text);
        assert_eq!(read((0, NOBODY), 0o640, &[]), text);
        assert_eq!(read((NOBODY, 0), 0o400, &[]), text);
        fs::remove_file(&file).unwrap();
    }
}
