//! The status of an entry for a packet.

use super::{Hook, PacketContext};
use crate::{
    abi::{Conn, Direction, image::control, tables::state},
    conntrack::{closed, finished, idle, initiator, opens, timeout_of},
    packet::{IcmpKind, Packet},
    tables::Tables,
};

/// The status of an entry for a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CtStatus {
    /// Valid: the packet belongs to the connection and passes.
    Established,
    /// The packet is to be re-evaluated by the rules of this direction; the entry stays.
    Reevaluate(Direction),
    /// Both sides have closed the connection, and the packet comes too late to belong to the closing.
    Closed,
    /// Idle, of an earlier epoch, or superseded: treated as a miss, but an allowed packet reuses the entry.
    Expired,
    /// There is no entry.
    Miss,
}

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    /// The status of an entry for a packet of its key.
    #[inline(always)]
    pub(super) fn ct_status(&self, conn: &Conn, packet: &Packet) -> CtStatus {
        let was = conn.state();
        let timeout = self.control.timeout(timeout_of(packet.protocol, was));
        let admitted = conn.admitted();
        if !admitted.is_of(self.control.epoch(admitted.slot)) {
            return CtStatus::Expired;
        }
        if matches!(D::DIRECTION, Direction::Egress) && was & state::GROUP != 0 {
            return CtStatus::Expired;
        }
        let opening = opens(packet.protocol, packet.tcp_flags);
        if idle(self.now, conn.last.get(), timeout) {
            // An untracked flow lives and ends with its rule, closed or not.
            return if finished(was) && was & state::UNTRACKED == 0 && !opening {
                CtStatus::Closed
            } else {
                CtStatus::Expired
            };
        }
        // An ICMP error is admitted by the packet that it quotes, or by a rule, never by the entry of an earlier error.
        if opening && closed(was) || matches!(packet.exchange, IcmpKind::Error) {
            return CtStatus::Expired;
        }
        let changed = admitted.generation != self.control.generation as u16;
        // A SYN is judged by the current rules of its own direction. The entry stays, because a SYN can be forged.
        let confirmed = was & state::CONFIRMED != 0;
        if opening && (changed || confirmed && D::DIRECTION as u8 != initiator(was) as u8) {
            return if confirmed {
                CtStatus::Reevaluate(D::DIRECTION)
            } else {
                CtStatus::Expired
            };
        }
        if was & state::LOCAL != 0 && self.is_from_wire(packet) {
            return CtStatus::Reevaluate(initiator(was));
        }
        // A request with another ICMP code needs another rule match. Replies may have any code.
        if matches!(packet.exchange, IcmpKind::Request) && packet.destination_port as u8 != admitted.code {
            return CtStatus::Expired;
        }
        if changed && (was & state::UNTRACKED != 0 || self.control.flags & control::CUT != 0) {
            return CtStatus::Reevaluate(initiator(was));
        }
        CtStatus::Established
    }

    /// Whether a packet to the task was received on the uplink.
    #[inline(always)]
    pub(super) fn is_from_wire(&self, packet: &Packet) -> bool {
        matches!(D::DIRECTION, Direction::Ingress) && packet.came_by != 0 && packet.came_by == self.control.uplink()
    }
}
