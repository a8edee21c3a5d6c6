//! Reads frames the naive way: from slices, layer by layer, and with nothing of the parser under test.

use std::net::IpAddr;

use taskgate_ebpf::{abi::DropReason, host::Left, packet::Checksum};

mod transport;

use transport::transport;

/// The content of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The frame has no addresses that a record could name.
    Nameless(DropReason),
    Arp(Arp),
    /// An IP packet.
    Ip(Ip),
}

/// An ARP request or reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arp {
    /// The sender's hardware address.
    pub(crate) hardware: [u8; 6],
    /// The sender's address.
    pub(crate) sender: IpAddr,
    /// The requested address.
    pub(crate) target: IpAddr,
    /// Whether bytes follow that Ethernet's padding does not need.
    pub(crate) roomy: bool,
}

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ip {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// The protocol of the transport header, as far as the parser reached it.
    pub(crate) protocol: u8,
    /// Packets on the wire.
    pub(crate) packets: u64,
    /// IP bytes on the wire.
    pub(crate) bytes: u64,
    /// Its payload.
    pub(crate) body: Body,
    /// The fragment's data, if the packet is a fragment.
    pub(crate) fragment: Option<Part>,
    /// Whether the kernel is still to write into bytes that the gate has read.
    pub(crate) overwritten: bool,
    /// Whether the message makes neighbours or bridges take its sender for a multicast router, or is a router's message
    /// that hosts drop.
    pub(crate) router_role: bool,
}

impl Ip {
    /// A packet of this many bytes, of which only the first header is read.
    fn unread(source: IpAddr, destination: IpAddr, protocol: u8, bytes: usize) -> Self {
        Self {
            source,
            destination,
            protocol,
            packets: 1,
            bytes: bytes as u64,
            body: MALFORMED,
            fragment: None,
            overwritten: false,
            router_role: false,
        }
    }
}

/// A fragment of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The datagram's identification.
    pub(crate) datagram: u32,
    pub(crate) is_first: bool,
    /// The fragment's share: its bytes, minus the datagram's length for the last fragment.
    pub(crate) step: i64,
}

impl Part {
    fn new(datagram: u32, offset: usize, carries: usize, more: bool) -> Self {
        let bytes = |bytes: usize| i64::try_from(bytes).expect("no packet is so long");
        let whole = if more { 0 } else { bytes(offset + carries) };
        Self {
            datagram,
            is_first: offset == 0,
            step: bytes(carries) - whole,
        }
    }
}

/// The payload of an IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// The packet cannot be judged.
    Bad(DropReason),
    /// TCP or UDP.
    Ports {
        /// The source port.
        source: u16,
        /// The destination port.
        destination: u16,
        /// TCP flags; 0 for UDP.
        flags: u8,
        /// Its TCP segment.
        segment: Option<Segment>,
    },
    /// ICMP over IPv4, ICMPv6 over IPv6.
    Icmp {
        /// Its type.
        kind: u8,
        code: u8,
        /// The bytes where requests and replies have their identifier.
        identifier: u16,
        /// The packet that an error quotes.
        quoted: Option<Box<Ip>>,
    },
    /// Neighbour discovery or listener discovery by a host on the link.
    Neighbour {
        /// The ICMPv6 type.
        kind: u8,
        code: u8,
        /// The address that the message is about, where it has one.
        target: Option<IpAddr>,
        /// The link-layer address in its options.
        hardware: Hardware,
        /// Whether the message says that its sender is a router.
        router: bool,
        /// Whether it has more bytes in it, around it or behind it than hosts send.
        roomy: bool,
    },
    /// IGMP's membership query.
    IgmpQuery,
    /// Anything else.
    Other,
}

/// The link-layer address in the options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hardware {
    None,
    /// The only address.
    Is([u8; 6]),
    /// More options than two of eight bytes, or two addresses.
    Unread,
}

/// A TCP segment, sequence numbers by their lower halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) flags: u8,
    /// The sequence number.
    pub(crate) sequence: u16,
    /// Its acknowledgement number.
    pub(crate) acknowledged: u16,
    /// Bytes of data.
    pub(crate) payload: u32,
}

pub(super) const MALFORMED: Body = Body::Bad(DropReason::Malformed);
/// The bytes that a gate looks at, from the start of the frame.
pub(super) const REACH: usize = 256;

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from(bytes[at]) << 8 | u16::from(bytes[at + 1])
}

pub(super) fn mac_at(bytes: &[u8], at: usize) -> [u8; 6] {
    bytes[at..at + 6].try_into().expect("six bytes")
}

