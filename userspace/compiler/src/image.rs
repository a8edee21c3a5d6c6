//! The one writer of an image.

use std::collections::{BTreeMap, HashSet};
use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use taskgate_ebpf::abi::image::{
    ADDRESS_ROW, ADDRESS_ROW_BYTES, CONTROL_ABI, CONTROL_BANK, CONTROL_FLAGS, CONTROL_FORMER, CONTROL_GENERATION,
    CONTROL_SHARES, CONTROL_TIMEOUTS, CONTROL_TRUNK, CONTROL_UPLINK, CONTROL_WINDOW, EPOCHS, LINK_ROW, POLICY_BANK,
    ROWS_BANK, SLOT_LINKS, SLOT_MACS, SLOT_ROW, SLOT_ROW_BYTES, SLOT_SEGMENTS, SLOTS, Share, Shared, Timeout, address,
    slot,
};
use taskgate_ebpf::abi::{ABI_HASH, LinkId};
use taskgate_ebpf::packet::hardware_number;

use super::memory::ImageView;
use super::slots::Slots;
use super::space::PolicyAllocator;
use super::table::Table;
use super::{CompileError, Compiled, Prepared};

/// Brings compiled models into an image, generation after generation, and keeps what lasts longer than one: slots, the
/// tables' words, where policies lie. It must be the only one that writes to its memory.
///
/// What a packet may still read is written again only after a grace period, which the caller gives as a function that
/// returns once no packet reads what it began to read before.
#[derive(Debug)]
pub struct ImageWriter<M> {
    pub(super) memory: M,
    pub(super) generation: u64,
    pub(super) links: Table,
    /// The slot that each link carries.
    pub(super) link_slots: BTreeMap<LinkId, u16>,
    pub(super) members: Table,
    pub(super) slots: Slots,
    pub(super) space: PolicyAllocator,
    /// How often something went that packets may still read.
    changes: u64,
    /// Up to which of the changes no packet reads what went.
    settled: u64,
    /// Slots whose epoch was raised while packets may still admit under an older generation, with the last change that
    /// did so.
    raised: BTreeMap<u16, u64>,
}

/// The words of an image that are no generation's: whoever has this may use it while the writer is busy.
#[derive(Clone, Debug)]
pub struct ImageControl<M>(M);

impl<M: Deref<Target = [AtomicU64]>> ImageControl<M> {
    /// Those of an image that has a writer.
    pub fn new(image: M) -> Self {
        Self(image)
    }

    /// Makes the link with this ifindex the trunk, whose tags name branches; 0: none is.
    pub fn set_trunk(&self, ifindex: u32) {
        ImageView(&self.0).publish(CONTROL_BANK, CONTROL_TRUNK, ifindex.into());
    }

    /// Names the link with this ifindex the uplink: what comes in by it speaks for no task of this host. 0: none is.
    pub fn set_uplink(&self, ifindex: u32) {
        ImageView(&self.0).publish(CONTROL_BANK, CONTROL_UPLINK, ifindex.into());
    }

    /// Makes the link with this ifindex the one that was the trunk before: it carries the host's own packets and nothing
    /// else. 0: there is none.
    pub fn set_former_trunk(&self, ifindex: u32) {
        ImageView(&self.0).publish(CONTROL_BANK, CONTROL_FORMER, ifindex.into());
    }

    /// Says which bridge a slot's link is a port of, by its ifindex; 0: it is a link by itself. On each link a link-local
    /// address is one neighbour's.
    pub fn set_segment(&self, slot: u16, bridge: u32) {
        let at = SLOT_SEGMENTS + 8 * (u32::from(slot) % SLOTS);
        ImageView(&self.0).publish(CONTROL_BANK, at, bridge.into());
    }

    /// Whether a link carries a slot's ENI.
    pub fn is_carried(&self, slot: u16) -> bool {
        ImageView(&self.0).get(CONTROL_BANK, slot_link(slot)) != 0
    }

