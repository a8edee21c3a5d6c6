//! What the kernel tells user space: keys and values of its tables.
//!
//! Totals only grow and nobody resets them. Counts are added to by locked
//! adds, everything else is plain stores, where a race costs a flag or a few milliseconds of a time, never a count.

use core::cell::Cell;

use super::outcome::Direction;

/// A word of a table that several CPUs write. BPF knows no relaxed loads or stores (LLVM 22 has no instruction for
/// them): a word is read and written by one instruction each all the same.
pub type Word = Cell<u64>;

/// A flow of IPv4: 16 bytes. Seen from the task, so both directions of a connection have one key.
///
/// In `CONNS_V4` the tail is the link and the protocol ([`super::LinkId::with_protocol`]); in `DENIALS_V4` it is
/// [`denial_tail`] and the protocol lies in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Key4 {
    /// The task's address in the upper half, the peer's in the lower.
    pub addresses: u64,
    /// The task's port in the upper half, the peer's in the lower. ICMP: see the parser.
    pub ports: u32,
    /// See the structure.
    pub tail: u32,
}

/// A flow of IPv6: 40 bytes. As [`Key4`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Key6 {
    /// The task's address: upper and lower half.
    pub local: [u64; 2],
    /// The peer's address: upper and lower half.
    pub remote: [u64; 2],
    /// As in [`Key4`].
    pub ports: u32,
    /// As in [`Key4`].
    pub tail: u32,
}

/// The tail of a denial's key: slot, protocol, direction, reason.
#[inline(always)]
pub const fn denial_tail(slot: u16, protocol: u8, direction: Direction, reason: u8) -> u32 {
    (slot as u32) << 16 | (protocol as u32) << 8 | (direction as u32) << 7 | reason as u32 & 0x7f
}

/// What [`denial_tail`] put together: slot, protocol, direction, the reason's number.
pub const fn split_denial_tail(tail: u32) -> (u16, u8, Direction, u8) {
    let direction = if tail & 0x80 == 0 {
        Direction::Egress
    } else {
        Direction::Ingress
    };
    ((tail >> 16) as u16, (tail >> 8) as u8, direction, tail as u8 & 0x7f)
}

/// Packets and bytes of one direction. Bytes are IP bytes on the wire, without Ethernet.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Totals {
    /// Packets as on the wire: a GSO packet counts as its segments.
    pub packets: Word,
    /// IP bytes.
    pub bytes: Word,
}

/// A tracked connection: 64 bytes, one cache line. What changes together shares a word.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Conn {
    /// By [`Direction`]: egress, ingress.
    pub totals: [Totals; 2],
    /// When it last carried a packet, and whose it is.
    pub seen: Seen,
    /// The epoch of its slot when it was admitted (upper half), and the generation that admitted it last.
    pub admitted: Word,
    /// [`Conn::pack_by`]: who admitted it.
    pub by: Word,
    /// TCP: where each side goes on.
    pub next: Next,
    /// What becomes of it, and TCP flags by window.
    pub flags: Flags,
}

impl From<[u64; 8]> for Conn {
    /// From the words of a table's value.
    fn from(words: [u64; 8]) -> Self {
        let [
            egress_packets,
            egress_bytes,
            ingress_packets,
            ingress_bytes,
            seen,
            admitted,
            by,
            next_and_flags,
        ] = words;
        // As they lie in memory.
        let [low, high, more, most, rest @ ..] = next_and_flags.to_ne_bytes();
        Self {
            totals: [
                Totals::new(egress_packets, egress_bytes),
                Totals::new(ingress_packets, ingress_bytes),
            ],
            seen: Seen(seen.into()),
            admitted: admitted.into(),
            by: by.into(),
            next: Next::new([u16::from_ne_bytes([low, high]), u16::from_ne_bytes([more, most])]),
            flags: Flags(u32::from_ne_bytes(rest).into()),
        }
    }
}

impl From<[u64; 3]> for Fragment {
    /// From the words of a table's value.
    fn from([seen, lent, missing]: [u64; 3]) -> Self {
        Self {
            seen: Seen(seen.into()),
            lent: lent.into(),
            missing: missing.into(),
        }
    }
}

impl From<[u64; 4]> for Denial {
    /// From the words of a table's value.
    fn from([packets, bytes, seen, flags]: [u64; 4]) -> Self {
        let [low, high, more, most, charge @ ..] = flags.to_ne_bytes();
        Self {
            totals: Totals::new(packets, bytes),
            seen: Seen(seen.into()),
            flags: Flags(u32::from_ne_bytes([low, high, more, most]).into()),
            charge: Cell::new(u32::from_ne_bytes(charge)),
        }
    }
}

