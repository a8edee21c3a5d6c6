//! Security groups.

use super::location::Location;
use super::rule::{Direction, Rule};

/// A security group's id, `sg-…` as on AWS.
pub type GroupId = String;

/// The form in which an object is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// As printed by the AWS CLI: changes are made on AWS and printed again. An unknown group or prefix list is stale.
    Aws,
    /// taskgate's native form: changes are made in the file. An unknown name is an error.
    Native,
}

/// A security group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityGroup {
    /// `sg-…`.
    pub id: GroupId,
    /// The name; unique only within a VPC.
    pub name: String,
    /// The VPC, if the source names one.
    pub vpc: Option<String>,
    /// Whether the configuration has its rules. `false` for a group that is only named by an ENI: its members are known, its
    /// rules are not. A gated ENI has no such group.
    pub rules_known: bool,
    /// The form of the group's definition.
    pub dialect: Dialect,
    /// The place of its definition.
    pub location: Location,
    /// Ingress rules in the order of the file.
    pub ingress: Vec<Rule>,
    /// Egress rules in the order of the file.
    pub egress: Vec<Rule>,
}

impl SecurityGroup {
    /// The rules of one direction, in the order of the file.
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}
