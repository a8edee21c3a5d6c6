//! ARP, neighbour discovery and multicast listener discovery. Rules do not apply to them; a task may use them only with its
//! own addresses, only on its link, and never as a router. [`super::link_local`] decides which link-local addresses are the
//! task's own.

use super::{Hook, PacketContext};
use crate::{
    abi::{
        Address, Direction, DropReason, LinkId, PassReason,
        image::slot,
        tables::NeighbourKind::{self, Heard, Probed},
    },
    packet::{Kind, Neighbour, is_group},
    policy::{Image, Rows},
    tables::Tables,
};

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    /// Whether a task sends a message that only routers send: its neighbours would route through the task, or lose their
    /// multicast groups.
    #[inline(always)]
    pub(super) fn speaks_as_router(&self) -> bool {
        matches!(D::DIRECTION, Direction::Egress)
            && matches!(
                self.packet.neighbour,
                Neighbour::Router | Neighbour::ListenerQuery | Neighbour::RouterRole
            )
    }

    /// Whether an IPv6 message stays between neighbours and is not forwarded by a router, hop limit 255 or not: without this
    /// check, ICMPv6 type 136 could carry data to any destination, past all rules and records.
    ///
    /// A neighbour's global address is accepted as destination if a message from it was heard before: its intact hop limit
    /// proves that it is on the link.
    #[inline(always)]
    pub(super) fn is_between_neighbours(&self) -> bool {
        let packet = self.packet;
        match packet.neighbour {
            Neighbour::None => false,
            Neighbour::RouterRole => matches!(D::DIRECTION, Direction::Egress),
            // A packet that reaches the task with an intact hop limit was sent on the link.
            _ if matches!(D::DIRECTION, Direction::Ingress) => true,
            // Reports go to the link's multicast listeners or to the group that they name (RFC 2710, 4), and hold nothing
            // but groups.
            Neighbour::ListenerReport => {
                let to_group = is_group(true, packet.destination) == 1 && packet.destination.is(packet.target);
                (packet.destination.is_link_group() || to_group) && !packet.roomy
            }
            _ if packet.destination.is_link_scope() || self.speaks_as_router() => true,
            Neighbour::Solicitation | Neighbour::Advertisement => self.knows(packet.destination, Heard),
            _ => false,
        }
    }

    /// Decides on a neighbour message for the ENI of its link. `for_rules`: check the contents only, since the rules decide
    /// on the destination.
    #[inline(always)]
    pub(super) fn neighbour(
        &mut self,
        rows: &Rows<<T as Image>::Bank>,
        for_rules: bool,
    ) -> Result<PassReason, DropReason> {
        if self.work.eni.flags & slot::ISOLATED != 0 {
            return Err(DropReason::Isolated);
        }
        match D::DIRECTION {
            Direction::Egress => self.may_speak(rows, for_rules)?,
            Direction::Ingress => self.may_hear(rows)?,
        }
        if !D::IS_PREFILTER && !for_rules {
            self.learn();
        }
        Ok(PassReason::Neighbour)
    }

    /// Whether a task may send this message: a task speaks for its own addresses only.
    #[inline(always)]
    fn may_speak(&mut self, rows: &Rows<<T as Image>::Bank>, for_rules: bool) -> Result<(), DropReason> {
        let packet = self.packet;
        let eni = self.work.eni;
        let checked = eni.flags & slot::SOURCE_DEST_CHECK != 0;
        let is_answer = matches!(packet.neighbour, Neighbour::Advertisement);
        // ARP probes (RFC 5227) and duplicate address detection (RFC 4862, 5.4) have an unspecified source; router
        // solicitations and listener reports may have one.
        let is_unnamed = self.tables.opaque(packet.source.is_unspecified() as u32) != 0;
        let claimed = if self.tables.opaque((is_unnamed || is_answer) as u32) != 0 {
            packet.target
        } else {
            packet.source
        };
        // Before any branch: the verifier walks every probe of this lookup, once for each incoming state.
        let owner = self.tables.opaque(rows.address(self.tables, claimed).slot as u32) as u16;
        // An advertisement's source is its target address, or an address that is valid on this link only.
        let of_one_kind =
            packet.source.is_link_local() == packet.target.is_link_local() || !packet.source.is_link_local();
        let from_elsewhere = is_answer && checked && !packet.source.is(packet.target) && of_one_kind;
        let refused = self.speaks_as_router() || from_elsewhere;
        if self.tables.opaque(refused as u32) != 0 {
            return Err(DropReason::SpoofedSource);
        }
        // Messages that bypass the rules must not have room for other data.
        if packet.roomy && !for_rules {
            return Err(DropReason::Malformed);
        }
        let is_about_link = matches!(
            packet.neighbour,
            Neighbour::RouterSolicitation | Neighbour::ListenerReport
        );
        if is_unnamed && is_about_link {
            return Ok(());
        }
        // A task without source/dest check (a router, a NAT) may answer for others, but not for another task of this host.
        let may_claim = owner == eni.slot || claimed.is_link_local() || !checked && owner == 0;
        if may_claim && self.is_hardware_own(checked) && self.may_name(is_unnamed, checked) {
            Ok(())
        } else {
            Err(DropReason::SpoofedSource)
        }
    }

    /// Whether a task on the trunk announces its own hardware address, and does not claim to be a router unless its
    /// source/dest check is off: its neighbours are beyond this host, out of reach of other gates. True on all other links.
    #[inline(always)]
    fn is_hardware_own(&self, checked: bool) -> bool {
        let packet = self.packet;
        let mac = self.control.mac_of(self.work.eni.slot);
        if mac == 0 || !LinkId::from_number(packet.link).is_branch() {
            return true;
        }
        // Neighbour discovery may omit the hardware address, ARP cannot.
        let left_out = packet.hardware == 0 && !matches!(packet.kind, Kind::Arp);
        (packet.hardware == mac || left_out) && !(packet.says_router && checked)
    }

    /// Whether a task may receive this message: requests and answers addressed to it, and announcements of other hosts about
    /// themselves.
    #[inline(always)]
    fn may_hear(&mut self, rows: &Rows<<T as Image>::Bank>) -> Result<(), DropReason> {
        let packet = self.packet;
        let hears_own = self.hears_own();
        let hears_own = self
            .tables
            .opaque((hears_own && !packet.source.is_unspecified()) as u32)
            != 0;
        let eni = &self.work.eni;
        let checked = eni.flags & slot::SOURCE_DEST_CHECK != 0;
        let (claimed, meant, to_all) = match packet.neighbour {
            Neighbour::Arp => (packet.source, packet.target, packet.source.is(packet.target)),
            Neighbour::Solicitation => (packet.source, packet.target, false),
            Neighbour::Advertisement => (
                packet.target,
                packet.destination,
                packet.destination.is(Address::ALL_NODES),
            ),
            // Routers speak from link-local addresses (RFC 4861, 4.2 and 4.5), queriers and listeners too (RFC 3810,
            // 5.1.14 and 5.2.13); the host's end of a veth pair is a listener as well.
            Neighbour::Router | Neighbour::ListenerQuery | Neighbour::ListenerReport => {
                return if !checked || packet.source.is_link_local() {
                    Ok(())
                } else {
                    Err(DropReason::NotForTask)
                };
            }
            Neighbour::RouterSolicitation | Neighbour::RouterRole | Neighbour::None => {
                return if checked { Err(DropReason::NotForTask) } else { Ok(()) };
            }
        };
        if self.tables.opaque(rows.address(self.tables, claimed).slot as u32) as u16 == eni.slot || hears_own {
            // No other host may claim the task's own address, except in answer to the task's duplicate address detection.
            return if self.knows(claimed, Probed) {
                Ok(())
            } else {
                Err(DropReason::SpoofedSource)
            };
        }
        if !checked || to_all || meant.is_link_local() || rows.address(self.tables, meant).slot == eni.slot {
            Ok(())
        } else {
            Err(DropReason::NotForTask)
        }
    }

    /// Remembers the address probed by the task, or heard from a neighbour, so that the answer is accepted.
    #[inline(always)]
    fn learn(&self) {
        let packet = self.packet;
        let slot = self.work.eni.slot;
        if !matches!(
            packet.neighbour,
            Neighbour::Arp | Neighbour::Solicitation | Neighbour::Advertisement
        ) {
            return;
        }
        let Some(cache) = self.tables.neighbours(slot) else {
            return;
        };
        let epoch = self.control.epoch(slot);
        match D::DIRECTION {
            Direction::Egress if packet.source.is_unspecified() => {
                cache.keep(packet.target, Probed, packet.link, epoch);
            }
            Direction::Egress if cache.has(packet.source, Probed, packet.link, epoch) => cache.forget(packet.source),
            // Not needed for ARP, nor for link-local addresses: neither leaves the link.
            Direction::Ingress
                if !matches!(packet.kind, Kind::Arp)
                    && !packet.source.is_unspecified()
                    && !packet.source.is_link_local() =>
            {
                cache.keep(packet.source, Heard, packet.link, epoch);
            }
            Direction::Egress | Direction::Ingress => {}
        }
    }

    #[inline(always)]
    fn knows(&self, address: Address, kind: NeighbourKind) -> bool {
        let slot = self.work.eni.slot;
        self.tables
            .neighbours(slot)
            .is_some_and(|cache| cache.has(address, kind, self.packet.link, self.control.epoch(slot)))
    }
}
