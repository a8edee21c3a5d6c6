//! One side of a gate: a TCX link, pinned in bpffs if it is to outlive the process.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::Place;
use crate::{
    pins::{self, PinError, Pins},
    sys,
};

/// A TCX link.
#[derive(Debug)]
pub(super) struct Side {
    hold: Mutex<Hold>,
    ingress: bool,
    /// The ifindex of its link when this was made.
    found_at: u32,
}

/// The BPF link, and its pin in bpffs.
#[derive(Debug)]
struct Hold {
    link: OwnedFd,
    name: Option<PathBuf>,
}

impl Side {
    /// Attaches a program to one side of a link. It is detached again if this is dropped before it is pinned ([`Self::keep`]).
    pub(super) fn attach(program: BorrowedFd<'_>, ifindex: u32, ingress: bool) -> io::Result<Self> {
        let link = sys::attach_tcx(program, ifindex, ingress)?;
        Ok(Self {
            hold: Mutex::new(Hold { link, name: None }),
            ingress,
            found_at: ifindex,
        })
    }

    /// Opens the pinned side of an earlier process.
    pub(super) fn open(name: PathBuf) -> Result<Self, PinError> {
        let link = sys::pinned(&name).map_err(PinError::of("open", &name))?;
        let attached = sys::attached(link.as_fd()).map_err(PinError::of("look at", &name))?;
        Ok(Self {
            hold: Mutex::new(Hold { link, name: Some(name) }),
            ingress: attached.ingress,
            found_at: attached.ifindex,
        })
    }

    fn hold(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pins the side, unless it is pinned, so that it outlives the process.
    pub(super) fn keep(&self, pins: &Pins) -> Result<(), PinError> {
        let mut hold = self.hold();
        let id = sys::attached(hold.link.as_fd()).map(|attached| attached.id);
        let id = id.map_err(PinError::of("look at a link for", &pins.link(0)))?;
        let path = pins.link(id);
        if !has_name(id, &path) {
            pins.pin(hold.link.as_fd(), &path)?;
        }
        hold.name = Some(path);
        Ok(())
    }

    /// Whether the side's pin in `pins` exists and leads to it.
    pub(super) fn is_kept(&self, pins: &Pins) -> io::Result<bool> {
        let id = self.attached()?.id;
        Ok(has_name(id, &pins.link(id)))
    }

    /// The kernel's information on the side.
    pub(super) fn attached(&self) -> io::Result<sys::Attached> {
        sys::attached(self.hold().link.as_fd())
    }

    /// Attaches a program again, to the same side of a link of this network namespace, after it was detached.
    pub(super) fn attach_again(&self, program: BorrowedFd<'_>, ifindex: u32) -> io::Result<()> {
        let link = sys::attach_tcx(program, ifindex, self.ingress)?;
        self.forget();
        *self.hold() = Hold { link, name: None };
        Ok(())
    }

    /// Whether this is the side on which the link receives.
    pub(super) fn ingress(&self) -> bool {
        self.ingress
    }

    /// The ifindex of its link when this was made, which may have changed.
    pub(super) fn found_at(&self) -> u32 {
        self.found_at
    }

    /// The ifindex of its link, in the network namespace where the link is now; 0 once the side is detached or the link is gone.
    pub(super) fn ifindex(&self) -> io::Result<u32> {
        Ok(self.attached()?.ifindex)
    }

    /// Where the side is, relative to the link of this network namespace with this ifindex: [`Place::Gone`] if its link was deleted or
    /// the program was detached.
    pub(super) fn place(&self, ifindex: u32) -> io::Result<Place> {
        let attached = self.attached()?;
        if attached.ifindex == 0 {
            return Ok(Place::Gone);
        }
        if attached.ifindex != ifindex {
            return Ok(Place::Elsewhere);
        }
        // The link may be in another namespace under the same ifindex, which here is another link's.
        let here = match sys::tcx_links(ifindex, self.ingress) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Vec::new(),
            here => here?,
        };
        Ok(if here.contains(&attached.id) {
            Place::Here
        } else {
            Place::Elsewhere
        })
    }

    /// Replaces the program, in any network namespace.
    pub(super) fn set(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        sys::update(self.hold().link.as_fd(), program)
    }

    /// Detaches the program, and removes the pin.
    pub(super) fn take_off(&self) -> io::Result<()> {
        // Closing is not enough: a forked child has the descriptor until its exec.
        let detached = sys::detach(self.hold().link.as_fd());
        self.forget();
        detached
    }

    /// Removes the pin if the network link is gone. Returns whether it is.
    pub(super) fn forget_if_gone(&self) -> bool {
        let is_gone = self.ifindex().is_ok_and(|ifindex| ifindex == 0);
        if is_gone {
            self.forget();
        }
        is_gone
    }

    fn forget(&self) {
        let name = self.hold().name.take();
        if let Some(Err(error)) = name.as_deref().map(pins::remove) {
            tracing::warn!("{error}");
        }
    }
}

/// Whether a path in bpffs is a pin of the BPF link with this id.
fn has_name(id: u32, path: &Path) -> bool {
    let found = sys::pinned(path).and_then(|link| sys::attached(link.as_fd()));
    found.is_ok_and(|found| found.id == id)
}
