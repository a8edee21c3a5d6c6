//! Outcomes of a packet: each one has a number, a counter and a name.

use core::fmt;

/// The direction of a packet, seen from the ENI as on AWS. The numbers are those in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// From the task.
    Egress = 0,
    /// To the task.
    Ingress = 1,
}

impl Direction {
    /// The opposite direction.
    #[inline(always)]
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Egress => Self::Ingress,
            Self::Ingress => Self::Egress,
        }
    }

    /// Both directions, in the order in which a security group lists its rules.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The name in output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The number in tables, as an index.
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
    /// A packet from the task with a source address that is not its own, or a packet from outside with the task's own
    /// address or that of another task of this host.
    SpoofedSource = 2,
    /// A packet to the task with a destination address that is not its own.
    NotForTask = 3,
    /// An inconsistent, truncated or unreadable header.
    Malformed = 4,
    /// A later fragment whose first fragment was not seen, or was denied.
    FragmentWithoutFirst = 5,
    /// The host's table of tracked connections is full.
    ConnectionsFull = 6,
    /// The task has reached its limit of tracked connections.
    TaskConnectionsFull = 7,
    /// The ENI's policy, or the image itself, is missing.
    NoPolicy = 8,
    /// No ENI is bound to the link, or nothing is configured.
    UnknownTask = 9,
    /// The task was isolated.
    Isolated = 10,
    /// Neither IPv4, IPv6 nor ARP; or a VLAN tag on a link that is not the trunk.
    UnsupportedEthertype = 11,
    /// A late packet of a TCP connection that both sides have closed.
    ConnectionClosed = 16,
    /// A source-routed packet: its destination address is not its final one.
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

    /// The name in output: records, counters, `explain` and `status`.
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

/// Why a packet passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PassReason {
    /// It belongs to a tracked connection. Counted only in the connection's entry.
    Tracked = 0,
    /// A rule allows it.
    Rule = 12,
    /// An exempt destination or DHCP, opened by the task.
    Exempt = 13,
    /// ARP, neighbour discovery or multicast listener discovery that names the task's own addresses.
    Neighbour = 14,
    /// An ICMP error about a tracked connection.
    IcmpError = 15,
    /// An untagged frame on the trunk or the previous trunk: it belongs to the host.
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

/// The result of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Passed.
    Pass(PassReason),
    /// Dropped.
    Drop(DropReason),
}

/// The number of counters per slot and direction: above the highest outcome number, and whole cache lines.
pub const OUTCOMES: usize = 24;

/// The index of the counters of a slot in one direction.
#[inline(always)]
pub const fn counters_index(slot: u16, direction: Direction) -> u32 {
    (slot as u32) << 1 | direction as u32
}

impl Outcome {
    /// The number: the index of the outcome's counter.
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

    /// Whether the packet passes.
    #[inline(always)]
    pub const fn passes(self) -> bool {
        matches!(self, Self::Pass(_))
    }
}
