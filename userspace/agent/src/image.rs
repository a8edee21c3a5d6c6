//! The image, in memory that is shared with the kernel, and its single writer, which two threads use: the agent
//! switches generations, the link guard binds links.
//!
//! No thread waits for a grace period while holding the writer, and the link guard never waits for the writer at all.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Mutex, MutexGuard, PoisonError, TryLockError, atomic::AtomicU64},
};

use taskgate_bpf::sys::{self, MmapArray};
use taskgate_compiler::{CompileError, ImageWriter};
use taskgate_ebpf::abi::LinkId;
use taskgate_tables::image::ImageControl;
use tracing::warn;

use super::takeover::Takeover;

/// The mapped memory of the image.
pub(super) type ImageMemory = MmapArray<AtomicU64>;

pub(super) type Writer = ImageWriter<ImageMemory>;

/// Whether a link is bound to its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    /// The link is bound.
    Done,
    /// The writer is busy, or packets in flight may still be admitted by the slot's former binding: bind it later.
    NotYet,
}

#[derive(Debug)]
pub(super) struct SharedImage {
    memory: ImageMemory,
    writer: Mutex<Writer>,
    /// Links that were removed while the writer was busy. They are unbound before the writer is used again.
    removals: Mutex<Vec<LinkId>>,
    /// The bindings of slots in an earlier process whose link and slot have both not been bound since.
    carried: Mutex<BTreeMap<u16, LinkId>>,
}

impl SharedImage {
    /// Initialises an empty image with this many banks of `members`, continuing from the images of an earlier process
    /// if there is one.
    pub(super) fn new(
        memory: MmapArray<AtomicU64>,
        member_banks: u32,
        takeover: Option<&Takeover>,
    ) -> Result<Self, CompileError> {
        let writer = match takeover {
            None => ImageWriter::with_members(memory.clone(), member_banks)?,
            Some(takeover) => {
                let (generation, slots) = (takeover.generation(), &takeover.state.enis);
                let epoch = |slot| takeover.epoch(slot);
                ImageWriter::resume(memory.clone(), member_banks, generation, slots, epoch)?
            }
        };
        Ok(Self {
            writer: Mutex::new(writer),
            memory,
            removals: Mutex::default(),
            carried: Mutex::new(takeover.map(Takeover::links).unwrap_or_default()),
        })
    }

    /// The memory of the image.
    pub(super) fn memory(&self) -> ImageMemory {
        self.memory.clone()
    }

    /// The control words, which can be read and set while the writer is busy.
    pub(super) fn control(&self) -> ImageControl<ImageMemory> {
        ImageControl::new(self.memory.clone())
    }

    /// The writer. Blocks while it is busy.
    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.unbind_removed(&mut writer);
        writer
    }

    /// The writer, unless it is busy.
    fn try_writer(&self) -> Option<MutexGuard<'_, Writer>> {
        let mut writer = match self.writer.try_lock() {
            Ok(writer) => writer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        self.unbind_removed(&mut writer);
        Some(writer)
    }

    fn removals(&self) -> MutexGuard<'_, Vec<LinkId>> {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unbind_removed(&self, writer: &mut Writer) {
        for link in mem::take(&mut *self.removals()) {
            writer.remove_link(link);
        }
    }

    /// Unbinds a link, now or before the writer is used again. Returns `false` if the writer was busy: call
    /// [`Self::catch_up`] later.
    pub(super) fn unbind(&self, link: LinkId) -> bool {
        self.removals().push(link);
        self.catch_up()
    }

    /// Unbinds the links that are still to be unbound; `false` while the writer is busy.
    pub(super) fn catch_up(&self) -> bool {
        self.try_writer().is_some()
    }

    /// Binds a link to a slot, if that is possible without waiting. A slot that has just lost another link has to be
    /// settled first: settling outdates connections that the last packets on the former link admit, and would outdate
    /// those of the new link too. `gated`: whether the link is the one that an earlier process gated.
    pub(super) fn try_bind(&self, link: LinkId, slot: u16, gated: bool) -> Result<Binding, CompileError> {
        let Some(mut writer) = self.try_writer().filter(|writer| !writer.is_pending(slot)) else {
            return Ok(Binding::NotYet);
        };
        self.disown(&writer, link, slot, gated);
        writer.add_link(link, slot)?;
        Ok(Binding::Done)
    }

    /// Outdates the tracked connections that an earlier process had on another link of the slot, or for another slot of
    /// the link. No gate judges by this image yet that could have admitted any of them.
    fn disown(&self, writer: &Writer, link: LinkId, slot: u16, gated: bool) {
        let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        let is_meant = |of: &u16, had: &mut LinkId| *of == slot || *had == link;
        for (of, had) in carried.extract_if(.., is_meant) {
            if !(gated && of == slot && had == link) {
                writer.control().bump_epoch(of);
            }
        }
    }

    /// Binds a link to a slot as [`Self::try_bind`] does, but waits for the writer and for the slot to be settled.
    pub(super) fn bind(&self, link: LinkId, slot: u16, gated: bool) -> Result<(), CompileError> {
        loop {
            let mut writer = self.writer();
            if !writer.is_pending(slot) {
                self.disown(&writer, link, slot, gated);
                return writer.add_link(link, slot);
            }
            drop(writer);
            self.synchronize();
        }
    }

    /// Waits until no packet in flight is judged by removed state: 20 to 180 ms, during which other threads may use the
    /// writer.
    pub(super) fn synchronize(&self) {
        let pending_grace = self.writer().pending_grace();
        let Some(changes) = pending_grace else { return };
        if let Err(error) = sys::wait_grace_period() {
            warn!("the kernel does not tell when old memory is free: {error}");
        }
        self.writer().settle_to(changes);
    }
}
