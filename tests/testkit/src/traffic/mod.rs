//! Real traffic: sockets in network namespaces, and packets that no well-behaved socket would send.

mod bulk;
pub mod dhcp;
mod flood;
mod frames;
mod icmp;
mod raw;
mod tcp;
mod udp;

use std::time::Duration;

pub use bulk::Bulk;
pub use flood::Flood;
pub use frames::{Ring, Segments, Sender, Unsummed};
pub use icmp::Pinger;
pub use raw::{echo_packet, inject, segment_packet, syn_packet, udp_packet};
pub use tcp::{Answer, Client, TcpEcho, probe, probe_for, try_connect};
pub use udp::UdpPeer;

/// How long tests wait for a denied packet: long for a packet on a veth pair, and shorter than the second after which a
/// SYN is retransmitted. Records must confirm the denial, so a slow machine cannot make a test pass.
pub const DENIED: Duration = Duration::from_millis(400);

pub use crate::netns::PATIENCE;
