//! The programs of gates, and their attachment to links.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use aya::Ebpf;
use nix::net::if_::if_nametoindex;
use taskgate_ebpf::abi;
use taskgate_net::{
    filter,
    link::{Link, LinkKind},
    rtnl::Rtnl,
};

use super::{
    AttachKind, Attachment, Filters, Gate, GateError, GateProgram, Hold, Place, SIDES, link_id, program_name,
    side::Side,
};
use crate::{
    load::{LoadError, program},
    pins::Pins,
    sys,
};

/// A pair of filters that drop everything on a link while its gate is attached: with TCX the kernel waits for a grace period on
/// each side, a filter is attached within a millisecond. The cover is removed when this is dropped.
#[derive(Debug)]
pub struct Cover {
    filters: Filters,
    ifindex: u32,
    made_clsact: bool,
}

impl Cover {
    /// Takes over the filters of another cover of the same link.
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

/// The loaded programs of gates, and their attachments. Threads may share it.
#[derive(Debug)]
pub struct GatePrograms {
    pub(super) programs: Arc<Programs>,
    has_tcx: bool,
    prefers_filters: AtomicBool,
    pub(super) attached: Mutex<Vec<Weak<Attachment>>>,
    /// Sides of TCX gates of an earlier process that no gate of this process has claimed yet.
    pub(super) inherited: Mutex<Vec<Side>>,
    /// A socket to close links with, so that this works when no more files can be opened.
    reserve: Mutex<Option<Rtnl>>,
}

#[derive(Debug)]
pub(super) struct Programs {
    filters: Filters,
    all: [(&'static str, OwnedFd); 3],
    /// The pins of gates, if gates outlive the process.
    pins: Option<Pins>,
}

impl Programs {
    pub(super) fn get(&self, name: &str) -> BorrowedFd<'_> {
        let [first, ..] = &self.all;
        let found = self.all.iter().find(|(of, _)| *of == name).unwrap_or(first);
        found.1.as_fd()
    }

    /// The programs' ids.
    pub(super) fn ids(&self) -> io::Result<Vec<u32>> {
        self.all.iter().map(|(_, file)| sys::program_id(file.as_fd())).collect()
    }

    pub(super) fn filters(&self) -> Filters {
        self.filters
    }

    pub(super) fn pins(&self) -> Option<&Pins> {
        self.pins.as_ref()
    }

    /// Whether gates outlive the process.
    pub(super) fn outlive(&self) -> bool {
        self.pins.is_some()
    }
}

impl GatePrograms {
    pub(crate) fn of(ebpf: &Ebpf, instance: u16, pins: Option<Pins>) -> Result<Self, LoadError> {
        // `drop_all` comes first: it is the fallback of `Programs::get`.
        let names = [abi::program::DROP_ALL, abi::program::FROM_TASK, abi::program::TO_TASK];
        let [first, second, third] = names.map(|name| program(ebpf, name).map(|program| (name, program)));
        // `lo` has ifindex 1 in every namespace, and older kernels reject the query.
        let has_tcx = match sys::tcx_links(1, true) {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
                tracing::info!("this kernel has no TCX, which Linux has from 6.6 on: gates are clsact filters");
                false
            }
            _ => true,
        };
        Ok(Self {
            programs: Arc::new(Programs {
                filters: Filters { instance },
                all: [first?, second?, third?],
                pins,
            }),
            has_tcx,
            prefers_filters: AtomicBool::new(false),
            attached: Mutex::default(),
            inherited: Mutex::default(),
            reserve: Mutex::default(),
        })
    }

    /// Opens a socket in the calling thread's network namespace, so that [`Self::cover`] needs no further file. From then on
    /// [`Self::cover`] works on links of that namespace.
    pub fn reserve(&self) -> io::Result<()> {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        *reserve = Some(Rtnl::open()?);
        Ok(())
    }

    /// Whether this kernel has TCX.
    pub fn has_tcx(&self) -> bool {
        self.has_tcx
    }

    /// Sets the kind of attachment for new gates, if the kernel has TCX. Existing gates keep theirs.
    pub fn prefer(&self, hook: AttachKind) {
        self.prefers_filters
            .store(hook == AttachKind::Clsact, Ordering::Relaxed);
    }

