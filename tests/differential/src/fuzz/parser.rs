//! The parser on arbitrary bytes, with any part of them linear.

use std::fmt;

use taskgate_ebpf::{
    abi::{Address, DropReason, LinkId},
    host::{HostFrame, Left},
    packet::{
        Checksum, Cut, ETHERNET_BYTES, Frame, HARDWARE_UNREAD, IcmpKind, Kind, PULL_BYTES, Packet, Unparsed,
        hardware_number, parse, parse_quoted,
    },
};

use crate::{Body, Hardware, Ip, Part, Reading, Tally, read as naive_read};

// Shared, not copied: the parser's own tests compare with the same second parser.
#[path = "../../../../ebpf/tests/packet/second.rs"]
mod second;

const LINK: LinkId = LinkId::device(7);

/// A frame of which only the first bytes are linear. A read beyond the bytes that can be pulled in is a missing bounds
/// check, and panics.
#[derive(Clone, Copy)]
struct Linear<'a> {
    frame: HostFrame<'a>,
    readable: usize,
}

impl Frame for Linear<'_> {
    fn length(&self) -> u32 {
        self.frame.length()
    }

    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let end = at as usize + N;
        assert!(
            end <= PULL_BYTES as usize,
            "reads to byte {end}, which nobody would pull in"
        );
        if end > self.readable {
            return None;
        }
        self.frame.read(at)
    }

    fn link(&self) -> LinkId {
        self.frame.link()
    }

    fn came_by(&self) -> u32 {
        self.frame.came_by()
    }

    fn tagged(&self) -> bool {
        self.frame.tagged()
    }

    fn segments(&self) -> (u32, u32) {
        self.frame.segments()
    }

    fn checksum(&self) -> Option<Checksum> {
        self.frame.checksum()
    }

    fn cut(&self) -> Option<Cut> {
        self.frame.cut()
    }

    fn opaque(&self, value: u32) -> u32 {
        value
    }
}

/// Everything that the parser reads from a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Read {
    result: Result<(), Unparsed>,
    packet: Packet,
    /// The quoted packet, if any.
    quoted: Option<Packet>,
}

impl Read {
    /// Parses a frame; `before` is the previous content of the packet in the scratch.
    fn of(frame: &Linear<'_>, before: Packet) -> Self {
        let (mut packet, mut quoted) = (before, Packet::default());
        let result = parse(frame, &mut packet).and_then(|()| parse_quoted(frame, &packet, &mut quoted));
        let quotes = result.is_ok() && quoted.kind != Kind::None;
        Self {
            result,
            packet,
            quoted: quotes.then_some(quoted),
        }
    }

    fn name(&self) -> &'static str {
        match self.result {
            Err(Unparsed::Short) => "short",
            Err(Unparsed::Bad(reason)) => reason.name(),
            Ok(()) if self.quoted.is_some() => "quotes",
            Ok(()) if self.packet.later_fragment => "later fragment",
            Ok(()) if self.packet.first_fragment => "first fragment",
            Ok(()) => match self.packet.kind {
                Kind::None => "nothing",
                Kind::V4 => "IPv4",
                Kind::V6 => "IPv6",
                Kind::Arp => "ARP",
            },
        }
    }
}

