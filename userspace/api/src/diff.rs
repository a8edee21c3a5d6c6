//! `POST /v1/diff`: the changes that a configuration would make, and their effect on tracked connections.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ProblemAt;

/// Which configuration to compare with the one in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DiffRequest {
    /// The folder: an absolute path on the host where taskgate runs. Left out: the one that it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

/// What a configuration would change. Nothing is changed yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Differences {
    /// The folder of the configuration.
    pub config: String,
    /// The generation in force, which it is compared with.
    pub generation: u64,
    /// What differs in the configuration.
    pub model: ModelDiff,
    /// What becomes of tracked connections.
    pub connections: ConnectionsDiff,
    /// What deserves a look in the configuration.
    pub warnings: Vec<ProblemAt>,
}

impl Differences {
    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.model.is_empty() && self.connections.is_empty()
    }
}

/// Everything that differs between two configurations, kind by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ModelDiff {
    /// Each object that differs, kind by kind.
    pub changes: Vec<ObjectChange>,
    /// How many there are.
    pub counts: ChangeCounts,
}

/// How many objects of two configurations differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ChangeCounts {
    /// Those that only the new one has.
    pub added: usize,
    /// Those that both have, with different content.
    pub changed: usize,
    /// Those that only the old one has.
    pub removed: usize,
}

/// An object that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ObjectChange {
    /// Its kind.
    pub kind: ObjectKind,
    /// Whether it comes, goes, or has other content.
    pub change: Change,
    /// A group's, rule's, prefix list's or ENI's id, the name of a setting, or a flow log's number from 1.
    pub id: String,
    /// The name of a group, prefix list or task; of a rule: its group's. The new one, if it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of a rule: the id of its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Of a rule: `ingress` or `egress`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// Its fields that differ; all that are not empty, if it comes or goes.
    pub fields: Vec<FieldChange>,
}

/// The kinds of objects that a configuration has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectKind {
    /// A security group, without its rules.
    Group,
    /// A rule.
    Rule,
    /// A prefix list.
    PrefixList,
    /// An ENI that is gated on this host.
    Task,
    /// An ENI that is elsewhere, which rules refer to by its groups.
    Member,
    /// The link that faces the wire.
    Uplink,
    /// A setting of the host.
    Setting,
    /// A destination of flow records.
    FlowLog,
}

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Only the new configuration has it.
    Added,
    /// Both have it, with different content.
    Changed,
    /// Only the old configuration has it.
    Removed,
}

/// A field of an object, in words. A field that is not there has no value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct FieldChange {
    /// Its name, as configuration files have it.
    pub field: String,
    /// Its values in the old configuration.
    pub before: Vec<String>,
    /// Its values in the new configuration.
    pub after: Vec<String>,
}

impl ModelDiff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// What becomes of tracked connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ConnectionsDiff {
    /// Live connections that no rule of the new configuration allows, by what they have in common; those that end first, and
    /// of these the most.
    pub without_rule: Vec<LostConnections>,
    /// How many connections there are.
    pub counts: ConnectionCounts,
}

/// How many tracked connections there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ConnectionCounts {
    /// Those that live now.
    pub live: u64,
    /// Those that end with the new configuration.
    pub cut: u64,
    /// Those that go on although no rule of the new configuration allows them.
    pub kept: u64,
    /// Of those that are cut or kept: the ones in no line, because there would be too many lines.
    pub not_listed: u64,
    /// Those that nobody can say anything about: what opened them is more than an entry tells.
    pub unclear: u64,
}

/// Live connections that no rule of the new configuration allows, and that have all of this in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LostConnections {
    /// What becomes of them.
    pub outcome: ConnectionOutcome,
    /// Why: the reason that a new one would be denied for, or `task-removed`, `task-moved`.
    pub reason: String,
    /// The task's name.
    pub task: Option<String>,
    /// The ENI's id.
    pub eni: String,
    /// Whose rules let them in: `ingress`, `egress`.
    pub direction: String,
    /// The protocol's name, or number.
    pub protocol: String,
    /// TCP, UDP: the port of the side that was asked.
    pub port: Option<u16>,
    /// ICMP: type and code.
    #[schema(value_type = Option<Vec<u8>>)]
    pub icmp: Option<(u8, u8)>,
    /// The rule that let them in; `None` for what is never filtered.
    pub admitted_by: Option<AdmittingRule>,
    /// Whether they are untracked flows, in AWS's words: these end with their rule, whatever the settings.
    pub untracked: bool,
    /// Whether the configuration in force does not allow them either, so that nothing changes for those that are kept.
    pub already: bool,
    /// How many they are.
    pub connections: u64,
    /// Some of their peers, sorted.
    #[schema(value_type = Vec<String>)]
    pub peers: Vec<IpAddr>,
    /// Whether they have more peers than these.
    pub more_peers: bool,
}

/// A rule that let a connection in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct AdmittingRule {
    /// Its group's id.
    pub group: String,
    /// Its group's name.
    pub group_name: String,
    /// Its id.
    pub rule: String,
}

/// What becomes of a connection that no rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectionOutcome {
    /// Its next packet is denied.
    Cut,
    /// It goes on until it closes or idles out.
    Kept,
}

impl ConnectionsDiff {
    /// Whether the new configuration changes nothing for any connection.
    pub fn is_empty(&self) -> bool {
        self.counts.cut == 0 && self.counts.not_listed == 0 && self.without_rule.iter().all(|lost| lost.already)
    }
}
