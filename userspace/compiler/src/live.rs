//! Adding and removing single ENIs in the current generation.
//!
//! A new ENI with the same groups as an existing one, in the same order, uses that ENI's policies, and a group set that all
//! policies already know: so no policy is compiled for it, and no other row changes. Rows are written first, then the words
//! that refer to them; each becomes present, or absent, by one store. A row of another key is reused only when no packet can
//! still read it under the old key.

use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use taskgate_ebpf::abi::Address;
use taskgate_ebpf::abi::image::{AddressRow, SlotRow, address, slot};
use taskgate_model::{Eni, Model};

use super::compiled::{key_of, slot_flags};
use super::image::{ImageWriter, address_row_at, slot_row_at};
use super::table::Claim;
use super::{CompileError, EniLimits};

/// The only difference between two models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveChange<'a> {
    /// This ENI, which has a gate here, is added.
    Added(&'a Eni),
    /// This ENI is removed.
    Removed(&'a Eni),
}

impl<'a> LiveChange<'a> {
    /// The difference, if exactly one gated ENI is added or removed.
    pub fn between(before: &'a Model, after: &'a Model) -> Option<Self> {
        let same = |model: &'a Model| {
            let Model {
                account,
                groups,
                prefix_lists,
                enis: _,
                uplink,
                settings,
                flow_logs,
                metrics,
                reserved,
            } = model;
            (
                account,
                groups,
                prefix_lists,
                uplink,
                settings,
                flow_logs,
                metrics,
                reserved,
            )
        };
        if same(before) != same(after) {
            return None;
        }
        let change = if after.enis.len() > before.enis.len() {
            Self::Added(one_more(&before.enis, &after.enis)?)
        } else {
            Self::Removed(one_more(&after.enis, &before.enis)?)
        };
        change.eni().binding.is_some().then_some(change)
    }

    fn eni(self) -> &'a Eni {
        match self {
            Self::Added(eni) | Self::Removed(eni) => eni,
        }
    }
}

/// The one item of `more` that is missing in `fewer`, if there is no other difference.
fn one_more<'a>(fewer: &[Eni], more: &'a [Eni]) -> Option<&'a Eni> {
    let at = fewer.iter().zip(more).take_while(|(a, b)| a == b).count();
    let (one, rest) = more.get(at..)?.split_first()?;
    (rest == &fewer[at..]).then_some(one)
}

/// An ENI that is written to the current generation and not yet visible to packets. [`StagedEni::commit`] makes it visible;
/// dropping it takes back everything it wrote.
#[derive(Debug)]
#[must_use = "the ENI is dropped unless it is committed"]
pub struct StagedEni<'a, M: Deref<Target = [AtomicU64]>> {
    writer: &'a mut ImageWriter<M>,
    slot: u16,
    row: SlotRow,
    members: Vec<Claim>,
    committed: bool,
}

