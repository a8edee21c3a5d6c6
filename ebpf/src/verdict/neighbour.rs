//! ARP, neighbour discovery and multicast listener discovery: no rule speaks of them, but a task takes part only with its
//! own addresses. Its link-local addresses count as its own here.

use super::Scene;
use crate::{
    abi::{Direction, Outcome, Pass, Reason, image::slot},
    packet::{Kind, Neighbour},
    policy::{EniRow, Image, Rows},
    tables::Tables,
};

impl<T: Tables> Scene<'_, T> {
    /// Judges it; a drop is not counted yet where the packet is IPv6, since it still gets its record.
    #[inline(always)]
    pub(super) fn neighbour(&self) -> Outcome {
        let Some(rows) = Rows::read(self.tables, self.control) else {
            return Outcome::Drop(Reason::UnknownTask);
        };
        let Some(eni) = rows.eni_of(self.packet.link) else {
            return match self.packet.kind {
                Kind::Arp => self.drop_unknown(),
                _ => Outcome::Drop(Reason::UnknownTask),
            };
        };
        let outcome = if eni.flags & slot::ISOLATED != 0 {
            Outcome::Drop(Reason::Isolated)
        } else if eni.flags & slot::SOURCE_DEST_CHECK == 0 || self.takes_part(&rows, &eni) {
            Outcome::Pass(Pass::Neighbour)
        } else {
            Outcome::Drop(match self.direction {
                Direction::Egress => Reason::SpoofedSource,
                Direction::Ingress => Reason::NotForTask,
            })
        };
        if outcome.passes() || matches!(self.packet.kind, Kind::Arp) {
            self.tables.count(eni.slot, self.direction, outcome, 1);
        }
        outcome
    }

    #[inline(always)]
    fn takes_part(&self, rows: &Rows<<T as Image>::Bank>, eni: &EniRow) -> bool {
        const NOBODY: [u64; 2] = [0, 0];
        const NOBODY_V4: [u64; 2] = [0, 0xffff_0000_0000];
        const ALL_NODES: [u64; 2] = [0xff02 << 48, 1];
        let packet = self.packet;
        let own = |address: [u64; 2]| link_local(address) || rows.address(address).slot == eni.slot;
        match (self.direction, packet.neighbour) {
            // A probe (RFC 5227) and duplicate address detection (RFC 4862, 5.4) have no sender yet.
            (Direction::Egress, Neighbour::Arp) => own(if equal(packet.source, NOBODY_V4) {
                packet.target
            } else {
                packet.source
            }),
            (Direction::Egress, Neighbour::Solicitation) => own(if equal(packet.source, NOBODY) {
                packet.target
            } else {
                packet.source
            }),
            (Direction::Egress, Neighbour::Advertisement) => own(packet.target) && own(packet.source),
            (Direction::Egress, Neighbour::RouterSolicitation | Neighbour::ListenerReport) => {
                equal(packet.source, NOBODY) || own(packet.source)
            }
            (Direction::Ingress, Neighbour::Arp | Neighbour::Solicitation) => own(packet.target),
            (Direction::Ingress, Neighbour::Advertisement) => own(if equal(packet.destination, ALL_NODES) {
                packet.target
            } else {
                packet.destination
            }),
            // Routers speak from link-local addresses (RFC 4861, 4.2 and 4.5), so do queriers (RFC 3810, 5.1.14).
            (Direction::Ingress, Neighbour::Router | Neighbour::ListenerQuery) => link_local(packet.source),
            (Direction::Egress, Neighbour::Router | Neighbour::ListenerQuery)
            | (Direction::Ingress, Neighbour::RouterSolicitation | Neighbour::ListenerReport)
            | (_, Neighbour::None) => false,
        }
    }
}

#[inline(always)]
const fn link_local(address: [u64; 2]) -> bool {
    address[0] >> 54 == 0xfe80 >> 6
}

#[inline(always)]
const fn equal(a: [u64; 2], b: [u64; 2]) -> bool {
    (a[0] ^ b[0]) | (a[1] ^ b[1]) == 0
}
