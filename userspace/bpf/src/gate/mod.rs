//! Gates: the kernel program on both sides of a link.

mod elsewhere;
mod inherited;
mod inspection;
mod programs;
mod removal;
mod side;

use std::{error::Error, io, mem, sync::Arc};

use taskgate_ebpf::abi::{LinkId, program};
use taskgate_net::{
    filter::FilterPlace,
    link::{Link, name_of},
    rtnl::Rtnl,
};

pub use self::{
    inspection::{GateFault, Inspection},
    programs::{Cover, GatePrograms},
    removal::{TakenOff, any_stands, take_off_all},
};
use self::{programs::Programs, side::Side};
use super::{load::LoadError, pins::PinError};

/// The kind of a gate's attachment to its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachKind {
    /// TCX links, before all other programs: kernels from 6.6 on. Their pins in bpffs keep them when taskgate ends.
    Tcx,
    /// Filters of a clsact queueing discipline. They stay when taskgate ends, and the next gate replaces them.
    Clsact,
}

/// The program of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateProgram {
    /// Judges packets by the policy of the link's task.
    Judge,
    /// Drops all packets. It does not depend on the link, so it works on links of any kind, number and namespace.
    DropAll,
}

/// Where the link of a gate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this network namespace, with the gate on at least one side: the program of the other side may have been detached.
    Here,
    /// In another network namespace, with its gate. Only TCX gates can be tracked there.
    Elsewhere,
    /// A link with its ifindex is in this network namespace, without any program of the gate: the gate was detached, or this is
    /// another link. Only the link monitor can distinguish the two.
    Bare,
    /// No link with its ifindex is in this network namespace: it was deleted, or moved away, which removes clsact filters.
    Gone,
}

/// The priority and handles of clsact filters: they run before filters of other priorities, under handles that other programs do
/// not use. Each instance adds its number to the handles, so that several instances can gate one link.
const PRIORITY: u16 = 1;
const GATE_HANDLE: u32 = 0x7467;
const COVER_HANDLE: u32 = 0x7468;

/// Both sides of a link, as `ingress`: receiving, and sending.
const SIDES: [bool; 2] = [true, false];

/// The filters of one instance.
#[derive(Clone, Copy, Debug)]
struct Filters {
    instance: u16,
}

impl Filters {
    /// The place of a gate's filter.
    fn gate(self, ifindex: u32, ingress: bool) -> FilterPlace {
        self.at(ifindex, ingress, GATE_HANDLE)
    }

    /// The place of a [`Cover`]'s filter.
    fn cover(self, ifindex: u32, ingress: bool) -> FilterPlace {
        self.at(ifindex, ingress, COVER_HANDLE)
    }

    /// Removes a gate's filters.
    fn clear_gate(self, ifindex: u32) -> io::Result<()> {
        SIDES
            .into_iter()
            .try_for_each(|ingress| self.gate(ifindex, ingress).clear())
    }

    /// Removes the filters of a [`Cover`] that a killed process left.
    fn clear_cover(self, ifindex: u32) -> io::Result<()> {
        clear_taken(SIDES.map(|ingress| self.cover(ifindex, ingress))).map(drop)
    }

    /// Removes all filters of this instance from a link. Returns whether there were any.
    fn clear(self, ifindex: u32) -> io::Result<bool> {
        let of_gate = clear_taken(SIDES.map(|ingress| self.gate(ifindex, ingress)))?;
        let of_cover = clear_taken(SIDES.map(|ingress| self.cover(ifindex, ingress)))?;
        Ok(of_gate || of_cover)
    }

    /// Whether a link has a gate's filter on at least one side.
    fn stand(self, ifindex: u32) -> io::Result<bool> {
        let [received, sent] = SIDES.map(|ingress| self.gate(ifindex, ingress).is_taken());
        Ok(received? || sent?)
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

/// Removes those of the filters that exist. Returns whether any did.
fn clear_taken(filters: [FilterPlace; 2]) -> io::Result<bool> {
    let mut any = false;
    for filter in filters {
        if filter.is_taken()? {
            filter.clear()?;
            any = true;
        }
    }
    Ok(any)
}

/// Why a link is not gated.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The kernel program is not complete.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The gate would not outlive the process.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// Something that must be done before the gate is up was refused.
    #[error(transparent)]
    Prepare(Box<dyn Error + Send + Sync>),
    /// The link's ifindex is too large for the tables.
    #[error(
        "link `{link}` has ifindex {ifindex}, and a gate works below {}: links made in a new network namespace count from 1 again",
        LinkId::DEVICES
    )]
    Ifindex {
        /// The link.
        link: String,
        /// Its ifindex.
        ifindex: u32,
    },
    /// The kernel refused to attach a program.
    #[error("program `{program}` cannot be attached to link `{link}`")]
    Attach {
        /// The program.
        program: &'static str,
        /// The link.
        link: String,
        /// The kernel's error.
        #[source]
        cause: io::Error,
    },
    /// The link has a gate for the opposite direction.
    #[error("link `{link}` has the gate of {has} and cannot get that of {wants}: end taskgate and start it again")]
    Sides {
        /// The link.
        link: String,
        /// Whose gate it has.
        has: &'static str,
        /// Whose gate it would get.
        wants: &'static str,
    },
    /// Another link has the name now.
    #[error("link `{link}` was replaced by another one of that name: look it up again")]
    Replaced {
        /// The link.
        link: String,
    },
    /// The link's state cannot be read.
    #[error("link `{link}` cannot be looked at")]
    Look {
        /// The link.
        link: String,
        /// The kernel's error.
        #[source]
        cause: io::Error,
    },
    /// The program of an attached gate cannot be replaced.
    #[error("the gate of link `{link}` cannot get another program")]
    Update {
        /// The link.
        link: String,
        /// The kernel's error.
        #[source]
        cause: io::Error,
    },
    /// The kernel refused to detach the gate.
    #[error("the gate of link `{link}` cannot be taken off")]
    Detach {
        /// The link.
        link: String,
        /// The kernel's error.
        #[source]
        cause: io::Error,
    },
}