    /// Says how a table is shared, from the next packet on.
    pub fn set_share(&self, table: Shared, share: Share) {
        let at = CONTROL_SHARES + 8 * table as u32;
        ImageView(&self.0).publish(CONTROL_BANK, at, word(share.floor, share.pool));
    }

    /// The epoch of a slot.
    pub fn epoch(&self, slot: u16) -> u64 {
        ImageView(&self.0).get(CONTROL_BANK, EPOCHS + 8 * u32::from(slot))
    }
}

/// The bank of a generation's rows.
pub(super) fn rows_bank(generation: u64) -> u32 {
    ROWS_BANK + (generation & 1) as u32
}

/// Two halves as one word.
pub(super) fn word(lower: u32, upper: u32) -> u64 {
    u64::from(upper) << 32 | u64::from(lower)
}

/// The key of a link in its table.
pub(super) fn link_key(link: LinkId) -> u128 {
    link.get().into()
}

pub(super) fn slot_row(slot: u16) -> u32 {
    SLOT_ROW + SLOT_ROW_BYTES * u32::from(slot)
}

/// Where a slot's link is named.
fn slot_link(slot: u16) -> u32 {
    SLOT_LINKS + 8 * u32::from(slot)
}

pub(super) fn address_row(index: u32) -> u32 {
    ADDRESS_ROW + ADDRESS_ROW_BYTES * index
}

impl<M: Deref<Target = [AtomicU64]>> ImageWriter<M> {
    /// Takes charge of an empty image: all words 0. It says nothing yet, so everything is denied.
    ///
    /// # Errors
    /// [`CompileError::NotAnImage`] if the memory is not at least 4 whole banks, [`CompileError::NotEmpty`] if an image
    /// stands in it.
    pub fn new(memory: M) -> Result<Self, CompileError> {
        let words = ImageView(&memory);
        if words.banks().is_none_or(|banks| banks <= POLICY_BANK) {
            return Err(CompileError::NotAnImage {
                bytes: memory.len() * 8,
            });
        }
        if [CONTROL_ABI, CONTROL_GENERATION].map(|offset| words.get(CONTROL_BANK, offset)) != [0, 0] {
            return Err(CompileError::NotEmpty);
        }
        words.publish(CONTROL_BANK, CONTROL_ABI, ABI_HASH);
        Ok(Self {
            memory,
            generation: 0,
            links: Table::links(),
            link_slots: BTreeMap::new(),
            members: Table::members(),
            slots: Slots::default(),
            space: PolicyAllocator::default(),
            changes: 0,
            settled: 0,
            raised: BTreeMap::new(),
        })
    }

    /// The image.
    pub fn memory(&self) -> &[AtomicU64] {
        &self.memory
    }

    /// The current generation; 0 before the first one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The slot of an ENI: of those in the current generation, and of those that went and whose slot is not free yet.
    pub fn slot(&self, eni: &str) -> Option<u16> {
        self.slots.get(eni)
    }

    /// The ENI of a slot, likewise.
    pub fn eni(&self, slot: u16) -> Option<&str> {
        self.slots.eni(slot)
    }

    /// Sets the [`taskgate_ebpf::abi::image::control`] flags.
    pub fn set_flags(&self, flags: u64) {
        self.words().publish(CONTROL_BANK, CONTROL_FLAGS, flags);
    }

    /// Sets the number of the capture window.
    pub fn set_window(&self, window: u64) {
        self.words().publish(CONTROL_BANK, CONTROL_WINDOW, window);
    }

    /// The words that are no generation's.
    pub fn control(&self) -> ImageControl<&[AtomicU64]> {
        ImageControl(&self.memory)
    }

