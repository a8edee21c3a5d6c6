//! ARP (RFC 826), neighbour discovery (RFC 4861) and multicast listener discovery (RFC 2710, RFC 3810).

use super::{ETHERNET_BYTES, Frame, Kind, Packet, Unparsed, halves, is_mapped, mapped, need, read};
use crate::abi::Reason;

/// What a packet is to its neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Neighbour {
    /// Nothing of the kind.
    #[default]
    None = 0,
    /// ARP request or reply: the source is the sender's address, the destination and target the target's.
    Arp = 1,
    /// Neighbour solicitation.
    Solicitation = 2,
    /// Neighbour advertisement.
    Advertisement = 3,
    /// Router solicitation.
    RouterSolicitation = 4,
    /// Router advertisement or redirect.
    Router = 5,
    /// Multicast listener query.
    ListenerQuery = 6,
    /// Multicast listener report or done.
    ListenerReport = 7,
}

#[inline(always)]
pub(super) fn parse_arp<F: Frame>(frame: &F, packet: &mut Packet) -> Result<(), Unparsed> {
    // Hardware Ethernet, protocol IPv4, lengths 6 and 4, request or reply: anything else has no business here.
    const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let arp = read::<F, 28>(frame, ETHERNET_BYTES)?;
    let request_or_reply = arp[6] == 0 && (arp[7] == 1 || arp[7] == 2);
    if arp[0] != ETHERNET_IPV4[0]
        || arp[1] != ETHERNET_IPV4[1]
        || arp[2] != ETHERNET_IPV4[2]
        || arp[3] != ETHERNET_IPV4[3]
        || arp[4] != ETHERNET_IPV4[4]
        || arp[5] != ETHERNET_IPV4[5]
        || !request_or_reply
    {
        return Err(Unparsed::Bad(Reason::Malformed));
    }
    packet.kind = Kind::Arp;
    packet.neighbour = Neighbour::Arp;
    packet.source = mapped(u32::from_be_bytes([arp[14], arp[15], arp[16], arp[17]]));
    packet.destination = mapped(u32::from_be_bytes([arp[24], arp[25], arp[26], arp[27]]));
    packet.target = packet.destination;
    packet.bytes = 28;
    Ok(())
}

/// Marks what ICMPv6 messages of this type are to neighbours. A message of neighbour discovery whose hop limit is not 255
/// came over a router and is none (RFC 4861, 7.1); it stays to be judged by the rules.
#[inline(always)]
pub(super) fn parse_icmpv6<F: Frame>(
    frame: &F,
    packet: &mut Packet,
    kind: u8,
    at: u32,
    room: u32,
) -> Result<(), Unparsed> {
    let neighbour = match kind {
        130 => Neighbour::ListenerQuery,
        131 | 132 | 143 => Neighbour::ListenerReport,
        133 => Neighbour::RouterSolicitation,
        134 | 137 => Neighbour::Router,
        135 => Neighbour::Solicitation,
        136 => Neighbour::Advertisement,
        _ => return Ok(()),
    };
    let hop_limit = read::<F, 1>(frame, ETHERNET_BYTES + 7)?[0];
    let listener = matches!(neighbour, Neighbour::ListenerQuery | Neighbour::ListenerReport);
    // Listener discovery goes one hop (RFC 2710, 3; RFC 3810, 5).
    if hop_limit != if listener { 1 } else { 255 } {
        return Ok(());
    }
    if matches!(neighbour, Neighbour::Solicitation | Neighbour::Advertisement) {
        need(room, 24)?;
        packet.target = halves(read::<F, 16>(frame, at + 8)?);
        if is_mapped(packet.target) {
            return Err(Unparsed::Bad(Reason::Malformed));
        }
    }
    packet.neighbour = neighbour;
    Ok(())
}
