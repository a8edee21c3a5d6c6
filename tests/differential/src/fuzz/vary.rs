//! Packets made from earlier ones: changed copies, answers, fragments, and ICMP errors.

use taskgate_ebpf::{abi::Direction, host::Left, packet::Checksum};

use crate::GeneratedPacket;
use testkit::fixture::{Kernel, frames};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

pub(super) fn link(number: u8) -> u32 {
    let count = u32::from(number & 0x7f) % Kernel::LINKS.count() as u32;
    Kernel::LINKS.start() + count
}

/// A copy of the packet with changed bytes, three bytes for each change: position, operation and value. Position `0xff`
/// changes the link, the direction, the segments or the checksum that is yet to be filled in.
pub(super) fn edited(earlier: &GeneratedPacket, with: &[u8]) -> GeneratedPacket {
    let mut thrown = earlier.clone();
    for [at, how, value] in with.as_chunks().0 {
        let length = thrown.frame.len();
        match (*at, how % 8) {
            (0xff, 0) => thrown.direction = thrown.direction.opposite(),
            (0xff, 1) => thrown.link = link(*value),
            (0xff, 2) => thrown.segments = (thrown.segments.0, (*value).into()),
            (0xff, 3) => thrown.segments = ((*value).into(), thrown.segments.1),
            (0xff, 4) => thrown.frame.truncate(usize::from(*value)),
            (0xff, 5) => thrown.from_wire = value & 1 != 0 && thrown.direction == Direction::Ingress,
            (0xff, 6) => {
                thrown.left.checksum = Some(Checksum {
                    start: (*value).into(),
                    offset: (how >> 3).into(),
                });
            }
            (0xff, _) => thrown.frame.extend(std::iter::repeat_n(*value, usize::from(how >> 3))),
            (at, how) if usize::from(at) < length => {
                let byte = &mut thrown.frame[usize::from(at)];
                *byte = match how {
                    0..3 => *value,
                    3..6 => *byte ^ value,
                    6 => byte.wrapping_add(1),
                    _ => byte.wrapping_sub(1),
                };
            }
            _ => {}
        }
    }
    thrown
}

/// Where source and destination address lie in a frame, and their length.
fn addresses(frame: &[u8]) -> Option<(usize, usize)> {
    let (at, length) = match frame.get(12..ETHERNET)? {
        [0x08, 0x00] => (ETHERNET + 12, 4),
        [0x86, 0xdd] => (ETHERNET + 8, 16),
        _ => return None,
    };
    (frame.len() >= at + 2 * length).then_some((at, length))
}

/// The offset of the payload of an IP packet without options or extension headers.
fn payload(frame: &[u8]) -> Option<usize> {
    let (at, length) = addresses(frame)?;
    Some(at + 2 * length)
}

fn swap(bytes: &mut [u8], length: usize) {
    let (one, other) = bytes.split_at_mut(length);
    one.swap_with_slice(&mut other[..length]);
}

/// The other side's answer: addresses, ports and direction swapped, an echo reply for a request. The first byte: TCP
/// flags.
pub(super) fn answered(earlier: &GeneratedPacket, with: &[u8]) -> GeneratedPacket {
    let mut thrown = earlier.clone();
    thrown.direction = thrown.direction.opposite();
    let Some((at, length)) = addresses(&thrown.frame) else {
        return edited(&thrown, with);
    };
    swap(&mut thrown.frame[at..at + 2 * length], length);
    let v4 = length == 4;
    let protocol = thrown.frame[if v4 { at - 3 } else { at - 2 }];
    thrown.from_wire = false;
    let transport = &mut thrown.frame[at + 2 * length..];
    let length_of_transport = transport.len();
    let (flags, with) = with.split_first().unwrap_or((&0, &[]));
    match protocol {
        6 | 17 if transport.len() >= 4 => {
            swap(&mut transport[..4], 2);
            if let (6, Some([_, _, _, _, sequence @ .., offset, of_packet])) =
                (protocol, transport.first_chunk_mut::<14>())
            {
                let sent: [u8; 8] = *sequence;
                let word = |bytes: [u8; 4]| u32::from_be_bytes(bytes);
                let begins = word([sent[0], sent[1], sent[2], sent[3]]);
                let extent = u32::from(*of_packet & 1) + u32::from(*of_packet >> 1 & 1);
                let payload = (length_of_transport as u32).saturating_sub(u32::from(*offset >> 4) * 4);
                sequence[..4].copy_from_slice(&sent[4..]);
                sequence[4..].copy_from_slice(&begins.wrapping_add(payload + extent).to_be_bytes());
                *of_packet = *flags;
            }
        }
        1 | 58 if !transport.is_empty() => {
            transport[0] = match (protocol, transport[0]) {
                (1, 8) => 0,
                (1, 0) => 8,
                (58, 128) => 129,
                (58, 129) => 128,
                (_, other) => other,
            };
        }
        _ => {}
    }
    edited(&thrown, with)
}

