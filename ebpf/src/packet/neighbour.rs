//! ARP (RFC 826), neighbour discovery (RFC 4861) and multicast listener discovery (RFC 2710, RFC 3810), and the ICMP, IGMP
//! and PIM messages that only routers send.

use super::{ETHERNET_BYTES, Frame, Kind, Packet, Unparsed, need, no_checksum, read};
use crate::{
    abi::{Address, DropReason},
    wire::{icmp, icmpv6, igmp},
};

/// The kind of a neighbour message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Neighbour {
    /// No neighbour message.
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
    /// Router advertisement or redirect, of either family.
    Router = 5,
    /// Multicast listener query, or IGMP's membership query.
    ListenerQuery = 6,
    /// Multicast listener report or done.
    ListenerReport = 7,
    /// Other messages by which neighbours, or a snooping bridge, take the sender for a router, in either family:
    /// multicast router discovery, PIM's hello, DVMRP, and messages 5 and 6 whose hop limit makes hosts drop them.
    /// Toward a task the rules decide.
    RouterRole = 8,
}

/// [`Packet::hardware`] of a message with more options, or other ones, than the parser reads.
pub const HARDWARE_UNREAD: u64 = u64::MAX;

/// A hardware address as a number below 2^48, its first byte highest.
#[inline(always)]
pub const fn hardware_number(mac: [u8; 6]) -> u64 {
    u64::from_be_bytes([0, 0, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]])
}

/// Marks the ICMP messages that only IPv4 routers send: redirects (RFC 792) and router advertisements (RFC 1256).
#[inline(always)]
pub(super) const fn mark_icmp(packet: &mut Packet, kind: u8) {
    if matches!(kind, icmp::REDIRECT | icmp::ROUTER_ADVERTISEMENT) {
        packet.neighbour = Neighbour::Router;
    }
}

/// Marks the IGMP messages that only routers send: the membership query (RFC 1112, RFC 3376, 4.1), DVMRP and PIM of version
/// 1 (RFC 3228), multicast router discovery (RFC 4286).
#[inline(always)]
pub(super) fn mark_igmp<F: Frame>(frame: &F, packet: &mut Packet, at: u32, room: u32) -> Result<(), Unparsed> {
    // The shortest messages, of router discovery, have four bytes. Anything shorter is not such a message, and needs a rule.
    if room < 4 {
        return Ok(());
    }
    packet.neighbour = match read::<F, 2>(frame, at)?[0] {
        igmp::MEMBERSHIP_QUERY if room >= 8 => Neighbour::ListenerQuery,
        igmp::DVMRP | igmp::PIM_V1 | igmp::MULTICAST_ROUTER_ADVERTISEMENT..=igmp::MULTICAST_ROUTER_TERMINATION => {
            Neighbour::RouterRole
        }
        _ => Neighbour::None,
    };
    Ok(())
}

/// Marks the hello of PIM, in either family (RFC 7761, 4.9): a snooping bridge forwards all multicast to the port of its
/// sender.
#[inline(always)]
pub(super) fn mark_pim<F: Frame>(frame: &F, packet: &mut Packet, at: u32, room: u32) -> Result<(), Unparsed> {
    const HELLO_OF_VERSION_2: u8 = 0x20;
    if room >= 4 && read::<F, 2>(frame, at)?[0] == HELLO_OF_VERSION_2 {
        packet.neighbour = Neighbour::RouterRole;
    }
    Ok(())
}

/// The minimum length of an Ethernet frame after padding, checksum not counted (IEEE 802.3, 3.2.7).
const SHORTEST_FRAME: u32 = 60;

#[inline(always)]
pub(super) fn parse_arp<F: Frame>(frame: &F, packet: &mut Packet) -> Result<(), Unparsed> {
    // Hardware Ethernet, protocol IPv4, lengths 6 and 4, request or reply: anything else is malformed.
    const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    const REQUEST: u8 = 1;
    const REPLY: u8 = 2;
    let arp = read::<F, 28>(frame, ETHERNET_BYTES)?;
    let request_or_reply = arp[6] == 0 && (arp[7] == REQUEST || arp[7] == REPLY);
    if arp[0] != ETHERNET_IPV4[0]
        || arp[1] != ETHERNET_IPV4[1]
        || arp[2] != ETHERNET_IPV4[2]
        || arp[3] != ETHERNET_IPV4[3]
        || arp[4] != ETHERNET_IPV4[4]
        || arp[5] != ETHERNET_IPV4[5]
        || !request_or_reply
    {
        return Err(Unparsed::Bad(DropReason::Malformed));
    }
    no_checksum(frame)?;
    packet.kind = Kind::Arp;
    packet.neighbour = Neighbour::Arp;
    packet.roomy = frame.length() > SHORTEST_FRAME;
    packet.source = Address::from_v4_octets([arp[14], arp[15], arp[16], arp[17]]);
    packet.destination = Address::from_v4_octets([arp[24], arp[25], arp[26], arp[27]]);
    packet.target = packet.destination;
    packet.hardware = hardware_number([arp[8], arp[9], arp[10], arp[11], arp[12], arp[13]]);
    packet.bytes = 28;
    Ok(())
}