/// Bits of the first byte: whether the frame has a VLAN tag in metadata, whether it is a GSO packet or has a checksum
/// that is yet to be filled in, and whether it gets an EtherType. Then the number of linear bytes, the segments and their
/// size, two bytes each; the rest is the frame. Returns the parser's result.
///
/// # Panics
/// If the parser reads bytes that do not exist, its result depends on something irrelevant, or differs from that of two
/// other parsers.
pub fn parser(data: &[u8]) -> Tally {
    let Some(([how, linear @ .., s0, s1, b0, b1], rest)) = data.split_first_chunk::<7>() else {
        return Tally::default();
    };
    let bytes = typed(*how, rest);
    let segments = match how & 2 {
        0 => (0, 0),
        _ => (
            u16::from_le_bytes([*s0, *s1]).into(),
            u16::from_le_bytes([*b0, *b1]).into(),
        ),
    };
    // Without segments, the same bytes give a checksum: where summing begins, and how much further on the sum is written.
    let left = Left {
        checksum: (how & 6 == 4).then(|| Checksum {
            start: i16::from_le_bytes([*s0, *s1]).into(),
            offset: u16::from_le_bytes([*b0, *b1]),
        }),
        cut: None,
    };
    let frame = HostFrame {
        bytes: &bytes,
        link: LINK,
        came_by: 0,
        tagged: how & 1 != 0,
        segments,
        left,
    };
    let all = Linear {
        frame,
        readable: bytes.len(),
    };
    let read = Read::of(&all, Packet::default());
    let told = |what: &dyn fmt::Debug| format!("{read:?}, {what:?}, segments {segments:?}, {left:?}: {bytes:02x?}");

    assert_ne!(read.result, Err(Unparsed::Short), "all of it is linear: {}", told(&()));
    let again = Read::of(&all, anything());
    assert_eq!(read, again, "what stood there before matters: {}", told(&()));
    lengths_are_the_frames(&read, &frame, &told);
    the_linear_part_does_not_matter(&read, all, u16::from_le_bytes(*linear).into(), &told);
    what_follows_does_not_matter(&read, &frame, &told);
    if frame.tagged {
        assert_eq!(
            read.result,
            Err(Unparsed::Bad(DropReason::UnsupportedEthertype)),
            "{}",
            told(&())
        );
        assert_eq!(read.packet.kind, Kind::None, "{}", told(&()));
    } else {
        others_read_the_same(&read, &frame, &told);
    }
    let mut tally = Tally::default();
    tally.0.insert(read.name(), 1);
    tally
}

type Told<'a> = dyn Fn(&dyn fmt::Debug) -> String + 'a;

/// The frame, with the type that the highest bits select.
fn typed(how: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = rest.to_vec();
    let head: &[u8] = match how >> 5 {
        0..2 => &[],
        2 | 3 => &[0x08, 0x00, 0x45],
        4 | 5 => &[0x86, 0xdd, 0x60],
        6 => &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0],
        _ => &[0x81, 0x00],
    };
    let end = 12 + head.len();
    if let Some(place) = bytes.get_mut(12..end) {
        place.copy_from_slice(head);
    }
    bytes
}

/// A packet whose every field is something.
fn anything() -> Packet {
    Packet {
        source: Address::from_bits(u128::MAX),
        destination: Address::from_bits(u128::MAX),
        target: Address::from_bits(u128::MAX),
        hardware: u64::MAX,
        bytes: u32::MAX,
        packets: 0,
        link: u32::MAX,
        came_by: u32::MAX,
        payload: u32::MAX,
        sequence: u16::MAX,
        acknowledged: u16::MAX,
        source_port: u16::MAX,
        destination_port: u16::MAX,
        protocol: u8::MAX,
        tcp_flags: u8::MAX,
        kind: Kind::Arp,
        exchange: IcmpKind::Error,
        neighbour: taskgate_ebpf::packet::Neighbour::ListenerReport,
        later_fragment: true,
        quoted_at: u16::MAX,
        quoted_end: u16::MAX,
        fragment_id: u32::MAX,
        first_fragment: true,
        tagged: true,
        says_router: true,
        roomy: true,
        reassembly_delta: i32::MIN,
    }
}

/// No length exceeds the frame, and a frame without segments is one packet.
fn lengths_are_the_frames(read: &Read, frame: &HostFrame<'_>, told: &Told<'_>) {
    let Read { packet, .. } = read;
    let length = frame.length();
    assert_ne!(packet.packets, 0, "{}", told(&()));
    assert_eq!(packet.link, LINK.get(), "{}", told(&()));
    if frame.segments.1 == 0 {
        assert_eq!(packet.packets, 1, "{}", told(&()));
        assert!(
            packet.kind == Kind::None || packet.bytes + ETHERNET_BYTES <= length,
            "{}",
            told(&())
        );
    }
    assert_eq!(packet.quoted_at == 0, packet.quoted_end == 0, "{}", told(&()));
    let (at, end) = (u32::from(packet.quoted_at), u32::from(packet.quoted_end));
    assert!(at <= end && end <= length.min(PULL_BYTES), "{}", told(&()));
}

