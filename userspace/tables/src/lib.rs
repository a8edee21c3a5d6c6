//! What the kernel's tables say of flows, as plain numbers; and the seam behind which they lie.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use taskgate_ebpf::abi::{
    Conn, Denial, Direction, Key4, Key6,
    image::{Shared, TIMEOUTS},
    tables::split_denial_tail,
};

/// A key of `CONNS_*` or `DENIALS_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowKey {
    /// IPv4.
    V4(Key4),
    /// IPv6.
    V6(Key6),
}

impl FlowKey {
    /// The task's own address.
    pub fn local(&self) -> IpAddr {
        match self {
            Self::V4(key) => Ipv4Addr::from_bits((key.addresses >> 32) as u32).into(),
            Self::V6(key) => v6(key.local),
        }
    }

    /// The peer's address.
    pub fn remote(&self) -> IpAddr {
        match self {
            Self::V4(key) => Ipv4Addr::from_bits(key.addresses as u32).into(),
            Self::V6(key) => v6(key.remote),
        }
    }

    /// The task's port and the peer's. For ICMP they hold what the parser put there, not ports.
    pub fn ports(&self) -> (u16, u16) {
        let ports = match self {
            Self::V4(key) => key.ports,
            Self::V6(key) => key.ports,
        };
        ((ports >> 16) as u16, ports as u16)
    }

    fn tail(&self) -> u32 {
        match self {
            Self::V4(key) => key.tail,
            Self::V6(key) => key.tail,
        }
    }

    /// The protocol of a tracked connection's key.
    pub fn conn_protocol(&self) -> u8 {
        self.tail() as u8
    }

    /// The link of a tracked connection's key, as [`taskgate_ebpf::abi::LinkId`] numbers it.
    pub fn conn_link(&self) -> u32 {
        self.tail() >> 8
    }

    /// Slot, protocol, direction and reason number of a denied flow's key.
    pub fn denial_parts(&self) -> (u16, u8, Direction, u8) {
        split_denial_tail(self.tail())
    }
}

fn v6(halves: [u64; 2]) -> IpAddr {
    Ipv6Addr::from_bits((halves[0] as u128) << 64 | halves[1] as u128).into()
}

/// Packets and IP bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
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
    pub totals: [Count; 2],
    pub last: u32,
    pub epoch: u32,
    pub generation: u32,
    pub rule: u32,
    pub slot: u16,
    pub state: u16,
    pub next: [u16; 2],
    pub windows: [u32; 2],
}

impl From<&Conn> for ConnState {
    fn from(conn: &Conn) -> Self {
        Self {
            totals: [0, 1].map(|at| Count {
                packets: conn.totals[at].packets.get(),
                bytes: conn.totals[at].bytes.get(),
            }),
            last: conn.seen.get().0,
            epoch: conn.admitted().0,
            generation: conn.admitted().1,
            rule: conn.by().0,
            slot: conn.by().1,
            state: conn.state(),
            next: conn.next.get(),
            windows: conn.flags.windows(),
        }
    }
}

/// A denied flow, read once. Fields as in [`Denial`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of `Denial`, documented there")]
pub struct DenialState {
    pub totals: Count,
    pub last: u32,
    pub windows: [u32; 2],
}

impl From<&Denial> for DenialState {
    fn from(denial: &Denial) -> Self {
        Self {
            totals: Count {
                packets: denial.totals.packets.get(),
                bytes: denial.totals.bytes.get(),
            },
            last: denial.seen.get().0,
            windows: denial.flags.windows(),
        }
    }
}

/// Entries that a slot has in a table, by the account that they are charged to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// In its floor.
    pub floor: u64,
    /// In the common pool; of slot 0: those of all slots.
    pub pool: u64,
}

impl Used {
    /// Both together.
    pub const fn total(self) -> u64 {
        self.floor + self.pool
    }
}

/// What a slot uses and has lost, read once. Fields as in [`taskgate_ebpf::abi::EniUsage`].
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
    /// What the slot has in a table.
    pub const fn of(&self, table: Shared) -> Used {
        match table {
            Shared::Connections => self.conns,
            Shared::Denials => self.denials,
            Shared::Fragments => self.fragments,
        }
    }
}

/// The kernel's flow tables. The daemon has one over BPF maps; tests have one over plain collections.
pub trait FlowTables {
    /// Visits every tracked connection, in no order. One that is inserted or removed meanwhile may be missed or seen
    /// twice, never invented.
    fn conns(&mut self, visit: &mut dyn FnMut(FlowKey, ConnState)) -> io::Result<()>;
    /// Visits every denied flow, likewise.
    fn denials(&mut self, visit: &mut dyn FnMut(FlowKey, DenialState)) -> io::Result<()>;
    /// One tracked connection as it is now. `None`: it is not there.
    fn conn(&mut self, key: &FlowKey) -> io::Result<Option<ConnState>>;
    /// Removes a tracked connection, gives its last state and gives back what it was charged. `None`: it is not there.
    fn take_conn(&mut self, key: &FlowKey) -> io::Result<Option<ConnState>>;
    /// Removes a denied flow, likewise.
    fn take_denial(&mut self, key: &FlowKey) -> io::Result<Option<DenialState>>;
    /// Forgets first fragments that are idle past their family's time-out (in ticks). The kernel takes them for absent
    /// already; this makes room in their tasks' shares.
    fn forget_fragments(&mut self, timeouts: &[u32; TIMEOUTS]) -> io::Result<()>;
    /// What a slot uses and has lost; of slot 0: what all slots have in the pools.
    fn usage(&mut self, slot: u16) -> io::Result<UsageState>;
    /// Puts `window` in the place of the capture window's number: what the kernel sees from now on belongs to it.
    fn set_window(&mut self, window: u32) -> io::Result<()>;
    /// The kernel's clock now, in the ticks of [`ConnState::last`], wrapping.
    fn now(&mut self) -> io::Result<u32>;
    /// Ticks in a second: one of 100, 250, 300, 1000.
    fn ticks_per_second(&self) -> u32;
}
