//! The words of an image, and the operations that write them.

use std::{
    ops::Deref,
    sync::atomic::{AtomicU64, Ordering},
};

use taskgate_ebpf::{
    abi::{
        LinkId,
        image::{
            BANK_BYTES, CONTROL_BANK, EPOCHS, IMAGE_LAYOUT, ImageWord, MemberBanks, SHARES, SLOT_LINKS, SLOT_MACS,
            SLOT_SEGMENTS, SLOTS, Share, Shared, TIMEOUT_TICKS, Timeout,
        },
    },
    packet::hardware_number,
};

/// Words in a bank.
const BANK_WORDS: usize = BANK_BYTES as usize / 8;

/// An empty image of `banks` banks in plain memory: for tests, and for verdicts without a kernel.
pub fn host_image(banks: u32) -> Vec<AtomicU64> {
    std::iter::repeat_with(AtomicU64::default)
        .take(banks as usize * BANK_WORDS)
        .collect()
}

/// The words of an image, by bank and offset in bytes. An access out of bounds panics.
#[derive(Clone, Copy, Debug)]
pub struct ImageView<'a>(pub &'a [AtomicU64]);

impl<'a> ImageView<'a> {
    /// The number of banks; `None` if the image is no whole number of banks.
    pub fn banks(self) -> Option<u32> {
        self.0
            .len()
            .is_multiple_of(BANK_WORDS)
            .then_some((self.0.len() / BANK_WORDS) as u32)
    }

    fn word(self, bank: u32, offset: u32) -> &'a AtomicU64 {
        &self.0[bank as usize * BANK_WORDS + offset as usize / 8]
    }

    /// The word at `offset`.
    pub fn get(self, bank: u32, offset: u32) -> u64 {
        self.word(bank, offset).load(Ordering::Relaxed)
    }

    /// The words from `offset` on.
    pub fn words<const N: usize>(self, bank: u32, offset: u32) -> [u64; N] {
        std::array::from_fn(|at| self.get(bank, offset + 8 * at as u32))
    }

    /// Stores words from `offset` on, with relaxed ordering: readers may see them in any order.
    pub fn set(self, bank: u32, offset: u32, words: &[u64]) {
        for (offset, &value) in (offset..).step_by(8).zip(words) {
            self.word(bank, offset).store(value, Ordering::Relaxed);
        }
    }

    /// Stores one word with release ordering: a reader that sees it also sees all earlier stores.
    pub fn publish(self, bank: u32, offset: u32, value: u64) {
        self.word(bank, offset).store(value, Ordering::Release);
    }
}

/// The control words of an image, which belong to no generation. Several threads may use them concurrently, if each word is written
/// by only one.
#[derive(Clone, Debug)]
pub struct ImageControl<M>(M);

impl<M: Deref<Target = [AtomicU64]>> ImageControl<M> {
    /// The control words of an image of whole banks.
    pub fn new(image: M) -> Self {
        Self(image)
    }

