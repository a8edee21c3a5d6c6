//! Counts the packets that really cross a link, with a packet socket and code that shares nothing with taskgate's.

use std::{
    collections::BTreeMap,
    mem,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{
    ledger::{Count, Flow, protocol},
    netns::{Netns, PATIENCE},
    packet_socket::{OFFLOAD, PACKET_VNET_HDR, drain, listen, set},
};

/// Seen from the namespace that the link is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Out,
    In,
}

/// A link with a packet socket on it. On a task's end of its ENI it sees every packet that the task sends, even those
/// that the gate drops, and every packet that the gate lets in.
///
/// A thread reads the socket continuously: how long a test waits depends on the machine, and a socket's buffer is
/// limited.
#[derive(Debug)]
pub struct Wire(Arc<Tap>);

#[derive(Debug)]
struct Tap {
    socket: OwnedFd,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    flows: BTreeMap<(Way, Flow), Count>,
    together: BTreeMap<(Way, Flow), u64>,
    /// The thread's error, returned by the next call.
    fault: Option<anyhow::Error>,
}

/// More than any headers.
const SNAP: usize = OFFLOAD + 256;

impl Wire {
    /// Listens on a link from now on.
    pub fn tap(netns: &Netns, link: &str) -> Result<Self> {
        let socket = netns
            .run(|| listen(link, |socket| Ok(set(socket, PACKET_VNET_HDR, &1_i32)?)))
            .with_context(|| format!("cannot listen on `{link}`"))?;
        let tap = Arc::new(Tap {
            socket,
            seen: Mutex::default(),
        });
        let reader = Arc::downgrade(&tap);
        thread::Builder::new().name("wire".to_owned()).spawn(move || {
            while let Some(tap) = reader.upgrade() {
                if let Err(error) = tap.wait().and_then(|()| tap.read().map(drop)) {
                    tap.seen().fault = Some(error);
                    return;
                }
            }
        })?;
        Ok(Self(tap))
    }

    /// All flows up to now but chatter, neighbour discovery and ARP.
    pub fn flows(&self) -> Result<BTreeMap<(Way, Flow), Count>> {
        Ok(self.0.read()?.flows.clone())
    }

    /// The packets sent in a flow.
    pub fn sent(&self, flow: Flow) -> Result<Count> {
        self.count(Way::Out, flow)
    }

    /// The packets received in a flow.
    pub fn received(&self, flow: Flow) -> Result<Count> {
        self.count(Way::In, flow)
    }

    /// How many frames of a flow were several packets each.
    pub fn together(&self, way: Way, flow: Flow) -> Result<u64> {
        Ok(self.0.read()?.together.get(&(way, flow)).copied().unwrap_or_default())
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
            self.0.wait()?;
        }
    }

    fn count(&self, way: Way, flow: Flow) -> Result<Count> {
        Ok(self.0.read()?.flows.get(&(way, flow)).copied().unwrap_or_default())
    }
}

impl Tap {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits up to a tenth of a second for a frame.
    fn wait(&self) -> Result<()> {
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::from(100_u8)) {
            Err(Errno::EINTR) => Ok(()),
            polled => Ok(polled.map(drop)?),
        }
    }

    /// All up to now.
    fn read(&self) -> Result<MutexGuard<'_, Seen>> {
        let mut guard = self.seen();
        let Seen { flows, together, fault } = &mut *guard;
        if let Some(fault) = mem::take(fault) {
            return Err(fault);
        }
        drain::<SNAP>(&self.socket, |frame, outgoing| {
            let way = if outgoing { Way::Out } else { Way::In };
            if let Some((flow, count)) = measure(frame)
                && !flow.is_chatter()
            {
                *flows.entry((way, flow)).or_default() += count;
                if count.packets > 1 {
                    *together.entry((way, flow)).or_default() += 1;
                }
            }
        })?;
        Ok(guard)
    }
}

/// The flow of a frame and its count on the wire; none for frames without a flow record: ARP, neighbour discovery.
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
                ip.payload().ip_number.0,
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
