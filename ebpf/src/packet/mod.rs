//! The parser: reads the header fields that a verdict needs from a frame.
//!
//! The parser reads only through [`Frame`]: in the kernel, the packet's linear part with one bounds check per read; on the
//! host, a byte slice. The result is a [`Packet`] in memory outside the stack.

mod icmp;
mod ip4;
mod ip6;
mod neighbour;
mod offload;
mod quoted;

pub(crate) use icmp::{exchange, request_of};
pub use neighbour::{HARDWARE_UNREAD, Neighbour, hardware_number};
pub use offload::{Checksum, Cut};
use offload::{Judged, checksum_is_own, cut_is_honest, no_checksum};
pub use quoted::parse_quoted;

use core::num::NonZeroU32;

use crate::{
    abi::{Address, DropReason, LinkId},
    conntrack::Segment,
    wire::{ICMP, ICMPV6, IGMP, PIM, TCP, UDP, ether_type},
};

/// A frame on a link, and the kernel's metadata about it.
pub trait Frame {
    /// The frame's whole length in bytes, Ethernet header included, whether or not all of it can be read now.
    fn length(&self) -> u32;
    /// `N` bytes from `at`, or `None` where they cannot be read now.
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]>;
    /// The link that carries the frame.
    fn link(&self) -> LinkId;
    /// The ifindex of the first link of this host that received the frame; 0 if there is none.
    fn came_by(&self) -> u32;
    /// Whether the frame has a VLAN tag that names no branch.
    fn tagged(&self) -> bool;
    /// The number of segments and the payload bytes in each, for a GSO or GRO packet, which is several packets on the wire;
    /// a size of 0 for a single packet. The number of segments may be 0 if the kernel has not counted them.
    fn segments(&self) -> (u32, u32);
    /// The pending checksum (`CHECKSUM_PARTIAL`); `None` if there is none, or if it is unknown.
    fn checksum(&self) -> Option<Checksum>;
    /// How a GSO packet will be segmented; `None` if unknown.
    fn cut(&self) -> Option<Cut>;
    /// As [`crate::tables::Tables::opaque`].
    fn opaque(&self, value: u32) -> u32;
}

/// The Ethernet header of a frame, for rare reads off the established path.
pub trait Ethernet {
    /// The destination hardware address, if it can be read.
    fn destination(&self) -> Option<[u8; 6]>;
}

/// The kind of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A frame without IP addresses.
    #[default]
    None = 0,
    /// IPv4.
    V4 = 1,
    /// IPv6.
    V6 = 2,
    /// ARP: the addresses are the sender's and the target's.
    Arp = 3,
}

/// The place of an ICMP message in an exchange, by its transport header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum IcmpKind {
    /// Not ICMP, or a message outside of any exchange.
    #[default]
    None = 0,
    /// A request, with an identifier.
    Request = 1,
    /// A reply, with the request's identifier.
    Reply = 2,
    /// An error about a packet that it quotes.
    Error = 3,
}

impl IcmpKind {
    /// The kind with this number; [`Self::None`] for any other number.
    #[inline(always)]
    pub(crate) const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Request,
            2 => Self::Reply,
            3 => Self::Error,
            _ => Self::None,
        }
    }
}

/// A parsed packet. Ports are numbers in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Packet {
    /// The source address.
    pub source: Address,
    /// The destination address.
    pub destination: Address,
    /// ARP and neighbour discovery: the target address, requested or announced.
    pub target: Address,
    /// ARP and neighbour discovery: the hardware address that the message gives for its sender or target, as
    /// [`hardware_number`] encodes it. 0: none; [`HARDWARE_UNREAD`]: unknown.
    pub hardware: u64,
    /// IP bytes on the wire, headers counted once per segment.
    pub bytes: u32,
    /// Packets on the wire.
    pub packets: u32,
    /// The number of the link that carried the packet.
    pub link: u32,
    /// The ifindex of the first link of this host that received the packet; 0 if it was sent by this host, or is unknown.
    pub came_by: u32,
    /// TCP: bytes of payload, of all segments together.
    pub payload: u32,
    /// TCP: the sequence number, its low 16 bits.
    pub sequence: u16,
    /// TCP: the acknowledgement number, its low 16 bits.
    pub acknowledged: u16,
    /// TCP and UDP: the source port. ICMP: the identifier of a request or reply, else 0.
    pub source_port: u16,
    /// TCP and UDP: the destination port. ICMP: type and code (`type << 8 | code`).
    pub destination_port: u16,
    /// IP protocol of the transport header.
    pub protocol: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// IPv4, IPv6, ARP, or none of them.
    pub kind: Kind,
    /// ICMP: request, reply or error.
    pub exchange: IcmpKind,
    /// The kind of message, if it is a neighbour message.
    pub neighbour: Neighbour,
    /// Whether it is a fragment other than the first, without a transport header.
    pub later_fragment: bool,
    /// Offset in the frame of the packet that an ICMP error quotes; 0 for all other packets.
    pub quoted_at: u16,
    /// Offset in the frame where the quoting packet ends, at most [`PULL_BYTES`].
    pub quoted_end: u16,
    /// The identification of a fragment's datagram; else 0.
    pub fragment_id: u32,
    /// Whether it is the first of several fragments.
    pub first_fragment: bool,
    /// Whether it has a VLAN tag that names no branch.
    pub tagged: bool,
    /// Whether it is a neighbour advertisement with the router flag.
    pub says_router: bool,
    /// ARP, neighbour discovery, listener reports: whether the message has room for more data than hosts send.
    pub roomy: bool,
    /// This fragment's share of the reassembly counter: its payload length, minus the datagram's length for the last
    /// fragment. All shares sum to zero, in any order.
    pub reassembly_delta: i32,
}

