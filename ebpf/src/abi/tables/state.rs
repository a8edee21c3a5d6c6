//! Bits of a tracked connection's state: what packets change below, what its admission says above.

/// A packet came back. TCP: one that only the side that was asked can send.
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
/// Bits that the admission sets.
pub const ADMISSION: u16 = 0xff00;

/// The names of all bits, as users see them; those that the admission sets first.
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
