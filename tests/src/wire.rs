//! Counting what really crosses a link: a packet socket on it, read by code that shares nothing with taskgate's.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, SockaddrLike as _, bind, recvfrom, setsockopt,
        socket, sockopt::RcvBufForce,
    },
};

use crate::{
    ledger::{Count, Flow, protocol},
    netns::{Netns, PATIENCE},
};

/// Seen from the namespace that the link is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Sent.
    Out,
    /// Received.
    In,
}

/// A link that is listened on. On a task's end of its ENI that is all that the task sends, whatever its gate does with
/// it, and all that its gate lets in.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    seen: RefCell<BTreeMap<(Way, Flow), Count>>,
}

/// `struct virtio_net_hdr`, which tells of segments that the kernel has not cut yet.
const OFFLOAD: usize = 10;
/// More than any headers.
const SNAP: usize = OFFLOAD + 256;
/// Room for what comes while nobody reads.
const BUFFER: usize = 64 << 20;

impl Wire {
    /// Listens on a link from now on.
    pub fn tap(netns: &Netns, link: &str) -> Result<Self> {
        let socket = netns
            .run(|| listen(link))
            .with_context(|| format!("cannot listen on `{link}`"))?;
        let seen = RefCell::default();
        Ok(Self { socket, seen })
    }

    /// All flows up to now but chatter, neighbour discovery and ARP.
    pub fn flows(&self) -> Result<BTreeMap<(Way, Flow), Count>> {
        self.read()?;
        let seen = self.seen.borrow();
        Ok(seen.iter().map(|(key, count)| (*key, *count)).collect())
    }

    /// What was sent in a flow.
    pub fn sent(&self, flow: Flow) -> Result<Count> {
        self.count(Way::Out, flow)
    }

    /// What was received in a flow.
    pub fn received(&self, flow: Flow) -> Result<Count> {
        self.count(Way::In, flow)
    }

    /// Waits until this many packets of a flow were received.
    pub fn await_received(&self, flow: Flow, packets: u64) -> Result<Count> {
        let end = Instant::now() + PATIENCE;
        loop {
            let count = self.received(flow)?;
            if count.packets >= packets {
                return Ok(count);
            }
            ensure!(
                Instant::now() < end,
                "waited {PATIENCE:?} for {packets} packets of {flow:?}, of which {} came",
                count.packets
            );
            let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            poll(&mut ready, PollTimeout::from(100_u8))?;
        }
    }

    fn count(&self, way: Way, flow: Flow) -> Result<Count> {
        self.read()?;
        Ok(self.seen.borrow().get(&(way, flow)).copied().unwrap_or_default())
    }

    fn read(&self) -> Result<()> {
        let mut seen = self.seen.borrow_mut();
        let mut frame = [0; SNAP];
        loop {
            let (length, from) = match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut frame) {
                Err(Errno::EAGAIN) => break,
                // The link may go down or away: what came before is counted.
                Err(Errno::EINTR | Errno::ENETDOWN) => continue,
                received => received.context("cannot read frames")?,
            };
            let way = match from.map(|from| from.pkttype()) {
                Some(libc::PACKET_OUTGOING) => Way::Out,
                _ => Way::In,
            };
            if let Some((flow, count)) = measure(&frame[..length.min(SNAP)])
                && !flow.is_chatter()
            {
                *seen.entry((way, flow)).or_default() += count;
            }
        }
        let missed = missed(&self.socket)?;
        ensure!(missed == 0, "{missed} frames were missed");
        Ok(())
    }
}

fn listen(link: &str) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    // It hears nothing until it is bound to the link.
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None::<SockProtocol>)?;
    setsockopt(&socket, RcvBufForce, &BUFFER)?;
    tell_offload(&socket)?;
    let index = nix::net::if_::if_nametoindex(link)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: it is a whole `sockaddr_ll` of the family that `LinkAddr` is for, and the length is its size.
    let address = unsafe {
        LinkAddr::from_raw(
            (&raw const address).cast(),
            Some(size_of::<libc::sockaddr_ll>() as libc::socklen_t),
        )
    };
    bind(socket.as_raw_fd(), &address.context("no address for the link")?)?;
    Ok(socket)
}

/// Has the kernel put a `virtio_net_hdr` before each frame.
fn tell_offload(socket: &OwnedFd) -> io::Result<()> {
    const PACKET_VNET_HDR: libc::c_int = 15;
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, and that is what the pointer and the length are of.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_VNET_HDR,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How many frames found no room since this was asked last.
fn missed(socket: &OwnedFd) -> io::Result<u32> {
    let mut stats = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the option gives a `tpacket_stats`, for which there is room at the pointer.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut length,
        )
    };
    if got == 0 {
        Ok(stats.tp_drops)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The flow of a frame and what it amounts to on the wire; none for what has no flow record: ARP, neighbour discovery.
fn measure(frame: &[u8]) -> Option<(Flow, Count)> {
    let (offload, frame) = frame.split_at_checked(OFFLOAD)?;
    let segment = u64::from(u16::from_ne_bytes([offload[4], offload[5]]));
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let (source, destination, mut number, total, mut headers) = match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                header.protocol().0,
                u64::from(header.total_len()),
                u64::from(header.ihl()) * 4,
            )
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                header.next_header().0,
                u64::from(header.payload_length()) + 40,
                40,
            )
        }
        LaxNetSlice::Arp(_) => return None,
    };
    let (mut source_port, mut destination_port) = (0, 0);
    match packet.transport.as_ref() {
        Some(TransportSlice::Tcp(tcp)) => {
            (source_port, destination_port) = (tcp.source_port(), tcp.destination_port());
            number = protocol::TCP;
            headers += tcp.header_len() as u64;
        }
        Some(TransportSlice::Udp(udp)) => {
            (source_port, destination_port) = (udp.source_port(), udp.destination_port());
            number = protocol::UDP;
            headers += 8;
        }
        Some(TransportSlice::Icmpv6(icmp)) if matches!(icmp.type_u8(), 130..=137 | 143) => return None,
        _ => {}
    }
    let packets = match segment {
        0 => 1,
        segment => total.saturating_sub(headers).div_ceil(segment).max(1),
    };
    let flow = Flow {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
        protocol: number,
    };
    Some((flow, Count::new(packets, total + (packets - 1) * headers)))
}