/// The id of a link in the tables.
///
/// # Errors
/// [`GateError::Ifindex`] if the ifindex is too large for an id.
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

/// An attached gate. It may have several owners. If its programs outlive the process ([`GatePrograms`]), it stays attached when
/// all owners are dropped; otherwise it is detached with the last one.
#[derive(Clone, Debug)]
pub struct Gate {
    attachment: Arc<Attachment>,
}

/// The programs on a link.
#[derive(Debug)]
struct Attachment {
    link: Link,
    programs: Arc<Programs>,
    hold: Hold,
}

/// The kernel objects that hold the programs on a link.
#[derive(Debug)]
enum Hold {
    /// The TCX links of the sides.
    Tcx([Side; 2]),
    /// Filters, which are identified by their place.
    Filters,
    /// None: the gate was detached.
    Released,
}

impl Attachment {
    fn hook(&self) -> AttachKind {
        match self.hold {
            Hold::Tcx(_) => AttachKind::Tcx,
            Hold::Filters | Hold::Released => AttachKind::Clsact,
        }
    }

    fn place(&self) -> Result<Place, GateError> {
        let look = |cause| GateError::Look {
            link: self.link.name.clone(),
            cause,
        };
        match &self.hold {
            Hold::Tcx(sides) => {
                for side in sides {
                    match side.place(self.link.ifindex).map_err(look)? {
                        place @ (Place::Here | Place::Elsewhere) => return Ok(place),
                        Place::Bare | Place::Gone => {}
                    }
                }
            }
            Hold::Filters if self.programs.filters().stand(self.link.ifindex).map_err(look)? => return Ok(Place::Here),
            Hold::Filters | Hold::Released => {}
        }
        Ok(if name_of(self.link.ifindex).is_ok() {
            Place::Bare
        } else {
            Place::Gone
        })
    }

    fn is_on(&self, ifindex: u32) -> bool {
        match &self.hold {
            Hold::Tcx(sides) => {
                let is_here = |side: &Side| side.place(ifindex).is_ok_and(|place| place == Place::Here);
                sides.iter().any(is_here)
            }
            Hold::Filters | Hold::Released => false,
        }
    }

    fn set(&self, gate: GateProgram) -> Result<(), GateError> {
        for (at, ingress) in SIDES.into_iter().enumerate() {
            let name = program_name(&self.link, gate, ingress);
            let program = self.programs.get(name);
            let updated = match &self.hold {
                Hold::Tcx(sides) => sides[at].set(program),
                Hold::Filters | Hold::Released => Rtnl::open().and_then(|mut rtnl| {
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

    /// Detaches everything if `whole` is an error, and returns `whole`.
    fn unless_failed(&mut self, whole: Result<(), GateError>) -> Result<(), GateError> {
        if whole.is_err() {
            self.take_off_or_log();
        }
        whole
    }

    fn take_off_or_log(&mut self) {
        if let Err(error) = self.take_off() {
            tracing::debug!("a program cannot be taken off its link, which may be gone: {error}");
        }
    }

    fn take_off(&mut self) -> io::Result<()> {
        match mem::replace(&mut self.hold, Hold::Released) {
            Hold::Tcx(sides) => sides.iter().try_for_each(Side::take_off),
            Hold::Filters => self.programs.filters().clear_gate(self.link.ifindex),
            Hold::Released => Ok(()),
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.programs.outlive() {
            // The pin would keep a BPF link whose network link is gone.
            if let Hold::Tcx(sides) = &self.hold {
                for side in sides {
                    side.forget_if_gone();
                }
            }
            return;
        }
        self.take_off_or_log();
    }
}

impl Gate {
    /// The link, as it was when the gate was attached.
    pub fn link(&self) -> &Link {
        &self.attachment.link
    }

    /// The kind of attachment.
    pub fn hook(&self) -> AttachKind {
        self.attachment.hook()
    }

    /// Where the gate's link is now. A TCX gate's link is identified by the BPF link: the ifindex may be another link's,
    /// here or in another namespace.
    pub fn place(&self) -> Result<Place, GateError> {
        self.attachment.place()
    }

    /// Whether a TCX gate is on the link of this network namespace that has this ifindex now, even if its link had another one before.
    pub fn is_on(&self, ifindex: u32) -> bool {
        self.attachment.is_on(ifindex)
    }

    /// Whether the gate is no longer on a link of this network namespace.
    pub fn is_gone(&self) -> Result<bool, GateError> {
        Ok(self.place()? != Place::Here)
    }

    /// Replaces the program, atomically on each side, without waiting. With TCX this works in any namespace.
    pub fn set(&self, gate: GateProgram) -> Result<(), GateError> {
        self.attachment.set(gate)
    }

    /// Detaches the gate and reports errors. Does nothing if the link is gone, or while the gate has another owner.
    pub fn detach(self) -> Result<(), GateError> {
        let Some(mut attachment) = Arc::into_inner(self.attachment) else {
            return Ok(());
        };
        if matches!(attachment.place()?, Place::Bare | Place::Gone) {
            return Ok(());
        }
        attachment.take_off().map_err(|cause| GateError::Detach {
            link: attachment.link.name.clone(),
            cause,
        })
    }
}
