//! The packet that an ICMP error quotes (RFC 792; RFC 4443, 2.4): its addresses and the first eight bytes of its transport
//! header, the least that a router has to send back.

use super::{
    Frame, IcmpKind, Kind, Packet, Unparsed, icmp,
    ip6::{FRAGMENT, FRAGMENT_OFFSET},
    read,
};
use crate::{
    abi::{Address, DropReason},
    wire::{ICMP, ICMPV6, TCP, UDP},
};

const V6_HEADER: u32 = 40;
const FRAGMENT_BYTES: u32 = 8;
/// The quoted bytes of the transport header, at least.
const QUOTED_BYTES: u32 = 8;

/// Parses the packet that `error` quotes into `quoted`, whose kind stays [`Kind::None`] if the quoted packet cannot belong
/// to a tracked connection: a later fragment, or an ICMP message other than request and reply. Of the IPv6 extension headers
/// only a first fragment's is parsed, as the path may already need fragments.
///
/// # Errors
/// [`Unparsed::Short`] as for the packet itself.
#[inline(always)]
pub fn parse_quoted<F: Frame>(frame: &F, error: &Packet, quoted: &mut Packet) -> Result<(), Unparsed> {
    quoted.kind = Kind::None;
    if error.quoted_at == 0 {
        return Ok(());
    }
    let (at, end) = (error.quoted_at as u32, error.quoted_end as u32);
    let parsed = match error.kind {
        Kind::V4 => parse_v4(frame, at, end, quoted),
        _ => parse_v6(frame, at, end, quoted),
    };
    match parsed {
        Err(Unparsed::Short) => Err(Unparsed::Short),
        Err(Unparsed::Bad(_)) => Ok(()),
        Ok(()) => {
            quoted.kind = error.kind;
            Ok(())
        }
    }
}

#[inline(always)]
fn parse_v4<F: Frame>(frame: &F, at: u32, end: u32, quoted: &mut Packet) -> Result<(), Unparsed> {
    let ip = read::<F, 20>(frame, at)?;
    let header = ((ip[0] & 0xf) as u32) << 2;
    let offset = u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff;
    if ip[0] >> 4 != 4 || header < 20 || offset != 0 {
        return Err(Unparsed::Bad(DropReason::Malformed));
    }
    quoted.source = Address::from_v4_octets([ip[12], ip[13], ip[14], ip[15]]);
    quoted.destination = Address::from_v4_octets([ip[16], ip[17], ip[18], ip[19]]);
    quoted.protocol = ip[9];
    parse_ports(frame, Kind::V4, at + header, end, quoted)
}

#[inline(always)]
fn parse_v6<F: Frame>(frame: &F, at: u32, end: u32, quoted: &mut Packet) -> Result<(), Unparsed> {
    let ip = read::<F, 8>(frame, at)?;
    if ip[0] >> 4 != 6 {
        return Err(Unparsed::Bad(DropReason::Malformed));
    }
    quoted.source = Address::from_octets(read::<F, 16>(frame, at + 8)?);
    quoted.destination = Address::from_octets(read::<F, 16>(frame, at + 24)?);
    quoted.protocol = ip[6];
    let mut at = at + V6_HEADER;
    if ip[6] == FRAGMENT {
        let fragment = read::<F, 8>(frame, at)?;
        if u16::from_be_bytes([fragment[2], fragment[3]]) & FRAGMENT_OFFSET != 0 {
            return Err(Unparsed::Bad(DropReason::Malformed));
        }
        quoted.protocol = fragment[0];
        at += FRAGMENT_BYTES;
    }
    parse_ports(frame, Kind::V6, at, end, quoted)
}

#[inline(always)]
fn parse_ports<F: Frame>(frame: &F, family: Kind, at: u32, end: u32, quoted: &mut Packet) -> Result<(), Unparsed> {
    // Bytes behind the packet's end are padding, not part of the quote.
    if at + QUOTED_BYTES > end {
        return Err(Unparsed::Bad(DropReason::Malformed));
    }
    let head = read::<F, 8>(frame, at)?;
    let (first, second) = (
        u16::from_be_bytes([head[0], head[1]]),
        u16::from_be_bytes([head[2], head[3]]),
    );
    quoted.exchange = IcmpKind::None;
    match (quoted.protocol, family) {
        (TCP | UDP, _) => {
            quoted.source_port = first;
            quoted.destination_port = second;
        }
        (ICMP, Kind::V4) | (ICMPV6, Kind::V6) => {
            quoted.exchange = icmp::exchange(family, head[0]);
            if !matches!(quoted.exchange, IcmpKind::Request | IcmpKind::Reply) {
                return Err(Unparsed::Bad(DropReason::Malformed));
            }
            quoted.source_port = u16::from_be_bytes([head[4], head[5]]);
            quoted.destination_port = first;
        }
        // Other protocols have no ports: addresses and protocol identify the connection.
        _ => {}
    }
    Ok(())
}
