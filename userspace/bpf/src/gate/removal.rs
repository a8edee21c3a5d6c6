//! Finds and removes gates whose process is gone, by pins and filters alone, without a loaded program.

use std::{collections::BTreeSet, io};

use nix::net::if_::if_nameindex;
use taskgate_net::link::name_of;

use super::{Filters, Place, side::Side};
use crate::pins::{PinError, Pins};

/// Whether an instance has any gate: a pinned one in any network namespace, or filters in this one.
pub fn any_stands(pins: &Pins, instance: u16) -> Result<bool, PinError> {
    for path in pins.link_paths()? {
        let side = Side::open(path.clone())?;
        if side.ifindex().map_err(PinError::of("look at", &path))? != 0 {
            return Ok(true);
        }
    }
    let filters = Filters { instance };
    let stands = || -> io::Result<bool> {
        for link in &if_nameindex()? {
            if filters.stand(link.index())? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    stands().map_err(PinError::of("look at what has filters instead of", &pins.link(0)))
}

/// The result of [`take_off_all`].
#[derive(Debug, Default)]
pub struct TakenOff {
    /// The names of the links of this network namespace that had a gate.
    pub here: BTreeSet<String>,
    /// The number of gated links in other network namespaces, whose names cannot be looked up from here.
    pub elsewhere: usize,
    /// Errors of gates that could not be removed.
    pub failed: Vec<PinError>,
}

/// Removes every gate of an instance: pinned ones in any network namespace, and its filters in this one.
pub fn take_off_all(pins: &Pins, instance: u16) -> Result<TakenOff, PinError> {
    let mut all = TakenOff::default();
    for path in pins.link_paths()? {
        let taken = Side::open(path.clone()).and_then(|side| {
            if !side.forget_if_gone() {
                let here = side.link_here();
                side.take_off().map_err(PinError::of("take off", &path))?;
                all.elsewhere += usize::from(here.is_none() && side.ingress());
                all.here.extend(here);
            }
            Ok(())
        });
        all.failed.extend(taken.err());
    }
    let filters = take_off_filters(Filters { instance });
    match filters.map_err(PinError::of("take off what has filters instead of", &pins.link(0))) {
        Ok(links) => all.here.extend(links),
        Err(error) => all.failed.push(error),
    }
    Ok(all)
}

fn take_off_filters(filters: Filters) -> io::Result<Vec<String>> {
    let mut links = Vec::new();
    for link in &if_nameindex()? {
        if filters.clear(link.index())? {
            links.push(link.name().to_string_lossy().into_owned());
        }
    }
    Ok(links)
}

impl Side {
    /// The name of the side's link, if the link is in this network namespace.
    fn link_here(&self) -> Option<String> {
        let ifindex = self.ifindex().ok()?;
        let is_here = self.place(ifindex).is_ok_and(|place| place == Place::Here);
        name_of(ifindex).ok().filter(|_| is_here)
    }
}
