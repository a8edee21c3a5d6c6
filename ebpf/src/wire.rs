//! Protocol numbers on the wire, under the names in their standards.

/// ICMP, over IPv4.
pub const ICMP: u8 = 1;
/// IGMP, over IPv4.
pub const IGMP: u8 = 2;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;
/// Protocol Independent Multicast.
pub const PIM: u8 = 103;

/// Ethertypes.
pub mod ether_type {
    /// IPv4 (RFC 894).
    pub const IPV4: u16 = 0x0800;
    /// ARP (RFC 826).
    pub const ARP: u16 = 0x0806;
    /// A VLAN tag (IEEE 802.1Q), which names a branch of the trunk.
    pub const VLAN: u16 = 0x8100;
    /// IPv6 (RFC 2464).
    pub const IPV6: u16 = 0x86dd;
    /// A provider's VLAN tag (IEEE 802.1ad), around another one.
    pub const PROVIDER_VLAN: u16 = 0x88a8;
}

/// TCP header flags (RFC 9293, 3.1).
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 16;
}

/// Types of ICMP messages (RFC 792; 9: RFC 1256; 17 and 18: RFC 950).
#[expect(missing_docs, reason = "the names are the standards'")]
pub mod icmp {
    pub const ECHO_REPLY: u8 = 0;
    pub const UNREACHABLE: u8 = 3;
    pub const REDIRECT: u8 = 5;
    pub const ECHO: u8 = 8;
    pub const ROUTER_ADVERTISEMENT: u8 = 9;
    pub const TIME_EXCEEDED: u8 = 11;
    pub const PARAMETER_PROBLEM: u8 = 12;
    pub const TIMESTAMP: u8 = 13;
    pub const TIMESTAMP_REPLY: u8 = 14;
    pub const INFORMATION_REQUEST: u8 = 15;
    pub const INFORMATION_REPLY: u8 = 16;
    pub const ADDRESS_MASK_REQUEST: u8 = 17;
    pub const ADDRESS_MASK_REPLY: u8 = 18;
    /// The code of [`UNREACHABLE`] for a packet that is too long and must not be fragmented.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Reserved here and in ICMPv6: refused by the parser, and used as a marker in the keys of tracked requests.
    pub const RESERVED: u8 = 255;
}

/// Types of ICMPv6 messages (RFC 4443; neighbour discovery: RFC 4861; listener discovery: RFC 2710, RFC 3810; multicast
/// router discovery: RFC 4286).
#[expect(missing_docs, reason = "the names are the standards'")]
pub mod icmpv6 {
    pub const UNREACHABLE: u8 = 1;
    pub const PACKET_TOO_BIG: u8 = 2;
    pub const TIME_EXCEEDED: u8 = 3;
    pub const PARAMETER_PROBLEM: u8 = 4;
    pub const ECHO_REQUEST: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
    pub const LISTENER_QUERY: u8 = 130;
    pub const LISTENER_REPORT: u8 = 131;
    pub const LISTENER_DONE: u8 = 132;
    pub const ROUTER_SOLICITATION: u8 = 133;
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    pub const NEIGHBOR_SOLICITATION: u8 = 135;
    pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
    pub const REDIRECT: u8 = 137;
    pub const LISTENER_REPORT_V2: u8 = 143;
    pub const MULTICAST_ROUTER_ADVERTISEMENT: u8 = 151;
    pub const MULTICAST_ROUTER_SOLICITATION: u8 = 152;
    pub const MULTICAST_ROUTER_TERMINATION: u8 = 153;
}

/// Types of IGMP messages (RFC 3376; DVMRP and PIM of version 1: RFC 3228; multicast router discovery: RFC 4286).
#[expect(missing_docs, reason = "the names are the standards'")]
pub mod igmp {
    pub const MEMBERSHIP_QUERY: u8 = 0x11;
    pub const DVMRP: u8 = 0x13;
    pub const PIM_V1: u8 = 0x14;
    pub const MULTICAST_ROUTER_ADVERTISEMENT: u8 = 0x30;
    pub const MULTICAST_ROUTER_SOLICITATION: u8 = 0x31;
    pub const MULTICAST_ROUTER_TERMINATION: u8 = 0x32;
}

/// UDP ports of DHCP.
pub mod dhcp {
    /// The client's (RFC 2131, 4.1).
    pub const CLIENT: u16 = 68;
    /// The server's (RFC 2131, 4.1).
    pub const SERVER: u16 = 67;
    /// The client's in IPv6 (RFC 8415, 7.2).
    pub const CLIENT_V6: u16 = 546;
    /// The server's in IPv6 (RFC 8415, 7.2).
    pub const SERVER_V6: u16 = 547;
}
