//! Packets with headers of the test's choice.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result, bail};
use etherparse::PacketBuilder;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket};

use crate::{ledger::Flow, netns::Netns};

/// A UDP packet of this flow, from the IP header on.
pub fn udp_packet(flow: Flow, data: &[u8]) -> Result<Vec<u8>> {
    let (source, destination) = (flow.source, flow.destination);
    let builder = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => bail!("{flow:?} has two families"),
    };
    let builder = builder.udp(source.port(), destination.port());
    let mut packet = Vec::with_capacity(builder.size(data.len()));
    builder.write(&mut packet, data)?;
    Ok(packet)
}

/// Sends a packet, from its IP header on, as it is. Only its destination decides where it goes.
pub fn inject(netns: &Netns, packet: &[u8]) -> Result<()> {
    let sliced = etherparse::SlicedPacket::from_ip(packet)?;
    let (family, to): (_, IpAddr) = match &sliced.net {
        Some(etherparse::NetSlice::Ipv4(ip)) => (AddressFamily::Inet, ip.header().destination_addr().into()),
        Some(etherparse::NetSlice::Ipv6(ip)) => (AddressFamily::Inet6, ip.header().destination_addr().into()),
        _ => bail!("it is no IP packet"),
    };
    let raw = netns.run(|| {
        Ok(socket(
            family,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Raw,
        )?)
    });
    let raw = raw.context("cannot open a raw socket")?;
    let to = SockaddrStorage::from(SocketAddr::new(to, 0));
    sendto(raw.as_raw_fd(), packet, &to, MsgFlags::empty()).context("cannot send a packet as it is")?;
    Ok(())
}
