//! Preparation of the next generation.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use taskgate_ebpf::abi::Address;
use taskgate_ebpf::abi::image::{
    ADDRESS_ROWS, AddressRow, LINK_ROWS, PolicyRef, PolicyRoots, Region, SLOT_ROWS, SlotRow, member_room, slot,
};

use super::compiled::{AddressPlan, SlotPlan};
use super::image::{ImageWriter, address_row_at, bank_of, link_key};
use super::table::Claim;
use super::{CompileError, Compiled};

/// A generation that is written to the image and not yet in force. [`Prepared::commit`] switches to it; dropping it takes
/// back everything it wrote.
#[derive(Debug)]
#[must_use = "the generation is dropped unless it is committed"]
pub struct Prepared<'a, M: Deref<Target = [AtomicU64]>> {
    writer: &'a mut ImageWriter<M>,
    made: Staged,
}

/// Resources that the prepared generation took from state that outlives a generation.
#[derive(Debug, Default)]
struct Staged {
    roots: Vec<PolicyRef>,
    slots: Vec<u16>,
    members: Vec<Claim>,
}

impl<M: Deref<Target = [AtomicU64]>> ImageWriter<M> {
    /// Writes the next generation next to the current one.
    ///
    /// # Errors
    /// [`CompileError::PoliciesFull`], [`CompileError::SlotsFull`], [`CompileError::MembersFull`],
    /// [`CompileError::RowsFull`], [`CompileError::ProbesExhausted`]: the current generation stays in force.
    pub fn prepare(&mut self, compiled: &Compiled, grace: &mut dyn FnMut()) -> Result<Prepared<'_, M>, CompileError> {
        let (addresses, room) = (compiled.addresses(), member_room(self.member_banks));
        if addresses > room as usize {
            return Err(CompileError::MembersFull { addresses, room });
        }
        self.synchronize(grace);
        self.reclaim(compiled);
        Prepared::write(self, compiled)
    }
}

impl<'a, M: Deref<Target = [AtomicU64]>> Prepared<'a, M> {
    /// Writes the whole next generation. Packets read only the current one.
    fn write(writer: &'a mut ImageWriter<M>, compiled: &Compiled) -> Result<Self, CompileError> {
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
                let next = prepared.writer.generation + 1;
                prepared.writer.write_link(next, index, link, slot);
            }
        }
        for (&key, plan) in &compiled.addresses {
            prepared.write_address(key, *plan, &slots)?;
        }
        Ok(prepared)
    }

    /// The slot of an ENI in this generation.
    pub fn slot(&self, eni: &str) -> Option<u16> {
        self.writer.slots.get(eni)
    }

    /// The slots of all ENIs in this generation.
    pub fn slots(&self) -> BTreeMap<u16, String> {
        self.writer.slots()
    }

    /// The number of this generation.
    pub fn generation(&self) -> u64 {
        self.writer.generation + 1
    }

    /// Switches to the generation, for all packets that begin from now on. Tracked connections become old if their ENI is no
    /// longer in it, or is isolated now.
    ///
    /// Returns the generation.
    pub fn commit(mut self) -> u64 {
        let made = std::mem::take(&mut self.made);
        let writer = &mut *self.writer;
        let before = writer.generation;
        writer.generation = before + 1;
        writer.control.set_generation(writer.generation);
        writer.space.commit(&made.roots);
        writer.change();
        for slot in 1..=writer.slots.highest() {
            let [before, now] = [before, before + 1].map(|generation| writer.slot_flags(generation, slot));
            let closed = now & slot::PRESENT == 0 || now & !before & slot::ISOLATED != 0;
            if before & slot::PRESENT != 0 && closed {
                writer.bump(slot);
            }
        }
        writer.generation
    }

    fn write_policies(&mut self, compiled: &Compiled) -> Result<(), CompileError> {
        let view = self.writer.control.view();
        let banks = view.banks().unwrap_or(0);
        let placed = self.writer.space.place(&compiled.policies, banks)?;
        for &at in &placed.new {
            let (block, root) = (&compiled.policies[at], placed.roots[at]);
            view.set(root.bank(), root.offset(), block);
        }
        self.made.roots = placed.roots;
        Ok(())
    }

    /// Makes every row of the generation absent.
    fn clear_rows(&self) {
        let next = self.generation();
        let rows = bank_of(next);
        let clear = |bank: u32, rows: Region, used: u32| {
            let words = vec![0; (rows.stride / 8 * used) as usize];
            self.writer.view().set(bank, rows.offset, &words);
        };
        for (_, used) in self.writer.links.used() {
            clear(rows, LINK_ROWS, used);
        }
        let slots = u32::from(self.writer.slots.highest()) + 1;
        clear(rows, SLOT_ROWS, slots);
        for (first, used) in self.writer.members.used() {
            let (bank, _) = address_row_at(next, first);
            clear(bank, ADDRESS_ROWS, used);
        }
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
        let [egress_v4, egress_v6, ingress_v4, ingress_v6] = plan.policies.map(|policy| self.made.roots[policy]);
        let roots = |v4, v6| PolicyRoots { v4, v6 };
        let row = SlotRow {
            roots: [roots(egress_v4, egress_v6), roots(ingress_v4, ingress_v6)],
            flags: plan.flags,
            group_set: plan.set,
            conn_cap: plan.gate.connections,
        };
        let view = self.writer.view();
        let bank = bank_of(self.generation());
        view.set(bank, SLOT_ROWS.at(slot.into()), &row.to_words());
    }

    fn write_address(&mut self, key: u128, plan: AddressPlan, slots: &[u16]) -> Result<(), CompileError> {
        let next = self.generation();
        let row = AddressRow {
            slot: plan.slot.map_or(0, |place| slots[place]),
            flags: plan.flags,
            group_set: plan.set,
        };
        let row = row.to_words(Address::from_bits(key));
        let write = |writer: &ImageWriter<M>, index| {
            let (bank, at) = address_row_at(next, index);
            writer.view().set(bank, at, &row);
        };
        if let Some(index) = self.writer.members.index(key) {
            write(self.writer, index);
        } else {
            let claim = self.writer.members.claim(self.writer.control.view(), key)?;
            // The row is written before the word that refers to it.
            write(self.writer, claim.index());
            self.writer.members.publish(self.writer.view(), claim);
            self.made.members.push(claim);
        }
        Ok(())
    }
}

impl<M: Deref<Target = [AtomicU64]>> Drop for Prepared<'_, M> {
    fn drop(&mut self) {
        let made = std::mem::take(&mut self.made);
        let writer = &mut *self.writer;
        if !made.members.is_empty() {
            // Packets may already have read the words.
            writer.change();
        }
        for &claim in made.members.iter().rev() {
            writer.members.rollback(writer.control.view(), claim, writer.changes);
        }
        for slot in made.slots {
            writer.slots.release(slot);
        }
    }
}
