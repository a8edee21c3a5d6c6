//! The programs of gates, and how they get onto links.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use aya::Ebpf;
use nix::net::if_::if_nametoindex;
use taskgate_ebpf::abi;
use taskgate_net::{
    filter,
    link::{Link, LinkKind},
    rtnl::Rtnl,
};

use super::{AttachKind, Attachment, Filters, Gate, GateError, GateProgram, Place, SIDES, link_id, program_name};
use crate::{
    load::{LoadError, program},
    sys,
};

/// A link that passes nothing while its gate is being put up: with TCX the kernel waits for a grace period on each side,
/// a filter is attached within a millisecond. It is lifted when this is dropped.
#[derive(Debug)]
pub struct Cover {
    filters: Filters,
    ifindex: u32,
    made_clsact: bool,
}

impl Cover {
    /// Takes over from another cover of the same link, which then lifts nothing.
    pub fn take_over(&mut self, other: Self) {
        self.made_clsact |= other.made_clsact;
        std::mem::forget(other);
    }
}

impl Drop for Cover {
    fn drop(&mut self) {
        let mut lifted = SIDES
            .into_iter()
            .try_for_each(|ingress| self.filters.cover(self.ifindex, ingress).clear());
        if self.made_clsact {
            lifted = lifted.and_then(|()| filter::remove_empty_clsact(self.ifindex));
        }
        if let Err(error) = lifted {
            tracing::warn!("the link with ifindex {} may pass nothing: {error}", self.ifindex);
        }
    }
}

/// The programs of gates, loaded, and what hangs on links of them. Threads may share it.
#[derive(Debug)]
pub struct GatePrograms {
    programs: Arc<Programs>,
    hook: AttachKind,
    attached: Mutex<Vec<Weak<Attachment>>>,
    /// The resources to close a link, so that it works when no more files can be opened.
    reserve: Mutex<Option<Rtnl>>,
}

#[derive(Debug)]
pub(super) struct Programs {
    filters: Filters,
    all: [(&'static str, OwnedFd); 3],
}

impl Programs {
    pub(super) fn get(&self, name: &str) -> BorrowedFd<'_> {
        let [first, ..] = &self.all;
        let found = self.all.iter().find(|(of, _)| *of == name).unwrap_or(first);
        found.1.as_fd()
    }

    pub(super) fn filters(&self) -> Filters {
        self.filters
    }
}

impl GatePrograms {
    pub(crate) fn of(ebpf: &Ebpf, instance: u16) -> Result<Self, LoadError> {
        // `drop_all` represents all programs.
        let names = [abi::program::DROP_ALL, abi::program::FROM_TASK, abi::program::TO_TASK];
        let [first, second, third] = names.map(|name| program(ebpf, name).map(|program| (name, program)));
        // `lo` has this number everywhere, and older kernels do not know what is asked.
        let hook = match sys::tcx_links(1, true) {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
                tracing::info!("this kernel has no TCX, which Linux has from 6.6 on: gates are clsact filters");
                AttachKind::Clsact
            }
            _ => AttachKind::Tcx,
        };
        Ok(Self {
            programs: Arc::new(Programs {
                filters: Filters { instance },
                all: [first?, second?, third?],
            }),
            hook,
            attached: Mutex::default(),
            reserve: Mutex::default(),
        })
    }

    /// Has links of the calling thread's network namespace closed without another open file from now on: [`Self::cover`]
    /// then is for links of that namespace.
    pub fn reserve(&self) -> io::Result<()> {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        *reserve = Some(Rtnl::open()?);
        Ok(())
    }

    /// How gates hang on links here.
    pub fn hook(&self) -> AttachKind {
        self.hook
    }

    /// Puts a gate on a link of this network namespace: once this returns, both sides have the program. Nothing stays
    /// attached where it fails. A link that has a gate of these keeps it, now with one more owner and this program: it is
    /// never open between two of them. With TCX it waits for the kernel twice, 20 to 140 ms each; the kernel lets only
    /// one such call in at a time, so threads do not make it faster.
    pub fn attach(&self, link: &Link, gate: GateProgram) -> Result<Gate, GateError> {
        self.attach_by(link, gate, self.hook)
    }

    /// [`Self::attach`] in one of the two ways.
    pub fn attach_by(&self, link: &Link, gate: GateProgram, hook: AttachKind) -> Result<Gate, GateError> {
        if gate == GateProgram::Judge {
            link_id(link)?;
        }
        if let Some(attachment) = self.find(link, hook)? {
            if hook == AttachKind::Clsact {
                Self::add_clsact(link)?;
            }
            attachment.set(gate)?;
            return Ok(Gate { attachment });
        }
        let attachment = Arc::new(match hook {
            AttachKind::Tcx => self.attach_tcx(link, gate)?,
            AttachKind::Clsact => self.attach_filters(link, gate)?,
        });
        // The link may have another name by now.
        if attachment.place()? != Place::Here || if_nametoindex(&*link.name) != Ok(link.ifindex) {
            return Err(GateError::Replaced {
                link: link.name.clone(),
            });
        }
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached.push(Arc::downgrade(&attachment));
        Ok(Gate { attachment })
    }

