//! Expected results of the parser.

use taskgate_ebpf::{
    abi::{Address, DropReason},
    packet::{Kind, Packet, Unparsed},
};

use crate::frames::*;

pub(crate) const MALFORMED: Result<(), Unparsed> = Err(Unparsed::Bad(DropReason::Malformed));
pub(crate) const SOURCE_ROUTED: Result<(), Unparsed> = Err(Unparsed::Bad(DropReason::SourceRouted));
pub(crate) const UNSUPPORTED: Result<(), Unparsed> = Err(Unparsed::Bad(DropReason::UnsupportedEthertype));

/// The packet of a frame without addresses.
pub(crate) fn nothing() -> Packet {
    Packet {
        packets: 1,
        link: LINK.get(),
        ..Packet::default()
    }
}

pub(crate) fn v4(protocol: u8, bytes: u32) -> Packet {
    Packet {
        source: Address::from_v4_octets(SOURCE4),
        destination: Address::from_v4_octets(DESTINATION4),
        bytes,
        protocol,
        kind: Kind::V4,
        ..nothing()
    }
}

pub(crate) fn v6(protocol: u8, bytes: u32) -> Packet {
    Packet {
        source: Address::from_octets(SOURCE6),
        destination: Address::from_octets(DESTINATION6),
        bytes,
        protocol,
        kind: Kind::V6,
        ..nothing()
    }
}

/// A SYN-ACK from port 80 to 443.
pub(crate) fn ports(packet: Packet) -> Packet {
    Packet {
        source_port: 80,
        destination_port: 443,
        tcp_flags: 0x12,
        ..packet
    }
}

/// The identification that the frame builders use.
fn identification(packet: &Packet) -> u32 {
    u32::from(packet.kind == Kind::V6)
}

/// A first fragment; `step`: its reassembly delta.
pub(crate) fn first(step: i32, packet: Packet) -> Packet {
    Packet {
        first_fragment: true,
        reassembly_delta: step,
        fragment_id: identification(&packet),
        ..packet
    }
}

/// A later fragment; `step`: its reassembly delta, negative for the last one.
pub(crate) fn later(step: i32, packet: Packet) -> Packet {
    Packet {
        later_fragment: true,
        reassembly_delta: step,
        fragment_id: identification(&packet),
        ..packet
    }
}

/// The low 16 bits of the numbers that [`tcp`] writes, and the payload: the bytes after the TCP header, to the packet's end.
fn segment(frame: &[u8], packet: Packet) -> Packet {
    const ETHERNET: usize = 14;
    let begins = |bytes: &[u8]| bytes[..2] == [0, 80] && bytes[4..] == [0, 0, 3, 232];
    let found = frame.windows(8).position(begins);
    let at = found.expect("a segment from port 80");
    let header = usize::from(frame[at + 12] >> 4) * 4;
    Packet {
        sequence: 1000,
        payload: (ETHERNET + packet.bytes as usize - at - header) as u32,
        ..packet
    }
}

#[track_caller]
pub(crate) fn check(rows: impl IntoIterator<Item = (&'static str, Vec<u8>, Result<(), Unparsed>, Packet)>) {
    for (name, frame, result, packet) in rows {
        let has_segment = result.is_ok() && packet.protocol == 6 && !packet.later_fragment;
        let packet = if has_segment { segment(&frame, packet) } else { packet };
        assert_eq!(parsed(&frame), (result, packet), "{name}: {frame:02x?}");
    }
}