pub(super) fn v4_at(bytes: &[u8], at: usize) -> IpAddr {
    <[u8; 4]>::try_from(&bytes[at..at + 4]).expect("four bytes").into()
}

pub(super) fn v6_at(bytes: &[u8], at: usize) -> IpAddr {
    <[u8; 16]>::try_from(&bytes[at..at + 16]).expect("sixteen bytes").into()
}

pub(super) fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
}

/// Parses a frame; `segments` and `left` are as in [`testkit::fixture::Sent`].
pub(crate) fn read(frame: &[u8], segments: (u32, u32), left: Left) -> Reading {
    if frame.len() < 14 {
        return Reading::Nameless(DropReason::Malformed);
    }
    let packet = &frame[14..];
    match u16_at(frame, 12) {
        0x0800 => read_v4(packet, segments, left),
        0x86dd => read_v6(packet, segments, left),
        // ARP has no checksum to fill in.
        0x0806 if left.checksum.is_some() => Reading::Nameless(DropReason::Malformed),
        0x0806 => read_arp(packet),
        _ => Reading::Nameless(DropReason::UnsupportedEthertype),
    }
}

fn read_arp(packet: &[u8]) -> Reading {
    let expected = [0, 1, 8, 0, 6, 4, 0];
    if packet.len() < 28 || packet[..7] != expected || !(1..=2).contains(&packet[7]) {
        return Reading::Nameless(DropReason::Malformed);
    }
    Reading::Arp(Arp {
        hardware: mac_at(packet, 8),
        sender: v4_at(packet, 14),
        target: v4_at(packet, 24),
        // As short as Ethernet's frames may be, without its header.
        roomy: packet.len() > 46,
    })
}

fn read_v4(packet: &[u8], segments: (u32, u32), left: Left) -> Reading {
    if packet.len() < 20 || packet[0] >> 4 != 4 {
        return Reading::Nameless(DropReason::Malformed);
    }
    let mut ip = Ip::unread(v4_at(packet, 12), v4_at(packet, 16), packet[9], packet.len());
    let header = usize::from(packet[0] & 15) * 4;
    let mut total = usize::from(u16_at(packet, 2));
    if total == 0 && segments.1 > 0 {
        total = packet.len();
    }
    if header < 20 || total < header || total > packet.len() {
        return Reading::Ip(ip);
    }
    ip.bytes = total as u64;
    if has_source_route(&packet[20..header]) {
        ip.body = Body::Bad(DropReason::SourceRouted);
        return Reading::Ip(ip);
    }
    let payload = total - header;
    let offset = usize::from(u16_at(packet, 6) & 0x1fff) * 8;
    let more = u16_at(packet, 6) & 0x2000 != 0;
    if segments.1 > 0 && (total < packet.len() || offset > 0 || more) {
        return Reading::Ip(ip);
    }
    if offset > 0 || more {
        ip.fragment = Some(Part::new(u32::from(u16_at(packet, 4)), offset, payload, more));
    }
    if offset > 0 {
        // The fragment must not overlap the transport header of the first one.
        if offset + payload <= 65535 && !(ip.protocol == 6 && offset < 20) && left.checksum.is_none() {
            ip.body = Body::Bad(DropReason::FragmentWithoutFirst);
        }
    } else if !(more && payload % 8 != 0) {
        let headers = transport(&mut ip, packet, header, total);
        ip.overwritten = overwrites(&ip, header, 0x0800, segments, left);
        count(&mut ip, total, headers, segments);
    }
    Reading::Ip(ip)
}

/// Whether the IPv4 options contain a loose or a strict source route.
fn has_source_route(mut options: &[u8]) -> bool {
    loop {
        options = match options {
            [131 | 137, _, ..] => return true,
            [1, rest @ ..] => rest,
            [kind, length, ..] if *kind > 0 && *length > 1 => options.get(usize::from(*length)..).unwrap_or_default(),
            _ => return false,
        };
    }
}

fn read_v6(packet: &[u8], segments: (u32, u32), left: Left) -> Reading {
    if packet.len() < 40 || packet[0] >> 4 != 6 {
        return Reading::Nameless(DropReason::Malformed);
    }
    let mut ip = Ip::unread(v6_at(packet, 8), v6_at(packet, 24), packet[6], packet.len());
    let said = usize::from(u16_at(packet, 4));
    let jumbo = said == 0 && segments.1 > 0;
    let total = if jumbo { packet.len() } else { 40 + said };
    if total > packet.len() {
        return Reading::Ip(ip);
    }
    // The length of a jumbogram is in a header that no segment has.
    let unsent = if jumbo && packet[6] == 0 { 8 } else { 0 };
    ip.bytes = total as u64;
    if is_mapped(ip.source) || is_mapped(ip.destination) || segments.1 > 0 && total < packet.len() {
        return Reading::Ip(ip);
    }
    let fragments_allowed = segments.1 == 0;
    match walk(&mut ip, packet, total, fragments_allowed, left) {
        Err(reason) => ip.body = Body::Bad(reason),
        Ok(at) => {
            let headers = transport(&mut ip, packet, at, total);
            ip.overwritten = overwrites(&ip, at, 0x86dd, segments, left);
            count(&mut ip, total - unsent, headers - unsent, segments);
        }
    }
    Reading::Ip(ip)
}

