//! Groups, prefix lists, and the far side that a rule names.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::location::Location;
use super::rule::{Direction, Family, Rule};

/// A group's position in [`super::Model::groups`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupIndex(pub usize);

/// A prefix list's position in [`super::Model::prefix_lists`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixListIndex(pub usize);

/// A group's id as AWS writes it, `sg-…`.
pub type GroupId = String;

/// The far side that a rule allows: the source for ingress, the destination for egress.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// An IPv4 CIDR, host bits cleared.
    V4(Ipv4Net),
    /// An IPv6 CIDR, host bits cleared.
    V6(Ipv6Net),
    /// Every CIDR of a prefix list.
    PrefixList(PrefixListIndex),
    /// Every address of every ENI that has the group.
    Group(GroupIndex),
    /// A group or prefix list that is not known (stale, in AWS's words): matches nothing. Holds its id.
    Missing(String),
}

impl Peer {
    /// Whether the rule is open to any address of a family: written as `0.0.0.0/0` or `::/0`, not by a prefix list.
    pub fn is_any(&self) -> bool {
        match self {
            Self::V4(net) => net.prefix_len() == 0,
            Self::V6(net) => net.prefix_len() == 0,
            Self::PrefixList(_) | Self::Group(_) | Self::Missing(_) => false,
        }
    }
}

/// The form that an object is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// As the AWS CLI prints it: changed at AWS and printed again. A group or prefix list that is not known is stale.
    Aws,
    /// taskgate's own form: changed in the file. A name that nobody knows is an error.
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

/// A prefix list: CIDRs under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixList {
    /// `pl-…`.
    pub id: String,
    /// Its name, if known.
    pub name: Option<String>,
    /// What AWS counts against the rule quota: its maximum size; unknown for AWS's own lists.
    pub max_entries: Option<u32>,
    /// Its CIDRs, host bits cleared, in the order of the file. `None`: the list is known, its entries are not.
    pub entries: Option<Vec<IpNet>>,
}

impl PrefixList {
    /// The entries of one family.
    pub fn entries_of(&self, family: Family) -> impl Iterator<Item = &IpNet> {
        self.entries.iter().flatten().filter(move |net| match net {
            IpNet::V4(_) => family == Family::V4,
            IpNet::V6(_) => family == Family::V6,
        })
    }
}
