//! User space's view of the memory shared with the kernel: flows as plain numbers, the trait to read and remove them,
//! and the image's words.

pub mod image;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use taskgate_ebpf::{
    abi::{
        Conn, Denial, Direction, Key4, Key6, LinkId,
        image::{Shared, TIMEOUTS},
        tables::{Admitted, KeyTag},
        unpair,
    },
    conntable::{ControlWord, Version},
    family::{IpVersion, V4, V6},
};

/// The id of one entry of a table, by place and version. Another flow's entry in the same place has another id, and so has the next
/// entry of the same flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlowId(u64);

impl FlowId {
    const V6: u64 = 1 << 63;

    /// The id of the entry in this way of a family's table, from the way's control word.
    pub const fn new(v6: bool, way: u32, word: ControlWord) -> Self {
        let family = if v6 { Self::V6 } else { 0 };
        Self(family | (way as u64) << Version::BITS | word.version().number())
    }

    /// The id with this number.
    pub const fn numbered(number: u64) -> Self {
        Self(number)
    }

    /// The id as a number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Whether it is of IPv6.
    pub const fn is_v6(self) -> bool {
        self.0 & Self::V6 != 0
    }

    /// The entry's way in the table.
    pub const fn way(self) -> u32 {
        (self.0 >> Version::BITS) as u32
    }

    /// The version in its control word.
    pub const fn version(self) -> Version {
        Version::from_number(self.0)
    }
}

/// A key of a connection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowKey {
    /// IPv4.
    V4(Key4),
    /// IPv6.
    V6(Key6),
}

impl FlowKey {
    /// The key of a flow of the family of `local`; `ports` and `tag` as in [`Key4`].
    pub fn new(local: IpAddr, remote: IpAddr, ports: u32, tag: KeyTag) -> Self {
        fn key<F: IpVersion<Key: Default>>(local: IpAddr, remote: IpAddr, ports: u32, tag: KeyTag) -> F::Key {
            let mut key = F::Key::default();
            F::set_key(&mut key, local.into(), remote.into(), ports, tag);
            key
        }
        if local.is_ipv4() {
            Self::V4(key::<V4>(local, remote, ports, tag))
        } else {
            Self::V6(key::<V6>(local, remote, ports, tag))
        }
    }

    /// The task's own address.
    pub fn local(&self) -> IpAddr {
        match self {
            Self::V4(key) => Ipv4Addr::from_bits(unpair(key.addresses).0).into(),
            Self::V6(key) => Ipv6Addr::from(key.local).into(),
        }
    }

    /// The peer's address.
    pub fn remote(&self) -> IpAddr {
        match self {
            Self::V4(key) => Ipv4Addr::from_bits(unpair(key.addresses).1).into(),
            Self::V6(key) => Ipv6Addr::from(key.remote).into(),
        }
    }

    /// The task's port and the peer's. For ICMP these are the parser's substitutes, not ports.
    pub fn ports(&self) -> (u16, u16) {
        let ports = match self {
            Self::V4(key) => key.ports,
            Self::V6(key) => key.ports,
        };
        ((ports >> 16) as u16, ports as u16)
    }

    fn tag(&self) -> KeyTag {
        match self {
            Self::V4(key) => key.tag,
            Self::V6(key) => key.tag,
        }
    }

    /// The link of a tracked connection's key.
    pub fn conn_link(&self) -> LinkId {
        self.tag().split_conn().0
    }

    /// The protocol of a tracked connection's key.
    pub fn conn_protocol(&self) -> u8 {
        self.tag().split_conn().1
    }

    /// Slot, protocol, direction and reason number of a denied flow's key.
    pub fn denial_parts(&self) -> (u16, u8, Direction, u8) {
        self.tag().split_denial()
    }
}

/// Packets and IP bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCount {
    /// Packets on the wire.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
}

/// A tracked connection, read once. Fields as in [`Conn`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of `Conn`, documented there")]
pub struct ConnState {
    /// By [`Direction`]: egress, ingress.
    pub totals: [FlowCount; 2],
    pub last: u32,
    pub epoch: u32,
    pub generation: u16,
    pub rule: u32,
    pub slot: u16,
    pub code: u8,
    pub state: u16,
    pub next: [u16; 2],
    pub windows: [u32; 2],
}

impl From<&Conn> for ConnState {
    fn from(conn: &Conn) -> Self {
        Self {
            totals: [0, 1].map(|at| FlowCount {
                packets: conn.packets[at].get().into(),
                bytes: conn.bytes[at].get(),
            }),
            last: conn.last.get(),
            epoch: conn.admitted().epoch,
            generation: conn.admitted().generation,
            rule: conn.rule(),
            slot: conn.admitted().slot,
            code: conn.admitted().code,
            state: conn.state(),
            next: conn.next.get(),
            windows: conn.flags.windows(),
        }
    }
}

/// A tracked connection in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackedConn {
    /// The id of the entry.
    pub id: FlowId,
    /// The link and the 5-tuple.
    pub key: FlowKey,
    /// The value of the entry.
    pub state: ConnState,
    /// The connection was admitted in an earlier epoch of its slot: its next packet is evaluated by the rules.
    pub outdated: bool,
}

impl TrackedConn {
    /// A connection whose slot is in this epoch now.
    pub const fn new(id: FlowId, key: FlowKey, state: ConnState, epoch: u32) -> Self {
        Self {
            id,
            key,
            state,
            outdated: state.epoch != epoch & (Admitted::EPOCHS - 1),
        }
    }
}