impl Packet {
    /// The packet's TCP segment; `None` for a later fragment.
    #[inline(always)]
    pub(crate) const fn segment(&self) -> Option<Segment> {
        if self.later_fragment {
            return None;
        }
        Some(Segment {
            flags: self.tcp_flags,
            sequence: self.sequence,
            acknowledged: self.acknowledged,
            payload: self.payload,
        })
    }

    /// The TCP segment, read unconditionally, and whether it is valid. Before Linux 6.8 the verifier does not see that a
    /// value read under a condition is used under the same condition only.
    #[inline(always)]
    pub(crate) fn segment_in_any_case(&self, opaque: impl Fn(u32) -> u32) -> (Segment, bool) {
        let numbers = opaque((self.sequence as u32) << 16 | self.acknowledged as u32);
        let segment = Segment {
            flags: opaque(self.tcp_flags as u32) as u8,
            sequence: (numbers >> 16) as u16,
            acknowledged: numbers as u16,
            payload: opaque(self.payload),
        };
        (segment, !self.later_fragment)
    }
}

/// Why a frame could not be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unparsed {
    /// The frame has more bytes than can be read now: pull them in and parse again.
    Short,
    /// The packet is refused for this reason. If [`Packet::kind`] is set, its addresses are known.
    Bad(DropReason),
}

/// Bytes of an Ethernet header.
pub const ETHERNET_BYTES: u32 = 14;

/// The bytes that [`parse`] may read: enough for IPv6 with extension headers, and few enough to be pulled in. A packet whose
/// headers extend beyond them is malformed, even if its bytes are in the linear part.
pub const PULL_BYTES: u32 = 256;

/// Parses a frame into `packet`, all of whose fields are set.
///
/// # Errors
/// [`Unparsed::Short`] if a header lies beyond the readable bytes; [`Unparsed::Bad`] with the reason otherwise.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F, packet: &mut Packet) -> Result<(), Unparsed> {
    *packet = Packet {
        packets: 1,
        link: frame.link().get(),
        came_by: frame.came_by(),
        tagged: frame.tagged(),
        ..Packet::default()
    };
    if packet.tagged {
        return Err(Unparsed::Bad(DropReason::UnsupportedEthertype));
    }
    match u16::from_be_bytes(read::<F, 2>(frame, ETHERNET_BYTES - 2)?) {
        ether_type::IPV4 => ip4::parse(frame, packet),
        ether_type::IPV6 => ip6::parse(frame, packet),
        ether_type::ARP => neighbour::parse_arp(frame, packet),
        ether_type::VLAN | ether_type::PROVIDER_VLAN => {
            packet.tagged = true;
            Err(Unparsed::Bad(DropReason::UnsupportedEthertype))
        }
        _ => Err(Unparsed::Bad(DropReason::UnsupportedEthertype)),
    }
}

/// Reads `N` bytes at `at`: a frame without them is malformed, a frame with them outside the linear part is short.
#[inline(always)]
fn read<F: Frame, const N: usize>(frame: &F, at: u32) -> Result<[u8; N], Unparsed> {
    if at > PULL_BYTES - N as u32 {
        return Err(Unparsed::Bad(DropReason::Malformed));
    }
    match frame.read::<N>(at) {
        Some(bytes) => Ok(bytes),
        None if at + N as u32 > frame.length() => Err(Unparsed::Bad(DropReason::Malformed)),
        None => Err(Unparsed::Short),
    }
}

/// 1 if two numbers below 2^63 are equal, else 0: by arithmetic, which gives the verifier no branch to walk.
#[inline(always)]
pub(crate) const fn same(a: u64, b: u64) -> u64 {
    (a ^ b).wrapping_sub(1) >> 63
}

