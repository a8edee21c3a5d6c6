//! ARP, neighbour discovery and listener discovery.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use taskgate_ebpf::abi::{Direction, DropReason, LinkId, PassReason};
use taskgate_model::Eni;

use super::{
    super::naive_parser::{Body, Hardware, Ip, Reading},
    link_locals::LinkLocals,
    names::Case,
};

/// The content of an ARP or ICMPv6 message.
struct Message {
    /// 0 for ARP, else the ICMPv6 type.
    kind: u8,
    source: IpAddr,
    destination: IpAddr,
    target: Option<IpAddr>,
    hardware: Hardware,
    router: bool,
    roomy: bool,
}

impl Message {
    fn of(reading: &Reading) -> Option<Self> {
        match reading {
            Reading::Arp(arp) => Some(Self {
                kind: 0,
                source: arp.sender,
                destination: arp.target,
                target: Some(arp.target),
                hardware: Hardware::Is(arp.hardware),
                router: false,
                roomy: arp.roomy,
            }),
            Reading::Ip(ip) => match ip.body {
                Body::Neighbour {
                    kind,
                    target,
                    hardware,
                    router,
                    roomy,
                    ..
                } => Some(Self {
                    kind,
                    source: ip.source,
                    destination: ip.destination,
                    target,
                    hardware,
                    router,
                    roomy,
                }),
                _ => None,
            },
            Reading::Nameless(_) => None,
        }
    }

    /// The link-local address that a task speaks from or answers for, and whether the task only probes for it.
    fn names_on_link(&self, checked: bool) -> Option<(Ipv6Addr, bool)> {
        let asks = self.source.is_unspecified();
        let named = if asks || self.kind == 136 && !(checked && is_link_local(self.source)) {
            self.target?
        } else {
            self.source
        };
        link_local(named).map(|named| (named, asks))
    }

    /// The link-local address that a host on the other side has, or is about to have.
    fn tells_of(&self) -> Option<Ipv6Addr> {
        let target = self.target.and_then(link_local);
        match self.kind {
            136 => target.or(link_local(self.source)),
            135 if self.source.is_unspecified() => target,
            _ => link_local(self.source),
        }
    }

    fn is_about_addresses(&self) -> bool {
        [0, 135, 136].contains(&self.kind)
    }
}

/// Kinds of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    address: IpAddr,
    /// Whether the task probed for the address; otherwise a host spoke from it.
    probed: bool,
    link: u32,
    epoch: u32,
}

/// Addresses that tasks probed and that spoke to them: four for each slot, by the lowest bits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kepts(BTreeMap<(u16, u8), Kept>);

fn place(slot: u16, address: IpAddr) -> (u16, u8) {
    let last = match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    };
    (slot, last % 4)
}

impl Kepts {
    fn has(&self, case: &Case<'_>, slot: u16, address: IpAddr, probed: bool) -> bool {
        let wanted = Kept {
            address,
            probed,
            link: case.link,
            epoch: case.world.epoch(slot),
        };
        self.0.get(&place(slot, address)) == Some(&wanted)
    }

    fn keep(&mut self, case: &Case<'_>, slot: u16, address: IpAddr, probed: bool) {
        let kept = Kept {
            address,
            probed,
            link: case.link,
            epoch: case.world.epoch(slot),
        };
        self.0.insert(place(slot, address), kept);
    }

    /// ARP and neighbour discovery need no rule, but a task takes part only as itself.
    pub(super) fn judge(
        &mut self,
        case: &Case<'_>,
        link_locals: &mut LinkLocals,
        reading: &Reading,
    ) -> Result<PassReason, DropReason> {
        let (eni, gate, slot) = case.world.eni_on(case.link).ok_or(DropReason::UnknownTask)?;
        if gate.isolated {
            return Err(DropReason::Isolated);
        }
        let message = Message::of(reading).expect("it is one");
        match case.direction {
            Direction::Egress => says(case, link_locals, &message)?,
            Direction::Ingress => {
                let address = message.tells_of();
                if let Some(address) = address {
                    link_locals.is_heard(case, slot, address);
                }
                let is_own = address.is_some_and(|address| link_locals.is_own(case, slot, address));
                let claims_own = is_own && !message.source.is_unspecified();
                self.may_hear(case, eni, slot, &message, claims_own)?;
            }
        }
        let unnamed = message.source.is_unspecified();
        if message.is_about_addresses() {
            match (case.direction, message.target) {
                (Direction::Egress, Some(target)) if unnamed => self.keep(case, slot, target, true),
                (Direction::Egress, _) => {
                    if self.has(case, slot, message.source, true) {
                        self.0.remove(&place(slot, message.source));
                    }
                }
                (Direction::Ingress, _) => {
                    if message.kind > 0 && !unnamed && !is_link_local(message.source) {
                        self.keep(case, slot, message.source, false);
                    }
                }
            }
        }
        Ok(PassReason::Neighbour)
    }

    fn may_hear(
        &self,
        case: &Case<'_>,
        eni: &Eni,
        slot: u16,
        message: &Message,
        claims_own: bool,
    ) -> Result<(), DropReason> {
        let own = |address: IpAddr| is_link_local(address) || eni.addresses.contains(&address);
        let all_nodes: IpAddr = "ff02::1".parse().expect("an address");
        let target = message.target.unwrap_or(message.destination);
        let (claims, is_meant) = match message.kind {
            // ARP messages and neighbour solicitations claim their source address for the sender.
            0 => (Some(message.source), own(target) || message.source == target),
            135 => (Some(message.source), own(target)),
            136 => (
                Some(target),
                message.destination == all_nodes || own(message.destination),
            ),
            133 => (None, false),
            _ => (None, is_link_local(message.source)),
        };
        if let Some(claims) = claims
            && (claims_own || eni.addresses.contains(&claims))
        {
            let has_probed = self.has(case, slot, claims, true);
            return has_probed.then_some(()).ok_or(DropReason::SpoofedSource);
        }
        if is_meant || !eni.source_dest_check {
            Ok(())
        } else {
            Err(DropReason::NotForTask)
        }
    }