/// Follows the extension headers up to the transport header.
fn walk(ip: &mut Ip, packet: &[u8], total: usize, fragments_allowed: bool, left: Left) -> Result<usize, DropReason> {
    let mut at = 40;
    for number in 0.. {
        let next = ip.protocol;
        if ![0, 43, 44, 60].contains(&next) {
            break;
        }
        if number == 8 || next == 0 && number > 0 || at + 8 > packet.len() || 14 + at + 8 > REACH {
            return Err(DropReason::Malformed);
        }
        let length = match next {
            44 => {
                let word = u16_at(packet, at + 2);
                let (offset, more) = (usize::from(word & !7), word & 1 == 1);
                let Some(carries) = total.checked_sub(at + 8) else {
                    return Err(DropReason::Malformed);
                };
                if !fragments_allowed || more && carries % 8 != 0 || offset + carries + at - 40 > 65535 {
                    return Err(DropReason::Malformed);
                }
                // Each fragment header replaces the result of the previous one.
                let id = u32::from(u16_at(packet, at + 4)) << 16 | u32::from(u16_at(packet, at + 6));
                ip.fragment = (offset > 0 || more).then(|| Part::new(id, offset, carries, more));
                if offset > 0 {
                    ip.protocol = packet[at];
                    return Err(if ip.protocol == 6 && offset < 20 || left.checksum.is_some() {
                        DropReason::Malformed
                    } else {
                        DropReason::FragmentWithoutFirst
                    });
                }
                8
            }
            // Segments left.
            43 if packet[at + 3] > 0 => return Err(DropReason::SourceRouted),
            _ => 8 * (usize::from(packet[at + 1]) + 1),
        };
        ip.protocol = packet[at];
        at += length;
        if at > total {
            return Err(DropReason::Malformed);
        }
    }
    Ok(at)
}

/// Whether the kernel is still to write into bytes that the gate has read; the IP packet's transport header begins at
/// `at`.
fn overwrites(ip: &Ip, at: usize, ether_type: u16, segments: (u32, u32), left: Left) -> bool {
    let transport = 14 + i32::try_from(at).expect("no frame is so long");
    // The offset of the transport header's own checksum, and the offset at which an inner packet may begin.
    let (field, tunnel) = match &ip.body {
        Body::Bad(_) => return false,
        Body::Ports { .. } if ip.protocol == 6 => (Some(16), None),
        Body::Ports { .. } => (Some(6), Some(transport + 8)),
        Body::Icmp { .. } | Body::Neighbour { .. } | Body::IgmpQuery => (Some(2), None),
        Body::Other if ip.protocol == 2 && ip.source.is_ipv4() => (Some(2), None),
        Body::Other => (None, Some(transport)),
    };
    let in_tunnel = |place: i32| tunnel.is_some_and(|begins| place >= begins);
    let sums_elsewhere = |checksum: Checksum| {
        let is_own = checksum.start == transport && field == Some(checksum.offset);
        !is_own && !in_tunnel(checksum.start)
    };
    let cut_elsewhere = left.cut.filter(|_| segments.1 > 0).is_some_and(|cut| {
        let inside = cut.inner == i32::MAX || in_tunnel(cut.inner);
        cut.ether_type != ether_type || cut.header != 14 || !inside
    });
    left.checksum.is_some_and(sums_elsewhere) || cut_elsewhere
}

/// Counts the packets of a GSO packet, and their bytes.
fn count(ip: &mut Ip, total: usize, headers: usize, (segments, size): (u32, u32)) {
    if matches!(ip.body, Body::Bad(_)) || ip.overwritten || size == 0 {
        return;
    }
    let payload = (total - headers) as u64;
    // The kernel has only sixteen bits for the number of segments.
    let packets = if segments > 0 && payload / u64::from(size) <= 65535 {
        segments.into()
    } else {
        payload.div_ceil(size.into()).max(1)
    };
    ip.packets = packets;
    ip.bytes = total as u64 + (packets - 1) * headers as u64;
}
