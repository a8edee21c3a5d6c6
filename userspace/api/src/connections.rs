//! `GET /v1/connections`: a line of JSON for each tracked connection.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AdmittingRule;

/// Which tracked connections are asked for: those that fit all that is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ConnectionsQuery {
    /// A task's name, or an ENI's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The peer's address, or a CIDR that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// TCP, UDP: the port of either side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The protocol's name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The rule that let it in, by its id; a group's name or id stands for all of its rules, `exempt` for what is never filtered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// `ingress`: opened from outside; `egress`: by the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
}

/// A tracked connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TrackedConnection {
    /// The task's name.
    pub task: Option<String>,
    /// The ENI's id; `None` if the configuration names it no more.
    pub eni: Option<String>,
    /// Whose rules let it in: `ingress` if it was opened from outside, `egress` if by the task.
    pub direction: String,
    /// The protocol's name or number.
    pub protocol: String,
    /// The task's address.
    #[schema(value_type = String)]
    pub local: IpAddr,
    /// TCP, UDP: the task's port.
    pub local_port: Option<u16>,
    /// The peer's address.
    #[schema(value_type = String)]
    pub peer: IpAddr,
    /// TCP, UDP: the peer's port.
    pub peer_port: Option<u16>,
    /// ICMP: the type that opened it.
    pub icmp_type: Option<u8>,
    /// ICMP: the code that opened it.
    pub icmp_code: Option<u8>,
    /// How far it is.
    pub state: ConnectionPhase,
    /// What was seen of it, by the names of docs/connection-table.md.
    pub flags: Vec<String>,
    /// How many seconds it is known, at least: a taskgate that starts knows its connections from then on, and looks for new ones
    /// every few seconds.
    pub age: u32,
    /// Seconds since it last carried a packet.
    pub idle: u32,
    /// What the task sent.
    pub egress: FlowTotals,
    /// What was sent to the task.
    pub ingress: FlowTotals,
    /// The generation that let it in last.
    pub generation: u64,
    /// The rule that let it in; `None` for what is never filtered.
    pub rule: Option<AdmittingRule>,
}

/// Packets and IP bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FlowTotals {
    /// Packets on the wire, modulo 2^32.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
}

/// How far a tracked connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectionPhase {
    /// TCP: its handshake is not complete.
    HalfOpen,
    /// TCP: both sides have sent.
    Established,
    /// TCP: one side has sent a FIN.
    HalfClosed,
    /// TCP: both sides have sent a FIN, or one a RST.
    Closed,
    /// All but TCP: nothing came back yet.
    Unreplied,
    /// All but TCP: something came back.
    Replied,
    /// UDP: more than one request and response went over it.
    Stream,
    /// It is over, by time-out or because its task was isolated or taken away: its next packet is judged as a new one.
    Over,
}
