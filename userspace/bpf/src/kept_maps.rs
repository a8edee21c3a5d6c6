//! Checks and restores the pins of the maps that outlive the process.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
};

use taskgate_ebpf::abi::map;

use super::{
    load::{LoadError, MapSpec},
    object::{BpfObject, data},
    pins::PinError,
    sys,
};

impl BpfObject {
    /// The maps with the paths of their pins.
    fn kept_maps(&self) -> impl Iterator<Item = (PathBuf, BorrowedFd<'_>)> {
        let kept = self.kept.as_ref();
        MapSpec::all(self.options()).into_iter().filter_map(move |shape| {
            let (pins, image) = kept?;
            let path = match shape.name {
                map::IMAGE => pins.image(*image),
                name if shape.is_carried() => pins.map(name),
                _ => return None,
            };
            Some((path, data(&self.ebpf, shape.name).ok()?.fd().as_fd()))
        })
    }

    /// The pins that are missing, or lead to other objects. Without them the next process could not take the maps over.
    pub fn lost_names(&self) -> io::Result<Vec<PathBuf>> {
        let mut lost = Vec::new();
        for (path, map) in self.kept_maps() {
            if !leads_to(&path, sys::map_id(map)?) {
                lost.push(path);
            }
        }
        Ok(lost)
    }

    /// Restores the pins of the maps.
    pub fn restore_names(&self) -> Result<(), LoadError> {
        let Some((pins, _)) = &self.kept else {
            return Ok(());
        };
        for (path, map) in self.kept_maps() {
            let id = sys::map_id(map).map_err(PinError::of("look at", &path))?;
            if !leads_to(&path, id) {
                pins.pin(map, &path)?;
            }
        }
        Ok(())
    }
}

fn leads_to(path: &std::path::Path, id: u32) -> bool {
    let found = sys::pinned(path).and_then(|map| sys::map_id(map.as_fd()));
    found.is_ok_and(|found| found == id)
}
