//! The writer of an image.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use taskgate_ebpf::abi::LinkId;
use taskgate_ebpf::abi::image::{
    ADDRESS_ROWS, AddressRow, LEAST_MEMBER_BANKS, LINK_ROWS, LinkRow, MEMBER_BANK, MOST_MEMBER_BANKS, SLOT_ROWS, SLOTS,
    SlotRow, address, policy_bank, rows_bank, slot,
};
use taskgate_tables::image::{ImageControl, ImageView};

use super::policy_allocator::PolicyAllocator;
use super::slots::Slots;
use super::table::Table;
use super::{CompileError, Compiled};

/// Writes compiled models to an image, one generation after another, and keeps the state that outlives a generation: slots,
/// the words of the tables, the places of policies. Must be the only writer of its memory.
///
/// Words that a packet may still read are reused only after a grace period: the caller passes a function that returns once
/// all packets that were under way have ended.
#[derive(Debug)]
pub struct ImageWriter<M> {
    pub(super) control: ImageControl<M>,
    pub(super) member_banks: u32,
    pub(super) generation: u64,
    pub(super) links: Table,
    /// The slot of each bound link.
    pub(super) link_slots: BTreeMap<LinkId, u16>,
    pub(super) members: Table,
    pub(super) slots: Slots,
    pub(super) space: PolicyAllocator,
    /// The number of removals of state that packets may still read.
    pub(super) changes: u64,
    /// The last change whose removed state no packet reads any more.
    settled: u64,
    /// Slots whose epoch was raised while packets may still admit by older state, with the number of the last such change.
    pending: BTreeMap<u16, u64>,
    /// Slots of ENIs that were removed from the current generation, see [`Self::remove_eni`].
    pub(super) left: BTreeSet<u16>,
}

/// The bank of a generation's rows of links and slots.
pub(super) fn bank_of(generation: u64) -> u32 {
    rows_bank(generation as u32)
}

/// The bank and the offset of a slot's row in a generation.
pub(super) fn slot_row_at(generation: u64, slot: u16) -> (u32, u32) {
    (bank_of(generation), SLOT_ROWS.at(slot.into()))
}

/// The bank and the offset of an address's row in a generation.
pub(super) fn address_row_at(generation: u64, index: u32) -> (u32, u32) {
    let bank = MEMBER_BANK + 2 * (index / ADDRESS_ROWS.count) + (generation & 1) as u32;
    (bank, ADDRESS_ROWS.at(index))
}

/// The key of a link in its table.
pub(super) fn link_key(link: LinkId) -> u128 {
    link.get().into()
}

impl<M: Deref<Target = [AtomicU64]>> ImageWriter<M> {
    /// Starts with an empty image (all words 0): nothing is configured, so everything is denied.
    ///
    /// # Errors
    /// As [`Self::with_members`], with the fewest banks.
    pub fn new(memory: M) -> Result<Self, CompileError> {
        Self::with_members(memory, LEAST_MEMBER_BANKS)
    }

    /// [`Self::new`] with this number of banks of `members`: a power of two that an image can have.
    ///
    /// # Errors
    /// [`CompileError::NotAnImage`] if the memory is not whole banks, or too few for these and one for policies;
    /// [`CompileError::NotEmpty`] if it holds an image.
    pub fn with_members(memory: M, member_banks: u32) -> Result<Self, CompileError> {
        let fits = member_banks.is_power_of_two() && (LEAST_MEMBER_BANKS..=MOST_MEMBER_BANKS).contains(&member_banks);
        let policies = policy_bank(member_banks);
        if !fits || ImageView(&memory).banks().is_none_or(|banks| banks <= policies) {
            return Err(CompileError::NotAnImage {
                bytes: memory.len() * 8,
                banks: policies + 1,
            });
        }
        let control = ImageControl::new(memory);
        if !control.is_empty() {
            return Err(CompileError::NotEmpty);
        }
        control.begin(member_banks);
        Ok(Self {
            control,
            member_banks,
            generation: 0,
            links: Table::links(),
            link_slots: BTreeMap::new(),
            members: Table::members(member_banks),
            slots: Slots::default(),
            space: PolicyAllocator::new(policies),
            changes: 0,
            settled: 0,
            pending: BTreeMap::new(),
            left: BTreeSet::new(),
        })
    }

