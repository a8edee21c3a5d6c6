//! Evaluates packets without a valid conntrack entry: finds the ENI of the link, checks source and destination addresses,
//! applies exemptions, and classifies by the policy.

use super::{
    Hook, PacketContext,
    evaluation::{Admission, Evaluation},
    link_local::Says,
};
use crate::{
    abi::{
        Address, Direction, DropReason, LinkId, PassReason,
        image::{Class, RuleMatch, address, rule, slot},
        tables::{RULE_EXEMPT, state},
    },
    family::IpVersion,
    flow::{Flow, is_dhcp},
    packet::{IcmpKind, Kind, Packet, is_group, request_of, same},
    policy::{Image, PeerKey as _, PolicyQuery, PolicyResult, Rows, classify},
    tables::Tables,
    wire::{ICMP, ICMPV6, TCP, UDP},
};

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    /// Looks up the ENI of the packet's link and stores it in scratch memory.
    #[inline(always)]
    pub(super) fn find_eni(&mut self) -> Result<Rows<<T as Image>::Bank>, DropReason> {
        self.work.eni.slot = 0;
        let rows = Rows::read(self.tables, self.control).ok_or(DropReason::UnknownTask)?;
        rows.eni_of(self.packet.link, &mut self.work.eni)
            .ok_or(DropReason::UnknownTask)?;
        Ok(rows)
    }

    /// The reason to refuse a packet on a link without an ENI. `owner`: the slot of its destination address. Untagged
    /// packets on the trunk belong to the host, unless they are addressed to a branch: a host with the branch's VLAN
    /// interface would accept them for that address, bypassing the branch's gate.
    #[inline(always)]
    fn unknown(&self, owner: u16) -> DropReason {
        let comes = matches!(D::DIRECTION, Direction::Ingress);
        let on_trunk = comes && self.is_hosts(DropReason::UnknownTask as u8);
        if on_trunk && self.control.link_of(owner).is_some_and(LinkId::is_branch) {
            DropReason::NotForTask
        } else {
            DropReason::UnknownTask
        }
    }

    /// The task's address in the packet.
    #[inline(always)]
    fn local(&self) -> Address {
        match D::DIRECTION {
            Direction::Egress => self.packet.source,
            Direction::Ingress => self.packet.destination,
        }
    }

    /// Evaluates a packet by its ENI and by the rules of the direction in `evaluation`. `related`: the rule of the
    /// connection that an ICMP error quotes, else 0.
    #[inline(always)]
    pub(super) fn evaluate<F: IpVersion>(
        &mut self,
        evaluation: Evaluation,
        related: u32,
    ) -> Result<Admission, DropReason> {
        let judged = evaluation.judged();
        let local = self.local();
        // The address lookup comes before any branch: the verifier walks every probe of it, once for each incoming state.
        let owner = Rows::read(self.tables, self.control).map_or(0, |rows| rows.address(self.tables, local).slot);
        let owner = self.tables.opaque(owner as u32);
        let Ok(rows) = self.find_eni() else {
            return Err(self.unknown(owner as u16));
        };
        if let Some(reason) = evaluation.refusal() {
            return Err(reason);
        }
        let packet = self.packet;
        let eni = self.work.eni;
        if eni.flags & slot::ISOLATED != 0 {
            return Err(DropReason::Isolated);
        }
        let flow = Flow::plain(packet, D::DIRECTION);
        let remote = self.tables.opaque_row(rows.address(self.tables, flow.remote));
        let says = match D::DIRECTION {
            Direction::Egress => Says::Used,
            Direction::Ingress => Says::Meant,
        };
        self.work.presumed = false;
        let own_on_link = F::Peer::V6 && flow.local.is_link_local() && self.owns(flow.local, says);
        let own_on_link = self.tables.opaque(own_on_link as u32) != 0;
        // A link-local address is valid only on its link.
        let stays = own_on_link && (matches!(D::DIRECTION, Direction::Ingress) || flow.remote.is_link_scope());
        let own = self.tables.opaque((owner == eni.slot as u32 || stays) as u32) != 0;
        let local = self.tables.opaque((remote.slot != 0) as u32) as u16 * state::LOCAL;
        let exempt = Admission {
            pass: PassReason::Exempt,
            rule: RULE_EXEMPT,
            state: local,
            dhcp: false,
        };
        let is_dhcp = match D::DIRECTION {
            Direction::Egress => {
                eni.flags & slot::EXEMPT_DHCP != 0
                    && is_dhcp(packet, Direction::Egress)
                    && (own || own_on_link || may_ask_for_address(packet))
            }
            // A DHCP server replies to a task without an address by broadcast (RFC 2131, 4.1), or to its link-local address.
            Direction::Ingress => {
                evaluation.0 & Evaluation::ANSWERS_DHCP != 0 && (own || packet.destination.is(Address::BROADCAST))
            }
        };
        if is_dhcp {
            return Ok(Admission {
                state: 0,
                dhcp: true,
                ..exempt
            });
        }
        let checked = eni.flags & slot::SOURCE_DEST_CHECK != 0;
        let mut several = 0;
        if matches!(D::DIRECTION, Direction::Ingress) {
            self.work.destination = self.hook.destination();
        }
        if !own {
            if matches!(D::DIRECTION, Direction::Egress) {
                if checked {
                    return Err(DropReason::SpoofedSource);
                }
            } else {
                // The address decides, not the frame's header: hosts accept packets to their unicast address in a
                // broadcast frame.
                several = is_group(F::Peer::V6, packet.destination);
                let elsewhere = (1 ^ several) * (checked as u64 | self.is_to_another());
                if self.tables.opaque(elsewhere as u32) != 0 {
                    return Err(DropReason::NotForTask);
                }
            }
        }
        let group = self.tables.opaque(several as u32 * state::GROUP as u32) as u16;
        if matches!(D::DIRECTION, Direction::Ingress) && remote.slot == eni.slot {
            return Err(DropReason::SpoofedSource);
        }
        // Packets from a task of this host arrive by that task's link, never by the uplink.
        if remote.slot != 0 && self.is_from_wire(packet) && self.is_on_device(remote.slot) {
            return Err(DropReason::SpoofedSource);
        }
        if related != 0 {
            return Ok(Admission {
                pass: PassReason::IcmpError,
                rule: related,
                state: local | group,
                dhcp: false,
            });
        }
        if matches!(judged, Direction::Egress) && remote.flags & address::EXEMPT != 0 {
            return Ok(exempt);
        }
        let (class, port) = rule_key(packet, judged as u8 != D::DIRECTION as u8);
        let axis = self.tables.opaque(class as u32);
        let port = self.tables.opaque(port);
        let query = PolicyQuery {
            axis,
            port,
            peer: F::peer(flow.remote),
            group_set: remote.group_set,
        };
        match classify(
            self.tables,
            eni.roots[(evaluation.0 & Evaluation::INGRESS) as usize],
            query,
        ) {
            PolicyResult::Allowed(RuleMatch { rule, flags }) => {
                let untracked = if axis == Class::Tcp as u32 {
                    flags & rule::UNTRACKED_TCP != 0
                } else {
                    axis == Class::Udp as u32 && flags & rule::UNTRACKED_UDP != 0
                };
                Ok(Admission {
                    pass: PassReason::Rule,
                    rule,
                    state: local | group | (untracked as u16 * state::UNTRACKED),
                    dhcp: false,
                })
            }
            // A group or presumed destination that no rule admits: the task is not the addressee.
            PolicyResult::NoRule if group != 0 || self.work.presumed => Err(DropReason::NotForTask),
            PolicyResult::NoRule => Err(DropReason::NoRule),
            PolicyResult::NoPolicy => Err(DropReason::NoPolicy),
        }
    }

    /// Whether a slot's ENI has a device. Branches of the trunk reach each other through the wire.
    #[inline(always)]
    fn is_on_device(&self, slot: u16) -> bool {
        self.control.link_of(slot).is_some_and(|link| !link.is_branch())
    }

    /// 1 if the frame's destination hardware address is known to differ from the task's, else 0.
    #[inline(always)]
    fn is_to_another(&self) -> u64 {
        let (mac, to) = (self.control.mac_of(self.work.eni.slot), self.work.destination);
        1 ^ (same(mac, 0) | same(to, 0) | same(to, mac))
    }
}

/// Whether this is a DHCP request of a task without an address. With IPv6 the task already has a link-local address.
#[inline(always)]
fn may_ask_for_address(packet: &Packet) -> bool {
    !matches!(packet.kind, Kind::V6) && packet.source.v4() == 0
}

/// The port axis and the key on that axis. `reply`: the packet goes against the direction whose rules decide.
#[inline(always)]
fn rule_key(packet: &Packet, reply: bool) -> (Class, u32) {
    let port = if reply {
        packet.source_port
    } else {
        packet.destination_port
    } as u32;
    match (packet.protocol, packet.kind) {
        (TCP, _) => (Class::Tcp, port),
        (UDP, _) => (Class::Udp, port),
        (ICMP, Kind::V4) | (ICMPV6, Kind::V6) => {
            let kind = (packet.destination_port >> 8) as u8;
            match packet.exchange {
                IcmpKind::Reply if reply => (Class::Icmp, (request_of(packet.kind, kind) as u32) << 8),
                _ => (Class::Icmp, packet.destination_port as u32),
            }
        }
        (other, _) => (Class::Other, other as u32),
    }
}