    /// Says which hardware address a slot's ENI has and keeps, from now on; `None`: that is not known. To be called before
    /// its link is bound.
    pub fn set_mac(&self, slot: u16, mac: Option<[u8; 6]>) {
        let number = mac.map_or(0, hardware_number);
        self.words()
            .publish(CONTROL_BANK, SLOT_MACS + 8 * (u32::from(slot) % SLOTS), number);
    }

    /// Sets an idle time-out, in ticks of the kernel's jiffies.
    pub fn set_timeout(&self, timeout: Timeout, ticks: u64) {
        self.words()
            .publish(CONTROL_BANK, CONTROL_TIMEOUTS + 8 * timeout as u32, ticks);
    }

    /// Says how a table is shared, from the next packet on.
    pub fn set_share(&self, table: Shared, share: Share) {
        self.words().publish(
            CONTROL_BANK,
            CONTROL_SHARES + 8 * table as u32,
            word(share.floor, share.pool),
        );
    }

    /// The epoch of a slot.
    pub fn epoch(&self, slot: u16) -> u64 {
        self.control().epoch(slot)
    }

    /// Makes every tracked connection of a slot old: its next packet is judged anew.
    ///
    /// A packet that began before may still admit by what it read; [`ImageWriter::settle`] makes that old too.
    ///
    /// # Errors
    /// [`CompileError::UnknownSlot`].
    pub fn raise_epoch(&mut self, slot: u16) -> Result<(), CompileError> {
        self.known(slot)?;
        self.raise(slot);
        Ok(())
    }

    /// Whether [`ImageWriter::settle`] will make the tracked connections of a slot old.
    pub fn is_raised(&self, slot: u16) -> bool {
        self.raised.contains_key(&slot)
    }

    /// Binds a link to a slot from now on, in the current generation and those that follow. A link that carried another
    /// slot leaves that one's tracked connections old.
    ///
    /// A slot whose epoch was raised is to be settled first ([`ImageWriter::is_raised`]): otherwise what comes over the
    /// new link until then is made old with the rest.
    ///
    /// # Errors
    /// [`CompileError::UnknownSlot`], [`CompileError::RowsFull`], [`CompileError::ProbesExhausted`]: the link is as it
    /// was.
    pub fn add_link(&mut self, link: LinkId, slot: u16) -> Result<(), CompileError> {
        self.known(slot)?;
        let key = link_key(link);
        if let Some(index) = self.links.index(key) {
            self.write_link(rows_bank(self.generation), index, link, slot);
        } else {
            let claim = self.links.claim(ImageView(&self.memory), key)?;
            self.write_link(rows_bank(self.generation), claim.index(), link, slot);
            self.links.publish(ImageView(&self.memory), claim);
        }
        let before = self.link_slots.insert(link, slot);
        if let Some(before) = before.filter(|before| *before != slot) {
            self.forget_link(before, link);
            self.raise(before);
        }
        self.words().publish(CONTROL_BANK, slot_link(slot), link.get().into());
        Ok(())
    }

    /// Unbinds a link: what comes over it is no task's. The slot's tracked connections are old, so that whoever gets
    /// the link's number next does not inherit them.
    pub fn remove_link(&mut self, link: LinkId) {
        let Some(slot) = self.link_slots.remove(&link) else {
            return;
        };
        if let Some(index) = self.links.index(link_key(link)) {
            self.clear_link(index);
            self.links.remove(ImageView(&self.memory), link_key(link));
        }
        self.forget_link(slot, link);
        self.raise(slot);
    }

    /// Waits, if need be, until no packet reads what is gone, and makes old what packets admitted meanwhile. To be called
    /// soon after a switch or a raised epoch, where waiting does no harm; [`ImageWriter::prepare`] does it otherwise.
    pub fn synchronize(&mut self, grace: &mut dyn FnMut()) {
        if let Some(changes) = self.pending_grace() {
            grace();
            self.settle_to(changes);
        }
    }

    /// What [`ImageWriter::settle_to`] takes once a grace period is over that begins now; `None` if there is nothing to
    /// wait for. So the writer can be used while somebody waits.
    pub fn pending_grace(&self) -> Option<u64> {
        (self.settled < self.changes).then_some(self.changes)
    }

