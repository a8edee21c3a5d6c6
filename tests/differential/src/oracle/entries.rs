//! Entries of connections and denied flows.

use std::{collections::BTreeMap, net::IpAddr};

use taskgate_ebpf::abi::{Direction, image::Timeout};
use taskgate_tables::FlowCount;

use super::{
    super::naive_parser::{Body, Ip},
    World,
    names::Case,
    tcp::Tcp,
};

/// A tracked connection.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts about a connection, each by itself")]
pub(crate) struct Entry {
    /// Packets and bytes by direction.
    pub(crate) totals: [FlowCount; 2],
    /// When the last one came.
    pub(crate) last: u32,
    /// The slot that is charged for the entry, and that slot's epoch at the time of admission.
    pub(crate) slot: u16,
    /// See `slot`.
    pub(crate) epoch: u32,
    /// The generation of the configuration that admitted it.
    pub(crate) generation: u32,
    /// Whether the entry is charged to the pool, not to its slot's floor.
    pub(crate) pooled: bool,
    /// The rule that allowed it; none for traffic that is never filtered.
    pub(crate) rule: Option<(String, String)>,
    /// The code of the ICMP request for which it was admitted.
    pub(crate) code: u8,
    /// The direction of the packet that opened it.
    pub(crate) opener: Direction,
    /// Whether the packet that opened it went to several hosts.
    pub(crate) to_group: bool,
    /// Whether it is untracked, in AWS's terms.
    pub(crate) untracked: bool,
    /// All but TCP: how often the direction has changed, as far as that counts: a reply, the opener's next packet, the
    /// reply to that.
    pub(crate) turns: u8,
    pub(crate) tcp: Tcp,
    /// Whether its peer is an ENI that is gated here.
    pub(crate) local: bool,
    /// TCP flags as flow records have them, by window and direction.
    pub(crate) windows: BTreeMap<u32, [u8; 2]>,
}

/// A denied flow: slot, direction, addresses, protocol, ports, reason.
pub(crate) type Denied = (u16, Direction, IpAddr, IpAddr, u8, (u16, u16), u8);

/// The entry of a denied flow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Denial {
    /// Dropped packets and bytes.
    pub(crate) totals: FlowCount,
    /// Whether the entry is charged to the pool, not to its slot's floor.
    pub(crate) pooled: bool,
    /// When the last one came.
    pub(crate) last: u32,
    /// As in [`Entry`].
    pub(crate) windows: BTreeMap<u32, [u8; 2]>,
}

impl Entry {
    /// The idle time-out.
    pub(super) fn timeout(&self, protocol: u8, world: &World) -> u32 {
        let timeout = match protocol {
            6 if self.tcp.is_closed() => Timeout::TcpClosed,
            6 if self.tcp.established && self.tcp.farewells.len() == 1 => Timeout::TcpHalfClosed,
            6 if self.tcp.established => Timeout::TcpEstablished,
            6 => Timeout::TcpHalfOpen,
            17 if self.turns >= 3 => Timeout::UdpStream,
            17 => Timeout::Udp,
            1 | 58 => Timeout::Icmp,
            _ => Timeout::Other,
        };
        world.timeouts[timeout as usize]
    }

    /// Counts a packet: the `first` of this connection, or a later one.
    pub(super) fn count(&mut self, case: &Case<'_>, ip: &Ip, first: bool) {
        self.last = case.now;
        self.weigh(case, ip);
        let (flags, segment) = match &ip.body {
            Body::Ports { flags, segment, .. } if ip.protocol == 6 => (*flags, segment.as_ref()),
            _ => (0, None),
        };
        if ip.protocol == 6 {
            if first {
                self.tcp = Tcp::first(segment, case.direction, self.opener);
            } else {
                self.tcp.goes_on(segment, case.direction, self.opener);
            }
        } else {
            let openers = self.turns % 2 == 1;
            if self.turns < 3 && openers == (case.direction == self.opener) {
                self.turns += 1;
            }
        }
        self.windows.entry(case.world.window).or_default()[case.direction as usize] |= record_flags(flags);
    }

    /// Adds packets and bytes, and nothing else.
    pub(super) fn weigh(&mut self, case: &Case<'_>, ip: &Ip) {
        let way = case.direction as usize;
        self.totals[way].packets += ip.packets;
        self.totals[way].bytes += ip.bytes;
    }
}

/// A packet's TCP flags as flow records show them.
pub(super) fn record_flags(flags: u8) -> u8 {
    let syn = match (flags & 2 != 0, flags & 16 != 0) {
        (true, true) => 18,
        (true, false) => 2,
        _ => 0,
    };
    flags & 5 | syn
}