/// Data that must be pulled in may change when a frame is judged, but not how.
fn the_linear_part_does_not_matter(read: &Read, all: Linear<'_>, readable: usize, told: &Told<'_>) {
    let reach = all.frame.bytes.len().min(PULL_BYTES as usize);
    let readable = readable % (reach + 1);
    let first = Read::of(&Linear { readable, ..all }, anything());
    if first.result == Err(Unparsed::Short) {
        assert!(readable < reach, "nothing to pull in: {}", told(&first));
        let pulled = Linear { readable: reach, ..all };
        assert_eq!(*read, Read::of(&pulled, first.packet), "pulled in: {}", told(&readable));
    } else {
        assert_eq!(*read, first, "{readable} bytes are linear: {}", told(&()));
    }
}

/// No byte behind the packet's end affects the verdict.
fn what_follows_does_not_matter(read: &Read, frame: &HostFrame<'_>, told: &Told<'_>) {
    let Read {
        result: Ok(()), packet, ..
    } = read
    else {
        return;
    };
    if frame.segments.1 != 0 {
        return;
    }
    let end = (ETHERNET_BYTES + packet.bytes) as usize;
    let mut other = frame.bytes.to_vec();
    other[end..].iter_mut().for_each(|byte| *byte = !*byte);
    other.push(0);
    let padded = Linear {
        frame: HostFrame {
            bytes: &other,
            ..*frame
        },
        readable: other.len(),
    };
    // Bytes behind the end may set only `roomy`, which counts only in neighbour messages.
    let but_for_room = |mut read: Read| {
        read.packet.roomy = false;
        read
    };
    assert_eq!(
        but_for_room(*read),
        but_for_room(Read::of(&padded, anything())),
        "behind byte {end}: {}",
        told(&other)
    );
    let cut = Linear {
        frame: HostFrame {
            bytes: &frame.bytes[..end],
            ..*frame
        },
        readable: end,
    };
    assert_eq!(
        but_for_room(*read),
        but_for_room(Read::of(&cut, anything())),
        "cut at byte {end}: {}",
        told(&())
    );
}

/// The oracle's naive reader and `etherparse`.
fn others_read_the_same(read: &Read, frame: &HostFrame<'_>, told: &Told<'_>) {
    let reading = naive_read(frame.bytes, frame.segments, frame.left);
    let Read { result, packet, quoted } = read;
    let ends = [packet.source, packet.destination];
    match &reading {
        Reading::Nameless(reason) => {
            assert_eq!(*result, Err(Unparsed::Bad(*reason)), "{}", told(&reading));
            assert_eq!(packet.kind, Kind::None, "{}", told(&reading));
        }
        Reading::Arp(arp) => {
            assert_eq!((*result, packet.kind), (Ok(()), Kind::Arp), "{}", told(&reading));
            assert_eq!(ends, [arp.sender, arp.target].map(Address::from), "{}", told(&reading));
            assert_eq!(packet.roomy, arp.roomy, "{}", told(&reading));
        }
        Reading::Ip(ip) => {
            let kind = if ip.source.is_ipv4() { Kind::V4 } else { Kind::V6 };
            assert_eq!(packet.kind, kind, "{}", told(&reading));
            assert_eq!(
                ends,
                [ip.source, ip.destination].map(Address::from),
                "{}",
                told(&reading)
            );
            assert_eq!(packet.protocol, ip.protocol, "{}", told(&reading));
            let counted = (u64::from(packet.packets), u64::from(packet.bytes));
            assert_eq!(
                counted,
                (ip.packets, ip.bytes.min(u32::MAX.into())),
                "{}",
                told(&reading)
            );
            assert_eq!(*result, expected(ip), "{}", told(&reading));
            if result.is_ok() {
                let fragment = (packet.first_fragment || packet.later_fragment).then_some(Part {
                    datagram: packet.fragment_id,
                    is_first: packet.first_fragment,
                    step: packet.reassembly_delta.into(),
                });
                assert_eq!(fragment, ip.fragment, "{}", told(&reading));
                assert!(
                    same_body(packet, quoted.as_ref(), &ip.body, ip.router_role),
                    "{}",
                    told(&reading)
                );
            }
        }
    }
    if result.is_ok() && frame.segments.1 == 0 {
        let differs = second::disagrees(frame.bytes, packet);
        assert_eq!(differs, None, "{}", told(&()));
    }
}

