//! What the kernel tells user space: keys and values of its tables.
//!
//! Totals only grow and nobody resets them. Fields that several CPUs write are atomics; counts are added to by locked
//! adds, everything else is plain stores, where a race costs a flag or a few milliseconds of a time, never a count.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use super::outcome::Direction;

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
#[derive(Debug, Default)]
#[repr(C)]
pub struct Totals {
    /// Packets as on the wire: a GSO packet counts as its segments.
    pub packets: AtomicU64,
    /// IP bytes.
    pub bytes: AtomicU64,
}

/// A tracked connection: 64 bytes, one cache line.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Conn {
    /// By [`Direction`]: egress, ingress.
    pub totals: [Totals; 2],
    /// When it last carried a packet, in ticks of the kernel's jiffies, wrapping.
    pub last: AtomicU32,
    /// The tail of its own key: a packet that still holds an element which user space removed and the kernel gave to
    /// another link sees it here.
    pub tail: AtomicU32,
    /// The epoch of its slot when it was admitted.
    pub epoch: AtomicU32,
    /// The generation that admitted it last.
    pub generation: AtomicU32,
    /// The number of the rule that allowed it; [`RULE_EXEMPT`] for what is never filtered.
    pub rule: AtomicU32,
    /// The slot of its ENI.
    pub slot: AtomicU16,
    /// [`state`] bits.
    pub state: AtomicU16,
    /// TCP flags by window, see [`window`].
    pub windows: [AtomicU32; 2],
}

/// The rule number of what is never filtered: no rule has it.
pub const RULE_EXEMPT: u32 = u32::MAX;

/// Bits of [`Conn::state`].
pub mod state {
    /// Its initiator is outside: admitted by an ingress rule. Clear: by an egress rule.
    pub const INGRESS: u16 = 1 << 0;
    /// AWS's untracked flow: it lives by its rule, not by its entry.
    pub const UNTRACKED: u16 = 1 << 1;
    /// A packet came back.
    pub const REPLIED: u16 = 1 << 2;
    /// The initiator went on after a reply: an established connection, or a UDP stream's second exchange.
    pub const CONFIRMED: u16 = 1 << 3;
    /// TCP: a FIN was seen from the task.
    pub const FIN_EGRESS: u16 = 1 << 4;
    /// TCP: a FIN was seen toward the task.
    pub const FIN_INGRESS: u16 = 1 << 5;
    /// TCP: the last packet from the task was a RST.
    pub const RESET_EGRESS: u16 = 1 << 6;
    /// TCP: the last packet toward the task was a RST.
    pub const RESET_INGRESS: u16 = 1 << 7;
}

/// A denied flow: 32 bytes.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Denial {
    /// What was dropped.
    pub totals: Totals,
    /// As [`Conn::last`].
    pub last: AtomicU32,
    /// As [`Conn::tail`].
    pub tail: AtomicU32,
    /// As [`Conn::windows`]; only the half of the key's direction is used.
    pub windows: [AtomicU32; 2],
}

/// What a slot uses of the shared tables: 64 bytes. The kernel writes the first five fields, user space the rest.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Usage {
    /// Connections inserted for this slot, less those re-admitted under another one.
    pub conns_inserted: AtomicU64,
    /// Denied flows inserted.
    pub denials_inserted: AtomicU64,
    /// Packets that passed and found no room to be counted (untracked flows only).
    pub flows_lost: AtomicU64,
    /// Denied packets that found no room for their record: in the counters only.
    pub denials_lost: AtomicU64,
    /// Not used yet.
    pub spare: AtomicU64,
    /// Connections that user space removed.
    pub conns_removed: AtomicU64,
    /// Denied flows that user space removed.
    pub denials_removed: AtomicU64,
    /// Not used yet.
    pub spare_user: AtomicU64,
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

/// What an entry keeps for two windows by the parity of the window's number: the number's low 24 bits above, below it
/// four bits of TCP flags for each direction. The window's first packet resets it.
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

    /// What stands in the entry once a packet with `flags` went in `direction` during `window`.
    #[inline(always)]
    pub const fn add(word: u32, window: u32, direction: Direction, flags: u8) -> u32 {
        let kept = if word >> 8 == window & 0x00ff_ffff {
            word
        } else {
            window << 8
        };
        kept | (flags as u32 & 0xf) << (4 * direction as u32)
    }

    /// AWS's `tcp-flags` value for `window` and `direction`: FIN 1, SYN 2, RST 4, SYN-ACK 18, ORed (facts: VPC User
    /// Guide, flow log records).
    pub const fn tcp_flags(word: u32, window: u32, direction: Direction) -> u8 {
        if word >> 8 != window & 0x00ff_ffff {
            return 0;
        }
        let half = (word >> (4 * direction as u32)) as u8 & 0xf;
        (half & (FIN | SYN | RST)) | if half & SYN_ACK == 0 { 0 } else { 18 }
    }
}

const _: () = {
    assert!(size_of::<Key4>() == 16);
    assert!(size_of::<Key6>() == 40);
    assert!(size_of::<Conn>() == 64);
    assert!(size_of::<Denial>() == 32);
    assert!(size_of::<Usage>() == 64);
    assert!(size_of::<Event>() == 64);
};
