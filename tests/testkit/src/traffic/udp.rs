//! UDP.

use std::{
    io::ErrorKind,
    net::{Ipv6Addr, SocketAddr, UdpSocket},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

use super::PATIENCE;
use crate::{ledger::Flow, netns::Netns};

/// One end of UDP exchanges.
#[derive(Debug)]
pub struct UdpPeer {
    socket: UdpSocket,
    address: SocketAddr,
}

impl UdpPeer {
    /// Binds to an address in `netns`; port 0 is any.
    pub fn bind(netns: &Netns, address: &str) -> Result<Self> {
        let address: SocketAddr = address.parse()?;
        let socket = netns
            .bind(|| UdpSocket::bind(address))
            .with_context(|| format!("cannot bind to {address}"))?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Joins an IPv6 multicast group on a link.
    pub fn join(&self, group: Ipv6Addr, link_index: u32) -> Result<()> {
        let joined = self.socket.join_multicast_v6(&group, link_index);
        joined.with_context(|| format!("cannot join {group}"))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn flow_to(&self, to: SocketAddr) -> Flow {
        Flow::udp(self.address, to)
    }

    pub fn send(&self, to: SocketAddr, data: &[u8]) -> Result<Flow> {
        let sent = self.socket.send_to(data, to);
        sent.with_context(|| format!("cannot send from {} to {to}", self.address))?;
        Ok(self.flow_to(to))
    }

    /// Sends `data` in datagrams of `size` bytes, and a last one with the rest, which the kernel splits as late as it can
    /// (GSO).
    pub fn send_segments(&self, to: SocketAddr, data: &[u8], size: u16) -> Result<Flow> {
        setsockopt(&self.socket, UdpGsoSegment, &i32::from(size)).context("cannot send segments")?;
        let flow = self.send(to, data);
        setsockopt(&self.socket, UdpGsoSegment, &0)?;
        flow
    }

    /// Waits for the next datagram, which must be `data`. Returns its sender.
    pub fn expect(&self, data: &[u8]) -> Result<SocketAddr> {
        let mut buffer = vec![0; 1 << 16];
        self.socket.set_nonblocking(false)?;
        self.socket.set_read_timeout(Some(PATIENCE))?;
        let received = self.socket.recv_from(&mut buffer);
        let (length, from) = received.with_context(|| format!("nothing came to {}", self.address))?;
        ensure!(
            &buffer[..length] == data,
            "{:?} came to {} and not {data:?}",
            &buffer[..length],
            self.address
        );
        Ok(from)
    }

    /// Whether nothing more has come up to now.
    pub fn is_silent(&self) -> Result<bool> {
        self.socket.set_nonblocking(true)?;
        match self.socket.recv_from(&mut [0; 1]) {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error).context("cannot look for datagrams"),
        }
    }

    /// A request to `server` and its answer, `times` over.
    pub fn converse(&self, server: &Self, times: usize) -> Result<Flow> {
        for _ in 0..times {
            self.send(server.address, b"request")?;
            let from = server.expect(b"request")?;
            server.send(from, b"response")?;
            self.expect(b"response")?;
        }
        Ok(self.flow_to(server.address))
    }
}
