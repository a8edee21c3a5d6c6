//! ARP, neighbour discovery and listener discovery.

use std::net::IpAddr;

use taskgate::model::Eni;
use taskgate_ebpf::abi::{Direction, Pass, Reason};

use super::{
    super::reading::{Arp, Body, Ip, Reading},
    names::Case,
};

/// ARP and neighbour discovery need no rule, but a task takes part only as itself.
pub(super) fn neighbour(case: &Case<'_>, takes_part: impl FnOnce(&Eni) -> bool) -> Result<Pass, Reason> {
    let (eni, gate, _) = case.world.eni_on(case.link).ok_or(Reason::UnknownTask)?;
    if gate.isolated {
        return Err(Reason::Isolated);
    }
    if eni.source_dest_check && !takes_part(eni) {
        return Err(match case.direction {
            Direction::Egress => Reason::SpoofedSource,
            Direction::Ingress => Reason::NotForTask,
        });
    }
    Ok(Pass::Neighbour)
}

pub(super) fn arp_takes_part(case: &Case<'_>, eni: &Eni, arp: &Arp) -> bool {
    let probe = arp.sender.is_unspecified();
    let named = if case.direction == Direction::Egress && !probe {
        arp.sender
    } else {
        arp.target
    };
    eni.addresses.contains(&named)
}

pub(super) fn discovery_takes_part(case: &Case<'_>, eni: &Eni, ip: &Ip, kind: u8, target: Option<IpAddr>) -> bool {
    let own = |address: IpAddr| is_link_local(address) || eni.addresses.contains(&address);
    let nobody = ip.source.is_unspecified();
    let target = || target.is_some_and(own);
    let all_nodes: IpAddr = "ff02::1".parse().expect("an address");
    match (case.direction, kind) {
        // Solicitations.
        (Direction::Egress, 135) if !nobody => own(ip.source),
        // Whatever asks for an address of the task's, and what the task says of one.
        (_, 135) | (Direction::Egress, 136) => target(),
        (Direction::Ingress, 136) if ip.destination == all_nodes => target(),
        (Direction::Ingress, 136) => own(ip.destination),
        // Router solicitations go out, router advertisements, redirects and queries come in, listener reports do both.
        (Direction::Egress, 133 | 131 | 132 | 143) => nobody || own(ip.source),
        (Direction::Ingress, 134 | 137 | 130 | 131 | 132 | 143) => is_link_local(ip.source),
        _ => false,
    }
}

/// What a task sends as neighbour discovery to an address that routers carry on to is ICMPv6 like any other, unless it
/// asks whom it goes to, or tells of its sender, in no more than 80 bytes.
pub(super) fn as_sent(reading: &Reading, direction: Direction) -> Reading {
    let Reading::Ip(ip) = reading else {
        return reading.clone();
    };
    let (IpAddr::V6(to), Body::Neighbour { kind, code, target }) = (ip.destination, &ip.body) else {
        return reading.clone();
    };
    let on_link = to.is_unicast_link_local() || to.octets()[..2] == [0xff, 0x02];
    let named = match kind {
        135 => Some(ip.destination),
        136 => Some(ip.source),
        _ => None,
    };
    let brief = named.is_some() && named == *target && ip.bytes <= 80;
    if direction == Direction::Ingress || on_link || brief {
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

pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
