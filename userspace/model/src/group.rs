//! Security groups.

use super::location::Location;
use super::rule::{Direction, Rule};

/// A group's id as AWS writes it, `sg-…`.
pub type GroupId = String;

/// The form that an object is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// As the AWS CLI prints it: changed at AWS and printed again. A group or prefix list that is not known is stale.
    Aws,
    /// taskgate's own form: changed in the file. An unknown name is an error.
    Native,
}

/// A security group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityGroup {
    /// `sg-…`.
    pub id: GroupId,
    /// Its name; unique names are not promised across VPCs.
    pub name: String,
    /// The VPC, if the source names one.
    pub vpc: Option<String>,
    /// Whether the configuration holds its rules. `false` for a group that only an ENI names: its members are known,
    /// what it lets through is not. A gated ENI has no such group.
    pub rules_known: bool,
    /// The form that it is written in.
    pub dialect: Dialect,
    /// Where it is written.
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