/// 1 if an address is multicast (RFC 1112, 4; RFC 4291, 2.7) or limited broadcast, else 0.
#[inline(always)]
pub(crate) const fn is_group(v6: bool, address: Address) -> u64 {
    if v6 {
        same(address.halves()[0] >> 56, 0xff)
    } else {
        let v4 = address.v4() as u64;
        same(v4 >> 28, 0xe) | same(v4, 0xffff_ffff)
    }
}

/// The position of the transport header in its packet.
#[derive(Clone, Copy)]
struct Transport {
    /// Offset of the transport header in the frame.
    at: u32,
    /// Bytes from there to the end of the IP packet; for a GSO packet, of all its segments together.
    room: u32,
    /// Bytes of the IP header with its options or extension headers.
    header: u32,
}

/// Reads the transport header, and computes the packets and bytes on the wire.
#[inline(always)]
fn parse_transport<F: Frame>(frame: &F, packet: &mut Packet, place: Transport) -> Result<(), Unparsed> {
    let Transport { at, room, header } = place;
    let mut headers = header;
    let judged = match packet.protocol {
        TCP => {
            need(room, 20)?;
            let tcp = read::<F, 14>(frame, at)?;
            let length = ((tcp[12] >> 4) as u32) << 2;
            if length < 20 {
                return Err(Unparsed::Bad(DropReason::Malformed));
            }
            need(room, length)?;
            packet.source_port = u16::from_be_bytes([tcp[0], tcp[1]]);
            packet.destination_port = u16::from_be_bytes([tcp[2], tcp[3]]);
            packet.tcp_flags = tcp[13];
            packet.sequence = u16::from_be_bytes([tcp[6], tcp[7]]);
            packet.acknowledged = u16::from_be_bytes([tcp[10], tcp[11]]);
            packet.payload = room - length;
            headers += length;
            Judged::TCP
        }
        UDP => {
            need(room, 8)?;
            let udp = read::<F, 4>(frame, at)?;
            packet.source_port = u16::from_be_bytes([udp[0], udp[1]]);
            packet.destination_port = u16::from_be_bytes([udp[2], udp[3]]);
            headers += 8;
            Judged::UDP
        }
        ICMP if packet.kind as u8 == Kind::V4 as u8 => {
            icmp::parse(frame, packet, at, room)?;
            Judged::ICMP
        }
        ICMPV6 if packet.kind as u8 == Kind::V6 as u8 => {
            icmp::parse(frame, packet, at, room)?;
            Judged::ICMP
        }
        IGMP if packet.kind as u8 == Kind::V4 as u8 => {
            neighbour::mark_igmp(frame, packet, at, room)?;
            Judged::ICMP
        }
        PIM => {
            neighbour::mark_pim(frame, packet, at, room)?;
            Judged::OTHER
        }
        _ => Judged::OTHER,
    };
    checksum_is_own(frame, at, judged)?;
    let (segments, size) = frame.segments();
    if size != 0 {
        cut_is_honest(frame, packet, at, judged)?;
    }
    packet.bytes = header + room;
    if let Some(size) = NonZeroU32::new(size) {
        let payload = (header + room).saturating_sub(headers);
        // The kernel's segment count has 16 bits; a large packet with tiny segments exceeds them.
        let counted = if segments != 0 && payload >> 16 < size.get() {
            segments
        } else {
            payload.div_ceil(size.get())
        };
        packet.packets = if counted == 0 { 1 } else { counted };
        // Each segment on the wire has the headers again.
        packet.bytes = (header + room).saturating_add((packet.packets - 1).saturating_mul(headers));
    }
    Ok(())
}

/// A later fragment must not overlap the transport header, which the first fragment has to hold whole (RFC 1858, 3.2; RFC
/// 3128, 2). Offsets are multiples of eight, so only TCP's header is longer than the smallest offset.
#[inline(always)]
const fn beyond_header(protocol: u8, offset: u32) -> Result<(), Unparsed> {
    if protocol == TCP && offset < 20 {
        Err(Unparsed::Bad(DropReason::Malformed))
    } else {
        Ok(())
    }
}

/// [`Packet::reassembly_delta`] of a fragment. The datagram ends with the last fragment, at its offset plus its payload
/// length, so that fragment's share is the negative offset.
#[inline(always)]
const fn step(offset: u32, carries: u32, more: bool) -> i32 {
    if more {
        carries.cast_signed()
    } else {
        -offset.cast_signed()
    }
}

/// Checks that `bytes` bytes lie within the packet.
#[inline(always)]
const fn need(room: u32, bytes: u32) -> Result<(), Unparsed> {
    if room < bytes {
        Err(Unparsed::Bad(DropReason::Malformed))
    } else {
        Ok(())
    }
}
