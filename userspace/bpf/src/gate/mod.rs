//! Gates: the kernel program on both sides of a link.

mod elsewhere;
mod programs;

use std::{
    error::Error,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use taskgate_ebpf::abi::{LinkId, program};
use taskgate_net::{filter::FilterPlace, link::Link, rtnl::Rtnl};

use self::programs::Programs;
pub use self::programs::{Cover, GatePrograms};
use super::load::LoadError;
use crate::sys;

/// How a gate hangs on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachKind {
    /// TCX links, before all other programs: kernels from 6.6 on. They go when taskgate is killed.
    Tcx,
    /// Filters of a clsact queueing discipline. They stay when taskgate is killed, and the next gate takes their place.
    Clsact,
}

/// The program of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateProgram {
    /// Judges them by the policy of the link's task.
    Judge,
    /// Drops them all. It does not ask which link they are on, so it holds for links of any kind, number and namespace.
    DropAll,
}

/// Where the link of a gate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this network namespace, with the gate on it.
    Here,
    /// In another network namespace; its gate is with it. Only TCX tells that.
    Elsewhere,
    /// The link is destroyed; or somebody took its gate off, which a move to another namespace does to clsact filters.
    Gone,
}

/// Where a clsact filter goes: before filters of other priorities, and under handles that others do not use. Each instance has
/// handles of its own, so that those that gate one link all do.
const PRIORITY: u16 = 1;
const GATE_HANDLE: u32 = 0x7467;
const COVER_HANDLE: u32 = 0x7468;

/// Both sides of a link: receiving, and sending.
const SIDES: [bool; 2] = [true, false];

/// The filters of one instance.
#[derive(Clone, Copy, Debug)]
struct Filters {
    instance: u16,
}

impl Filters {
    /// That of a gate.
    fn gate(self, ifindex: u32, ingress: bool) -> FilterPlace {
        self.at(ifindex, ingress, GATE_HANDLE)
    }

    /// That of a [`Cover`].
    fn cover(self, ifindex: u32, ingress: bool) -> FilterPlace {
        self.at(ifindex, ingress, COVER_HANDLE)
    }

    fn at(self, ifindex: u32, ingress: bool, handle: u32) -> FilterPlace {
        FilterPlace {
            ifindex,
            ingress,
            priority: PRIORITY,
            handle: u32::from(self.instance) << 16 | handle,
        }
    }
}

