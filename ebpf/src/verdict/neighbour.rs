//! ARP, neighbour discovery and multicast listener discovery: no rule speaks of them, but a task takes part only with its
//! own addresses. Its link-local addresses count as its own here.

use super::{Scene, Way};
use crate::{
    abi::{Direction, Pass, Reason, image::slot},
    packet::{Neighbour, link_local},
    policy::{Image, Rows},
    tables::Tables,
};

impl<T: Tables, D: Way> Scene<'_, T, D> {
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

/// `ff02::1`.
#[inline(always)]
const fn all_nodes(address: [u64; 2]) -> bool {
    address[0] == 0xff02 << 48 && address[1] == 1
}
