//! A connection to rtnetlink in one network namespace.

use std::io;

use rtnetlink::{Error, Handle};

/// A refused operation on a link, an address, a route or a namespace.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} `{object}`")]
pub struct NetlinkError {
    /// The operation, such as `add address`.
    pub operation: &'static str,
    /// The object of the operation.
    pub object: String,
    /// The system's error.
    #[source]
    pub cause: io::Error,
}

impl NetlinkError {
    /// A function that makes a [`NetlinkError`] of a cause.
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

/// Errors that convert to an error of the operating system.
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

/// A connection to rtnetlink. It belongs to the network namespace in which it was opened, on any thread.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Connects in the network namespace of the calling thread. To be called on a tokio runtime, of any flavour.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::of("open", "rtnetlink"))?;
        // The task ends once the last handle is dropped.
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}
