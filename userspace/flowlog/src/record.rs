//! One flow record, and what makes two flows the same record.

use std::{cmp::Ordering, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use taskgate_ebpf::{
    abi::{Direction, DropReason},
    wire::{TCP, UDP},
};
use taskgate_tables::{FlowCount, FlowKey};

use super::{attribution::Attribution, baseline::Delta, eni::LoggedEni};

/// The fate of a record's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RecordAction {
    /// They were let through.
    Accept,
    /// They were dropped.
    Reject,
}

impl RecordAction {
    /// The word in `action`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "ACCEPT",
            Self::Reject => "REJECT",
        }
    }
}

/// The reasons for which the packets of a record were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reasons(u32);

impl Reasons {
    /// No reason: passed packets, and packets that a newer kernel program dropped for a reason that this build does not know.
    pub const NONE: Self = Self(0);

    /// This reason alone.
    pub const fn only(reason: DropReason) -> Self {
        Self(1 << reason as u8)
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The reasons in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = DropReason> {
        DropReason::ALL
            .into_iter()
            .filter(move |reason| self.0 & 1 << *reason as u8 != 0)
    }
}

/// The 5-tuple as AWS writes it: in the direction of the packets, the ENI's own IPv4 addresses replaced by its primary
/// one, ports 0 where a protocol has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tuple {
    /// `srcaddr`.
    pub source: IpAddr,
    /// `dstaddr`.
    pub destination: IpAddr,
    /// `srcport`.
    pub source_port: u16,
    /// `dstport`.
    pub destination_port: u16,
    /// `protocol`: the IANA number.
    pub protocol: u8,
}

/// One record of one window. The bounds are the window's, the same for all of its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// The ENI whose link counted the packets.
    pub eni: Arc<LoggedEni>,
    /// The flow.
    pub tuple: Tuple,
    /// Passed or dropped.
    pub action: RecordAction,
    /// Seen from the ENI.
    pub direction: Direction,
    /// The ENI side's address in the packets; `None` if the record merges flows that differ in it.
    pub local: Option<IpAddr>,
    /// Packets on the wire and their IP bytes.
    pub count: FlowCount,
    /// `tcp-flags`: FIN 1, SYN 2, RST 4, SYN-ACK 18, ORed.
    pub tcp_flags: u8,
    /// Why they were dropped.
    pub reasons: Reasons,
    /// taskgate's additional fields.
    pub attribution: Attribution,
}

impl FlowRecord {
    /// The record of one direction of one entry, without attribution yet.
    pub(super) fn new(
        eni: &Arc<LoggedEni>,
        key: &FlowKey,
        protocol: u8,
        direction: Direction,
        denied: Option<Reasons>,
        delta: Delta,
    ) -> Self {
        let real = key.local();
        // AWS's records show the primary IPv4 address in place of a secondary address and of one that is not the ENI's.
        // IPv6 has no primary address, so it stays (FL-FLOW-6 and FL-FLOW-7 in
        // docs/aws-semantics.md).
        let local = match (real, eni.primary_ipv4()) {
            (IpAddr::V4(_), Some(primary)) => primary.into(),
            _ => real,
        };
        let remote = key.remote();
        // For other protocols the key's ports distinguish flows, such as ICMP's identifier; records show no ports.
        let (local_port, remote_port) = match protocol {
            TCP | UDP => key.ports(),
            _ => (0, 0),
        };
        let tuple = match direction {
            Direction::Egress => Tuple {
                source: local,
                destination: remote,
                source_port: local_port,
                destination_port: remote_port,
                protocol,
            },
            Direction::Ingress => Tuple {
                source: remote,
                destination: local,
                source_port: remote_port,
                destination_port: local_port,
                protocol,
            },
        };
        Self {
            eni: Arc::clone(eni),
            tuple,
            action: if denied.is_some() {
                RecordAction::Reject
            } else {
                RecordAction::Accept
            },
            direction,
            local: Some(real),
            count: delta.count,
            tcp_flags: delta.tcp_flags,
            reasons: denied.unwrap_or(Reasons::NONE),
            attribution: Attribution::default(),
        }
    }

    /// `pkt-srcaddr`: the source in the packets' headers.
    pub fn pkt_source(&self) -> Option<IpAddr> {
        match self.direction {
            Direction::Egress => self.local,
            Direction::Ingress => Some(self.tuple.source),
        }
    }

    /// `pkt-dstaddr`: the destination in the packets' headers.
    pub fn pkt_destination(&self) -> Option<IpAddr> {
        match self.direction {
            Direction::Egress => Some(self.tuple.destination),
            Direction::Ingress => self.local,
        }
    }

    /// The order of lines. Flows of the same record compare equal.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        let enis = if Arc::ptr_eq(&self.eni, &other.eni) {
            Ordering::Equal
        } else {
            self.eni.id().cmp(other.eni.id())
        };
        enis.then_with(|| self.tuple.cmp(&other.tuple))
            .then(self.action.cmp(&other.action))
    }

    fn merge(&mut self, other: &Self) {
        self.count.packets += other.count.packets;
        self.count.bytes += other.count.bytes;
        self.tcp_flags |= other.tcp_flags;
        self.reasons = self.reasons.and(other.reasons);
        self.attribution.merge(&other.attribution);
        if (self.direction, self.local) != (other.direction, other.local) {
            self.local = None;
        }
    }
}

/// Sorts records and merges equal ones.
pub(super) fn coalesce(records: &mut Vec<FlowRecord>) {
    // The stable sort detects sorted runs, so adding one window to another costs one pass. Only a forged source gives
    // both directions the same tuple; the direction that the record names must not depend on the order of entries.
    records.sort_by(|a, b| a.order(b).then(a.direction.cmp(&b.direction)));
    records.dedup_by(|next, kept| {
        let same = kept.order(next).is_eq();
        if same {
            kept.merge(next);
        }
        same
    });
}
