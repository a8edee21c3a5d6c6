//! ARP, neighbour discovery and multicast listener discovery: no rule speaks of them, but a task takes part only with its
//! own addresses, and only on its link. Its link-local addresses count as its own here.

use super::{Scene, Way, related::same};
use crate::{
    abi::{Direction, Pass, Reason, image::slot},
    packet::{Neighbour, link_local},
    policy::{Image, Rows},
    tables::Tables,
};

/// Bytes of the longest solicitation or advertisement that goes to an address which routers would carry it on to: two
/// options of eight bytes, a link-layer address and a nonce (RFC 4861, 4.6.1; RFC 3971, 5.3.2).
const LONGEST_BEYOND: u32 = 40 + 24 + 16;

impl<T: Tables, D: Way> Scene<'_, T, D> {
    /// Whether a message is for the task's link. A router carries on what is sent to an address beyond it, hop limit 255
    /// or not: without this, ICMPv6 type 136 would take anything anywhere, past all rules and records.
    ///
    /// A neighbour may be asked and answered under a global address, as where several share a subnet: such a message
    /// asks whom it goes to (RFC 4861, 7.2.2) or tells of its sender (7.2.4), and has no room for anything else.
    #[inline(always)]
    pub(super) fn stays_on_link(&self) -> bool {
        let packet = self.packet;
        // What comes to the task with its hop limit untouched was sent on the link.
        if matches!(D::DIRECTION, Direction::Ingress) || of_link(packet.destination) {
            return true;
        }
        let named = match packet.neighbour {
            Neighbour::Solicitation => packet.destination,
            Neighbour::Advertisement => packet.source,
            _ => return false,
        };
        same(named, packet.target) && packet.bytes <= LONGEST_BEYOND
    }

    /// Judges it.
    #[inline(always)]
    pub(super) fn neighbour(&mut self) -> Result<Pass, Reason> {
        let rows = self.find_eni()?;
        let flags = self.work.eni.flags;
        if flags & slot::ISOLATED != 0 {
            return Err(Reason::Isolated);
        }
        if flags & slot::SOURCE_DEST_CHECK != 0 && !self.takes_part(&rows) {
            return Err(match D::DIRECTION {
                Direction::Egress => Reason::SpoofedSource,
                Direction::Ingress => Reason::NotForTask,
            });
        }
        Ok(Pass::Neighbour)
    }

    #[inline(always)]
    fn takes_part(&self, rows: &Rows<<T as Image>::Bank>) -> bool {
        let packet = self.packet;
        // One address decides in each case, so that there is one lookup.
        let decisive = match (D::DIRECTION, packet.neighbour) {
            // A probe (RFC 5227) and duplicate address detection (RFC 4862, 5.4) have no sender yet.
            (Direction::Egress, Neighbour::Arp | Neighbour::Solicitation) => {
                if nobody(packet.source) {
                    packet.target
                } else {
                    packet.source
                }
            }
            (Direction::Egress, Neighbour::Advertisement)
            | (Direction::Ingress, Neighbour::Arp | Neighbour::Solicitation) => packet.target,
            (Direction::Egress, Neighbour::RouterSolicitation | Neighbour::ListenerReport) => {
                if nobody(packet.source) {
                    return true;
                }
                packet.source
            }
            // Duplicate address detection is answered to all nodes (RFC 4862, 5.4.4).
            (Direction::Ingress, Neighbour::Advertisement) => {
                if all_nodes(packet.destination) {
                    packet.target
                } else {
                    packet.destination
                }
            }
            // Routers speak from link-local addresses (RFC 4861, 4.2 and 4.5), queriers and listeners too (RFC 3810,
            // 5.1.14 and 5.2.13); the host's end of a veth pair is a listener as well.
            (Direction::Ingress, Neighbour::Router | Neighbour::ListenerQuery | Neighbour::ListenerReport) => {
                return link_local(packet.source);
            }
            (Direction::Egress, Neighbour::Router | Neighbour::ListenerQuery)
            | (Direction::Ingress, Neighbour::RouterSolicitation)
            | (_, Neighbour::None) => return false,
        };
        link_local(decisive) || rows.address(decisive).slot == self.work.eni.slot
    }
}

/// `::`, or 0.0.0.0 mapped.
#[inline(always)]
const fn nobody(address: [u64; 2]) -> bool {
    address[0] == 0 && (address[1] == 0 || address[1] == 0xffff_0000_0000)
}

/// Whether no router carries on what goes to this address: link-local, or multicast of the link's scope.
#[inline(always)]
const fn of_link(address: [u64; 2]) -> bool {
    link_local(address) || address[0] >> 48 == 0xff02
}

/// `ff02::1`.
#[inline(always)]
const fn all_nodes(address: [u64; 2]) -> bool {
    address[0] == 0xff02 << 48 && address[1] == 1
}