/// Marks neighbour messages among ICMPv6 messages. A neighbour discovery message whose hop limit is not 255 was forwarded by
/// a router and is invalid (RFC 4861, 7.1); the rules decide on it, unless only routers send this type.
#[inline(always)]
pub(super) fn parse_icmpv6<F: Frame>(
    frame: &F,
    packet: &mut Packet,
    (kind, flags): (u8, u8),
    at: u32,
    room: u32,
) -> Result<(), Unparsed> {
    let neighbour = match kind {
        icmpv6::MULTICAST_ROUTER_ADVERTISEMENT..=icmpv6::MULTICAST_ROUTER_TERMINATION => Neighbour::RouterRole,
        icmpv6::LISTENER_QUERY => Neighbour::ListenerQuery,
        icmpv6::LISTENER_REPORT | icmpv6::LISTENER_DONE | icmpv6::LISTENER_REPORT_V2 => Neighbour::ListenerReport,
        icmpv6::ROUTER_SOLICITATION => Neighbour::RouterSolicitation,
        icmpv6::ROUTER_ADVERTISEMENT | icmpv6::REDIRECT => Neighbour::Router,
        icmpv6::NEIGHBOR_SOLICITATION => Neighbour::Solicitation,
        icmpv6::NEIGHBOR_ADVERTISEMENT => Neighbour::Advertisement,
        _ => return Ok(()),
    };
    let hop_limit = read::<F, 1>(frame, ETHERNET_BYTES + 7)?[0];
    let listener = matches!(neighbour, Neighbour::ListenerQuery | Neighbour::ListenerReport);
    // Listener discovery goes one hop (RFC 2710, 3; RFC 3810, 5).
    if hop_limit != if listener { 1 } else { 255 } || matches!(neighbour, Neighbour::RouterRole) {
        // Some bridges ignore the hop limit.
        if matches!(
            neighbour,
            Neighbour::Router | Neighbour::ListenerQuery | Neighbour::RouterRole
        ) {
            packet.neighbour = Neighbour::RouterRole;
        }
        return Ok(());
    }
    if matches!(neighbour, Neighbour::Solicitation | Neighbour::Advertisement) {
        need(room, 24)?;
        packet.target = Address::from_octets(read::<F, 16>(frame, at + 8)?);
        if packet.target.is_v4() {
            return Err(Unparsed::Bad(DropReason::Malformed));
        }
    }
    packet.neighbour = neighbour;
    packet.says_router = matches!(neighbour, Neighbour::Advertisement) && flags & ROUTER != 0;
    // Room for other data: extension headers before the message (listener discovery has one of eight bytes, RFC 3810, 5), or
    // bytes behind it.
    let (before, behind) = (at - ETHERNET_BYTES - IPV6_BYTES, frame.length() ^ (at + room));
    let head = match neighbour {
        Neighbour::Solicitation | Neighbour::Advertisement => 24,
        Neighbour::RouterSolicitation => 8,
        Neighbour::ListenerReport => {
            let is_exact = listener_report(frame, packet, kind, at, room)?;
            packet.roomy = frame.opaque((before & !8) | behind | !is_exact as u32) != 0;
            return Ok(());
        }
        _ => return Ok(()),
    };
    let head = frame.opaque(head) & 31;
    let options = link_layer(frame, at + head, room.saturating_sub(head))?;
    packet.hardware = options.0;
    packet.roomy = frame.opaque(before | behind | options.1 as u32) != 0;
    Ok(())
}

/// Bytes of the fixed IPv6 header.
const IPV6_BYTES: u32 = 40;

/// Whether a listener report holds nothing but groups. For a version 1 message, also sets its one group as the target.
#[inline(always)]
fn listener_report<F: Frame>(frame: &F, packet: &mut Packet, kind: u8, at: u32, room: u32) -> Result<bool, Unparsed> {
    // A mask for offsets within reach: the verifier may have lost their range on the way here.
    const FARTHEST: u32 = 0x7fff;
    packet.target = Address::default();
    if room < 8 {
        return Ok(false);
    }
    if kind == icmpv6::LISTENER_REPORT_V2 {
        // All records are without sources and without auxiliary data (RFC 3810, 5.2).
        let [high, low] = read::<F, 2>(frame, frame.opaque(at + 6) & FARTHEST)?;
        return Ok(room == 8 + 20 * (high as u32 * 256 + low as u32));
    }
    if room == 24 {
        packet.target = Address::from_octets(read::<F, 16>(frame, frame.opaque(at + 8) & FARTHEST)?);
    }
    Ok(room == 24)
}

/// The router flag of an advertisement (RFC 4861, 4.4).
const ROUTER: u8 = 0x80;

/// The link-layer address in the options of a message (RFC 4861, 4.6.1), 0 if there is none; and whether there are options
/// other than one such address and a nonce.
#[inline(always)]
fn link_layer<F: Frame>(frame: &F, at: u32, room: u32) -> Result<(u64, bool), Unparsed> {
    /// The most options of eight bytes that hosts send: an address and a nonce (RFC 3971, 5.3.2).
    const OPTIONS: u32 = 2;
    const SOURCE: u8 = 1;
    const TARGET: u8 = 2;
    const NONCE: u8 = 14;
    // A mask for offsets within reach.
    const FARTHEST: u32 = 0x7fff;
    let mut hardware = 0;
    let mut unread = room > 8 * OPTIONS || room & 7 != 0;
    let mut strange = unread;
    for number in 0..OPTIONS {
        if !unread && room >= 8 * (number + 1) {
            let option = read::<F, 8>(frame, frame.opaque(at + 8 * number) & FARTHEST)?;
            let address = hardware_number([option[2], option[3], option[4], option[5], option[6], option[7]]);
            let names = matches!(option[0], SOURCE | TARGET);
            strange |= option[1] != 1 || !names && option[0] != NONCE;
            // An option that is longer, or a second address.
            unread |= option[1] != 1 || names && hardware != 0;
            if names {
                hardware = address;
            }
        }
    }
    Ok((if unread { HARDWARE_UNREAD } else { hardware }, strange))
}
