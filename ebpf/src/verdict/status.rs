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
    /// The packet belongs to it and passes.
    Established,
    /// The configuration has changed since: the rules of the direction that opened it decide again.
    Reevaluate(Direction),
    /// Both sides have closed it, and the packet comes too late to belong to that.
    Closed,
    /// Idle, of an earlier epoch, or superseded: as a miss, but an allowed packet reuses the entry.
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
            // An untracked connection is its rule's, closed or not.
            return if finished(was) && was & state::UNTRACKED == 0 && !opening {
                CtStatus::Closed
            } else {
                CtStatus::Expired
            };
        }
        // An error passes for the packet that it quotes, or by a rule; an earlier error that passed is no reason.
        if opening && closed(was) || matches!(packet.exchange, IcmpKind::Error) {
            return CtStatus::Expired;
        }
        let changed = admitted.generation != self.control.generation as u16;
        // A SYN is judged by the present rules of its own direction. The entry lives on: anybody can forge a SYN.
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
        // A request with another code is another question to the rules; what answers it may say what it likes.
        if matches!(packet.exchange, IcmpKind::Request) && packet.destination_port as u8 != admitted.code {
            return CtStatus::Expired;
        }
        if changed && (was & state::UNTRACKED != 0 || self.control.flags & control::CUT != 0) {
            return CtStatus::Reevaluate(initiator(was));
        }
        CtStatus::Established
    }

    /// Whether a packet toward the task came in by the uplink.
    #[inline(always)]
    pub(super) fn is_from_wire(&self, packet: &Packet) -> bool {
        matches!(D::DIRECTION, Direction::Ingress) && packet.came_by != 0 && packet.came_by == self.control.uplink()
    }
}