    /// The image.
    pub fn view(&self) -> ImageView<'_> {
        ImageView(&self.0)
    }

    fn get(&self, offset: u32) -> u64 {
        self.view().get(CONTROL_BANK, offset)
    }

    fn set(&self, offset: u32, value: u64) {
        self.view().publish(CONTROL_BANK, offset, value);
    }

    /// Whether the image is still empty: without layout and generation.
    pub fn is_empty(&self) -> bool {
        self.layout() == 0 && self.generation() == 0
    }

    /// Sets the image's layout: that of this build, with so many banks of `members`.
    pub fn begin(&self, member_banks: u32) {
        let members = MemberBanks::of(member_banks);
        self.set(ImageWord::MemberBanks.offset(), members.to_word());
        self.set(ImageWord::Layout.offset(), IMAGE_LAYOUT);
    }

    /// The generation in force; 0: none.
    pub fn generation(&self) -> u64 {
        self.get(ImageWord::Generation.offset())
    }

    /// Switches to a generation.
    pub fn set_generation(&self, generation: u64) {
        self.set(ImageWord::Generation.offset(), generation);
    }

    /// The image's layout word; 0: none yet.
    pub fn layout(&self) -> u64 {
        self.get(ImageWord::Layout.offset())
    }

    /// The number of the capture window.
    pub fn window(&self) -> u32 {
        self.get(ImageWord::Window.offset()) as u32
    }

    /// The ifindexes of the trunk and of the previous one; 0: there is none.
    pub fn trunks(&self) -> [u32; 2] {
        [ImageWord::Trunk, ImageWord::PreviousTrunk].map(|word| self.get(word.offset()) as u32)
    }

    /// Sets the number of the capture window, to which packets belong from now on.
    pub fn set_window(&self, window: u32) {
        self.set(ImageWord::Window.offset(), window.into());
    }

    /// Sets the [`taskgate_ebpf::abi::image::control`] flags.
    pub fn set_flags(&self, flags: u64) {
        self.set(ImageWord::Flags.offset(), flags);
    }

    /// Makes the link with this ifindex the trunk, whose VLAN tags identify branches; 0: there is no trunk.
    pub fn set_trunk(&self, ifindex: u32) {
        self.set(ImageWord::Trunk.offset(), ifindex.into());
    }

    /// Makes the link with this ifindex the previous trunk: only the host's own packets pass there. 0: there is
    /// none.
    pub fn set_previous_trunk(&self, ifindex: u32) {
        self.set(ImageWord::PreviousTrunk.offset(), ifindex.into());
    }

    /// Makes the link with this ifindex the uplink: packets from it do not come from a task of this host. 0: there is no
    /// uplink.
    pub fn set_uplink(&self, ifindex: u32) {
        self.set(ImageWord::Uplink.offset(), ifindex.into());
    }

    /// Sets an idle time-out, in ticks of the kernel's jiffies.
    pub fn set_timeout(&self, timeout: Timeout, ticks: u32) {
        self.set(TIMEOUT_TICKS.at(timeout as u32), ticks.into());
    }

    /// Sets the shares of a table, from the next packet on.
    pub fn set_share(&self, table: Shared, share: Share) {
        self.set(SHARES.at(table as u32), share.to_word());
    }

    /// The epoch of a slot.
    pub fn epoch(&self, slot: u16) -> u32 {
        self.get(EPOCHS.at(slot.into())) as u32
    }

    /// Sets the epoch of a slot, in an image that no gate uses yet.
    pub fn set_epoch(&self, slot: u16, epoch: u32) {
        self.set(EPOCHS.at(slot.into()), epoch.into());
    }

    /// Raises the epoch of a slot: its existing tracked connections become invalid.
    pub fn bump_epoch(&self, slot: u16) {
        let at = EPOCHS.at(slot.into());
        self.set(at, self.get(at).wrapping_add(1));
    }

    /// The link that carries a slot's ENI.
    pub fn link(&self, slot: u16) -> Option<LinkId> {
        match self.get(SLOT_LINKS.at(slot.into())) as u32 {
            0 => None,
            link => Some(LinkId::from_number(link)),
        }
    }

    /// Sets the link that carries a slot's ENI.
    pub fn set_link(&self, slot: u16, link: Option<LinkId>) {
        self.set(SLOT_LINKS.at(slot.into()), link.map_or(0, LinkId::get).into());
    }

    /// Sets the fixed hardware address of a slot's ENI; `None`: it is not known. To be called before the slot's link is bound.
    pub fn set_mac(&self, slot: u16, mac: Option<[u8; 6]>) {
        self.set(SLOT_MACS.at(slot.into()), mac.map_or(0, hardware_number));
    }

    /// Sets the ifindex of the bridge that a slot's link is a port of; 0: the link is a segment by itself. On each segment a
    /// link-local address belongs to one neighbour.
    pub fn set_segment(&self, slot: u16, bridge: u32) {
        self.set(SLOT_SEGMENTS.at(slot.into()), bridge.into());
    }

    /// The bridges that slots' links are ports of, for the slots that have one.
    pub fn segments(&self) -> impl Iterator<Item = u32> {
        let bridges = (0..SLOTS).map(|slot| self.get(SLOT_SEGMENTS.at(slot)) as u32);
        bridges.filter(|bridge| *bridge != 0)
    }
}
