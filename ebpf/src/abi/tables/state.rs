//! Bits of a tracked connection's state: packets change the lower half, admission sets the upper one.

/// A packet came back from the responder. TCP: one that only the real responder can send.
pub const REPLIED: u16 = 1 << 0;
/// The initiator sent a packet after a reply. TCP: an established connection.
pub const CONFIRMED: u16 = 1 << 1;
/// Not TCP: a packet came back after CONFIRMED. UDP: the second exchange, so a stream.
pub const ANSWERED: u16 = 1 << 2;
/// TCP: a FIN from the task was seen.
pub const FIN_EGRESS: u16 = 1 << 3;
/// TCP: a FIN to the task was seen.
pub const FIN_INGRESS: u16 = 1 << 4;
/// TCP: the last packet from the task was a RST.
pub const RESET_EGRESS: u16 = 1 << 5;
/// TCP: the last packet to the task was a RST.
pub const RESET_INGRESS: u16 = 1 << 6;
/// TCP: the responder's next sequence number is known.
pub const KNOWN: u16 = 1 << 7;
/// The initiator is the peer: admitted by an ingress rule. Clear: by an egress rule.
pub const INGRESS: u16 = 1 << 8;
/// AWS's untracked flow: it lives and ends with its rule, not with its entry.
pub const UNTRACKED: u16 = 1 << 9;
/// The peer is a task of this host, so none of its packets comes from the wire.
pub const LOCAL: u16 = 1 << 10;
/// Opened from outside by a packet to a multicast or broadcast address: no packet from the task belongs to it, since no host
/// may send from such an address.
pub const GROUP: u16 = 1 << 11;
/// The entry is charged to the common pool, see [`super::Charge`]. Never changes during the life of the entry.
pub const POOL: u16 = 1 << POOL_BIT;
pub(super) const POOL_BIT: u32 = 15;
/// Bits that the admission sets.
pub const ADMISSION: u16 = 0xff00;

/// The names of all bits in output.
pub const NAMES: [(u16, &str); 12] = [
    (INGRESS, "ingress"),
    (UNTRACKED, "untracked"),
    (REPLIED, "replied"),
    (CONFIRMED, "confirmed"),
    (ANSWERED, "answered"),
    (FIN_EGRESS, "fin-egress"),
    (FIN_INGRESS, "fin-ingress"),
    (RESET_EGRESS, "reset-egress"),
    (RESET_INGRESS, "reset-ingress"),
    (LOCAL, "local"),
    (GROUP, "group"),
    (POOL, "pool"),
];
