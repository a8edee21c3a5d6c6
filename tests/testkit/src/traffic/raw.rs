//! Packets with headers of the test's choice.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket};

use crate::{ledger::Flow, netns::Netns};

fn header(flow: Flow) -> Result<PacketBuilderStep<IpHeaders>> {
    match (flow.source.ip(), flow.destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Ok(PacketBuilder::ipv4(from.octets(), to.octets(), 64)),
        (IpAddr::V6(from), IpAddr::V6(to)) => Ok(PacketBuilder::ipv6(from.octets(), to.octets(), 64)),
        _ => bail!("{flow:?} has two families"),
    }
}

/// A UDP packet of this flow, from the IP header on.
pub fn udp_packet(flow: Flow, data: &[u8]) -> Result<Vec<u8>> {
    let builder = header(flow)?.udp(flow.source.port(), flow.destination.port());
    let mut packet = Vec::with_capacity(builder.size(data.len()));
    builder.write(&mut packet, data)?;
    Ok(packet)
}

/// A SYN of this flow, from the IP header on.
pub fn syn_packet(flow: Flow) -> Result<Vec<u8>> {
    const ANY_SEQUENCE: u32 = 1;
    const ANY_WINDOW: u16 = 1024;
    let (source, destination) = (flow.source.port(), flow.destination.port());
    let builder = header(flow)?.tcp(source, destination, ANY_SEQUENCE, ANY_WINDOW).syn();
    let mut packet = Vec::with_capacity(builder.size(0));
    builder.write(&mut packet, &[])?;
    Ok(packet)
}

/// A TCP segment of this flow without data, from the IP header on.
pub fn segment_packet(flow: Flow, flags: u8, sequence: u32, acknowledged: u32) -> Result<Vec<u8>> {
    let mut header = etherparse::TcpHeader::new(flow.source.port(), flow.destination.port(), sequence, 1024);
    header.acknowledgment_number = acknowledged;
    header.fin = flags & 1 != 0;
    header.syn = flags & 2 != 0;
    header.rst = flags & 4 != 0;
    header.ack = flags & 16 != 0;
    let builder = self::header(flow)?.tcp_header(header);
    let mut packet = Vec::with_capacity(builder.size(0));
    builder.write(&mut packet, &[])?;
    Ok(packet)
}

/// An echo request of this flow, from the IP header on.
pub fn echo_packet(flow: Flow) -> Result<Vec<u8>> {
    let mut packet = Vec::new();
    match flow.source {
        SocketAddr::V4(_) => header(flow)?.icmpv4_echo_request(1, 1).write(&mut packet, b"data")?,
        SocketAddr::V6(_) => header(flow)?.icmpv6_echo_request(1, 1).write(&mut packet, b"data")?,
    }
    Ok(packet)
}

/// A socket that sends packets to addresses of the family of `to`, from their IP header on.
pub(super) fn raw_socket(netns: &Netns, to: IpAddr) -> Result<OwnedFd> {
    let family = match to {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let raw = netns.run(|| Ok(socket(family, SockType::Raw, flags, SockProtocol::Raw)?));
    raw.context("cannot open a raw socket")
}

/// Sends a packet unchanged, from its IP header on. Only its destination decides its route.
pub fn inject(netns: &Netns, packet: &[u8]) -> Result<()> {
    let sliced = etherparse::SlicedPacket::from_ip(packet)?;
    let to: IpAddr = match &sliced.net {
        Some(etherparse::NetSlice::Ipv4(ip)) => ip.header().destination_addr().into(),
        Some(etherparse::NetSlice::Ipv6(ip)) => ip.header().destination_addr().into(),
        _ => bail!("it is no IP packet"),
    };
    let raw = raw_socket(netns, to)?;
    let to = SockaddrStorage::from(SocketAddr::new(to, 0));
    sendto(raw.as_raw_fd(), packet, &to, MsgFlags::empty()).context("cannot send a packet as it is")?;
    Ok(())
}
