//! Inspection and repair of gates: compares a gate in the kernel with its attached state.

use std::{error::Error as _, io};

use taskgate_ebpf::abi::program;
use taskgate_net::{filter, link::name_of};

use super::{Attachment, Gate, GateError, GateProgram, GatePrograms, Hold, SIDES, program_name, side::Side};
use crate::sys::{self, ProgramInfo};

/// A fault of one side of a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateFault {
    /// The side has no program.
    Missing {
        /// Whether it is the side on which the link receives.
        ingress: bool,
    },
    /// The side has another program.
    Replaced {
        /// Whether it is the side on which the link receives.
        ingress: bool,
        /// The other one.
        by: ProgramInfo,
    },
    /// Another program runs before the gate's, and may let packets bypass it. This is not repaired: the program was attached on
    /// purpose, and would be attached again.
    Before {
        /// Whether it is the side on which the link receives.
        ingress: bool,
        /// The other one.
        by: ProgramInfo,
    },
    /// The side has no pin in bpffs, and would be detached with the process.
    Unpinned {
        /// Whether it is the side on which the link receives.
        ingress: bool,
    },
}

impl GateFault {
    /// Whether the fault is on the side on which the link receives.
    pub const fn ingress(&self) -> bool {
        match self {
            Self::Missing { ingress }
            | Self::Replaced { ingress, .. }
            | Self::Before { ingress, .. }
            | Self::Unpinned { ingress } => *ingress,
        }
    }

    /// Whether [`Gate::repair`] can repair the fault.
    pub const fn can_be_repaired(&self) -> bool {
        !matches!(self, Self::Before { .. })
    }
}

/// The state of a gate in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// The programs of its sides; `true`: the side on which the link receives.
    pub sides: Vec<(bool, ProgramInfo)>,
    /// The gate's faults.
    pub faults: Vec<GateFault>,
}

impl Gate {
    /// Inspects the gate. `None`: the link left this network namespace or was deleted, or another link has its ifindex.
    pub fn inspect(&self) -> io::Result<Option<Inspection>> {
        let Attachment { link, hold, .. } = &*self.attachment;
        let is_here = || name_of(link.ifindex).is_ok();
        if !is_here() {
            return Ok(None);
        }
        let mut found = Inspection::default();
        for (at, ingress) in SIDES.into_iter().enumerate() {
            let seen = match hold {
                Hold::Tcx(sides) => self.inspect_side(&sides[at], &mut found)?,
                Hold::Filters => self.inspect_filter(ingress, &mut found)?,
                Hold::Released => None,
            };
            if seen.is_none() {
                return Ok(None);
            }
        }
        // The link may have gone meanwhile.
        Ok(is_here().then_some(found))
    }

    /// `None`: the side is in another network namespace.
    fn inspect_side(&self, side: &Side, found: &mut Inspection) -> io::Result<Option<()>> {
        let programs = &self.attachment.programs;
        let ingress = side.ingress();
        let attached = side.attached()?;
        if attached.ifindex == 0 {
            found.faults.push(GateFault::Missing { ingress });
            return Ok(Some(()));
        }
        let ifindex = self.attachment.link.ifindex;
        let entries = match sys::tcx_programs(ifindex, ingress) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            entries => entries?,
        };
        let Some(place) = entries.iter().position(|entry| entry.link == attached.id) else {
            return Ok(None);
        };
        for entry in &entries[..place] {
            Self::note_before(ingress, entry.program, found);
        }
        self.note_own(ingress, attached.program, found)?;
        if let Some(pins) = programs.pins()
            && !side.is_kept(pins)?
        {
            found.faults.push(GateFault::Unpinned { ingress });
        }
        Ok(Some(()))
    }

    fn inspect_filter(&self, ingress: bool, found: &mut Inspection) -> io::Result<Option<()>> {
        let ifindex = self.attachment.link.ifindex;
        // TCX programs run before all filters. Kernels without TCX have none.
        for entry in sys::tcx_programs(ifindex, ingress).unwrap_or_default() {
            Self::note_before(ingress, entry.program, found);
        }
        let filters = match filter::filters(ifindex, ingress) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            // No clsact.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Vec::new(),
            filters => filters?,
        };
        let place = self.attachment.programs.filters().gate(ifindex, ingress);
        let Some(own) = filters.iter().position(|filter| filter.is_at(place)) else {
            found.faults.push(GateFault::Missing { ingress });
            return Ok(Some(()));
        };
        for filter in &filters[..own] {
            Self::note_before(ingress, filter.program, found);
        }
        self.note_own(ingress, filters[own].program, found)?;
        Ok(Some(()))
    }

    fn note_before(ingress: bool, id: u32, found: &mut Inspection) {
        // A program that was unloaded meanwhile runs no more.
        let Ok(by) = sys::program_info(id) else { return };
        // Another instance's gate only drops packets; passed packets go on to this gate.
        if !is_gate(&by.name) {
            found.faults.push(GateFault::Before { ingress, by });
        }
    }

    fn note_own(&self, ingress: bool, id: u32, found: &mut Inspection) -> io::Result<()> {
        let info = match sys::program_info(id) {
            // The program was replaced meanwhile, as taskgate itself does.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
            info => info?,
        };
        if !self.attachment.programs.ids()?.contains(&id) {
            found.faults.push(GateFault::Replaced {
                ingress,
                by: info.clone(),
            });
        }
        found.sides.push((ingress, info));
        Ok(())
    }

    /// Puts the program on both sides of the link again, which must be in this network namespace, and restores missing pins. A failed
    /// pin is logged and is no error, as the gate works without it.
    pub fn repair(&self, gate: GateProgram) -> Result<(), GateError> {
        self.attachment.repair(gate)
    }
}

impl Attachment {
    /// [`Gate::repair`].
    pub(super) fn repair(&self, gate: GateProgram) -> Result<(), GateError> {
        match &self.hold {
            Hold::Tcx(sides) => {
                for side in sides {
                    let name = program_name(&self.link, gate, side.ingress());
                    let attach = |cause| GateError::Attach {
                        program: name,
                        link: self.link.name.clone(),
                        cause,
                    };
                    if side.ifindex().map_err(attach)? == 0 {
                        side.attach_again(self.programs.get(name), self.link.ifindex)
                            .map_err(attach)?;
                    }
                }
            }
            Hold::Filters => GatePrograms::add_clsact(&self.link)?,
            Hold::Released => return Ok(()),
        }
        self.set(gate)?;
        if let (Hold::Tcx(sides), Some(pins)) = (&self.hold, self.programs.pins()) {
            for side in sides {
                if let Err(error) = side.keep(pins) {
                    tracing::debug!(
                        "{error}: {}",
                        error.source().map(ToString::to_string).unwrap_or_default()
                    );
                }
            }
        }
        Ok(())
    }
}

/// Whether a program has the name of a gate's.
fn is_gate(name: &str) -> bool {
    matches!(name, program::FROM_TASK | program::TO_TASK | program::DROP_ALL)
}
