//! IPv4 (RFC 791).

use super::{
    ETHERNET_BYTES, Frame, Kind, Packet, Transport, Unparsed, beyond_header, need, no_checksum, parse_transport, read,
    same, step,
};
use crate::abi::{Address, DropReason};

const MIN_HEADER: u32 = 20;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// The most bytes of options.
const MAX_OPTIONS: u32 = 40;

#[inline(always)]
pub(super) fn parse<F: Frame>(frame: &F, packet: &mut Packet) -> Result<(), Unparsed> {
    let ip = read::<F, 20>(frame, ETHERNET_BYTES)?;
    if ip[0] >> 4 != 4 {
        return Err(Unparsed::Bad(DropReason::Malformed));
    }
    packet.kind = Kind::V4;
    packet.source = Address::from_v4_octets([ip[12], ip[13], ip[14], ip[15]]);
    packet.destination = Address::from_v4_octets([ip[16], ip[17], ip[18], ip[19]]);
    packet.protocol = ip[9];
    let header = ((ip[0] & 0xf) as u32) << 2;
    let carried = frame.length() - ETHERNET_BYTES;
    let said = u16::from_be_bytes([ip[2], ip[3]]) as u32;
    packet.bytes = carried;
    // Before any branch: the verifier walks the options once.
    let is_source_routed = header > MIN_HEADER && has_source_route(frame, header)?;
    // The total length of a GSO packet over 64 KiB is 0 (BIG TCP, Linux 6.3); its segments on the wire get a length each.
    let length = match said {
        // A separate branch: before Linux 6.8 the verifier does not see that 0 is below the header's length.
        0 if frame.segments().1 == 0 => return Err(Unparsed::Bad(DropReason::Malformed)),
        0 => carried,
        said => said,
    };
    if header < MIN_HEADER || length < header || length > carried {
        return Err(Unparsed::Bad(DropReason::Malformed));
    }
    packet.bytes = length;
    if is_source_routed {
        return Err(Unparsed::Bad(DropReason::SourceRouted));
    }
    let fragment = u16::from_be_bytes([ip[6], ip[7]]);
    // Segmentation cuts the whole frame, whatever its header says, and never a fragment.
    if frame.segments().1 != 0 && (length != carried || fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0) {
        return Err(Unparsed::Bad(DropReason::Malformed));
    }
    if fragment & FRAGMENT_OFFSET != 0 {
        packet.later_fragment = true;
        packet.fragment_id = u16::from_be_bytes([ip[4], ip[5]]) as u32;
        packet.reassembly_delta = step(
            ((fragment & FRAGMENT_OFFSET) as u32) * 8,
            length - header,
            fragment & MORE_FRAGMENTS != 0,
        );
        beyond_header(packet.protocol, ((fragment & FRAGMENT_OFFSET) as u32) * 8)?;
        no_checksum(frame)?;
        // The last octet must lie below 64 KiB, else reassembly overflows (RFC 791, 3.2).
        return need(
            u16::MAX as u32,
            ((fragment & FRAGMENT_OFFSET) as u32) * 8 + (length - header),
        );
    }
    let room = length - header;
    if fragment & MORE_FRAGMENTS != 0 {
        // A first fragment carries a multiple of eight bytes (RFC 791, 3.2).
        if room & 7 != 0 {
            return Err(Unparsed::Bad(DropReason::Malformed));
        }
        packet.first_fragment = true;
        packet.reassembly_delta = room.cast_signed();
        packet.fragment_id = u16::from_be_bytes([ip[4], ip[5]]) as u32;
    }
    parse_transport(
        frame,
        packet,
        Transport {
            at: ETHERNET_BYTES + header,
            room,
            header,
        },
    )
}

/// Whether the options have a source route (RFC 791, 3.1), loose or strict, used up or not. Every fragment of a datagram has
/// a copy. Hosts stop at an option with an impossible length, and so does this parser.
///
/// Offsets are hidden from the verifier and options are read by arithmetic, so that it walks a single path through the loop.
#[inline(always)]
fn has_source_route<F: Frame>(frame: &F, header: u32) -> Result<bool, Unparsed> {
    const NO_OPERATION: u64 = 1;
    const LOOSE: u64 = 131;
    const STRICT: u64 = 137;
    // A mask for offsets within the longest header; its value is an offset beyond that header.
    const WITHIN: u32 = 0x7f;
    const BEYOND: u64 = WITHIN as u64;
    // Read the last option bytes first: if any are missing, this read fails, and no later one.
    read::<F, 4>(frame, frame.opaque(ETHERNET_BYTES + header - 4) & WITHIN)?;
    let end = frame.opaque(ETHERNET_BYTES + header) & WITHIN;
    let mut at = frame.opaque(ETHERNET_BYTES + MIN_HEADER) & WITHIN;
    let mut routes = 0;
    for _ in 0..MAX_OPTIONS {
        // The last byte is an option without a length.
        if at + 1 >= end {
            break;
        }
        let Some([kind, length]) = frame.read::<2>(at) else {
            break;
        };
        let (kind, length) = (kind as u64, length as u64);
        let (pads, ends) = (same(kind, NO_OPERATION), same(kind, 0) | length.wrapping_sub(2) >> 63);
        routes |= same(kind, LOOSE) | same(kind, STRICT);
        let next = (pads * (at as u64 + 1)) | ((1 ^ pads) * ((ends * BEYOND) | ((1 ^ ends) * (at as u64 + length))));
        at = frame.opaque(next as u32) & 0x1ff;
        routes = frame.opaque(routes as u32) as u64;
    }
    Ok(routes != 0)
}
