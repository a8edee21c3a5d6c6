//! Gates: the kernel program on both ways of a link.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{Arc, Weak},
};

use aya::{
    programs::{
        LinkOrder, MultiProgLink as _, ProgramError, SchedClassifier, TcAttachType,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
    },
    sys::SyscallError,
};
use nix::net::if_::if_nametoindex;
use taskgate_ebpf::abi::{LinkId, program};

use crate::compile::CompileError;

use super::{filter, link::Link, load::LoadError, object::Object, raw};

/// How a gate hangs on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// TCX links, before all other programs: kernels from 6.6 on. They go when taskgate is killed.
    Tcx,
    /// Filters of a clsact queueing discipline. They stay when taskgate is killed, and the next gate takes their place.
    Clsact,
}

/// Where a clsact filter goes: before filters of other priorities, and under a handle that others do not use.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x7467);

/// Why a link is not gated.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The kernel program is not complete.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The link has no place in the image.
    #[error(transparent)]
    Image(CompileError),
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
        cause: ProgramError,
    },
    /// The name stands for another link now.
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
    /// The kernel did not let go.
    #[error("the gate of link `{link}` cannot be taken off")]
    Detach {
        /// The link.
        link: String,
        /// Why.
        #[source]
        cause: ProgramError,
    },
}

/// A gate that stands. It comes off when this is dropped, and all others that [`Object::attach`] gave for the same link.
#[derive(Debug)]
pub struct Gate {
    standing: Arc<Standing>,
}

/// What hangs on a link.
#[derive(Debug)]
pub(super) struct Standing {
    link: Link,
    hook: Hook,
    ways: [Attached; 2],
}

/// One program on one way of a link. It comes off when this is dropped.
#[derive(Debug)]
struct Attached(Option<SchedClassifierLink>);

impl Attached {
    /// The TCX link; `None` for a filter.
    fn tcx(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().and_then(|link| link.fd().ok())
    }

    /// Leaves it to its other owner.
    fn leave(mut self) {
        std::mem::forget(self.0.take());
    }

    fn take_off(&mut self) -> Result<(), ProgramError> {
        if let Some(link) = self.tcx() {
            // Closing it is not enough while a child that is about to be another program still has it.
            raw::detach(link)?;
        }
        self.0.take().map_or(Ok(()), aya::programs::Link::detach)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Err(error) = self.take_off() {
            log::debug!("a program cannot be taken off its link, which may be gone: {error}");
        }
    }
}

impl Gate {
    /// The link, as it was when the gate was put up.
    pub fn link(&self) -> &Link {
        &self.standing.link
    }

    /// How it hangs there.
    pub fn hook(&self) -> Hook {
        self.standing.hook
    }

    /// Whether the link is gone, and the gate with it; for filters, also whether somebody took one off.
    pub fn is_gone(&self) -> Result<bool, GateError> {
        self.standing.is_gone()
    }

    /// Takes it off and says how that went. Nothing to do where the link is gone, or while it has another owner.
    pub fn detach(self) -> Result<(), GateError> {
        let Some(mut standing) = Arc::into_inner(self.standing) else {
            return Ok(());
        };
        if standing.is_gone()? {
            return Ok(());
        }
        for way in &mut standing.ways {
            way.take_off().map_err(|cause| GateError::Detach {
                link: standing.link.name.clone(),
                cause,
            })?;
        }
        Ok(())
    }
}

