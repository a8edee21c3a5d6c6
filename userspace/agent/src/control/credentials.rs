//! The peer of a connection, as the kernel reports it (SO_PEERCRED): the process that connected, as of that time.

use std::{fmt, io, os::fd::AsFd as _};

use taskgate_net::rights::Rights;
use tokio::net::UnixStream;

/// A client's process, user and rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// `None` for a process in a PID namespace that is not visible from here.
    pub(super) pid: Option<i32>,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The rights with which files are read on its behalf; `None` for root, which may read all that this process may.
    pub(super) rights: Option<Rights>,
}

impl Caller {
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let (uid, gid) = (credentials.uid(), credentials.gid());
        let rights = || Rights::of_peer(stream.as_fd(), uid, gid);
        Ok(Self {
            pid: credentials.pid().filter(|pid| *pid != 0),
            uid,
            gid,
            rights: if uid == 0 { None } else { Some(rights()?) },
        })
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "pid {pid}")?,
            None => f.write_str("a pid that is not seen here")?,
        }
        write!(f, ", uid {}, gid {}", self.uid, self.gid)
    }
}