impl Totals {
    /// So many packets and bytes.
    #[inline(always)]
    pub const fn new(packets: u64, bytes: u64) -> Self {
        Self {
            packets: Cell::new(packets),
            bytes: Cell::new(bytes),
        }
    }
}

impl Conn {
    /// Epoch and generation.
    #[inline(always)]
    pub fn admitted(&self) -> (u32, u32) {
        let word = self.admitted.get();
        ((word >> 32) as u32, word as u32)
    }

    /// Who admits a connection: the number of the rule (24 bits, uppermost; [`RULE_EXEMPT`] for what is never filtered), the
    /// upper half of its [`state`] (8 bits), the code of an ICMP request (8 bits from bit 16), and the slot of its ENI (16
    /// bits).
    #[inline(always)]
    pub const fn pack_by(rule: u32, state: u16, code: u8, slot: u16) -> u64 {
        (rule as u64) << 40 | (state as u64 >> 8) << 32 | (code as u64) << 16 | slot as u64
    }

    /// The code of the ICMP request that it was admitted for.
    #[inline(always)]
    pub fn code(&self) -> u8 {
        (self.by.get() >> 16) as u8
    }

    /// The number of the rule, and the slot.
    #[inline(always)]
    pub fn by(&self) -> (u32, u16) {
        let word = self.by.get();
        ((word >> 40) as u32, word as u16)
    }

    /// Its [`state`].
    #[inline(always)]
    pub fn state(&self) -> u16 {
        (self.by.get() >> 24) as u16 & state::ADMISSION | self.flags.state()
    }
}

/// Two numbers of 32 bits in one word, the first above.
#[inline(always)]
pub const fn pair(upper: u32, lower: u32) -> u64 {
    (upper as u64) << 32 | lower as u64
}

/// When an entry last carried a packet, in ticks of the kernel's jiffies, wrapping (upper half), and the tail of its own
/// key: a packet that still holds an element which user space removed and the kernel gave to another key sees it there.
#[derive(Clone, Debug, Default)]
#[repr(transparent)]
pub struct Seen(Word);

impl Seen {
    /// For the entry of a key with this tail.
    #[inline(always)]
    pub const fn new(last: u32, tail: u32) -> Self {
        Self(Cell::new(pair(last, tail)))
    }

    /// The time, and the tail.
    #[inline(always)]
    pub fn get(&self) -> (u32, u32) {
        let word = self.0.get();
        ((word >> 32) as u32, word as u32)
    }

    /// Sets both.
    #[inline(always)]
    pub fn set(&self, last: u32, tail: u32) {
        self.0.set(pair(last, tail));
    }
}

/// TCP: the sequence number that each side sends next, by [`Direction`], its low 16 bits. Each is stored by itself, so that
/// packets of both directions on two CPUs don't write over each other's.
#[derive(Clone, Debug, Default)]
#[repr(transparent)]
pub struct Next([Cell<u16>; 2]);

impl Next {
    /// These.
    #[inline(always)]
    pub const fn new([egress, ingress]: [u16; 2]) -> Self {
        Self([Cell::new(egress), Cell::new(ingress)])
    }

    /// Both.
    #[inline(always)]
    pub fn get(&self) -> [u16; 2] {
        [self.0[0].get(), self.0[1].get()]
    }

    /// Sets both.
    #[inline(always)]
    pub fn set(&self, [egress, ingress]: [u16; 2]) {
        self.0[0].set(egress);
        self.0[1].set(ingress);
    }

    /// Sets that of the peer, which is all that its own packets move.
    #[inline(always)]
    pub fn set_ingress(&self, ingress: u16) {
        self.0[1].set(ingress);
    }
}

/// From above: the lower half of the [`state`], the low 8 bits of the number of the last [`window`] that had a packet, what
/// was seen in it, and what was seen in the one before (8 bits each).
///
/// A flow that is silent for exactly 256 windows shows the old flags of its last window once more in the next one.
#[derive(Clone, Debug, Default)]
#[repr(transparent)]
pub struct Flags(Cell<u32>);

impl Flags {
    /// With this state, in the window with this number, and no flags in any.
    #[inline(always)]
    pub const fn new(state: u16, number: u32) -> Self {
        Self(Cell::new((state as u32) << 24 | (number & 0xff) << 16))
    }