    /// The programs on this very link. Filters are identified by the link's number only: the number's next owner has none, and gets
    /// them again.
    fn find(&self, link: &Link, hook: AttachKind) -> Result<Option<Arc<Attachment>>, GateError> {
        let candidates: Vec<_> = {
            let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
            attached.retain(|attachment| attachment.strong_count() > 0);
            let same = |attachment: &Arc<Attachment>| {
                let place = |link: &Link, hook| (link.ifindex, link.kind != LinkKind::Other && link.faces_task(), hook);
                place(&attachment.link, attachment.hook()) == place(link, hook)
            };
            attached.iter().filter_map(Weak::upgrade).filter(same).collect()
        };
        for attachment in candidates {
            if hook == AttachKind::Clsact || attachment.place()? == Place::Here {
                return Ok(Some(attachment));
            }
        }
        Ok(None)
    }

    fn attach_tcx(&self, link: &Link, gate: GateProgram) -> Result<Attachment, GateError> {
        let attach = |ingress| {
            let program = program_name(link, gate, ingress);
            sys::attach_tcx(self.programs.get(program), link.ifindex, ingress)
                .map_err(|cause| attach_error(link, program, cause))
        };
        // Toward the task first: until the other side is gated too, what the task sends gets no answer.
        let sides = if link.faces_task() {
            let outgoing = attach(false)?;
            [attach(true)?, outgoing]
        } else {
            [attach(true)?, attach(false)?]
        };
        let attachment = Attachment {
            link: link.clone(),
            programs: Arc::clone(&self.programs),
            sides: Some(sides),
        };
        // Filters outlive a killed taskgate, and would drop or count packets once more.
        let filters = self.programs.filters();
        for (ingress, filter) in SIDES.into_iter().flat_map(|ingress| {
            let own = [
                filters.gate(link.ifindex, ingress),
                filters.cover(link.ifindex, ingress),
            ];
            own.map(|filter| (ingress, filter))
        }) {
            let cleared = filter
                .is_taken()
                .and_then(|taken| if taken { filter.clear() } else { Ok(()) });
            cleared.map_err(|cause| attach_error(link, program_name(link, gate, ingress), cause))?;
        }
        Ok(attachment)
    }

    fn attach_filters(&self, link: &Link, gate: GateProgram) -> Result<Attachment, GateError> {
        Self::add_clsact(link)?;
        let mut rtnl = Rtnl::open().map_err(|cause| attach_error(link, "clsact", cause))?;
        let attachment = Attachment {
            link: link.clone(),
            programs: Arc::clone(&self.programs),
            sides: None,
        };
        for ingress in SIDES {
            let program = program_name(link, gate, ingress);
            // One that is there under our handle is what a killed run left: it is replaced, so that the link is never open.
            self.programs
                .filters()
                .gate(link.ifindex, ingress)
                .put(&mut rtnl, self.programs.get(program), program)
                .map_err(|cause| attach_error(link, program, cause))?;
        }
        Ok(attachment)
    }

    fn add_clsact(link: &Link) -> Result<(), GateError> {
        match Rtnl::open().and_then(|mut rtnl| filter::add_clsact(&mut rtnl, link.ifindex)) {
            Ok(_) => Ok(()),
            Err(cause) => Err(attach_error(link, "clsact", cause)),
        }
    }

    /// Covers a link of this network namespace.
    pub fn cover(&self, ifindex: u32) -> io::Result<Cover> {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        match reserve.as_mut() {
            Some(rtnl) => {
                // The answer to an earlier request is none to this one.
                while !rtnl.waiting()?.is_empty() {}
                self.cover_by(rtnl, ifindex)
            }
            None => self.cover_by(&mut Rtnl::open()?, ifindex),
        }
    }

    fn cover_by(&self, rtnl: &mut Rtnl, ifindex: u32) -> io::Result<Cover> {
        let made_clsact = filter::add_clsact(rtnl, ifindex)?;
        let filters = self.programs.filters();
        let cover = Cover {
            filters,
            ifindex,
            made_clsact,
        };
        for ingress in SIDES {
            let program = abi::program::DROP_ALL;
            filters
                .cover(ifindex, ingress)
                .put(rtnl, self.programs.get(program), program)?;
        }
        Ok(cover)
    }
}

fn attach_error(link: &Link, program: &'static str, cause: io::Error) -> GateError {
    let link = link.name.clone();
    match if_nametoindex(&*link) {
        // The number is nobody's, and the name is another link's.
        Ok(_) if cause.raw_os_error() == Some(libc::ENODEV) => GateError::Replaced { link },
        _ => GateError::Attach { program, link, cause },
    }
}