    /// Starts with an empty image that replaces those of an earlier process: ENIs keep their slots, which entries of the
    /// tables name, and their epochs, and generations continue after `generation`. Everything is denied until the first one
    /// is committed.
    ///
    /// # Errors
    /// As [`Self::with_members`]; [`CompileError::UnknownSlot`] if the slots are invalid.
    pub fn resume(
        memory: M,
        member_banks: u32,
        generation: u64,
        slots: &BTreeMap<u16, String>,
        epoch: impl Fn(u16) -> u32,
    ) -> Result<Self, CompileError> {
        let mut writer = Self::with_members(memory, member_banks)?;
        writer.slots = Slots::of(slots)?;
        writer.generation = generation;
        // Free slots keep their epochs too, as they may be reused.
        for slot in 1..SLOTS as u16 {
            writer.control.set_epoch(slot, epoch(slot));
        }
        Ok(writer)
    }

    /// The slots in use, with their ENIs.
    pub fn slots(&self) -> BTreeMap<u16, String> {
        self.slots.iter().map(|(slot, eni)| (slot, eni.to_owned())).collect()
    }

    /// The image.
    pub fn memory(&self) -> &[AtomicU64] {
        self.view().0
    }

    /// The control words, which belong to no generation.
    pub fn control(&self) -> &ImageControl<M> {
        &self.control
    }

    /// The current generation; 0 before the first one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The slot of an ENI in the current generation, or of a removed ENI whose slot is not free yet.
    pub fn slot(&self, eni: &str) -> Option<u16> {
        self.slots.get(eni)
    }

    /// The ENI of a slot in the current generation.
    pub fn eni(&self, slot: u16) -> Option<&str> {
        self.slots.eni(slot)
    }

    /// Makes every tracked connection of a slot old: the rules decide on its next packet.
    ///
    /// A packet that is under way may still admit a connection by the old epoch; [`ImageWriter::synchronize`] makes that
    /// connection old too.
    ///
    /// # Errors
    /// [`CompileError::UnknownSlot`].
    pub fn bump_epoch(&mut self, slot: u16) -> Result<(), CompileError> {
        self.known(slot)?;
        self.bump(slot);
        Ok(())
    }

    /// Isolates an ENI in the current generation, or ends its isolation. Isolation makes its tracked connections old; later
    /// generations follow [`super::EniLimits`], which the caller sets.
    ///
    /// # Errors
    /// [`CompileError::UnknownSlot`].
    pub fn isolate(&mut self, slot: u16, isolated: bool) -> Result<(), CompileError> {
        self.known(slot)?;
        let before = self.slot_row(slot);
        let flags = if isolated {
            before.flags | slot::ISOLATED
        } else {
            before.flags & !slot::ISOLATED
        };
        if before.flags & slot::PRESENT == 0 || before.flags == flags {
            return Ok(());
        }
        self.set_slot_flags(slot, flags);
        if isolated {
            self.bump(slot);
        }
        Ok(())
    }

    /// Whether [`ImageWriter::synchronize`] will make the tracked connections of a slot old.
    pub fn is_pending(&self, slot: u16) -> bool {
        self.pending.contains_key(&slot)
    }

    /// Binds a link to a slot, in the current generation and later ones. If the link carried another slot, that slot's
    /// tracked connections become old.
    ///
    /// If the slot's epoch was raised ([`ImageWriter::is_pending`]), synchronize first: otherwise connections that arrive
    /// over the new link until then become old too.
    ///
    /// # Errors
    /// [`CompileError::UnknownSlot`], [`CompileError::RowsFull`], [`CompileError::ProbesExhausted`]: the link is unchanged.
    pub fn add_link(&mut self, link: LinkId, slot: u16) -> Result<(), CompileError> {
        self.known(slot)?;
        let key = link_key(link);
        if let Some(index) = self.links.index(key) {
            self.write_link(self.generation, index, link, slot);
        } else {
            let claim = self.links.claim(self.control.view(), key)?;
            self.write_link(self.generation, claim.index(), link, slot);
            self.links.publish(self.control.view(), claim);
        }
        let before = self.link_slots.insert(link, slot);
        if let Some(before) = before.filter(|before| *before != slot) {
            self.forget_link(before, link);
            self.bump(before);
        }
        self.control.set_link(slot, Some(link));
        Ok(())
    }

    /// Unbinds a link: its packets belong to no task from then on. The slot's tracked connections become old, so that the
    /// next link with this number does not inherit them.
    pub fn remove_link(&mut self, link: LinkId) {
        let Some(slot) = self.link_slots.remove(&link) else {
            return;
        };
        if let Some(index) = self.links.index(link_key(link)) {
            let row = LINK_ROWS.at(index);
            self.view().publish(bank_of(self.generation), row, 0);
            // The row is one word with the link itself, so the index can be reused at once.
            self.links.remove(self.control.view(), link_key(link), 0);
            self.links.settle_to(0);
        }
        self.forget_link(slot, link);
        self.bump(slot);
    }