    /// The kind of attachment for new gates.
    pub fn hook(&self) -> AttachKind {
        if self.has_tcx && !self.prefers_filters.load(Ordering::Relaxed) {
            AttachKind::Tcx
        } else {
            AttachKind::Clsact
        }
    }

    /// The kind of attachment of a link's existing gate, of this process or an earlier one.
    fn standing(&self, link: &Link) -> Result<Option<AttachKind>, GateError> {
        if self.has_tcx && (self.find(link, AttachKind::Tcx)?.is_some() || self.has_inherited_side(link)?) {
            return Ok(Some(AttachKind::Tcx));
        }
        let has_filters = self.find(link, AttachKind::Clsact)?.is_some() || self.has_filters(link)?;
        Ok(has_filters.then_some(AttachKind::Clsact))
    }

    /// Attaches a gate to a link of this network namespace: once this returns, both sides have the program. If a new gate fails,
    /// nothing of it stays attached. An existing gate of these programs is kept, with one more owner and the given program, and so is a
    /// gate of an earlier process ([`Self::inherit`]): the link is never open in between, and the kind of attachment stays the same.
    /// With TCX it waits for the kernel twice, 20 to 140 ms each; the kernel serialises such calls, so threads do not make it faster.
    pub fn attach(&self, link: &Link, gate: GateProgram) -> Result<Gate, GateError> {
        let hook = self.standing(link)?.unwrap_or_else(|| self.hook());
        self.attach_by(link, gate, hook)
    }

    /// [`Self::attach`] with the given kind of attachment.
    pub fn attach_by(&self, link: &Link, gate: GateProgram, hook: AttachKind) -> Result<Gate, GateError> {
        if gate == GateProgram::Judge {
            link_id(link)?;
        }
        if let Some(attachment) = self.find(link, hook)? {
            attachment.repair(gate)?;
            return Ok(Gate { attachment });
        }
        let (attachment, claimed) = match hook {
            AttachKind::Tcx => self.attach_tcx(link, gate)?,
            AttachKind::Clsact => (self.attach_filters(link, gate)?, false),
        };
        // A duplicate side of an earlier process may remain on the link.
        self.shed(link.ifindex, claimed);
        let attachment = Arc::new(attachment);
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        attached.push(Arc::downgrade(&attachment));
        Ok(Gate { attachment })
    }

    /// The attachment on exactly this link. Filters are identified by ifindex alone: a new link with the same ifindex has none, and
    /// gets them again.
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

    /// Takes over the sides that an earlier process attached, and attaches missing ones. Also returns whether any side was taken over.
    fn attach_tcx(&self, link: &Link, gate: GateProgram) -> Result<(Attachment, bool), GateError> {
        let claimed = self.claim(link.ifindex).map_err(|cause| GateError::Look {
            link: link.name.clone(),
            cause,
        })?;
        let is_claimed = claimed.iter().any(Option::is_some);
        let sides = match self.attach_missing(link, gate, &claimed) {
            Ok(attached) => whole(claimed, attached),
            Err(error) => {
                // The inherited sides stay attached.
                self.leave(claimed);
                return Err(error);
            }
        };
        let Some(sides) = sides else {
            return Err(replaced(link));
        };
        let mut attachment = self.attachment(link, Hold::Tcx(sides));
        let done = attachment.set(gate).and_then(|()| self.clear_filters(link));
        if is_claimed {
            done?;
        } else {
            attachment.unless_failed(done)?;
        }
        Ok((attachment, is_claimed))
    }

    /// Attaches the sides of a link that were not claimed, and pins them. On failure they do not stay attached.
    fn attach_missing(
        &self,
        link: &Link,
        gate: GateProgram,
        claimed: &[Option<Side>; 2],
    ) -> Result<[Option<Side>; 2], GateError> {
        let mut attached = [None, None];
        // The side toward the task first: until the other side is gated too, the task's packets get no answer.
        let order = if link.faces_task() { [1, 0] } else { [0, 1] };
        for at in order {
            if claimed[at].is_none() {
                let program = program_name(link, gate, SIDES[at]);
                let side = Side::attach(self.programs.get(program), link.ifindex, SIDES[at]);
                attached[at] = Some(side.map_err(|cause| attach_error(link, program, cause))?);
            }
        }
        Self::check_link(link, attached.iter().flatten())?;
        if let Some(pins) = self.programs.pins() {
            // If the process is killed between the two pins, the next process takes over the pinned side.
            for side in attached.iter().flatten() {
                side.keep(pins).inspect_err(|_| take_off(attached.iter().flatten()))?;
            }
        }
        Ok(attached)
    }

