//! A connection to rtnetlink in one network namespace.

use std::io;

use rtnetlink::{Error, Handle};

/// What the kernel refused to do with a link, an address, a route or a namespace.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} `{object}`")]
pub struct NetlinkError {
    /// What was to be done.
    pub operation: &'static str,
    /// With what.
    pub object: String,
    /// Why not.
    #[source]
    pub cause: io::Error,
}

impl NetlinkError {
    /// What makes a [`NetlinkError`] of a cause.
    pub(super) fn of<E: IntoIo>(operation: &'static str, object: impl Into<String>) -> impl FnOnce(E) -> Self {
        let object = object.into();
        move |cause| Self {
            operation,
            object,
            cause: cause.into_io(),
        }
    }

    /// Whether the kernel answered with this error number.
    pub(super) fn is(&self, errno: i32) -> bool {
        self.cause.raw_os_error() == Some(errno)
    }
}

/// Errors that stand for one of the operating system's.
pub(super) trait IntoIo {
    fn into_io(self) -> io::Error;
}

impl IntoIo for io::Error {
    fn into_io(self) -> io::Error {
        self
    }
}

impl IntoIo for nix::Error {
    fn into_io(self) -> io::Error {
        self.into()
    }
}

impl IntoIo for Error {
    fn into_io(self) -> io::Error {
        match self {
            Self::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other),
        }
    }
}

/// A connection to rtnetlink. It speaks of the network namespace in which it was opened, wherever it is used.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Connects in the network namespace of the calling thread. It needs a tokio runtime around it, of any flavour.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::of("open", "rtnetlink"))?;
        // It ends by itself once the last handle is dropped.
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}
