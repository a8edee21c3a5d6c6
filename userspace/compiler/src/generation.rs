//! A generation in the making.

use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use taskgate_ebpf::abi::image::{
    ADDRESS_ROW, ADDRESS_ROW_BYTES, CONTROL_BANK, CONTROL_GENERATION, LINK_ROW, PolicyRef, SLOT_ROW, SLOT_ROW_BYTES,
    slot,
};

use super::compiled::{AddressPlan, SlotPlan};
use super::image::{ImageWriter, address_row, link_key, rows_bank, slot_row, word};
use super::memory::ImageView;
use super::table::Claim;
use super::{CompileError, Compiled};

/// A generation that stands in the image and that no packet reads yet. [`Prepared::commit`] switches to it; dropped, it
/// leaves no trace.
#[derive(Debug)]
#[must_use = "the generation is dropped unless it is committed"]
pub struct Prepared<'a, M: Deref<Target = [AtomicU64]>> {
    writer: &'a mut ImageWriter<M>,
    made: Staged,
}

/// What a generation in the making took from what lasts.
#[derive(Debug, Default)]
struct Staged {
    roots: Vec<PolicyRef>,
    slots: Vec<u16>,
    members: Vec<Claim>,
}

impl<'a, M: Deref<Target = [AtomicU64]>> Prepared<'a, M> {
    /// Writes everything that the next generation is. Packets read nothing but the current one.
    pub(super) fn write(writer: &'a mut ImageWriter<M>, compiled: &Compiled) -> Result<Self, CompileError> {
        // Where an error ends it, dropping the value undoes what was made.
        let mut prepared = Self {
            writer,
            made: Staged::default(),
        };
        prepared.write_policies(compiled)?;
        prepared.clear_rows();
        let slots = prepared.write_slots(compiled)?;
        for (&link, &slot) in &prepared.writer.link_slots {
            if let Some(index) = prepared.writer.links.index(link_key(link)) {
                prepared.writer.write_link(prepared.bank(), index, link, slot);
            }
        }
        for (&key, plan) in &compiled.addresses {
            prepared.write_address(key, *plan, &slots)?;
        }
        Ok(prepared)
    }

    /// The slot that an ENI will have.
    pub fn slot(&self, eni: &str) -> Option<u16> {
        self.writer.slots.get(eni)
    }

    /// Switches to the generation, for all packets that begin from now on. Tracked connections of ENIs that are not in
    /// it any more, or are isolated now, are old.
    ///
    /// Returns the generation.
    pub fn commit(mut self) -> u64 {
        let made = std::mem::take(&mut self.made);
        let writer = &mut *self.writer;
        let before = writer.generation;
        writer.generation = before + 1;
        writer
            .words()
            .publish(CONTROL_BANK, CONTROL_GENERATION, writer.generation);
        writer.space.commit(&made.roots);
        writer.change();
        for slot in 1..=writer.slots.highest() {
            let [before, now] = [before, before + 1].map(|generation| writer.slot_flags(generation, slot));
            let closed = now & slot::PRESENT == 0 || now & !before & slot::ISOLATED != 0;
            if before & slot::PRESENT != 0 && closed {
                writer.raise(slot);
            }
        }
        writer.generation
    }

    fn bank(&self) -> u32 {
        rows_bank(self.writer.generation + 1)
    }

    fn write_policies(&mut self, compiled: &Compiled) -> Result<(), CompileError> {
        let words = ImageView(&self.writer.memory);
        let banks = words.banks().unwrap_or(0);
        let placed = self.writer.space.place(&compiled.policies, banks)?;
        for &at in &placed.new {
            let (block, root) = (&compiled.policies[at], placed.roots[at]);
            for (offset, &value) in (root.offset()..).step_by(8).zip(block.iter()) {
                words.set(root.bank(), offset, value);
            }
        }
        self.made.roots = placed.roots;
        Ok(())
    }

    /// Makes every row of the bank absent.
    fn clear_rows(&self) {
        let writer = &*self.writer;
        let clear = |from: u32, bytes: u32| {
            for offset in (from..from + bytes).step_by(8) {
                writer.words().set(self.bank(), offset, 0);
            }
        };
        clear(LINK_ROW, 8 * writer.links.used());
        clear(SLOT_ROW, SLOT_ROW_BYTES * (u32::from(writer.slots.highest()) + 1));
        clear(ADDRESS_ROW, ADDRESS_ROW_BYTES * writer.members.used());
    }

    /// Writes the rows of slots. Returns the slots in the order of the plans.
    fn write_slots(&mut self, compiled: &Compiled) -> Result<Vec<u16>, CompileError> {
        let mut slots = Vec::with_capacity(compiled.slots.len());
        for plan in &compiled.slots {
            let slot = if let Some(slot) = self.writer.slots.get(&plan.eni) {
                slot
            } else {
                let slot = self.writer.slots.claim(&plan.eni)?;
                self.made.slots.push(slot);
                slot
            };
            self.write_slot(slot, plan);
            slots.push(slot);
        }
        Ok(slots)
    }

    fn write_slot(&self, slot: u16, plan: &SlotPlan) {
        let roots = plan.policies.map(|policy| self.made.roots[policy].0);
        let row = [
            word(roots[0], roots[1]),
            word(roots[2], roots[3]),
            word(plan.flags, plan.set),
            word(plan.gate.connections, 0),
        ];
        for (offset, value) in (slot_row(slot)..).step_by(8).zip(row) {
            self.writer.words().set(self.bank(), offset, value);
        }
    }

    fn write_address(&mut self, key: u128, plan: AddressPlan, slots: &[u16]) -> Result<(), CompileError> {
        let bank = self.bank();
        let slot = plan.slot.map_or(0, |place| slots[place]);
        let row = [
            (key >> 64) as u64,
            key as u64,
            word(u32::from(slot) | plan.flags << 16, plan.set),
        ];
        let write = |writer: &ImageWriter<M>, index| {
            for (offset, value) in (address_row(index)..).step_by(8).zip(row) {
                writer.words().set(bank, offset, value);
            }
        };
        if let Some(index) = self.writer.members.index(key) {
            write(self.writer, index);
        } else {
            let claim = self.writer.members.claim(ImageView(&self.writer.memory), key)?;
            // The row comes before the word that leads to it.
            write(self.writer, claim.index());
            self.writer.members.publish(self.writer.words(), claim);
            self.made.members.push(claim);
        }
        Ok(())
    }
}

impl<M: Deref<Target = [AtomicU64]>> Drop for Prepared<'_, M> {
    fn drop(&mut self) {
        let made = std::mem::take(&mut self.made);
        let writer = &mut *self.writer;
        for &claim in made.members.iter().rev() {
            writer.members.rollback(ImageView(&writer.memory), claim);
        }
        for slot in made.slots {
            writer.slots.release(slot);
        }
    }
}