    fn attachment(&self, link: &Link, hold: Hold) -> Attachment {
        Attachment {
            link: link.clone(),
            programs: Arc::clone(&self.programs),
            hold,
        }
    }

    /// Checks that programs were attached to the intended link: its ifindex or name may be another link's by now.
    fn check_link<'a>(link: &Link, sides: impl IntoIterator<Item = &'a Side>) -> Result<(), GateError> {
        let look = |cause| GateError::Look {
            link: link.name.clone(),
            cause,
        };
        for side in sides {
            if side.place(link.ifindex).map_err(look)? != Place::Here {
                return Err(replaced(link));
            }
        }
        if if_nametoindex(&*link.name) == Ok(link.ifindex) {
            Ok(())
        } else {
            Err(replaced(link))
        }
    }

    /// Removes filters of a killed process: they would drop packets, or count them twice.
    fn clear_filters(&self, link: &Link) -> Result<(), GateError> {
        let cleared = self.programs.filters().clear(link.ifindex);
        cleared.map(drop).map_err(|cause| attach_error(link, "clsact", cause))
    }

    fn attach_filters(&self, link: &Link, gate: GateProgram) -> Result<Attachment, GateError> {
        Self::add_clsact(link)?;
        let filters = self.programs.filters();
        let put = |rtnl: &mut Rtnl, ingress| {
            let program = program_name(link, gate, ingress);
            // A filter under our handle is an earlier process's: it is replaced in place, so that the link is never open.
            filters
                .gate(link.ifindex, ingress)
                .put(rtnl, self.programs.get(program), program)
                .map_err(|cause| attach_error(link, program, cause))
        };
        let mut rtnl = Rtnl::open().map_err(|cause| attach_error(link, "clsact", cause))?;
        let mut attachment = self.attachment(link, Hold::Filters);
        let attached = SIDES
            .into_iter()
            .try_for_each(|ingress| put(&mut rtnl, ingress))
            .and_then(|()| Self::check_link(link, &[]))
            .and_then(|()| {
                let cleared = filters.clear_cover(link.ifindex);
                cleared.map_err(|cause| attach_error(link, "clsact", cause))
            });
        attachment.unless_failed(attached)?;
        Ok(attachment)
    }

    pub(super) fn add_clsact(link: &Link) -> Result<(), GateError> {
        match Rtnl::open().and_then(|mut rtnl| filter::add_clsact(&mut rtnl, link.ifindex)) {
            Ok(_) => Ok(()),
            Err(cause) => Err(attach_error(link, "clsact", cause)),
        }
    }

    /// Covers a link of this network namespace, or of that of [`Self::reserve`].
    pub fn cover(&self, ifindex: u32) -> io::Result<Cover> {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        match reserve.as_mut() {
            Some(rtnl) => {
                // Discard answers to earlier requests.
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

/// Both sides of a gate, from claimed and newly attached sides.
fn whole(one: [Option<Side>; 2], other: [Option<Side>; 2]) -> Option<[Side; 2]> {
    let [first, second] = one;
    let [third, fourth] = other;
    Some([first.or(third)?, second.or(fourth)?])
}

/// Detaches sides of an incomplete gate.
fn take_off<'a>(sides: impl Iterator<Item = &'a Side>) {
    for side in sides {
        if let Err(error) = side.take_off() {
            tracing::debug!("a program cannot be taken off its link, which may be gone: {error}");
        }
    }
}

fn replaced(link: &Link) -> GateError {
    GateError::Replaced {
        link: link.name.clone(),
    }
}

fn attach_error(link: &Link, program: &'static str, cause: io::Error) -> GateError {
    let link = link.name.clone();
    match if_nametoindex(&*link) {
        // No link has the ifindex, and another link has the name.
        Ok(_) if cause.raw_os_error() == Some(libc::ENODEV) => GateError::Replaced { link },
        _ => GateError::Attach { program, link, cause },
    }
}
