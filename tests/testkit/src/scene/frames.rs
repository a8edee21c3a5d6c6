//! Frames, byte by byte: what the code under test reads, it has not written.

use std::net::IpAddr;

/// TCP flags.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronize.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// The acknowledgement counts.
    pub const ACK: u8 = 16;
    /// The second packet of a connection.
    pub const SYN_ACK: u8 = SYN | ACK;
}

/// The hardware address that sends every frame here.
pub const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The one that every frame goes to.
pub const TASK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// An Ethernet frame.
pub fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A frame with a VLAN tag in its data.
pub fn tagged(vlan: u16, frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &vlan.to_be_bytes(), &frame[12..]].concat()
}

/// An IPv4 or IPv6 packet, by its addresses, which must be of one family.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match source {
        IpAddr::V4(_) => ipv4(source, destination, protocol, &[], 0, payload),
        IpAddr::V6(_) => ipv6(source, destination, protocol, 64, payload),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// An IPv4 packet. `options`: in whole words. `fragment`: the header's word, flags and offset in units of 8 bytes.
pub fn ipv4(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    options: &[u8],
    fragment: u16,
    payload: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let mut bytes = vec![0x40 | (header / 4) as u8, 0];
    bytes.extend(((header + payload.len()) as u16).to_be_bytes());
    bytes.extend([0x12, 0x34]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(octets(source));
    bytes.extend(octets(destination));
    bytes.extend(options);
    bytes.extend(payload);
    ethernet(0x0800, &bytes)
}

/// "More fragments" in IPv4's word.
pub const MORE_FRAGMENTS: u16 = 0x2000;

/// An IPv6 packet; `payload` begins with the header that `next` names.
pub fn ipv6(source: IpAddr, destination: IpAddr, next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend([next, hop_limit]);
    bytes.extend(octets(source));
    bytes.extend(octets(destination));
    bytes.extend(payload);
    ethernet(0x86dd, &bytes)
}

/// An extension header of 8 × `units` bytes in front of what `next` names.
pub fn extension(next: u8, units: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, units - 1];
    bytes.resize(8 * usize::from(units), 0);
    bytes.extend(payload);
    bytes
}

/// An authentication header with 4 × `words` bytes beyond its first eight.
pub fn authentication(next: u8, words: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![next, words];
    bytes.resize(8 + 4 * usize::from(words), 0);
    bytes.extend(payload);
    bytes
}

/// A fragment header of IPv6; `offset` in units of 8 bytes.
pub fn fragment(next: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    [&[next, 0, high, low, 0, 0, 0, 1], payload].concat()
}

/// A TCP segment without options, with the numbers that both sides have in a connection without data: they begin at 1.
pub fn tcp(source: u16, destination: u16, tcp_flags: u8, payload: &[u8]) -> Vec<u8> {
    let sequence = if tcp_flags & flags::SYN == 0 { 2 } else { 1 };
    tcp_at(source, destination, tcp_flags, (sequence, 2), payload)
}

/// A TCP segment without options: where it begins, and what it acknowledges.
pub fn tcp_at(
    source: u16,
    destination: u16,
    flags: u8,
    (sequence, acknowledged): (u32, u32),
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(acknowledged.to_be_bytes());
    bytes.extend([0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    bytes.extend(payload);
    bytes
}

/// A UDP datagram.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(destination.to_be_bytes());
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

/// An ICMP or ICMPv6 message; `payload` follows its first eight bytes.
pub fn icmp(kind: u8, code: u8, identifier: u16, payload: &[u8]) -> Vec<u8> {
    let [high, low] = identifier.to_be_bytes();
    [&[kind, code, 0, 0, high, low, 0, 1], payload].concat()
}

/// A message of neighbour discovery about `target`, with the hop limit that it must have.
pub fn neighbour(source: IpAddr, destination: IpAddr, kind: u8, target: IpAddr) -> Vec<u8> {
    ipv6(source, destination, 58, 255, &icmp(kind, 0, 0, &octets(target)))
}

/// An ARP request (1) or reply (2).
pub fn arp(operation: u8, sender: IpAddr, target: IpAddr) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 1];
    bytes.extend(octets(sender));
    bytes.extend([0; 6]);
    bytes.extend(octets(target));
    ethernet(0x0806, &bytes)
}

/// A frame with what a router, or a bridge with netfilter, wants to be right: IPv4's header checksum.
pub fn with_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[12..14] == [8, 0] {
        let header = 14 + usize::from(frame[14] & 15) * 4;
        frame[24..26].fill(0);
        let words = frame[14..header].chunks_exact(2);
        let sum: u32 = words
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
    frame
}

/// The headers of a packet as an ICMP error quotes them: `frame` without Ethernet, its first `length` bytes.
pub fn quoted(frame: &[u8], length: usize) -> Vec<u8> {
    frame[14..].iter().copied().take(length).collect()
}