    /// The lower half of the state.
    #[inline(always)]
    pub fn state(&self) -> u16 {
        (self.0.get() >> 24) as u16
    }

    /// The [`window`] words of the even and the odd one of its two windows.
    #[inline(always)]
    pub fn windows(&self) -> [u32; 2] {
        let word = self.0.get();
        let last = word >> 8 & 0xffff;
        let before = (last.wrapping_sub(0x100) & 0xff00) | word & 0xff;
        if last & 0x100 == 0 {
            [last, before]
        } else {
            [before, last]
        }
    }

    /// Sets the lower half of the state and adds a packet's TCP flags to its window; stores only what changed.
    #[inline(always)]
    pub fn update(&self, state: u16, number: u32, direction: Direction, tcp_flags: u8) {
        let was = self.0.get();
        let seen = window::seen(direction, tcp_flags);
        let number = number & 0xff;
        let windows = match number.wrapping_sub(was >> 16) & 0xff {
            0 => was & 0x00ff_ffff | seen << 8,
            1 => number << 16 | seen << 8 | was >> 8 & 0xff,
            // Another CPU was in the next one already.
            0xff => was & 0x00ff_ffff | seen,
            _ => number << 16 | seen << 8,
        };
        let is = (state as u32) << 24 | windows;
        if is != was {
            self.0.set(is);
        }
    }
}

/// The rule number of what is never filtered: no rule has it.
pub const RULE_EXEMPT: u32 = RULES - 1;

/// Rule numbers are below this one, 24 bits.
pub const RULES: u32 = 1 << 24;

/// Bits of a tracked connection's state: what packets change below, what its admission says above.
pub mod state {
    /// A packet came back. TCP: one that can only come from whoever was asked.
    pub const REPLIED: u16 = 1 << 0;
    /// The initiator went on after a reply. TCP: an established connection.
    pub const CONFIRMED: u16 = 1 << 1;
    /// All but TCP: a packet came back after the initiator went on. UDP's second exchange, so a stream.
    pub const ANSWERED: u16 = 1 << 2;
    /// TCP: a FIN was seen from the task.
    pub const FIN_EGRESS: u16 = 1 << 3;
    /// TCP: a FIN was seen toward the task.
    pub const FIN_INGRESS: u16 = 1 << 4;
    /// TCP: the last packet from the task was a RST.
    pub const RESET_EGRESS: u16 = 1 << 5;
    /// TCP: the last packet toward the task was a RST.
    pub const RESET_INGRESS: u16 = 1 << 6;
    /// TCP: where the responder goes on is known.
    pub const KNOWN: u16 = 1 << 7;
    /// Its initiator is outside: admitted by an ingress rule. Clear: by an egress rule.
    pub const INGRESS: u16 = 1 << 8;
    /// AWS's untracked flow: it lives by its rule, not by its entry.
    pub const UNTRACKED: u16 = 1 << 9;
    /// Its peer is a task of this host, so that none of its packets comes from the wire.
    pub const LOCAL: u16 = 1 << 10;
    /// Opened from outside by what went to several hosts: nothing that the task sends belongs to it, since that address is
    /// nobody's to send from.
    pub const GROUP: u16 = 1 << 11;
    /// It is charged to the common pool, see [`super::Charge`]. Never changes while the entry lives.
    pub const POOL: u16 = 1 << POOL_BIT;
    pub(super) const POOL_BIT: u32 = 15;
    /// What its admission says.
    pub const ADMISSION: u16 = 0xff00;
}

/// A denied flow: 32 bytes.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Denial {
    /// What was dropped.
    pub totals: Totals,
    /// As in [`Conn`].
    pub seen: Seen,
    /// TCP flags by window, in the half of the key's direction; no state.
    pub flags: Flags,
    /// The number of its [`Charge`].
    pub charge: Cell<u32>,
}

/// What later fragments borrow from the first one of their datagram: 24 bytes.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Fragment {
    /// When it was let through, and the tail of its own key.
    pub seen: Seen,
    /// From above: source port, destination port, slot of its ENI (16 bits each), [`Charge`] (1 bit), the kind of ICMP
    /// exchange (7 bits), the protocol (8 bits).
    pub lent: Word,
    /// The sum of [`Packet::fragment_step`](crate::packet::Packet::fragment_step) of all parts that passed, as a signed
    /// number: 0 once the datagram is whole.
    pub missing: Word,
}

