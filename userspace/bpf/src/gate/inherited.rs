//! Gates of an earlier process: they stay in force until each gets the programs of this process.

use std::{
    io,
    sync::{MutexGuard, PoisonError},
};

use nix::net::if_::if_nameindex;
use taskgate_ebpf::abi::program;
use taskgate_net::{
    filter::{self, FoundFilter},
    link::Link,
    rtnl::Rtnl,
};

use super::{GateError, GatePrograms, Place, SIDES, side::Side};
use crate::{pins::PinError, sys};

impl GatePrograms {
    /// Opens the gates of an earlier process of this instance. Returns how many gated links still exist.
    pub fn inherit(&self) -> Result<usize, PinError> {
        let Some(pins) = self.programs.pins() else {
            return Ok(0);
        };
        let mut sides = Vec::new();
        for path in pins.link_paths()? {
            let side = Side::open(path)?;
            if !side.forget_if_gone() {
                sides.push(side);
            }
        }
        let count = sides.iter().filter(|side| side.ingress()).count();
        *self.inherited() = sides;
        let filtered = self
            .filtered()
            .map_err(PinError::of("look at what has filters instead of", &pins.link(0)))?;
        Ok(count + filtered.len())
    }

    /// The ifindexes of the links of this network namespace that have clsact filters of a gate.
    fn filtered(&self) -> io::Result<Vec<u32>> {
        let mut filtered = Vec::new();
        for link in &if_nameindex()? {
            if self.programs.filters().stand(link.index())? {
                filtered.push(link.index());
            }
        }
        Ok(filtered)
    }

    /// The ifindexes of the links of this network namespace that have a trunk's gate of an earlier process: its egress side has
    /// the program for packets from tasks.
    pub fn inherited_trunks(&self) -> Result<Vec<u32>, PinError> {
        let Some(pins) = self.programs.pins() else {
            return Ok(Vec::new());
        };
        let trunks = self.trunks();
        trunks.map_err(PinError::of("look at the programs of gates by", &pins.link(0)))
    }

    fn trunks(&self) -> io::Result<Vec<u32>> {
        let mut trunks = Vec::new();
        for side in self.inherited().iter().filter(|side| !side.ingress()) {
            let attached = side.attached()?;
            if side.place(attached.ifindex)? == Place::Here
                && sys::program_info(attached.program)?.name == program::FROM_TASK
            {
                trunks.push(attached.ifindex);
            }
        }
        for ifindex in self.filtered()? {
            let own = self.programs.filters().gate(ifindex, false);
            let is_trunks = |found: &FoundFilter| found.is_at(own) && found.name == program::FROM_TASK;
            if filter::filters(ifindex, false)?.iter().any(is_trunks) {
                trunks.push(ifindex);
            }
        }
        Ok(trunks)
    }

    fn inherited(&self) -> MutexGuard<'_, Vec<Side>> {
        self.inherited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a gate of an earlier process is on a link of this network namespace, even if only on one side. A TCX gate is
    /// identified by its BPF link, so another link that has got the ifindex does not count.
    pub fn is_inherited(&self, link: &Link) -> Result<bool, GateError> {
        Ok(self.has_inherited_side(link)? || self.has_filters(link)?)
    }

    /// Whether a TCX link of an earlier process is attached to the link.
    pub(super) fn has_inherited_side(&self, link: &Link) -> Result<bool, GateError> {
        let found = find(&self.inherited(), link.ifindex).map_err(look(link))?;
        Ok(found.iter().any(Option::is_some))
    }

    /// Whether the link has clsact filters of a gate.
    pub(super) fn has_filters(&self, link: &Link) -> Result<bool, GateError> {
        self.programs.filters().stand(link.ifindex).map_err(look(link))
    }

    /// Removes the sides of a link of this network namespace from the inherited ones, and returns them, the ingress side first.
    pub(super) fn claim(&self, ifindex: u32) -> io::Result<[Option<Side>; 2]> {
        let mut inherited = self.inherited();
        let mut found: Vec<usize> = find(&inherited, ifindex)?.into_iter().flatten().collect();
        // The higher index first: `swap_remove` then leaves the lower one valid.
        found.sort_unstable_by(|a, b| b.cmp(a));
        let mut claimed = [None, None];
        for at in found {
            let side = inherited.swap_remove(at);
            let at = usize::from(!side.ingress());
            claimed[at] = Some(side);
        }
        Ok(claimed)
    }

    /// Puts claimed sides back.
    pub(super) fn leave(&self, claimed: [Option<Side>; 2]) {
        self.inherited().extend(claimed.into_iter().flatten());
    }

    /// Detaches remaining inherited sides of a link that has a gate of this process. `claimed`: whether that gate was inherited, too.
    pub(super) fn shed(&self, ifindex: u32, claimed: bool) {
        let mut inherited = self.inherited();
        let is_there = |side: &mut Side| {
            (!claimed || side.found_at() == ifindex) && side.place(ifindex).is_ok_and(|place| place == Place::Here)
        };
        for side in inherited.extract_if(.., is_there) {
            if let Err(error) = side.take_off() {
                tracing::warn!("a half gate of an earlier process cannot be taken off: {error}");
            }
        }
    }

    /// Closes the links with a gate of an earlier process and none of this one, as no configuration names them any more: TCX gates in
    /// any network namespace, filters in this one. Returns the number of links.
    ///
    /// # Errors
    /// The first failure. Links that cannot be closed keep their earlier policy.
    pub fn close_inherited(&self) -> io::Result<usize> {
        let mut inherited = self.inherited();
        inherited.retain(|side| !side.forget_if_gone());
        let mut closed = Ok(());
        for side in &*inherited {
            closed = closed.and(side.set(self.programs.get(program::DROP_ALL)));
        }
        let mut count = inherited.iter().filter(|side| side.ingress()).count();
        if self.programs.outlive() {
            count += self.close_filters()?;
        }
        closed.map(|()| count)
    }

    /// Closes the links of this network namespace that have filters of an earlier process and no gate of this one.
    fn close_filters(&self) -> io::Result<usize> {
        let own: Vec<u32> = {
            let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
            let gates = attached.iter().filter_map(std::sync::Weak::upgrade);
            gates.map(|attachment| attachment.link.ifindex).collect()
        };
        let mut rtnl = Rtnl::open()?;
        let mut closed = 0;
        for ifindex in self.filtered()? {
            if own.contains(&ifindex) {
                continue;
            }
            for ingress in SIDES {
                let filter = self.programs.filters().gate(ifindex, ingress);
                if filter.is_taken()? {
                    filter.put(&mut rtnl, self.programs.get(program::DROP_ALL), program::DROP_ALL)?;
                }
            }
            closed += 1;
        }
        Ok(closed)
    }
}

fn look(link: &Link) -> impl Fn(io::Error) -> GateError {
    let link = link.name.clone();
    move |cause| GateError::Look {
        link: link.clone(),
        cause,
    }
}

/// The indexes of the sides on a link of this network namespace, ingress first. Sides that had this ifindex when they were opened
/// are checked first, as hardly any link changes its number.
fn find(sides: &[Side], ifindex: u32) -> io::Result<[Option<usize>; 2]> {
    let mut found = [None; 2];
    for is_likely in [true, false] {
        for (at, side) in sides.iter().enumerate() {
            let found = &mut found[usize::from(!side.ingress())];
            if (side.found_at() == ifindex) == is_likely && found.is_none() && side.place(ifindex)? == Place::Here {
                *found = Some(at);
            }
        }
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    Ok(found)
}