    /// Waits for a grace period if needed, and makes connections admitted until then old. Call it soon after a switch or a
    /// raised epoch, where waiting does no harm; otherwise [`ImageWriter::prepare`] waits.
    pub fn synchronize(&mut self, grace: &mut dyn FnMut()) {
        if let Some(changes) = self.pending_grace() {
            grace();
            self.settle_to(changes);
        }
    }

    /// The argument of [`ImageWriter::settle_to`] for a grace period that begins now; `None` if none is needed. Allows the
    /// caller to use the writer during the grace period.
    pub fn pending_grace(&self) -> Option<u64> {
        (self.settled < self.changes).then_some(self.changes)
    }

    /// Reports the end of a grace period that began after [`ImageWriter::pending_grace`] returned `changes`.
    pub fn settle_to(&mut self, changes: u64) {
        let over = |_: &u16, change: &mut u64| *change <= changes;
        let slots: Vec<u16> = self.pending.extract_if(.., over).map(|(slot, _)| slot).collect();
        for slot in slots {
            self.control.bump_epoch(slot);
        }
        self.settled = self.settled.max(changes);
        self.members.settle_to(self.settled);
        self.release_left();
    }

    pub(super) fn view(&self) -> ImageView<'_> {
        self.control.view()
    }

    fn known(&self, slot: u16) -> Result<(), CompileError> {
        match self.slots.eni(slot) {
            Some(_) => Ok(()),
            None => Err(CompileError::UnknownSlot { slot }),
        }
    }

    /// Raises an epoch while packets may still admit by older state.
    pub(super) fn bump(&mut self, slot: u16) {
        self.control.bump_epoch(slot);
        self.change();
        self.pending.insert(slot, self.changes);
    }

    /// Counts a removal of state that packets may still read.
    pub(super) fn change(&mut self) {
        self.changes += 1;
    }

    pub(super) fn write_link(&self, generation: u64, index: u32, link: LinkId, slot: u16) {
        let row = LinkRow { link, slot }.to_word();
        self.view().publish(bank_of(generation), LINK_ROWS.at(index), row);
    }

    /// Clears a slot's link, if it is this one.
    fn forget_link(&self, slot: u16, link: LinkId) {
        if self.control.link(slot) == Some(link) {
            self.control.set_link(slot, None);
        }
    }

    /// A slot's row in the current generation.
    pub(super) fn slot_row(&self, slot: u16) -> SlotRow {
        let (bank, row) = slot_row_at(self.generation, slot);
        SlotRow::from_words(self.view().words(bank, row))
    }

    /// Changes the flags of a slot's row in the current generation. They share a word with the group set, so a packet reads
    /// either the old flags or the new ones.
    pub(super) fn set_slot_flags(&self, slot: u16, flags: u32) {
        let (bank, row) = slot_row_at(self.generation, slot);
        let before = SlotRow::from_words(self.view().words(bank, row));
        let [_, _, set_and_flags, _] = SlotRow { flags, ..before }.to_words();
        self.view().publish(bank, row + 2 * 8, set_and_flags);
    }

    /// Flags of a slot's row in a generation.
    pub(super) fn slot_flags(&self, generation: u64, slot: u16) -> u32 {
        let row = self.view().words(bank_of(generation), SLOT_ROWS.at(slot.into()));
        SlotRow::from_words(row).flags
    }

    /// An address's row in the current generation.
    pub(super) fn address_row(&self, index: u32) -> AddressRow {
        let (bank, row) = address_row_at(self.generation, index);
        AddressRow::from_words(self.view().words(bank, row)).1
    }

    /// Frees members and slots that neither the current generation nor the next one uses. Packets no longer read older ones.
    pub(super) fn reclaim(&mut self, next: &Compiled) {
        let gone: Vec<u128> = self
            .members
            .iter()
            .filter(|(key, index)| {
                !next.addresses.contains_key(key) && self.address_row(*index).flags & address::PRESENT == 0
            })
            .map(|(key, _)| key)
            .collect();
        if !gone.is_empty() {
            self.change();
        }
        for key in gone {
            self.members.remove(self.control.view(), key, self.changes);
        }
        self.members.prune(self.control.view());
        self.links.prune(self.control.view());

        let linked: HashSet<u16> = self.link_slots.values().copied().collect();
        let wanted: HashSet<&str> = next.slots.iter().map(|plan| plan.eni.as_str()).collect();
        let gone: Vec<u16> = self
            .slots
            .iter()
            .filter(|(slot, eni)| {
                !wanted.contains(eni)
                    && !linked.contains(slot)
                    && self.slot_flags(self.generation, *slot) & slot::PRESENT == 0
            })
            .map(|(slot, _)| slot)
            .collect();
        for slot in gone {
            // The epoch was raised at removal, and again after the last packet that could read the old one.
            self.slots.release(slot);
        }
    }
}
