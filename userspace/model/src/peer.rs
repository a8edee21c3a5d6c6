//! The peer of a rule, and prefix lists.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::family::Family;

/// A group's position in [`super::Model::groups`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupIndex(pub usize);

/// A prefix list's position in [`super::Model::prefix_lists`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixListIndex(pub usize);

/// The peer that a rule allows: the source for ingress, the destination for egress.
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
    /// An unknown group or prefix list, by its id: matches nothing. AWS calls its rule stale.
    Missing(String),
}

impl Peer {
    /// Whether the rule is open to any address of a family: by `0.0.0.0/0` or `::/0`, not by a prefix list.
    pub fn is_any(&self) -> bool {
        match self {
            Self::V4(net) => net.prefix_len() == 0,
            Self::V6(net) => net.prefix_len() == 0,
            Self::PrefixList(_) | Self::Group(_) | Self::Missing(_) => false,
        }
    }
}

/// A prefix list: a named list of CIDRs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixList {
    /// `pl-…`.
    pub id: String,
    /// Its name, if known.
    pub name: Option<String>,
    /// The maximum size, which AWS counts against the rule quota; unknown for AWS-managed lists.
    pub max_entries: Option<u32>,
    /// The CIDRs, host bits cleared, in the order of the file. `None`: the list is known without its entries.
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