fn expected(ip: &Ip) -> Result<(), Unparsed> {
    match ip.body {
        _ if ip.overwritten => Err(Unparsed::Bad(DropReason::Malformed)),
        // The parser does not know first fragments.
        Body::Bad(DropReason::FragmentWithoutFirst) => Ok(()),
        Body::Bad(reason) => Err(Unparsed::Bad(reason)),
        _ => Ok(()),
    }
}

fn same_body(packet: &Packet, quoted: Option<&Packet>, body: &Body, router_role: bool) -> bool {
    use taskgate_ebpf::packet::Neighbour;
    let ports = (packet.source_port, packet.destination_port);
    let no_neighbour = packet.neighbour
        == if router_role {
            Neighbour::RouterRole
        } else {
            Neighbour::None
        };
    let says_router = |kind: u8| packet.kind == Kind::V4 && [5, 9].contains(&kind);
    match body {
        Body::Bad(_) => packet.later_fragment && no_neighbour && quoted.is_none(),
        Body::Ports {
            source,
            destination,
            flags,
            segment,
        } => {
            let said = (packet.sequence, packet.acknowledged, packet.payload);
            let expected = segment.map_or((0, 0, 0), |said| (said.sequence, said.acknowledged, said.payload));
            let same = ports == (*source, *destination) && packet.tcp_flags == *flags && said == expected;
            same && no_neighbour && quoted.is_none()
        }
        Body::Icmp {
            kind,
            code,
            identifier,
            quoted: theirs,
        } => {
            let asks = matches!(packet.exchange, IcmpKind::Request | IcmpKind::Reply);
            let named = if asks { *identifier } else { 0 };
            let same_quote = match (quoted, theirs) {
                (None, None) => true,
                (Some(ours), Some(theirs)) => {
                    [ours.source, ours.destination] == [theirs.source, theirs.destination].map(Address::from)
                        && ours.protocol == theirs.protocol
                        && same_body(ours, None, &theirs.body, false)
                }
                // The oracle looks later at whether a quoted message asks anything.
                (None, Some(theirs)) => matches!(theirs.body, Body::Icmp { .. }),
                (Some(_), None) => false,
            };
            ports == (named, u16::from_be_bytes([*kind, *code]))
                && packet.neighbour
                    == if router_role {
                        Neighbour::RouterRole
                    } else if says_router(*kind) {
                        Neighbour::Router
                    } else {
                        Neighbour::None
                    }
                && same_quote
        }
        Body::Neighbour {
            kind,
            code,
            target,
            hardware,
            router,
            roomy,
        } => {
            let target = target.map(Address::from).unwrap_or_default();
            ports.1 == u16::from_be_bytes([*kind, *code])
                && !no_neighbour
                && packet.target == target
                && packet.hardware == number(*hardware)
                && (packet.says_router, packet.roomy) == (*router, *roomy)
        }
        Body::IgmpQuery => ports == (0, 0) && packet.neighbour == Neighbour::ListenerQuery && quoted.is_none(),
        Body::Other => ports == (0, 0) && no_neighbour && quoted.is_none(),
    }
}

fn number(hardware: Hardware) -> u64 {
    match hardware {
        Hardware::None => 0,
        Hardware::Is(mac) => hardware_number(mac),
        Hardware::Unread => HARDWARE_UNREAD,
    }
}