/// A denied flow, read once. Fields as in [`Denial`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of `Denial`, documented there")]
pub struct DenialState {
    pub totals: FlowCount,
    pub last: u32,
    pub windows: [u32; 2],
}

impl From<&Denial> for DenialState {
    fn from(denial: &Denial) -> Self {
        Self {
            totals: FlowCount {
                packets: denial.totals.packets.get(),
                bytes: denial.totals.bytes.get(),
            },
            last: denial.last.get(),
            windows: denial.flags.windows(),
        }
    }
}

/// The full number of a generation from its lower 16 bits, which an entry stores: the latest one up to `now` with these bits.
pub const fn full_generation(now: u64, low: u16) -> u64 {
    let back = (now as u16).wrapping_sub(low);
    now.saturating_sub(back as u64)
}

/// The entries of a slot in a table, by the account to which they are charged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// In its floor.
    pub floor: u64,
    /// In the common pool; of slot 0: those of all slots.
    pub pool: u64,
}

impl Used {
    /// The sum of both.
    pub const fn total(self) -> u64 {
        self.floor + self.pool
    }
}

/// A slot's usage and losses, read once. Fields as in [`taskgate_ebpf::abi::EniUsage`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are those of `Usage` in the ABI, documented there"
)]
pub struct UsageState {
    pub conns: Used,
    pub denials: Used,
    pub fragments: Used,
    pub flows_lost: u64,
    pub denials_lost: u64,
    pub conns_refused: u64,
    pub fragments_lost: u64,
}

impl UsageState {
    /// The slot's entries in a table.
    pub const fn of(&self, table: Shared) -> Used {
        match table {
            Shared::Connections => self.conns,
            Shared::Denials => self.denials,
            Shared::Fragments => self.fragments,
        }
    }
}

/// The kernel's flow tables. The daemon implements it over BPF maps, tests over plain collections.
pub trait FlowTables {
    /// Visits every tracked connection. Those inserted during the visit may be missed.
    fn conns(&mut self, visit: &mut dyn FnMut(&TrackedConn)) -> io::Result<()>;
    /// Visits every denied flow. Those inserted during the visit may be missed.
    fn denials(&mut self, visit: &mut dyn FnMut(FlowId, FlowKey, DenialState)) -> io::Result<()>;
    /// Marks tracked connections for removal and waits for a grace period: afterwards every packet either has been counted or will
    /// remove the mark.
    fn mark_conns(&mut self, ids: &[FlowId]) -> io::Result<()>;
    /// Marks denied flows for removal, in the same way.
    fn mark_denials(&mut self, ids: &[FlowId]) -> io::Result<()>;
    /// The present state of a tracked connection, if it is still marked.
    fn marked_conn(&mut self, id: FlowId) -> Option<TrackedConn>;
    /// Freezes a tracked connection that is still marked, so that the kernel no longer finds it, and returns its last state. It keeps
    /// its place.
    fn freeze_conn(&mut self, id: FlowId) -> io::Result<Option<(FlowKey, ConnState)>>;
    /// Frees the place of a frozen connection, and returns its charge to the account. Does nothing if it was freed already.
    fn free_conn(&mut self, id: FlowId) -> io::Result<()>;
    /// Removes a connection's mark.
    fn keep_conn(&mut self, id: FlowId);
    /// Freezes a denied flow that is still marked, so that the kernel no longer finds it, and returns its last state. It keeps its
    /// place.
    fn freeze_denial(&mut self, id: FlowId) -> io::Result<Option<(FlowKey, DenialState)>>;
    /// Frees the place of a frozen denied flow, and returns its charge to the account. Does nothing if it was freed already.
    fn free_denial(&mut self, id: FlowId) -> io::Result<()>;
    /// Visits the frozen connections, which a killed process did not free.
    fn frozen_conns(&mut self, visit: &mut dyn FnMut(FlowId, FlowKey, ConnState)) -> io::Result<()>;
    /// Visits the frozen denied flows, as [`FlowTables::frozen_conns`] does connections.
    fn frozen_denials(&mut self, visit: &mut dyn FnMut(FlowId, FlowKey, DenialState)) -> io::Result<()>;
    /// Forgets first fragments that are idle past their family's time-out (in ticks). The kernel already treats them as absent;
    /// this makes room in their tasks' shares.
    fn forget_fragments(&mut self, timeouts: &[u32; TIMEOUTS]) -> io::Result<()>;
    /// A slot's usage and losses; of slot 0: the entries of all slots in the pools.
    fn usage(&mut self, slot: u16) -> io::Result<UsageState>;
    /// Sets the number of the capture window, to which packets belong from now on.
    fn set_window(&mut self, window: u32) -> io::Result<()>;
    /// The kernel's clock now, in the ticks of [`ConnState::last`], wrapping.
    fn now(&mut self) -> io::Result<u32>;
    /// The time of day now, in milliseconds since the Unix epoch.
    fn unix_millis(&mut self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        since.as_millis() as u64
    }
    /// Ticks in a second: one of 100, 250, 300, 1000.
    fn ticks_per_second(&self) -> u32;
}

#[cfg(test)]
mod tests {
    use super::full_generation;

    #[test]
    fn a_generation_is_the_last_one_with_its_lower_half() {
        for (now, low, expected) in [
            (1, 1, 1),
            (7, 3, 3),
            (65_536, 0, 65_536),
            (65_536, 65_535, 65_535),
            (65_540, 10, 10),
            (3, 9, 0),
        ] {
            assert_eq!(full_generation(now, low), expected, "{now} {low}");
        }
    }
}
