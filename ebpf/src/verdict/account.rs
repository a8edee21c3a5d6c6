//! Accounting: adds a packet to the counters of its conntrack entry and advances the entry's state.

use super::{Hook, PacketContext};
use crate::{
    abi::{Conn, Direction},
    conntrack::{Life, advance},
    tables::Tables,
};

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    /// Adds the packet to an entry. `anew`: the state to set; `None` advances the existing state.
    #[inline(always)]
    pub(super) fn account(&self, conn: &Conn, anew: Option<Life>) {
        let packet = self.packet;
        self.add_totals(conn);
        // Skip the store if the time is unchanged: a cache line that is only added to stays longer with its CPU.
        if conn.last.get() != self.now {
            conn.last.set(self.now);
        }
        let was = Life {
            state: conn.state(),
            next: conn.next.get(),
        };
        let is = if let Some(life) = anew {
            life
        } else {
            let opaque = |number| self.tables.opaque(number);
            advance(was, packet.protocol, D::DIRECTION, packet.segment(), opaque)
        };
        if anew.is_some() || matches!(D::DIRECTION, Direction::Egress) {
            conn.next.set(is.next);
        } else {
            conn.next.set_ingress(is.next[1]);
        }
        conn.flags
            .update(is.state, self.control.window, D::DIRECTION, packet.tcp_flags);
    }

    /// Adds the packet to the entry's counters, without renewing the entry.
    #[inline(always)]
    pub(super) fn add_totals(&self, conn: &Conn) {
        let at = D::DIRECTION.index();
        self.tables.add_packets(&conn.packets[at], self.packet.packets);
        self.tables.add(&conn.bytes[at], self.packet.bytes as u64);
    }
}