impl<M: Deref<Target = [AtomicU64]>> ImageWriter<M> {
    /// Writes an ENI to the current generation; `model` contains it and is otherwise in force. `None` if a new generation is
    /// needed: no other ENI has its groups, or one of its addresses already has a row.
    ///
    /// # Errors
    /// [`CompileError::SlotsFull`], [`CompileError::RowsFull`], [`CompileError::ProbesExhausted`].
    pub fn stage_eni(
        &mut self,
        model: &Model,
        eni: &Eni,
        limits: EniLimits,
        dhcp: bool,
    ) -> Result<Option<StagedEni<'_, M>>, CompileError> {
        let Some(twin) = self.twin(model, eni) else {
            return Ok(None);
        };
        let mut keys: Vec<u128> = eni.addresses.iter().map(|address| key_of(*address)).collect();
        keys.sort_unstable();
        keys.dedup();
        if self.slots.get(&eni.id).is_some() || keys.iter().any(|key| self.members.index(*key).is_some()) {
            return Ok(None);
        }
        let row = SlotRow {
            flags: slot_flags(eni, limits, dhcp),
            conn_cap: limits.connections,
            ..twin
        };
        let slot = self.slots.claim(&eni.id)?;
        let mut staged = StagedEni {
            writer: self,
            slot,
            row,
            members: Vec::new(),
            committed: false,
        };
        for key in keys {
            staged.write_address(key)?;
        }
        Ok(Some(staged))
    }

    /// The row of a gated ENI in the current generation that has the same policies and memberships as `eni`.
    fn twin(&self, model: &Model, eni: &Eni) -> Option<SlotRow> {
        let alike = |other: &&Eni| other.id != eni.id && (&other.groups, &other.vpc) == (&eni.groups, &eni.vpc);
        let rows = model
            .gated()
            .filter(alike)
            .filter_map(|other| self.slots.get(&other.id));
        rows.map(|slot| self.slot_row(slot))
            .find(|row| row.flags & slot::PRESENT != 0)
    }

    /// Removes an ENI from the current generation: packets that begin from now on find neither the ENI nor its addresses,
    /// and its tracked connections become old. `model` is the model without it. `false` if a new generation is needed:
    /// another ENI has one of its addresses.
    ///
    /// The slot is reused once no packet can hold it ([`ImageWriter::synchronize`]) and no link carries it.
    pub fn remove_eni(&mut self, model: &Model, eni: &Eni) -> bool {
        let Some(slot) = self.slots.get(&eni.id) else {
            return false;
        };
        let row = self.slot_row(slot);
        let mut keys: Vec<u128> = eni.addresses.iter().map(|address| key_of(*address)).collect();
        keys.sort_unstable();
        keys.dedup();
        let alone = AddressRow {
            slot,
            flags: address::PRESENT,
            group_set: row.group_set,
        };
        let rows: Option<Vec<u32>> = keys.iter().map(|key| self.members.index(*key)).collect();
        let Some(rows) = rows.filter(|rows| rows.iter().all(|index| self.address_row(*index) == alone)) else {
            return false;
        };
        let has = |other: &Eni| other.addresses.iter().any(|address| keys.contains(&key_of(*address)));
        if row.flags & slot::PRESENT == 0 || model.enis.iter().any(has) {
            return false;
        }
        self.set_slot_flags(slot, 0);
        for index in rows {
            self.set_address(index, 0);
        }
        self.bump(slot);
        for key in keys {
            self.members.remove(self.control.view(), key, self.changes);
        }
        self.members.prune_if_many(self.control.view());
        self.left.insert(slot);
        true
    }

    /// Gives the slots away of ENIs that left the generation in force.
    pub(super) fn release_left(&mut self) {
        let left: Vec<u16> = self.left.iter().copied().collect();
        for slot in left {
            let is_free = self.slots.eni(slot).is_none();
            if is_free || self.slot_row(slot).flags & slot::PRESENT != 0 {
                // It is free, or its ENI is back.
                self.left.remove(&slot);
            } else if !self.is_pending(slot) && !self.link_slots.values().any(|linked| *linked == slot) {
                self.slots.release(slot);
                self.left.remove(&slot);
            }
        }
    }

    /// Writes the last word of an address's row in the generation in force, which has all but the address.
    fn set_address(&self, index: u32, word: u64) {
        let (bank, row) = address_row_at(self.generation, index);
        self.view().publish(bank, row + 2 * 8, word);
    }
}

impl<M: Deref<Target = [AtomicU64]>> StagedEni<'_, M> {
    /// The slot that it has.
    pub fn slot(&self) -> u16 {
        self.slot
    }

    /// The writer, to look at.
    pub fn writer(&self) -> &ImageWriter<M> {
        self.writer
    }

    /// Makes a word for an address that leads to a row which is absent.
    fn write_address(&mut self, key: u128) -> Result<(), CompileError> {
        let writer = &mut *self.writer;
        let claim = writer.members.claim_live(writer.control.view(), key)?;
        self.members.push(claim);
        let (bank, at) = address_row_at(writer.generation, claim.index());
        let [upper, lower, _] = AddressRow::default().to_words(Address::from_bits(key));
        writer.view().set(bank, at, &[upper, lower, 0]);
        writer.members.publish(writer.control.view(), claim);
        Ok(())
    }

    /// Brings it in, for all packets that begin from now on. Bind its link next.
    pub fn commit(mut self) {
        let writer = &*self.writer;
        let [egress, ingress, set_and_flags, cap] = self.row.to_words();
        let (bank, at) = slot_row_at(writer.generation, self.slot);
        // Present last.
        writer.view().set(bank, at, &[egress, ingress, 0, cap]);
        writer.view().publish(bank, at + 2 * 8, set_and_flags);
        let member = AddressRow {
            slot: self.slot,
            flags: address::PRESENT,
            group_set: self.row.group_set,
        };
        let [.., word] = member.to_words(Address::from_bits(0));
        for claim in &self.members {
            writer.set_address(claim.index(), word);
        }
        self.committed = true;
    }
}

impl<M: Deref<Target = [AtomicU64]>> Drop for StagedEni<'_, M> {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        let writer = &mut *self.writer;
        writer.change();
        for &claim in self.members.iter().rev() {
            writer.members.rollback(writer.control.view(), claim, writer.changes);
        }
        writer.slots.release(self.slot);
    }
}
