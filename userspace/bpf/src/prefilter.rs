//! The uplink's prefilter: an XDP program that drops denied packets before a socket buffer is allocated.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use taskgate_net::link::Link;

use super::{load::LoadError, object::BpfObject};
use crate::sys;

/// Where the program runs.
#[derive(Debug)]
pub enum PrefilterMode {
    /// The link's driver, before there is a socket buffer.
    Native,
    /// The kernel's generic XDP, as the driver refused with this error: the socket buffer exists already.
    Generic(io::Error),
}

/// Why the prefilter cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum PrefilterError {
    /// The program cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The link supports neither native nor generic XDP.
    #[error("program `{program}` cannot be attached to link `{link}`, natively ({native}) or generically")]
    Attach {
        /// The program.
        program: &'static str,
        /// The link.
        link: String,
        /// The driver's error.
        native: io::Error,
        /// The kernel's error.
        #[source]
        cause: io::Error,
    },
}

/// An attached prefilter. It is detached when this is dropped.
#[derive(Debug)]
pub struct XdpPrefilter {
    link: Link,
    mode: PrefilterMode,
    program: &'static str,
    attached: OwnedFd,
}

impl XdpPrefilter {
    /// The link, as it was when the program was attached.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Where the program runs.
    pub fn mode(&self) -> &PrefilterMode {
        &self.mode
    }

    /// The program's name: [`taskgate_ebpf::abi::program::PREFILTER`], or the one for older kernels.
    pub fn program(&self) -> &'static str {
        self.program
    }

    /// Whether the link is gone, and the prefilter with it.
    pub fn is_gone(&self) -> io::Result<bool> {
        Ok(sys::attached(self.attached.as_fd())?.ifindex != self.link.ifindex)
    }
}

impl Drop for XdpPrefilter {
    fn drop(&mut self) {
        // Closing is not enough: a forked child has the descriptor until its exec.
        if let Err(error) = sys::detach(self.attached.as_fd()) {
            tracing::debug!("a program cannot be taken off its link, which may be gone: {error}");
        }
    }
}

impl BpfObject {
    /// Attaches the prefilter to a link: natively if the driver supports it, else generically. It is loaded first, if
    /// it was not. The link must have no other XDP program, and cannot get one while this is attached.
    ///
    /// # Errors
    /// [`PrefilterError::Load`] if the kernel refuses the program, [`PrefilterError::Attach`] with why neither way works.
    pub fn attach_prefilter(&mut self, link: &Link) -> Result<XdpPrefilter, PrefilterError> {
        let program = self.load_prefilter()?;
        let fd = self.program(program)?;
        let attach = |native| sys::attach_xdp(fd.as_fd(), link.ifindex, native);
        let (mode, attached) = match attach(true) {
            Ok(attached) => (PrefilterMode::Native, attached),
            Err(native) => match attach(false) {
                Ok(attached) => (PrefilterMode::Generic(native), attached),
                Err(cause) => {
                    return Err(PrefilterError::Attach {
                        program,
                        link: link.name.clone(),
                        native,
                        cause,
                    });
                }
            },
        };
        Ok(XdpPrefilter {
            link: link.clone(),
            mode,
            program,
            attached,
        })
    }
}
