//! ICMP and ICMPv6: requests by the letter, answers by the kernel of the other end.

use std::{
    io::IoSliceMut,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recvmsg, sendto, socket,
    },
};

use super::{DENIED, PATIENCE};
use crate::{ledger::Flow, netns::Netns};

/// Echo request and reply, by family.
const ECHO: [(u8, u8); 2] = [(8, 0), (128, 129)];
const PAYLOAD: &[u8] = b"as many bytes as ping has, which are fifty-six of them..";

/// Sends echo requests to one address from one namespace, under one identifier.
#[derive(Debug)]
pub struct Pinger {
    socket: OwnedFd,
    to: IpAddr,
    flow: Flow,
    identifier: u16,
    sequence: u16,
    payload: Vec<u8>,
}

impl Pinger {
    /// A new identifier for messages from `from` to `to`; `from` is the address that `netns` will use.
    pub fn new(netns: &Netns, from: IpAddr, to: IpAddr) -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let (family, protocol) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let socket = netns.run(|| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            Ok(socket(family, SockType::Raw, flags, protocol)?)
        });
        Ok(Self {
            socket: socket.context("cannot open a raw socket")?,
            to,
            flow: Flow::icmp(from, to),
            identifier: NEXT.fetch_add(1, Ordering::Relaxed),
            sequence: 0,
            payload: PAYLOAD.to_vec(),
        })
    }

    /// Sets the payload of each message to this many bytes, an even number, as in `ping -s`.
    #[must_use]
    pub fn with_payload(mut self, bytes: usize) -> Self {
        self.payload = vec![0x55; bytes];
        self
    }

    /// The flow of the packets that this sends.
    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// Sends an echo request, which must be answered.
    pub fn echo(&mut self) -> Result<()> {
        let answered = self.ask(PATIENCE)?;
        answered
            .then_some(())
            .with_context(|| format!("no echo on {:?}", self.flow))
    }

    /// Sends an echo request. Returns whether the answer came soon.
    pub fn echoes(&mut self) -> Result<bool> {
        self.ask(DENIED)
    }

    fn ask(&mut self, patience: Duration) -> Result<bool> {
        let (request, reply) = ECHO[usize::from(self.to.is_ipv6())];
        self.request(request, 0)?;
        self.answered(reply, patience)
    }

    /// Sends a message of any type and code that has an identifier and a sequence number where echoes have them.
    pub fn request(&mut self, kind: u8, code: u8) -> Result<()> {
        self.sequence += 1;
        let mut message = vec![kind, code, 0, 0];
        message.extend(self.identifier.to_be_bytes());
        message.extend(self.sequence.to_be_bytes());
        message.extend(&self.payload);
        if self.to.is_ipv4() {
            // The kernel computes ICMPv6 checksums itself.
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let to = SockaddrStorage::from(SocketAddr::new(self.to, 0));
        sendto(self.socket.as_raw_fd(), &message, &to, MsgFlags::empty())
            .with_context(|| format!("cannot send ICMP to {}", self.to))?;
        Ok(())
    }

    /// Whether the last message was answered with a message of this type.
    pub fn answered(&self, kind: u8, patience: Duration) -> Result<bool> {
        let end = Instant::now() + patience;
        loop {
            while let Some(message) = self.receive()? {
                let identifier = self.identifier.to_be_bytes();
                let sequence = self.sequence.to_be_bytes();
                if message.len() >= 8 && message[0] == kind && message[4..6] == identifier && message[6..8] == sequence
                {
                    return Ok(true);
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            let left = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
            poll(&mut ready, PollTimeout::from(left))?;
        }
    }

    fn receive(&self) -> Result<Option<Vec<u8>>> {
        let mut buffer = [0; 2048];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, None, MsgFlags::empty());
        let length = match received.map(|message| message.bytes) {
            Err(nix::Error::EAGAIN) => return Ok(None),
            length => length?,
        };
        // IPv4 comes with its header, IPv6 without.
        let skip = if self.to.is_ipv4() {
            usize::from(buffer[0] & 15) * 4
        } else {
            0
        };
        Ok(Some(buffer[skip..length].to_vec()))
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(data: &[u8]) -> u16 {
    let words = data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let sum = words.fold(0_u32, |sum, word| sum + u32::from(word));
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
