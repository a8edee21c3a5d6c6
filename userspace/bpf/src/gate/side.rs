//! One side of a link that has a gate: a TCX link, which has a name in bpffs if it is to outlive the process.

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
    /// The number that its link had when this was made.
    found_at: u32,
}

/// The BPF link, and its name in bpffs.
#[derive(Debug)]
struct Hold {
    link: OwnedFd,
    name: Option<PathBuf>,
}

impl Side {
    /// Attaches a program to it. It comes off again if it is dropped before it has its name ([`Self::keep`]).
    pub(super) fn attach(program: BorrowedFd<'_>, ifindex: u32, ingress: bool) -> io::Result<Self> {
        let link = sys::attach_tcx(program, ifindex, ingress)?;
        Ok(Self {
            hold: Mutex::new(Hold { link, name: None }),
            ingress,
            found_at: ifindex,
        })
    }

    /// One that an earlier process attached.
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

    /// Gives it a name, so that it outlives the process. One that has its name keeps it.
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

    /// Whether it has a name that leads to it, or needs none. `pins`: where it has its name.
    pub(super) fn is_kept(&self, pins: &Pins) -> io::Result<bool> {
        let id = self.attached()?.id;
        Ok(has_name(id, &pins.link(id)))
    }

    /// What the kernel says of it.
    pub(super) fn attached(&self) -> io::Result<sys::Attached> {
        sys::attached(self.hold().link.as_fd())
    }

    /// Attaches a program to its side of a link of this network namespace, in place of what was detached there.
    pub(super) fn attach_again(&self, program: BorrowedFd<'_>, ifindex: u32) -> io::Result<()> {
        let link = sys::attach_tcx(program, ifindex, self.ingress)?;
        self.forget();
        *self.hold() = Hold { link, name: None };
        Ok(())
    }

    /// Whether it is the side that receives.
    pub(super) fn ingress(&self) -> bool {
        self.ingress
    }

    /// The number that its link had when this was made, which may be another one by now.
    pub(super) fn found_at(&self) -> u32 {
        self.found_at
    }

    /// The number of its link, in the network namespace where that is now; 0 once it is gone.
    pub(super) fn ifindex(&self) -> io::Result<u32> {
        Ok(self.attached()?.ifindex)
    }

    /// Where it is, seen from the link of this network namespace that has this number: gone if its link is, or if somebody took
    /// it off.
    pub(super) fn place(&self, ifindex: u32) -> io::Result<Place> {
        let attached = self.attached()?;
        if attached.ifindex == 0 {
            return Ok(Place::Gone);
        }
        if attached.ifindex != ifindex {
            return Ok(Place::Elsewhere);
        }
        // In another namespace the number may be the same, and here it may be another link's.
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

    /// Puts another program in place, wherever the link is.
    pub(super) fn set(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        sys::update(self.hold().link.as_fd(), program)
    }

    /// Takes the program off.
    pub(super) fn take_off(&self) -> io::Result<()> {
        // Closing is not enough while a child that is about to be another program still has it.
        let detached = sys::detach(self.hold().link.as_fd());
        self.forget();
        detached
    }

    /// Gives up the name of one whose network link is gone; whether that is so.
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

/// Whether a name in bpffs leads to the BPF link with this id.
fn has_name(id: u32, path: &Path) -> bool {
    let found = sys::pinned(path).and_then(|link| sys::attached(link.as_fd()));
    found.is_ok_and(|found| found.id == id)
}
