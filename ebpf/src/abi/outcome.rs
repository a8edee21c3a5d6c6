//! Every way a packet can end: one number, one counter, one name.

use core::fmt;

/// Which way a packet goes, seen from the ENI, as AWS says it. The numbers are those of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// From the task.
    Egress = 0,
    /// Toward the task.
    Ingress = 1,
}

impl Direction {
    /// The other way.
    #[inline(always)]
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Egress => Self::Ingress,
            Self::Ingress => Self::Egress,
        }
    }

    /// Both of them, in the order in which a group lists its rules.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The word that users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// Its number in tables.
    #[inline(always)]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a packet was dropped. Names and numbers are stable: a new one is added, never renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// No rule of the ENI's groups allows it.
    NoRule = 1,
    /// The task sent with a source that is not its own, or something from outside came with the task's own address.
    SpoofedSource = 2,
    /// Sent to the task with a destination that is not its own.
    NotForTask = 3,
    /// A header that lies, is cut short, or cannot be read.
    Malformed = 4,
    /// A later fragment whose first was not seen, or was denied.
    FragmentWithoutFirst = 5,
    /// The host's table of tracked connections is full.
    ConnectionsFull = 6,
    /// The task has as many tracked connections as it may have.
    TaskConnectionsFull = 7,
    /// The ENI is known, its policy is not.
    NoPolicy = 8,
    /// No task is bound to the link, or no longer.
    UnknownTask = 9,
    /// The task was isolated.
    Isolated = 10,
    /// Neither IPv4, IPv6 nor ARP; or a VLAN tag on a link that is no trunk.
    UnsupportedEthertype = 11,
    /// A late packet of a TCP connection that both sides have closed.
    ConnectionClosed = 16,
    /// Its headers name routers that it goes over: its destination is not where it ends.
    SourceRouted = 18,
}

impl DropReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::NoRule,
        Self::SpoofedSource,
        Self::NotForTask,
        Self::Malformed,
        Self::FragmentWithoutFirst,
        Self::ConnectionsFull,
        Self::TaskConnectionsFull,
        Self::NoPolicy,
        Self::UnknownTask,
        Self::Isolated,
        Self::UnsupportedEthertype,
        Self::ConnectionClosed,
        Self::SourceRouted,
    ];

    /// The name that users see, in records, counters, `explain` and `status` alike.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoRule => "no-rule",
            Self::SpoofedSource => "spoofed-source",
            Self::NotForTask => "not-for-task",
            Self::Malformed => "malformed",
            Self::FragmentWithoutFirst => "fragment-without-first",
            Self::ConnectionsFull => "connections-full",
            Self::TaskConnectionsFull => "task-connections-full",
            Self::NoPolicy => "no-policy",
            Self::UnknownTask => "unknown-task",
            Self::Isolated => "isolated",
            Self::UnsupportedEthertype => "unsupported-ethertype",
            Self::ConnectionClosed => "connection-closed",
            Self::SourceRouted => "source-routed",
        }
    }

    /// The reason with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == number)
    }
}

/// Why a packet was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PassReason {
    /// It belongs to a connection that was admitted before. Counted in the connection's entry alone.
    Tracked = 0,
    /// A rule allows it.
    Rule = 12,
    /// The task itself opens what is never filtered.
    Exempt = 13,
    /// ARP, neighbour discovery or multicast listener discovery that names the task's own addresses.
    Neighbour = 14,
    /// An ICMP error about a tracked connection.
    IcmpError = 15,
    /// On the trunk, without a tag: the host's own, and no task's.
    Host = 17,
}

impl PassReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Tracked,
        Self::Rule,
        Self::Exempt,
        Self::Neighbour,
        Self::IcmpError,
        Self::Host,
    ];
}

/// How a packet ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Let through.
    Pass(PassReason),
    /// Dropped.
    Drop(DropReason),
}

/// The length of a slot's counters: more than the highest number of an outcome, and whole cache lines.
pub const OUTCOMES: usize = 24;

/// The index of a slot's counters in one direction.
#[inline(always)]
pub const fn counters_index(slot: u16, direction: Direction) -> u32 {
    (slot as u32) << 1 | direction as u32
}

impl Outcome {
    /// Its number: the index of its counter.
    #[inline(always)]
    pub const fn number(self) -> u8 {
        match self {
            Self::Pass(pass) => pass as u8,
            Self::Drop(reason) => reason as u8,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass(PassReason::Tracked) => "tracked",
            Self::Pass(PassReason::Rule) => "rule",
            Self::Pass(PassReason::Exempt) => "exempt",
            Self::Pass(PassReason::Neighbour) => "neighbour",
            Self::Pass(PassReason::IcmpError) => "icmp-error",
            Self::Pass(PassReason::Host) => "host",
            Self::Drop(reason) => reason.name(),
        }
    }

    /// Whether the packet goes on.
    #[inline(always)]
    pub const fn passes(self) -> bool {
        matches!(self, Self::Pass(_))
    }
}
