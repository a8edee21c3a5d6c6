//! ICMP (RFC 792) and ICMPv6 (RFC 4443): type and code for the rules, and the kind of exchange for tracking.

use super::{Frame, IcmpKind, Kind, PULL_BYTES, Packet, Unparsed, need, neighbour, read};
use crate::{
    abi::DropReason,
    wire::{icmp, icmpv6},
};

/// Bytes of an ICMP header.
const HEADER: u32 = 8;

#[inline(always)]
pub(super) fn parse<F: Frame>(frame: &F, packet: &mut Packet, at: u32, room: u32) -> Result<(), Unparsed> {
    need(room, HEADER)?;
    let message = read::<F, 8>(frame, at)?;
    let (kind, code) = (message[0], message[1]);
    if kind == icmp::RESERVED {
        return Err(Unparsed::Bad(DropReason::Malformed));
    }
    packet.destination_port = u16::from_be_bytes([kind, code]);
    packet.exchange = exchange(packet.kind, kind);
    if matches!(packet.exchange, IcmpKind::Request | IcmpKind::Reply) {
        packet.source_port = u16::from_be_bytes([message[4], message[5]]);
    }
    if matches!(packet.exchange, IcmpKind::Error) {
        let end = at + room;
        packet.quoted_at = (at + HEADER) as u16;
        packet.quoted_end = if end < PULL_BYTES { end } else { PULL_BYTES } as u16;
    }
    if packet.kind as u8 == Kind::V6 as u8 {
        neighbour::parse_icmpv6(frame, packet, (kind, message[4]), at, room)?;
    } else {
        neighbour::mark_icmp(packet, kind);
    }
    Ok(())
}

/// Whether messages of this type are requests, replies, errors, or none of them.
#[inline(always)]
pub(crate) const fn exchange(family: Kind, kind: u8) -> IcmpKind {
    match family {
        Kind::V4 => match kind {
            icmp::ECHO | icmp::TIMESTAMP | icmp::INFORMATION_REQUEST | icmp::ADDRESS_MASK_REQUEST => IcmpKind::Request,
            icmp::ECHO_REPLY | icmp::TIMESTAMP_REPLY | icmp::INFORMATION_REPLY | icmp::ADDRESS_MASK_REPLY => {
                IcmpKind::Reply
            }
            // A redirect quotes a packet too, but is not an error: only the rules decide on it.
            icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM => IcmpKind::Error,
            _ => IcmpKind::None,
        },
        Kind::V6 => match kind {
            icmpv6::ECHO_REQUEST => IcmpKind::Request,
            icmpv6::ECHO_REPLY => IcmpKind::Reply,
            icmpv6::UNREACHABLE..=icmpv6::PARAMETER_PROBLEM => IcmpKind::Error,
            _ => IcmpKind::None,
        },
        Kind::None | Kind::Arp => IcmpKind::None,
    }
}

/// The request type of a request or reply.
#[inline(always)]
pub(crate) const fn request_of(family: Kind, kind: u8) -> u8 {
    match family {
        Kind::V4 => match kind {
            icmp::ECHO_REPLY => icmp::ECHO,
            icmp::TIMESTAMP_REPLY => icmp::TIMESTAMP,
            icmp::INFORMATION_REPLY => icmp::INFORMATION_REQUEST,
            icmp::ADDRESS_MASK_REPLY => icmp::ADDRESS_MASK_REQUEST,
            other => other,
        },
        Kind::V6 | Kind::None | Kind::Arp => {
            if kind == icmpv6::ECHO_REPLY {
                icmpv6::ECHO_REQUEST
            } else {
                kind
            }
        }
    }
}
