//! Who is at the other end of a connection, as the kernel says (SO_PEERCRED): whoever connected, at that time.

use std::{fmt, io, os::fd::AsFd as _};

use taskgate_net::rights::Rights;
use tokio::net::UnixStream;

/// A client's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// Absent where its process is in a PID namespace that cannot be seen from here.
    pub(super) pid: Option<i32>,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// What it may read; `None` for root, who may read all that this process may.
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