/// Why a link is not gated.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The kernel program is not complete.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Something that must be done before the gate is up was refused.
    #[error(transparent)]
    Prepare(Box<dyn Error + Send + Sync>),
    /// The link's number is beyond what the tables can name.
    #[error(
        "link `{link}` has ifindex {ifindex}, and a gate works below {}: links made in a new network namespace count from 1 again",
        LinkId::DEVICES
    )]
    Ifindex {
        /// The link.
        link: String,
        /// Its number.
        ifindex: u32,
    },
    /// The kernel refused.
    #[error("program `{program}` cannot be attached to link `{link}`")]
    Attach {
        /// The program.
        program: &'static str,
        /// The link.
        link: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A gate hangs on the link for another side than it would have to.
    #[error("link `{link}` has the gate of {has} and cannot get that of {wants}: end taskgate and start it again")]
    Sides {
        /// The link.
        link: String,
        /// Whose gate it has.
        has: &'static str,
        /// Whose gate it would get.
        wants: &'static str,
    },
    /// The name means another link now.
    #[error("link `{link}` was replaced by another one of that name: look it up again")]
    Replaced {
        /// The link.
        link: String,
    },
    /// The kernel does not tell about the link.
    #[error("link `{link}` cannot be looked at")]
    Look {
        /// The link.
        link: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The program of an attached gate cannot be replaced.
    #[error("the gate of link `{link}` cannot get another program")]
    Update {
        /// The link.
        link: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The kernel did not let go.
    #[error("the gate of link `{link}` cannot be taken off")]
    Detach {
        /// The link.
        link: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// The number of a link in the tables.
///
/// # Errors
/// [`GateError::Ifindex`] if they have no name for it.
pub fn link_id(link: &Link) -> Result<LinkId, GateError> {
    if link.ifindex < LinkId::DEVICES {
        return Ok(LinkId::device(link.ifindex));
    }
    Err(GateError::Ifindex {
        link: link.name.clone(),
        ifindex: link.ifindex,
    })
}

/// The program of a gate for one side of a link, and its name.
fn program_name(link: &Link, gate: GateProgram, ingress: bool) -> &'static str {
    // A veth's host end receives the task's packets; a link to the wire sends them.
    match (gate, ingress == link.faces_task()) {
        (GateProgram::DropAll, _) => program::DROP_ALL,
        (GateProgram::Judge, true) => program::FROM_TASK,
        (GateProgram::Judge, false) => program::TO_TASK,
    }
}

/// An attached gate. It may have several owners, and comes off when the last one drops it.
#[derive(Clone, Debug)]
pub struct Gate {
    attachment: Arc<Attachment>,
}

/// The programs on a link. They are detached when this is dropped.
#[derive(Debug)]
struct Attachment {
    link: Link,
    programs: Arc<Programs>,
    /// The TCX links of the sides; `None` where filters hang there.
    sides: Option<[OwnedFd; 2]>,
}

impl Attachment {
    fn hook(&self) -> AttachKind {
        if self.sides.is_some() {
            AttachKind::Tcx
        } else {
            AttachKind::Clsact
        }
    }

    fn place(&self) -> Result<Place, GateError> {
        let look = |cause| GateError::Look {
            link: self.link.name.clone(),
            cause,
        };
        let Some(sides) = &self.sides else {
            // The number may be another link's by now: one without our filters.
            for ingress in SIDES {
                if !self
                    .programs
                    .filters()
                    .gate(self.link.ifindex, ingress)
                    .is_taken()
                    .map_err(look)?
                {
                    return Ok(Place::Gone);
                }
            }
            return Ok(Place::Here);
        };
        for (side, ingress) in sides.iter().zip(SIDES) {
            let attached = sys::attached(side.as_fd()).map_err(look)?;
            if attached.ifindex == 0 {
                return Ok(Place::Gone);
            }
            // In another namespace the number may be the same, and here it may be another link's.
            let here = match sys::tcx_links(attached.ifindex, ingress) {
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Vec::new(),
                here => here.map_err(look)?,
            };
            if attached.ifindex != self.link.ifindex || !here.contains(&attached.id) {
                return Ok(Place::Elsewhere);
            }
        }
        Ok(Place::Here)
    }

    fn is_on(&self, ifindex: u32) -> bool {
        self.sides.as_ref().is_some_and(|[received, _]| {
            let attached = sys::attached(received.as_fd());
            let here = sys::tcx_links(ifindex, true);
            matches!((attached, here), (Ok(attached), Ok(here)) if here.contains(&attached.id))
        })
    }

    fn set(&self, gate: GateProgram) -> Result<(), GateError> {
        for (at, ingress) in SIDES.into_iter().enumerate() {
            let name = program_name(&self.link, gate, ingress);
            let program = self.programs.get(name);
            let updated = match &self.sides {
                Some(sides) => sys::update(sides[at].as_fd(), program),
                None => Rtnl::open().and_then(|mut rtnl| {
                    let filter = self.programs.filters().gate(self.link.ifindex, ingress);
                    filter.put(&mut rtnl, program, name)
                }),
            };
            updated.map_err(|cause| GateError::Update {
                link: self.link.name.clone(),
                cause,
            })?;
        }
        Ok(())
    }

    fn take_off(&mut self) -> io::Result<()> {
        match self.sides.take() {
            // Closing is not enough while a child that is about to be another program still has them.
            Some(sides) => sides.iter().try_for_each(|side| sys::detach(side.as_fd())),
            None => SIDES
                .into_iter()
                .try_for_each(|ingress| self.programs.filters().gate(self.link.ifindex, ingress).clear()),
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Err(error) = self.take_off() {
            tracing::debug!("a program cannot be taken off its link, which may be gone: {error}");
        }
    }
}

impl Gate {
    /// The link, as it was when the gate was put up.
    pub fn link(&self) -> &Link {
        &self.attachment.link
    }

    /// How it hangs there.
    pub fn hook(&self) -> AttachKind {
        self.attachment.hook()
    }

    /// Where its link is now. A gate's link is identified by the BPF link itself: its number may be another one's,
    /// here or in another namespace.
    pub fn place(&self) -> Result<Place, GateError> {
        self.attachment.place()
    }

    /// Whether it hangs on the link of this network namespace that has this number, whatever number its link had before.
    pub fn is_on(&self, ifindex: u32) -> bool {
        self.attachment.is_on(ifindex)
    }

    /// Whether it gates a link of this network namespace no more.
    pub fn is_gone(&self) -> Result<bool, GateError> {
        Ok(self.place()? != Place::Here)
    }

    /// Puts another program in place, in one step for each side, without waiting. With TCX wherever the link is now.
    pub fn set(&self, gate: GateProgram) -> Result<(), GateError> {
        self.attachment.set(gate)
    }

    /// Takes it off and says how that went. Nothing to do where the link is gone, or while it has another owner.
    pub fn detach(self) -> Result<(), GateError> {
        let Some(mut attachment) = Arc::into_inner(self.attachment) else {
            return Ok(());
        };
        if attachment.place()? == Place::Gone {
            return Ok(());
        }
        attachment.take_off().map_err(|cause| GateError::Detach {
            link: attachment.link.name.clone(),
            cause,
        })
    }
}