impl Standing {
    fn is_gone(&self) -> Result<bool, GateError> {
        let look = |cause| GateError::Look {
            link: self.link.name.clone(),
            cause,
        };
        match self.hook {
            Hook::Tcx => {
                for link in self.ways.iter().filter_map(Attached::tcx) {
                    if raw::attached_ifindex(link).map_err(look)? != self.link.ifindex {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            // The number may be another link's by now: one without our filters.
            Hook::Clsact => {
                for way in [TcAttachType::Ingress, TcAttachType::Egress] {
                    if !filter::is_there(self.link.ifindex, way, PRIORITY, HANDLE).map_err(look)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }
}

impl Link {
    /// What the tables call it.
    ///
    /// # Errors
    /// [`GateError::Ifindex`] if they have no name for it.
    pub fn id(&self) -> Result<LinkId, GateError> {
        if self.ifindex < LinkId::DEVICES {
            return Ok(LinkId::device(self.ifindex));
        }
        Err(GateError::Ifindex {
            link: self.name.clone(),
            ifindex: self.ifindex,
        })
    }
}

impl Object {
    /// Puts a gate on a link of this network namespace: once this returns, both ways are gated. Nothing stays attached
    /// where it fails. A link that has a gate of this object keeps it, now with one more owner: it is never open between
    /// two of them. With TCX it waits for the kernel twice, 20 to 140 ms each; the kernel lets only one such call in at a
    /// time, so threads do not make it faster.
    pub fn attach(&mut self, link: &Link) -> Result<Gate, GateError> {
        match self.tcx {
            Some(true) => self.attach_by(link, Hook::Tcx),
            Some(false) => self.attach_by(link, Hook::Clsact),
            // Which of the two this kernel has is learned from the first gate.
            None => match self.attach_by(link, Hook::Tcx) {
                Err(GateError::Attach { cause, .. }) if lacks_tcx(&cause) => {
                    let gate = self.attach_by(link, Hook::Clsact)?;
                    log::info!("this kernel has no TCX, which Linux has from 6.6 on: gates are clsact filters");
                    self.tcx = Some(false);
                    Ok(gate)
                }
                attached => {
                    self.tcx = attached.is_ok().then_some(true);
                    attached
                }
            },
        }
    }

    /// [`Self::attach`] in one of the two ways.
    pub fn attach_by(&mut self, link: &Link, hook: Hook) -> Result<Gate, GateError> {
        let name = &*link.name;
        link.id()?;
        self.gates.retain(|gate| gate.strong_count() > 0);
        let same = |gate: &Arc<Standing>| {
            let place = (gate.link.ifindex, gate.link.faces_task(), gate.hook);
            place == (link.ifindex, link.faces_task(), hook)
        };
        if let Some(standing) = self.gates.iter().filter_map(Weak::upgrade).find(same)
            && (hook == Hook::Clsact || !standing.is_gone()?)
        {
            if hook == Hook::Clsact {
                // The number may be another link's by now; whichever gate goes first takes the filters of both.
                add_clsact(name)?;
                for program in [program::TO_TASK, program::FROM_TASK] {
                    self.attach_way(program, link, hook)?.leave();
                }
            }
            return Ok(Gate { standing });
        }
        if hook == Hook::Clsact {
            add_clsact(name)?;
        }
        // Toward the task first: until the other way is gated too, what the task sends gets no answer.
        let to_task = self.attach_way(program::TO_TASK, link, hook)?;
        let from_task = self.attach_way(program::FROM_TASK, link, hook)?;
        let standing = Standing {
            link: link.clone(),
            hook,
            ways: [to_task, from_task],
        };
        // The programs were attached by name: it may have come to stand for another link.
        if standing.is_gone()? || if_nametoindex(name) != Ok(link.ifindex) {
            return Err(GateError::Replaced { link: name.to_owned() });
        }
        let standing = Arc::new(standing);
        self.gates.push(Arc::downgrade(&standing));
        Ok(Gate { standing })
    }

    fn attach_way(&mut self, program: &'static str, link: &Link, hook: Hook) -> Result<Attached, GateError> {
        let name = &*link.name;
        // A veth's host end receives what the task sends; what faces the wire sends it there.
        let way = if (program == program::FROM_TASK) == link.faces_task() {
            TcAttachType::Ingress
        } else {
            TcAttachType::Egress
        };
        let classifier = self.classifier(program)?;
        let id = match hook {
            Hook::Tcx => classifier.attach_with_options(name, way, TcAttachOptions::TcxOrder(LinkOrder::first())),
            Hook::Clsact => attach_filter(classifier, name, way),
        };
        let link = id.and_then(|id| classifier.take_link(id));
        let attached = link.map(|link| Attached(Some(link)));
        attached.map_err(|cause| GateError::Attach {
            program,
            link: name.to_owned(),
            cause,
        })
    }
}

fn add_clsact(link: &str) -> Result<(), GateError> {
    match qdisc_add_clsact(link) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        added => added.map_err(|error| GateError::Attach {
            program: "clsact",
            link: link.to_owned(),
            cause: error.into(),
        }),
    }
}

/// Adds our filter. One that is there under our handle is what a killed run left: it is replaced in one step, so that
/// the link is never open.
fn attach_filter(
    classifier: &mut SchedClassifier,
    link: &str,
    way: TcAttachType,
) -> Result<aya::programs::tc::SchedClassifierLinkId, ProgramError> {
    let options = NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    };
    match classifier.attach_with_options(link, way, TcAttachOptions::Netlink(options)) {
        Err(ProgramError::TcError(TcError::NetlinkError(error))) if error.raw_os_error() == Some(libc::EEXIST) => {
            let ours = SchedClassifierLink::attached(link, way, PRIORITY, HANDLE, None)?;
            classifier.attach_to_link(ours)
        }
        attached => attached,
    }
}

/// Whether an error says that this kernel has no TCX.
fn lacks_tcx(error: &ProgramError) -> bool {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => {
            raw::is_unknown(io_error) || io_error.raw_os_error() == Some(libc::E2BIG)
        }
        _ => false,
    }
}