impl Fragment {
    /// The slot whose share it is of.
    #[inline(always)]
    pub fn slot(&self) -> u16 {
        (self.lent.get() >> 16) as u16
    }

    /// Which account of that slot it is charged to.
    #[inline(always)]
    pub fn charge(&self) -> Charge {
        Charge::new((self.lent.get() >> Self::POOL_BIT) as u32)
    }

    /// What [`Fragment::lent`] says of that.
    #[inline(always)]
    pub const fn charged(charge: Charge) -> u64 {
        (charge.0 as u64) << Self::POOL_BIT
    }

    const POOL_BIT: u32 = 15;
}

/// The account that an entry is charged to. It stays the same for as long as the entry lives. A number and no `enum`: what
/// follows is verified once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Charge(u32);

impl Charge {
    /// The guaranteed floor of its slot.
    pub const FLOOR: Self = Self(0);
    /// The pool that all slots have in common.
    pub const POOL: Self = Self(1);

    /// By its number; only the lowest bit counts.
    #[inline(always)]
    pub const fn new(number: u32) -> Self {
        Self(number & 1)
    }

    /// From the state of a connection.
    #[inline(always)]
    pub const fn of_state(state: u16) -> Self {
        Self::new((state >> state::POOL_BIT) as u32)
    }

    /// Its number.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// What the state of a connection says of it.
    #[inline(always)]
    pub const fn state(self) -> u16 {
        (self.0 as u16) << state::POOL_BIT
    }
}

/// Entries that were charged to a slot's two accounts, or given back to them: its floor, and what it has in the common pool.
/// Of slot 0: what all slots have in the pool.
#[derive(Clone, Debug, Default)]
#[repr(transparent)]
pub struct Charges([Word; 2]);

impl Charges {
    /// Those of an account.
    #[inline(always)]
    pub const fn of(&self, charge: Charge) -> &Word {
        // Masked, so that there is no bound to check.
        &self.0[(charge.0 & 1) as usize]
    }

    /// Where that word lies, in bytes.
    pub const fn offset(charge: Charge) -> usize {
        charge.0 as usize * size_of::<Word>()
    }
}

/// What a slot uses of the shared tables: 128 bytes. The kernel writes the first line and the last two words, user space
/// the rest, so no word has two writers: what is in use is `inserted - removed`. An entry is charged before it is inserted,
/// and given back after it was removed.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Usage {
    /// Connections.
    pub conns_inserted: Charges,
    /// Denied flows.
    pub denials_inserted: Charges,
    /// Datagrams whose first fragment is remembered, less those that the kernel forgot because they were whole.
    pub fragments_inserted: Charges,
    /// Packets that passed and found no room to be counted: untracked flows, errors about connections, and what met a table
    /// that was busy.
    pub flows_lost: Word,
    /// Denied packets that found no room for their record: in the counters only.
    pub denials_lost: Word,
    /// Connections that user space removed.
    pub conns_removed: Charges,
    /// Denied flows that user space removed.
    pub denials_removed: Charges,
    /// Datagrams that user space forgot.
    pub fragments_removed: Charges,
    /// Packets that were denied because there was no room to track their connection.
    pub conns_refused: Word,
    /// First fragments that found no room to be remembered: the rest of their datagrams was dropped.
    pub fragments_lost: Word,
}

impl Usage {
    /// Of slot 0: how many packets are just moving a connection's charge from one slot to another. One at a time may.
    #[inline(always)]
    pub const fn moving(&self) -> &Word {
        // No floor is slot 0's.
        self.conns_inserted.of(Charge::FLOOR)
    }
}

/// What a task's neighbours said, and what it asked about itself: 96 bytes for each slot. Each address has one place, by
/// its lowest bits; who comes last has it.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct NeighbourCache([NeighbourEntry; 4]);

/// An address in it: 24 bytes.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct NeighbourEntry {
    /// The address.
    address: [Word; 2],
    /// Whose it is: link and [`NeighbourKind`] above, the slot's epoch below. A link's number is never 0.
    whose: Word,
}

/// What is kept of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NeighbourKind {
    /// Somebody on the link sent neighbour discovery from it to the task.
    Heard = 0,
    /// The task asked whether anybody has it, and has not used it since.
    Probed = 1,
}

