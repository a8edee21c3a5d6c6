//! Frames for the parser's tests, encoded by `etherparse` and never by taskgate's own code.

use etherparse::{
    EtherType, Ethernet2Header, IpAuthHeader, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header, Ipv6RawExtHeader,
    TcpHeader,
};
use taskgate_ebpf::{
    abi::{Address, LinkId},
    host::HostFrame,
    packet::{Packet, Unparsed, parse},
};

pub(crate) const LINK: LinkId = LinkId::device(7);
pub(crate) const SOURCE4: [u8; 4] = [10, 0, 1, 7];
pub(crate) const DESTINATION4: [u8; 4] = [192, 0, 2, 9];
pub(crate) const SOURCE6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
pub(crate) const DESTINATION6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

/// Parses a frame of one packet.
pub(crate) fn parsed(bytes: &[u8]) -> (Result<(), Unparsed>, Packet) {
    parsed_as(&HostFrame::new(bytes, LINK))
}

pub(crate) fn parsed_as(frame: &HostFrame<'_>) -> (Result<(), Unparsed>, Packet) {
    // Earlier values must not matter.
    let mut packet = Packet {
        bytes: 0xdead_beef,
        tcp_flags: 0xff,
        later_fragment: true,
        source: Address::new(1, 1),
        ..Packet::default()
    };
    (parse(frame, &mut packet), packet)
}

pub(crate) fn ethernet(ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header {
        source: [2, 0, 0, 0, 0, 1],
        destination: [2, 0, 0, 0, 0, 2],
        ether_type,
    };
    [&header.to_bytes()[..], payload].concat()
}

/// An IPv4 packet; `change` may modify the header before it is encoded, except for its length.
pub(crate) fn ipv4(protocol: u8, payload: &[u8], change: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let mut header =
        Ipv4Header::new(0, 64, IpNumber(protocol), SOURCE4, DESTINATION4).expect("no payload is not too much");
    change(&mut header);
    header.set_payload_len(payload.len()).expect("a payload below 64 KiB");
    ethernet(EtherType::IPV4, &[&header.to_bytes()[..], payload].concat())
}

/// Options of a length that is a multiple of four.
pub(crate) fn options(bytes: &[u8]) -> Ipv4Options {
    bytes.try_into().expect("at most 40 bytes, in words")
}

/// An IPv6 packet; `payload` begins with the header that `next` names.
pub(crate) fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        payload_length: payload.len() as u16,
        next_header: IpNumber(next),
        hop_limit: 64,
        source: SOURCE6,
        destination: DESTINATION6,
        ..Ipv6Header::default()
    };
    ethernet(EtherType::IPV6, &[&header.to_bytes()[..], payload].concat())
}

/// Hop-by-hop options, destination options or a routing header of 8 × `units` bytes.
pub(crate) fn extension(next: u8, units: usize, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6RawExtHeader::new_raw(IpNumber(next), &vec![0; 8 * units - 2]).expect("whole units");
    [&header.to_bytes()[..], payload].concat()
}

/// An authentication header with an ICV of 4 × `words` bytes.
pub(crate) fn authentication(next: u8, words: usize, payload: &[u8]) -> Vec<u8> {
    let icv = vec![0; 4 * words];
    let header = IpAuthHeader::new(IpNumber(next), 1, 2, &icv).expect("whole words");
    [&header.to_bytes()[..], payload].concat()
}

/// A fragment header; `offset` in units of 8 bytes.
pub(crate) fn fragment(next: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    [&[next, 0, high, low, 0, 0, 0, 1][..], payload].concat()
}

/// A TCP segment with 4 × `option_words` bytes of options.
pub(crate) fn tcp(source: u16, destination: u16, option_words: usize, payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(source, destination, 1000, 2000);
    header.syn = true;
    header.ack = true;
    header
        .set_options_raw(&vec![1; 4 * option_words])
        .expect("at most 40 bytes");
    [&header.to_bytes()[..], payload].concat()
}

pub(crate) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let [s0, s1] = source.to_be_bytes();
    let [d0, d1] = destination.to_be_bytes();
    let [l0, l1] = (8 + payload.len() as u16).to_be_bytes();
    [&[s0, s1, d0, d1, l0, l1, 0, 0][..], payload].concat()
}

/// An ICMP or ICMPv6 message with an identifier (or another field in its place), and the bytes after its first eight.
pub(crate) fn icmp(kind: u8, code: u8, identifier: u16, payload: &[u8]) -> Vec<u8> {
    let [i0, i1] = identifier.to_be_bytes();
    [&[kind, code, 0, 0, i0, i1, 0, 1][..], payload].concat()
}

/// The bytes with some of them changed.
pub(crate) fn with(mut bytes: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    for &(at, value) in changes {
        bytes[at] = value;
    }
    bytes
}

/// The bytes without the last ones.
pub(crate) fn without_last(mut bytes: Vec<u8>, count: usize) -> Vec<u8> {
    bytes.truncate(bytes.len() - count);
    bytes
}
