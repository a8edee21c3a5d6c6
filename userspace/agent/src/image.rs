//! The image in memory that is shared with the kernel, and its one writer, which two threads use: the agent switches
//! generations, the link guard binds links.
//!
//! Nobody waits for a grace period while holding the writer, and the link guard never waits for the writer at all.

use std::{
    mem,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, atomic::AtomicU64},
};

use taskgate_bpf::sys::{self, MmapArray};
use taskgate_compiler::{CompileError, ImageWriter};
use taskgate_ebpf::abi::LinkId;
use taskgate_tables::image::ImageControl;
use tracing::warn;

/// The image, mapped.
#[derive(Clone, Debug)]
pub(super) struct ImageMemory(Arc<MmapArray<AtomicU64>>);

impl Deref for ImageMemory {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        &self.0
    }
}

pub(super) type Writer = ImageWriter<ImageMemory>;

/// Whether a link is bound to its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    /// It is.
    Done,
    /// The writer is busy, or packets may still be admitted by what the slot was before: it can be bound later.
    NotYet,
}

#[derive(Debug)]
pub(super) struct SharedImage {
    memory: ImageMemory,
    writer: Mutex<Writer>,
    /// Links that are gone while the writer is busy. They are unbound before anything else is done with it.
    removals: Mutex<Vec<LinkId>>,
}

impl SharedImage {
    /// Takes charge of an empty image.
    pub(super) fn new(memory: MmapArray<AtomicU64>) -> Result<Self, CompileError> {
        let memory = ImageMemory(Arc::new(memory));
        Ok(Self {
            writer: Mutex::new(ImageWriter::new(memory.clone())?),
            memory,
            removals: Mutex::default(),
        })
    }

    /// The words that can be read and set while the writer is busy.
    pub(super) fn control(&self) -> ImageControl<ImageMemory> {
        ImageControl::new(self.memory.clone())
    }

    /// The writer, waited for.
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

    /// Unbinds a link, now or before anything else is done to the image. `false`: later ([`Self::catch_up`]).
    pub(super) fn unbind(&self, link: LinkId) -> bool {
        self.removals().push(link);
        self.catch_up()
    }

    /// Unbinds what could not be unbound; `false` while the writer is busy.
    pub(super) fn catch_up(&self) -> bool {
        self.try_writer().is_some()
    }

    /// Binds a link to a slot, if that can be done without waiting. A slot that has just lost another link is settled
    /// first: what that one's last packets admit is made old then, and would be so with the connections of the new link.
    pub(super) fn try_bind(&self, link: LinkId, slot: u16) -> Result<Binding, CompileError> {
        let Some(mut writer) = self.try_writer().filter(|writer| !writer.is_pending(slot)) else {
            return Ok(Binding::NotYet);
        };
        writer.add_link(link, slot)?;
        Ok(Binding::Done)
    }

    /// Binds a link to a slot, and waits for what that takes.
    pub(super) fn bind(&self, link: LinkId, slot: u16) -> Result<(), CompileError> {
        loop {
            let mut writer = self.writer();
            if !writer.is_pending(slot) {
                return writer.add_link(link, slot);
            }
            drop(writer);
            self.synchronize();
        }
    }

    /// Waits until no packet is judged by what is gone: 20 to 180 ms, in which others may use the writer.
    pub(super) fn synchronize(&self) {
        let pending_grace = self.writer().pending_grace();
        let Some(changes) = pending_grace else { return };
        if let Err(error) = sys::wait_grace_period() {
            warn!("the kernel does not tell when old memory is free: {error}");
        }
        self.writer().settle_to(changes);
    }
}
