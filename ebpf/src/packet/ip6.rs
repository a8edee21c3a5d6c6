//! IPv6 and its extension headers (RFC 8200).

use super::{
    ETHERNET_BYTES, Frame, Kind, Packet, Transport, Unparsed, beyond_header, no_checksum, parse_transport, read, step,
};
use crate::abi::{Address, DropReason};

const HEADER: u32 = 40;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const MORE_FRAGMENTS: u16 = 1;
/// In bytes, as in the header.
pub(super) const FRAGMENT_OFFSET: u16 = 0xfff8;
/// Bytes of a hop-by-hop header that holds only a jumbogram's length (RFC 2675).
const JUMBO_OPTION: u32 = 8;
/// The most extension headers that are parsed.
const WALK: u32 = 8;
/// A mask for offsets, beyond that many headers of the longest kind.
const FARTHEST: u32 = 0x7fff;
const _: () = assert!(ETHERNET_BYTES + HEADER + WALK * (256 << 3) <= FARTHEST);

#[inline(always)]
pub(super) fn parse<F: Frame>(frame: &F, packet: &mut Packet) -> Result<(), Unparsed> {
    let ip = read::<F, 8>(frame, ETHERNET_BYTES)?;
    if ip[0] >> 4 != 6 {
        return Err(Unparsed::Bad(DropReason::Malformed));
    }
    let source = read::<F, 16>(frame, ETHERNET_BYTES + 8)?;
    let destination = read::<F, 16>(frame, ETHERNET_BYTES + 24)?;
    packet.kind = Kind::V6;
    packet.source = Address::from_octets(source);
    packet.destination = Address::from_octets(destination);
    let carried = frame.length() - ETHERNET_BYTES;
    let said = u16::from_be_bytes([ip[4], ip[5]]) as u32;
    // A payload length of 0 is a jumbogram, accepted only as a GSO packet that the host will segment (BIG TCP).
    let jumbo = said == 0 && frame.segments().1 != 0;
    let length = if jumbo { carried } else { said + HEADER };
    // Linux puts the real length into a hop-by-hop header for internal use: segments on the wire do not have it.
    let unsent = if jumbo && ip[6] == HOP_BY_HOP { JUMBO_OPTION } else { 0 };
    packet.bytes = length;
    packet.protocol = ip[6];
    if length > carried {
        packet.bytes = carried;
        return Err(Unparsed::Bad(DropReason::Malformed));
    }
    // The tables hold IPv4 addresses as IPv4-mapped ones. IPv6 packets must not use them; hosts drop such packets too (Linux
    // from 5.4).
    if packet.source.is_v4() || packet.destination.is_v4() {
        return Err(Unparsed::Bad(DropReason::Malformed));
    }
    // Segmentation cuts the whole frame, whatever its header says, and never a fragment.
    let is_cut = frame.segments().1 != 0;
    if is_cut && length != carried {
        return Err(Unparsed::Bad(DropReason::Malformed));
    }
    let end = ETHERNET_BYTES + length;
    let mut at = ETHERNET_BYTES + HEADER;
    let mut next = ip[6];
    let mut walked = 0;
    while is_extension(next) {
        if walked == WALK || (next == HOP_BY_HOP && walked != 0) {
            return Err(Unparsed::Bad(DropReason::Malformed));
        }
        walked += 1;
        let extension = read::<F, 8>(frame, at)?;
        let bytes = match next {
            FRAGMENT => {
                let fragment = u16::from_be_bytes([extension[2], extension[3]]);
                let (offset, carries) = ((fragment & FRAGMENT_OFFSET) as u32, end.saturating_sub(at + 8));
                // All but the last carry a multiple of eight bytes, and the last ends below 64 KiB (RFC 8200, 4.5).
                if is_cut
                    || at + 8 > end
                    || fragment & MORE_FRAGMENTS != 0 && carries & 7 != 0
                    || offset + carries + (at - ETHERNET_BYTES - HEADER) > u16::MAX as u32
                {
                    return Err(Unparsed::Bad(DropReason::Malformed));
                }
                let id = u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]);
                if offset != 0 {
                    packet.protocol = extension[0];
                    packet.later_fragment = true;
                    // With several fragment headers, the last one that is read decides.
                    packet.first_fragment = false;
                    packet.fragment_id = id;
                    packet.reassembly_delta = step(offset, carries, fragment & MORE_FRAGMENTS != 0);
                    no_checksum(frame)?;
                    return beyond_header(extension[0], offset);
                }
                // An atomic fragment, first and last at once, is handled as an unfragmented packet (RFC 6946).
                packet.first_fragment = fragment & MORE_FRAGMENTS != 0;
                packet.fragment_id = if packet.first_fragment { id } else { 0 };
                packet.reassembly_delta = if packet.first_fragment {
                    carries.cast_signed()
                } else {
                    0
                };
                8
            }
            // The segments left are visited before the final destination (RFC 8200, 4.4).
            ROUTING if extension[3] != 0 => return Err(Unparsed::Bad(DropReason::SourceRouted)),
            _ => (extension[1] as u32 + 1) << 3,
        };
        next = frame.opaque(extension[0] as u32) as u8;
        packet.protocol = next;
        at = frame.opaque(at + bytes) & FARTHEST;
        if at > end {
            return Err(Unparsed::Bad(DropReason::Malformed));
        }
    }
    let header = at - ETHERNET_BYTES - unsent;
    parse_transport(
        frame,
        packet,
        Transport {
            at,
            room: end - at,
            header,
        },
    )
}

/// Whether a header is an extension header to skip. An authentication header (RFC 4302) is not: rules for protocol 51 apply
/// to it, as in IPv4.
#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
}