impl NeighbourCache {
    #[inline(always)]
    fn place(&self, address: [u64; 2]) -> &NeighbourEntry {
        &self.0[(address[1] & 3) as usize]
    }

    /// Whether an address is kept as this kind, of this link and epoch.
    #[inline(always)]
    pub fn has(&self, address: [u64; 2], kind: NeighbourKind, link: u32, epoch: u32) -> bool {
        let NeighbourEntry { address: kept, whose } = self.place(address);
        let differs = (kept[0].get() ^ address[0]) | (kept[1].get() ^ address[1]);
        differs | (whose.get() ^ Self::whose(kind, link, epoch)) == 0
    }

    /// Keeps it.
    #[inline(always)]
    pub fn keep(&self, address: [u64; 2], kind: NeighbourKind, link: u32, epoch: u32) {
        if !self.has(address, kind, link, epoch) {
            let place = self.place(address);
            place.address[0].set(address[0]);
            place.address[1].set(address[1]);
            place.whose.set(Self::whose(kind, link, epoch));
        }
    }

    /// Forgets whatever has its place.
    #[inline(always)]
    pub fn forget(&self, address: [u64; 2]) {
        self.place(address).whose.set(0);
    }

    #[inline(always)]
    const fn whose(kind: NeighbourKind, link: u32, epoch: u32) -> u64 {
        pair(link | (kind as u32) << 24, epoch)
    }
}

/// The first packet of a flow, for whoever follows: 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// The task's address: upper and lower half; IPv4 is mapped (`::ffff:a.b.c.d`).
    pub local: [u64; 2],
    /// The peer's address, likewise.
    pub remote: [u64; 2],
    /// As in [`Key4`].
    pub ports: u32,
    /// [`denial_tail`], with the outcome's number in place of the reason.
    pub tail: u32,
    /// The rule that allowed it, or 0.
    pub rule: u32,
    /// When, in ticks.
    pub time: u32,
    /// IP bytes of the packet.
    pub bytes: u32,
    /// TCP flags of the packet.
    pub tcp_flags: u32,
    /// The generation that judged it.
    pub generation: u32,
    /// Not used yet.
    pub spare: u32,
}

/// What an entry keeps of a window: the low 8 bits of the window's number above, below it four bits of TCP flags for each
/// direction. The window's first packet begins it.
pub mod window {
    use super::Direction;

    /// A FIN was seen.
    pub const FIN: u8 = 1;
    /// A SYN without ACK was seen.
    pub const SYN: u8 = 2;
    /// A RST was seen.
    pub const RST: u8 = 4;
    /// A SYN with ACK was seen.
    pub const SYN_ACK: u8 = 8;

    /// The half byte for the TCP flags of one packet (RFC 9293 order: FIN 1, SYN 2, RST 4, ACK 16).
    #[inline(always)]
    pub const fn of_tcp(flags: u8) -> u8 {
        let syn = flags & 2;
        let syn_ack = (syn << 2) & (flags >> 1);
        (flags & (FIN | RST)) | syn_ack | (syn & !(syn_ack >> 2))
    }

    /// What a packet with these TCP flags adds to its window.
    #[inline(always)]
    pub const fn seen(direction: Direction, tcp_flags: u8) -> u32 {
        (of_tcp(tcp_flags) as u32 & 0xf) << (4 * direction as u32)
    }

    /// Both directions' flags of `window`, 0 if the word is another window's.
    pub const fn of(word: u32, window: u32) -> u8 {
        if word >> 8 == window & 0xff { word as u8 } else { 0 }
    }

    /// AWS's `tcp-flags` value for `window` and `direction`: FIN 1, SYN 2, RST 4, SYN-ACK 18, ORed (facts: VPC User
    /// Guide, flow log records).
    pub const fn tcp_flags(word: u32, window: u32, direction: Direction) -> u8 {
        let half = of(word, window) >> (4 * direction as u32) & 0xf;
        (half & (FIN | SYN | RST)) | if half & SYN_ACK == 0 { 0 } else { 18 }
    }
}

const _: () = {
    assert!(size_of::<Key4>() == 16);
    assert!(size_of::<Key6>() == 40);
    assert!(size_of::<Conn>() == 64);
    assert!(size_of::<Denial>() == 32);
    assert!(size_of::<Fragment>() == 24);
    assert!(size_of::<Usage>() == 128);
    assert!(size_of::<NeighbourCache>() == 96);
    assert!(size_of::<Event>() == 64);
};

#[cfg(test)]
mod tests;