    /// Says that a grace period is over that began after [`ImageWriter::unsettled`] gave `changes`.
    pub fn settle_to(&mut self, changes: u64) {
        let over = |_: &u16, change: &mut u64| *change <= changes;
        let slots: Vec<u16> = self.raised.extract_if(.., over).map(|(slot, _)| slot).collect();
        for slot in slots {
            self.bump(slot);
        }
        self.settled = self.settled.max(changes);
    }

    /// Writes the next generation beside the current one.
    ///
    /// # Errors
    /// [`CompileError::PoliciesFull`], [`CompileError::SlotsFull`], [`CompileError::RowsFull`],
    /// [`CompileError::ProbesExhausted`]: the current generation stands as before.
    pub fn prepare(&mut self, compiled: &Compiled, grace: &mut dyn FnMut()) -> Result<Prepared<'_, M>, CompileError> {
        self.synchronize(grace);
        self.reclaim(compiled);
        Prepared::write(self, compiled)
    }

    pub(super) fn words(&self) -> ImageView<'_> {
        ImageView(&self.memory)
    }

    fn known(&self, slot: u16) -> Result<(), CompileError> {
        match self.slots.eni(slot) {
            Some(_) => Ok(()),
            None => Err(CompileError::UnknownSlot { slot }),
        }
    }

    /// Raises an epoch while packets may still admit by what they read before.
    pub(super) fn raise(&mut self, slot: u16) {
        self.bump(slot);
        self.change();
        self.raised.insert(slot, self.changes);
    }

    /// Something goes that packets may still read.
    pub(super) fn change(&mut self) {
        self.changes += 1;
    }

    fn bump(&self, slot: u16) {
        let epoch = self.epoch(slot).wrapping_add(1);
        self.words().publish(CONTROL_BANK, EPOCHS + 8 * u32::from(slot), epoch);
    }

    pub(super) fn write_link(&self, bank: u32, index: u32, link: LinkId, slot: u16) {
        self.words()
            .publish(bank, LINK_ROW + 8 * index, word(link.get(), slot.into()));
    }

    /// A slot's ENI is carried by this link no more.
    fn forget_link(&self, slot: u16, link: LinkId) {
        let (words, at) = (self.words(), slot_link(slot));
        if words.get(CONTROL_BANK, at) == u64::from(link.get()) {
            words.publish(CONTROL_BANK, at, 0);
        }
    }

    /// Makes a link's row absent in the current generation.
    fn clear_link(&self, index: u32) {
        self.words()
            .publish(rows_bank(self.generation), LINK_ROW + 8 * index, 0);
    }

    /// Flags of a slot's row in a generation.
    pub(super) fn slot_flags(&self, generation: u64, slot: u16) -> u32 {
        self.words().get(rows_bank(generation), slot_row(slot) + 16) as u32
    }

    /// Flags of an address's row in the current generation.
    fn address_flags(&self, index: u32) -> u32 {
        let row = self.words().get(rows_bank(self.generation), address_row(index) + 16);
        (row >> 16) as u32 & 0xffff
    }

    /// Frees what neither the current generation nor the next one names. Packets read no older one any more.
    fn reclaim(&mut self, next: &Compiled) {
        let gone: Vec<u128> = self
            .members
            .iter()
            .filter(|(key, index)| {
                !next.addresses.contains_key(key) && self.address_flags(*index) & address::PRESENT == 0
            })
            .map(|(key, _)| key)
            .collect();
        for key in gone {
            self.members.remove(ImageView(&self.memory), key);
        }
        self.members.prune(ImageView(&self.memory));
        self.links.prune(ImageView(&self.memory));

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
            // Its epoch was raised when it went, and again once the last packet that knew it was through.
            self.slots.release(slot);
        }
    }
}
