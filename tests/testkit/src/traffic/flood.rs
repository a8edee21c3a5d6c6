//! Floods: one packet in each of very many flows.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{MsgFlags, SockaddrStorage, sendto};

use super::raw::{raw_socket, syn_packet, udp_packet};
use crate::{
    ledger::{Flow, protocol},
    netns::Netns,
};

/// Sends from one address to another, each packet from a different port.
#[derive(Debug)]
pub struct Flood {
    socket: OwnedFd,
    protocol: u8,
    from: IpAddr,
    to: SocketAddr,
}

impl Flood {
    /// UDP datagrams of four bytes.
    pub fn udp(netns: &Netns, from: IpAddr, to: SocketAddr) -> Result<Self> {
        Self::new(netns, protocol::UDP, from, to)
    }

    /// SYNs, which are never acknowledged.
    pub fn syn(netns: &Netns, from: IpAddr, to: SocketAddr) -> Result<Self> {
        Self::new(netns, protocol::TCP, from, to)
    }

    fn new(netns: &Netns, protocol: u8, from: IpAddr, to: SocketAddr) -> Result<Self> {
        let socket = raw_socket(netns, to.ip())?;
        Ok(Self {
            socket,
            protocol,
            from,
            to,
        })
    }

    /// Sends one packet from each of `number` ports, in a scattered order. Two floods without a common port begin at
    /// different ports.
    pub fn send(&self, first_port: u16, number: u16) -> Result<()> {
        // Coprime to every number of ports that is no multiple of it: each port comes once.
        const STEP: u32 = 7919;
        anyhow::ensure!(u32::from(number) % STEP != 0, "{number} ports cannot be walked through");
        for at in 0..u32::from(number) {
            let port = first_port + (at * STEP % u32::from(number)) as u16;
            let source = SocketAddr::new(self.from, port);
            let packet = if self.protocol == protocol::UDP {
                udp_packet(Flow::udp(source, self.to), b"data")?
            } else {
                syn_packet(Flow::tcp(source, self.to))?
            };
            let to = SockaddrStorage::from(SocketAddr::new(self.to.ip(), 0));
            sendto(self.socket.as_raw_fd(), &packet, &to, MsgFlags::empty())
                .with_context(|| format!("cannot send from {source}"))?;
        }
        Ok(())
    }
}