    /// Whether a task makes a false claim in a message that rules judge.
    pub(super) fn lies_beyond(&self, case: &Case<'_>, link_locals: &mut LinkLocals, reading: &Reading) -> bool {
        let Reading::Ip(ip) = reading else {
            return false;
        };
        let is_judged = case.world.eni_on(case.link).is_some_and(|(_, gate, _)| !gate.isolated);
        if !is_judged || ip.overwritten || self.as_sent(case, reading) == *reading {
            return false;
        }
        Message::of(reading).is_some_and(|message| {
            let short = Message {
                roomy: false,
                ..message
            };
            says(case, link_locals, &short).is_err()
        })
    }

    /// Neighbour discovery from a task to a routable address is ordinary ICMPv6, unless the task heard from that
    /// address. Messages of routers are always refused.
    pub(super) fn as_sent(&self, case: &Case<'_>, reading: &Reading) -> Reading {
        let Reading::Ip(ip) = reading else {
            return reading.clone();
        };
        let (
            IpAddr::V6(to),
            Body::Neighbour {
                kind,
                code,
                roomy,
                target,
                ..
            },
        ) = (ip.destination, &ip.body)
        else {
            return reading.clone();
        };
        let on_link = to.is_unicast_link_local() || to.octets()[..2] == [0xff, 0x02];
        let slot = case.world.eni_on(case.link).map(|(_, _, slot)| slot);
        let answers = slot.is_some_and(|slot| self.has(case, slot, ip.destination, false));
        let stays = match kind {
            130 | 134 | 137 => true,
            135 | 136 => on_link || answers,
            131 | 132 | 143 => to.is_multicast() && (on_link || *target == Some(ip.destination)) && !roomy,
            _ => on_link,
        };
        if stays || case.direction == Direction::Ingress {
            return reading.clone();
        }
        let body = Body::Icmp {
            kind: *kind,
            code: *code,
            identifier: 0,
            quoted: None,
        };
        Reading::Ip(Ip { body, ..ip.clone() })
    }
}

/// Whether a task may send a message; afterwards the owner of its link-local address is known.
fn says(case: &Case<'_>, link_locals: &mut LinkLocals, message: &Message) -> Result<(), DropReason> {
    let (eni, _, slot) = case.world.eni_on(case.link).ok_or(DropReason::UnknownTask)?;
    may_say(case, eni, slot, message)?;
    match message.names_on_link(eni.source_dest_check) {
        Some((address, asks)) if !link_locals.is_said(case, slot, address, asks) => Err(DropReason::SpoofedSource),
        _ => Ok(()),
    }
}

fn may_say(case: &Case<'_>, eni: &Eni, slot: u16, message: &Message) -> Result<(), DropReason> {
    let spoofed = Err(DropReason::SpoofedSource);
    if [130, 134, 137].contains(&message.kind) {
        return spoofed;
    }
    let unnamed = message.source.is_unspecified();
    let target = message.target.unwrap_or(message.destination);
    let is_own = |address: IpAddr| is_link_local(address) || eni.addresses.contains(&address);
    // An answer comes from the address that it is about, or from a link-local address if the answer is about a global
    // one.
    let from_there =
        message.kind != 136 || message.source == target || is_link_local(message.source) && !is_link_local(target);
    if !from_there && eni.source_dest_check {
        return spoofed;
    }
    if message.roomy {
        return Err(DropReason::Malformed);
    }
    let claims = match message.kind {
        0 | 135 if unnamed => target,
        133 | 131 | 132 | 143 if unnamed => return Ok(()),
        0 | 133 | 135 | 131 | 132 | 143 => message.source,
        136 => target,
        _ => return spoofed,
    };
    if eni.source_dest_check && !is_own(claims) {
        return spoofed;
    }
    // A task cannot claim another task's address.
    let others = |other: &&Eni| other.id != eni.id && other.addresses.contains(&claims);
    let mut enis = case.world.model.enis.iter().zip(&case.world.gates);
    if !is_own(claims) && enis.any(|(other, gate)| gate.is_some() && others(&other)) {
        return spoofed;
    }
    let Some(mac) = case
        .world
        .macs
        .get(&slot)
        .filter(|_| LinkId::from_number(case.link).is_branch())
    else {
        return Ok(());
    };
    let its_own = match message.hardware {
        Hardware::None => true,
        Hardware::Is(hardware) => hardware == *mac,
        Hardware::Unread => false,
    };
    if its_own && !(message.router && eni.source_dest_check) {
        Ok(())
    } else {
        spoofed
    }
}

/// Whether a task sends a message that only routers send: in IPv4 redirects, advertisements, membership queries; in both
/// families messages that make their receivers take the sender for a multicast router.
pub(super) fn speaks_as_router(case: &Case<'_>, ip: &Ip) -> bool {
    let says = match ip.body {
        Body::Icmp { kind, .. } => ip.source.is_ipv4() && [5, 9].contains(&kind),
        Body::IgmpQuery => true,
        _ => false,
    };
    (says || ip.router_role) && case.direction == Direction::Egress && ip.fragment.is_none_or(|part| part.is_first)
}

fn link_local(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => address.is_unicast_link_local().then_some(address),
        IpAddr::V4(_) => None,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    link_local(address).is_some()
}

/// Whether packets to this address never leave the link.
pub(super) fn is_on_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local() || address.octets()[..2] == [0xff, 2])
}
