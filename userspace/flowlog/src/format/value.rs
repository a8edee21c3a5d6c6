//! The value of each field.

use std::net::IpAddr;

use taskgate_ebpf::abi::Direction;
use taskgate_model::RecordField;

use crate::{
    eni::LoggedEni,
    label::Label,
    record::{FlowRecord, Reasons, RecordAction},
    schedule::Bounds,
};

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldValue<'a> {
    /// Nothing: `-`.
    Absent,
    Word(&'static str),
    Label(&'a Label),
    Labels(&'a [Label]),
    Number(u64),
    Address(IpAddr),
    /// Unix time in milliseconds.
    Time(u64),
    Bool(bool),
    Reasons(Reasons),
}

impl<'a> From<Option<&'a Label>> for FieldValue<'a> {
    fn from(label: Option<&'a Label>) -> Self {
        label.map_or(Self::Absent, Self::Label)
    }
}

impl From<Option<IpAddr>> for FieldValue<'_> {
    fn from(address: Option<IpAddr>) -> Self {
        address.map_or(Self::Absent, Self::Address)
    }
}

/// The data of one line.
pub(super) struct RecordLine<'a> {
    pub(super) version: u8,
    pub(super) eni: &'a LoggedEni,
    pub(super) bounds: Bounds,
    /// `None` in NODATA and SKIPDATA.
    pub(super) flow: Option<&'a FlowRecord>,
    pub(super) status: &'static str,
}

impl<'a> RecordLine<'a> {
    /// The value of a field.
    pub(super) fn value(&self, field: RecordField) -> FieldValue<'a> {
        match (field, self.flow) {
            (RecordField::Version, _) => FieldValue::Number(self.version.into()),
            (RecordField::AccountId, _) => FieldValue::Label(self.eni.account_label()),
            (RecordField::InterfaceId, _) => FieldValue::Label(self.eni.id_label()),
            (RecordField::Start, _) => FieldValue::Number(self.bounds.start),
            (RecordField::End, _) => FieldValue::Number(self.bounds.end),
            (RecordField::LogStatus, _) => FieldValue::Word(self.status),
            // A line without a flow has no other AWS fields than those above (FL-LINE-3 in docs/aws-semantics.md).
            (RecordField::TaskgateTask, _) => self.eni.label(field).into(),
            (_, Some(record)) => of_flow(field, record),
            (_, None) => FieldValue::Absent,
        }
    }
}

/// The value of a field that only flows have.
fn of_flow(field: RecordField, record: &FlowRecord) -> FieldValue<'_> {
    let (tuple, own) = (&record.tuple, &record.attribution);
    let peer = own.peer.as_deref();
    match field {
        RecordField::SrcAddr => FieldValue::Address(tuple.source),
        RecordField::DstAddr => FieldValue::Address(tuple.destination),
        RecordField::SrcPort => FieldValue::Number(tuple.source_port.into()),
        RecordField::DstPort => FieldValue::Number(tuple.destination_port.into()),
        RecordField::Protocol => FieldValue::Number(tuple.protocol.into()),
        RecordField::Packets => FieldValue::Number(record.count.packets),
        RecordField::Bytes => FieldValue::Number(record.count.bytes),
        RecordField::Action => FieldValue::Word(record.action.name()),
        RecordField::TcpFlags => FieldValue::Number(record.tcp_flags.into()),
        RecordField::Type => FieldValue::Word(if tuple.source.is_ipv4() { "IPv4" } else { "IPv6" }),
        RecordField::PktSrcAddr => record.pkt_source().into(),
        RecordField::PktDstAddr => record.pkt_destination().into(),
        RecordField::FlowDirection => FieldValue::Word(record.direction.as_str()),
        RecordField::TrafficPath => traffic_path(record),
        RecordField::TaskgateGroup => own.rule().map(|rule| &rule.group_name).into(),
        RecordField::TaskgateGroupId => own.rule().map(|rule| &rule.group).into(),
        RecordField::TaskgateRule => own.rule().map(|rule| &rule.rule).into(),
        RecordField::TaskgateReason if own.is_exempt() => FieldValue::Word("exempt"),
        RecordField::TaskgateReason if record.reasons == Reasons::NONE => FieldValue::Absent,
        RecordField::TaskgateReason => FieldValue::Reasons(record.reasons),
        RecordField::TaskgateSameHost => FieldValue::Bool(peer.is_some_and(|peer| peer.here)),
        RecordField::TaskgatePeerTask => peer.and_then(|peer| peer.task.as_ref()).into(),
        RecordField::TaskgatePeerGroups => {
            let groups = peer.and_then(|peer| peer.groups.as_deref());
            groups.map_or(FieldValue::Absent, FieldValue::Labels)
        }
        RecordField::TaskgateLast if own.last != 0 => FieldValue::Time(own.last),
        RecordField::TaskgateGeneration if own.generation != 0 => FieldValue::Number(own.generation),
        _ => record.eni.label(field).into(),
    }
}

/// Always 1, through another resource of the same VPC: taskgate does not know how a packet leaves the VPC.
fn traffic_path(record: &FlowRecord) -> FieldValue<'static> {
    let peer = record.attribution.peer.as_deref();
    let vpc = record.eni.eni().vpc.as_deref();
    let same_vpc = vpc.is_some() && peer.and_then(|peer| peer.vpc.as_deref()) == vpc;
    if same_vpc && record.direction == Direction::Egress && record.action == RecordAction::Accept {
        FieldValue::Number(1)
    } else {
        FieldValue::Absent
    }
}