/// The same packet as a piece of a datagram. The first two bytes: identification, then offset in units of eight bytes with
/// "more fragments" in the highest bit.
pub(super) fn piece(earlier: &GeneratedPacket, with: &[u8]) -> Option<GeneratedPacket> {
    let ([id, offset], with) = with.split_first_chunk()?;
    let (more, offset) = (offset & 0x80 != 0, u16::from(offset & 0x7f));
    let mut thrown = earlier.clone();
    let at = payload(&thrown.frame)?;
    // All but the last carry a multiple of eight bytes.
    if more {
        let carries = (thrown.frame.len() - at) & !7;
        thrown.frame.truncate(at + carries);
    }
    let frame = &mut thrown.frame;
    if addresses(frame)?.1 == 4 {
        let word = offset | if more { frames::MORE_FRAGMENTS } else { 0 };
        frame[ETHERNET + 5] = *id;
        frame[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&word.to_be_bytes());
        let length = (frame.len() - ETHERNET) as u16;
        frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&length.to_be_bytes());
    } else {
        let next = std::mem::replace(&mut frame[ETHERNET + 6], 44);
        let mut header = frames::fragment(next, offset, more, &[]);
        header[7] = *id;
        frame.splice(at..at, header);
        let length = (frame.len() - at) as u16;
        frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length.to_be_bytes());
    }
    Some(edited(&thrown, with))
}

/// An ICMP error about the packet. The first byte: which, and whether a router speaks.
pub(super) fn error(earlier: &GeneratedPacket, with: &[u8]) -> Option<GeneratedPacket> {
    let (which, with) = with.split_first()?;
    let (at, length) = addresses(&earlier.frame)?;
    let v4 = length == 4;
    let address = |at: usize| -> Option<std::net::IpAddr> {
        let bytes = &earlier.frame[at..at + length];
        if v4 {
            <[u8; 4]>::try_from(bytes).ok().map(Into::into)
        } else {
            <[u8; 16]>::try_from(bytes).ok().map(Into::into)
        }
    };
    let (source, destination) = (address(at)?, address(at + length)?);
    let (kind, code) = match (v4, which & 7) {
        (true, 0..4) => (3, 4),
        (true, 4) => (3, 1),
        (true, 5) => (11, 0),
        (true, 6) => (12, 0),
        (true, _) => (5, 0),
        (false, 0..4) => (2, 0),
        (false, 4) => (1, 0),
        (false, 5) => (3, 0),
        (false, 6) => (4, 0),
        (false, _) => (137, 0),
    };
    let speaker = match (which >> 3 & 3, v4) {
        (0, true) => "203.0.113.9".parse().ok()?,
        (0, false) => "2001:db8:ffff::9".parse().ok()?,
        (1, _) => source,
        _ => destination,
    };
    let message = frames::icmp(kind, code, 0, &frames::quoted(&earlier.frame, 48));
    let thrown = GeneratedPacket {
        frame: frames::ip(speaker, source, if v4 { 1 } else { 58 }, &message),
        link: earlier.link,
        direction: match which & 0x80 {
            0 => earlier.direction.opposite(),
            _ => earlier.direction,
        },
        segments: (0, 0),
        from_wire: false,
        left: Left::NOTHING,
    };
    Some(edited(&thrown, with))
}

/// Which way, by a bit.
pub(super) fn direction(bit: bool) -> Direction {
    if bit { Direction::Ingress } else { Direction::Egress }
}
