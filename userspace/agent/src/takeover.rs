//! Finds the state of an earlier process, and decides whether this process can take it over.
//!
//! The tables are used as they are. The image is a new one, so that its layout may differ from that of an older or
//! newer build: a gate judges by the image of its program, and gets the new program once its link is bound in the new
//! image. If a process is killed in between, some gates use one image and some the other. So all images are read, and
//! the highest of a slot's epochs counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::AtomicU64,
};

use taskgate_bpf::{load::LoadOptions, object::BpfObject, pins::Pins, sys::MmapArray};
use taskgate_ebpf::abi::{LinkId, TABLE_LAYOUT, image::is_readable};
use taskgate_tables::image::ImageControl;
use tracing::warn;

use super::{
    error::{StartError, chain},
    state::{State, StateFile},
};

/// The state that an earlier process left, and its images.
#[derive(Debug)]
pub(super) struct Takeover {
    pub(super) state: State,
    images: Vec<ImageControl<MmapArray<AtomicU64>>>,
}

impl Takeover {
    /// Looks for the state of an earlier process. `None` if there are no tables to take over. `gates`: whether gates
    /// are attached. `drop`: whether tables that cannot be taken over may be given up.
    ///
    /// # Errors
    /// [`StartError::Left`] if gates are attached whose connections this build cannot take over. Nothing is changed
    /// then.
    pub(super) fn find(file: &StateFile, pins: &Pins, gates: bool, drop: bool) -> Result<Option<Self>, StartError> {
        let why = match Self::read(file, pins) {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) if pins.has_maps()? => format!("`{}` is missing or an earlier boot's", file.path().display()),
            Ok(None) => String::from("their tables are missing"),
            Err(why) => why,
        };
        if gates && !drop {
            return Err(StartError::Left { why });
        }
        if gates {
            warn!(
                "tracked connections of an earlier run are given up ({why}): those that no rule allows by itself are cut"
            );
        }
        // Without gates, nothing depends on these remains of a start that was killed, or of links that are gone.
        Ok(None)
    }

    fn read(file: &StateFile, pins: &Pins) -> Result<Option<Self>, String> {
        let Some(state) = file.read().map_err(|error| chain(&error))? else {
            return Ok(None);
        };
        if !pins.has_maps().map_err(|error| chain(&error))? {
            return Ok(None);
        }
        if state.abi != TABLE_LAYOUT {
            return Err(String::from(
                "its tables have another layout than those of this taskgate",
            ));
        }
        BpfObject::check_carried(&state.sizes(LoadOptions::default()), pins).map_err(|error| chain(&error))?;
        // Images without a generation are left by a process that was killed, or failed, before its first one.
        let is_used = |image: &MmapArray<AtomicU64>| ImageControl::new(&**image).generation() != 0;
        pins.release_unused_images(is_used).map_err(|error| chain(&error))?;
        let images: Vec<_> = pins
            .images()
            .map_err(|error| chain(&error))?
            .into_iter()
            .map(ImageControl::new)
            .collect();
        // None of the images may be left out: the highest of a slot's epochs counts.
        if images.iter().any(|image| !is_readable(image.layout())) {
            return Err(String::from(
                "the image that its gates judge by says in another way than this taskgate reads which connections are old",
            ));
        }
        if images.is_empty() {
            return Err(String::from("the image that its gates judge by is missing"));
        }
        Ok(Some(Self { state, images }))
    }

    /// The last generation of the earlier process.
    pub(super) fn generation(&self) -> u64 {
        let generations = self.images.iter().map(ImageControl::generation);
        generations.fold(self.state.generation, u64::max)
    }

    /// The epoch of a slot that counts: the highest one in all images.
    pub(super) fn epoch(&self, slot: u16) -> u32 {
        let epochs = self.images.iter().map(|image| image.epoch(slot));
        epochs.fold(0, u32::max)
    }

    /// The link of each slot that has one.
    pub(super) fn links(&self) -> BTreeMap<u16, LinkId> {
        let link = |slot: &u16| self.images.iter().rev().find_map(|image| image.link(*slot));
        let slots = self.state.enis.keys();
        slots.filter_map(|slot| Some((*slot, link(slot)?))).collect()
    }

    /// The number of the current capture window.
    pub(super) fn window(&self) -> u32 {
        let windows = self.images.iter().rev().map(ImageControl::window);
        windows.into_iter().find(|window| *window != 0).unwrap_or(0)
    }

    /// The ifindexes of links that are or were trunks, the last one first.
    pub(super) fn trunks(&self) -> Vec<u32> {
        let mut trunks: Vec<u32> = self.images.iter().rev().flat_map(ImageControl::trunks).collect();
        let mut seen = BTreeSet::from([0]);
        trunks.retain(|ifindex| seen.insert(*ifindex));
        trunks
    }
}
