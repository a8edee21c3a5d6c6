//! The objects in the files, before references are resolved and copies are compared.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use taskgate_model::{Binding, Direction, EcsFields, Family, FlowLog, Protocol, Settings, Uplink};

pub(super) use taskgate_model::Dialect;

use super::problem::Location;

/// All objects that were read.
#[derive(Clone, Debug, Default)]
pub(super) struct Collected {
    pub(super) groups: Vec<RawGroup>,
    pub(super) rules: Vec<AwsRule>,
    pub(super) enis: Vec<RawEni>,
    pub(super) prefix_lists: Vec<RawPrefixList>,
    pub(super) networks: Vec<Network>,
    pub(super) ecs_tasks: Vec<EcsTask>,
    pub(super) tasks: Vec<RawTask>,
    pub(super) members: Vec<RawMember>,
    pub(super) accounts: Vec<Section<String>>,
    pub(super) settings: Vec<Section<Settings>>,
    pub(super) uplinks: Vec<Section<Uplink>>,
    pub(super) flow_logs: Vec<RawFlowLog>,
    pub(super) metrics: Vec<Section<SocketAddr>>,
    /// The number of values in the files.
    pub(super) values: usize,
}

/// A flow log. Without an account, the configuration's account applies.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RawFlowLog {
    pub(super) log: FlowLog,
    pub(super) location: Location,
}

/// An object that may be in several files, with the same content in each.
pub(super) trait Object {
    /// Its kind and name in messages.
    fn title(&self) -> String;
    /// Its key, equal for copies of one object, and its place.
    fn key(&self) -> (String, Location);
    /// Merges a copy of the object; returns whether the two agree.
    fn merge(&mut self, copy: Self) -> bool;
}

/// Marks an object as partial if its copy is. Returns whether two copies agree: a partial one agrees with any.
fn agree_as_read(agree: bool, partial: &mut bool, copy_partial: bool) -> bool {
    *partial |= copy_partial;
    agree || *partial
}

/// Kind, name and id of an object, for messages.
fn titled(what: &str, id: &str, name: Option<&str>) -> String {
    name.map_or_else(|| format!("{what} `{id}`"), |name| format!("{what} `{name}` ({id})"))
}

/// A name or an id, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) text: String,
    pub(super) location: Location,
}

/// A security group with unresolved references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawGroup {
    pub(super) id: String,
    /// `None` for a group that is only known from `SecurityGroupRules`.
    pub(super) name: Option<String>,
    pub(super) vpc: Option<String>,
    pub(super) dialect: Dialect,
    /// `false` for a group that is only known from ENIs.
    pub(super) rules_known: bool,
    /// The names of the rule keys that are missing in its file, for messages. Such a group has no rules here.
    pub(super) lacks: Option<&'static str>,
    pub(super) ingress: Vec<RawRule>,
    pub(super) egress: Vec<RawRule>,
    pub(super) location: Location,
    /// Something in it could not be read, so it is not compared with others.
    pub(super) partial: bool,
}

impl RawGroup {
    pub(super) fn rules_mut(&mut self, direction: Direction) -> &mut Vec<RawRule> {
        match direction {
            Direction::Ingress => &mut self.ingress,
            Direction::Egress => &mut self.egress,
        }
    }
}

impl Object for RawGroup {
    fn title(&self) -> String {
        titled("security group", &self.id, self.name.as_deref())
    }

    fn key(&self) -> (String, Location) {
        (self.id.clone(), self.location)
    }

    fn merge(&mut self, copy: Self) -> bool {
        let partial = self.partial || copy.partial;
        self.partial = partial;
        let heads = (&self.name, &self.vpc, self.dialect) == (&copy.name, &copy.vpc, copy.dialect);
        if heads && copy.lacks.is_some() {
            return true;
        }
        if heads && self.lacks.is_some() {
            *self = Self { partial, ..copy };
            return true;
        }
        partial
            || heads
                && same_set(&self.ingress, &copy.ingress, RawRule::key)
                && same_set(&self.egress, &copy.egress, RawRule::key)
    }
}

/// Whether two lists have the same items in any order: AWS guarantees none.
fn same_set<'i, T: 'i, K: Ord>(a: &'i [T], b: &'i [T], key: impl Fn(&'i T) -> K) -> bool {
    let sorted = |items: &'i [T]| {
        let mut keys: Vec<K> = items.iter().map(&key).collect();
        keys.sort();
        keys
    };
    a.len() == b.len() && sorted(a) == sorted(b)
}

/// The peer of a rule, as written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum RawPeer {
    Net(IpNet),
    /// A prefix list by name or id.
    PrefixList(String),
    /// A group by name or id.
    Group(String),
    /// The group that the rule belongs to.
    Itself,
}

/// One rule.
#[derive(Clone, Debug)]
pub(super) struct RawRule {
    /// The `sgr-` id.
    pub(super) id: Option<String>,
    /// The number in the file, from 1, for rules without an id.
    pub(super) number: usize,
    pub(super) protocol: Protocol,
    pub(super) peer: RawPeer,
    /// The peering connection of its group reference.
    pub(super) peering: Option<Peering>,
    pub(super) description: String,
    pub(super) location: Location,
}

/// A peering connection of two VPCs, and its status.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Peering {
    /// `pcx-…`, if given.
    pub(super) connection: Option<String>,
    /// `active` or another status, if given.
    pub(super) status: Option<String>,
}

/// The number is ignored when rules are compared: it is only the order in the file.
impl PartialEq for RawRule {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for RawRule {}

impl RawRule {
    /// The fields in which two copies of a rule must agree.
    fn key(&self) -> (Protocol, &RawPeer, Option<&Peering>, Option<&str>, &str) {
        let (peering, id) = (self.peering.as_ref(), self.id.as_deref());
        (self.protocol, &self.peer, peering, id, &self.description)
    }

    /// The peering connection's id, if one is named.
    pub(super) fn connection(&self) -> Option<&str> {
        self.peering.as_ref()?.connection.as_deref()
    }

    /// The status of a peering connection that is not active: on AWS the rule then allows nothing.
    pub(super) fn inactive(&self) -> Option<&str> {
        let status = self.peering.as_ref()?.status.as_deref();
        status.filter(|status| *status != "active")
    }
}

/// An item of `SecurityGroupRules`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AwsRule {
    pub(super) id: String,
    pub(super) group: String,
    pub(super) direction: Direction,
    pub(super) rule: RawRule,
}

impl Object for AwsRule {
    fn title(&self) -> String {
        format!("security group rule `{}`", self.id)
    }

    fn key(&self) -> (String, Location) {
        (self.id.clone(), self.rule.location)
    }

    fn merge(&mut self, copy: Self) -> bool {
        *self == copy
    }
}

/// A prefix list: its head, its entries, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawPrefixList {
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) max_entries: Option<u32>,
    pub(super) entries: Option<Vec<IpNet>>,
    pub(super) location: Location,
    /// Something in it could not be read, so it is not compared with others.
    pub(super) partial: bool,
}

impl Object for RawPrefixList {
    fn title(&self) -> String {
        titled("prefix list", &self.id, self.name.as_deref())
    }

    fn key(&self) -> (String, Location) {
        (self.id.clone(), self.location)
    }

    fn merge(&mut self, copy: Self) -> bool {
        let entries = match (&self.entries, &copy.entries) {
            (Some(mine), Some(other)) => same_set(mine, other, |net| *net),
            _ => true,
        };
        let agree = agree(self.name.as_ref(), copy.name.as_ref())
            && agree(self.max_entries.as_ref(), copy.max_entries.as_ref())
            && entries;
        self.name = self.name.take().or(copy.name);
        self.max_entries = self.max_entries.or(copy.max_entries);
        self.entries = self.entries.take().or(copy.entries);
        agree_as_read(agree, &mut self.partial, copy.partial)
    }
}

fn agree<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
    a.is_none() || b.is_none() || a == b
}

/// An item of `NetworkInterfaces`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawEni {
    pub(super) id: String,
    pub(super) account: Option<String>,
    pub(super) vpc: Option<String>,
    pub(super) subnet: Option<String>,
    pub(super) zone: Zone,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) groups: Vec<Reference>,
    /// Whether there is a list of groups.
    pub(super) groups_known: bool,
    /// The names of its groups in this ENI's description, in the order of `groups`.
    pub(super) group_names: Vec<Option<String>>,
    pub(super) source_dest_check: bool,
    /// `None` if unknown or not a valid interface address.
    pub(super) mac: Option<[u8; 6]>,
    pub(super) location: Location,
    /// Something in it could not be read, so it is not compared with others.
    pub(super) partial: bool,
}

impl Object for RawEni {
    fn title(&self) -> String {
        format!("ENI `{}`", self.id)
    }

    fn key(&self) -> (String, Location) {
        (self.id.clone(), self.location)
    }

    fn merge(&mut self, copy: Self) -> bool {
        agree_as_read(*self == copy, &mut self.partial, copy.partial)
    }
}

/// The location of an ENI or a subnet, as far as its file has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Zone {
    /// The id of its availability zone; `None` also in a sublocation.
    pub(super) az_id: Option<String>,
    pub(super) region: Option<String>,
}

/// An item of `Vpcs` or `Subnets`: its CIDRs, and the address that AWS reserves in each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) id: String,
    /// The id of the VPC, or of the subnet's VPC.
    pub(super) vpc: Option<String>,
    pub(super) cidrs: Vec<IpNet>,
    pub(super) zone: Zone,
    /// 2 in a VPC (the resolver), 1 in a subnet (the router).
    pub(super) reserved: u8,
    pub(super) location: Location,
}

impl Object for Network {
    fn title(&self) -> String {
        format!("{} `{}`", if self.reserved == 2 { "VPC" } else { "subnet" }, self.id)
    }

    fn key(&self) -> (String, Location) {
        (self.id.clone(), self.location)
    }

    fn merge(&mut self, copy: Self) -> bool {
        same_set(&self.cidrs, &copy.cidrs, |net| *net)
    }
}

/// An item of the ECS `tasks` with an ENI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EcsTask {
    pub(super) arn: String,
    pub(super) eni: String,
    pub(super) fields: EcsFields,
    pub(super) location: Location,
    /// Something in it could not be read, so it is not compared with others.
    pub(super) partial: bool,
}

impl Object for EcsTask {
    fn title(&self) -> String {
        format!("ECS task `{}`", self.arn)
    }

    fn key(&self) -> (String, Location) {
        (self.arn.clone(), self.location)
    }

    fn merge(&mut self, copy: Self) -> bool {
        let agree = (&self.eni, &self.fields) == (&copy.eni, &copy.fields);
        agree_as_read(agree, &mut self.partial, copy.partial)
    }
}

/// An item of the native `tasks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawTask {
    pub(super) name: String,
    pub(super) eni: Option<Reference>,
    /// `None` only if it could not be read.
    pub(super) binding: Option<Binding>,
    pub(super) addresses: Option<Vec<IpAddr>>,
    pub(super) groups: Option<Vec<Reference>>,
    pub(super) source_dest_check: Option<bool>,
    pub(super) ecs: EcsFields,
    pub(super) location: Location,
    /// Something in it could not be read, so it is not compared with others.
    pub(super) partial: bool,
}

impl Object for RawTask {
    fn title(&self) -> String {
        format!("task `{}`", self.name)
    }

    fn key(&self) -> (String, Location) {
        (self.name.to_ascii_lowercase(), self.location)
    }

    fn merge(&mut self, copy: Self) -> bool {
        agree_as_read(*self == copy, &mut self.partial, copy.partial)
    }
}

/// An item of the native `members`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawMember {
    pub(super) address: IpAddr,
    pub(super) groups: Vec<Reference>,
    pub(super) location: Location,
}

impl Object for RawMember {
    fn title(&self) -> String {
        format!("member `{}`", self.address)
    }

    fn key(&self) -> (String, Location) {
        (self.address.to_string(), self.location)
    }

    fn merge(&mut self, copy: Self) -> bool {
        self.groups == copy.groups
    }
}

/// A section of the native form that may occur once in a configuration, such as `settings`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section<T> {
    pub(super) key: &'static str,
    pub(super) value: T,
    pub(super) location: Location,
}

impl<T: PartialEq> Object for Section<T> {
    fn title(&self) -> String {
        format!("`{}`", self.key)
    }

    fn key(&self) -> (String, Location) {
        (self.key.to_owned(), self.location)
    }

    fn merge(&mut self, copy: Self) -> bool {
        self.value == copy.value
    }
}

/// The address families that a rule can match, by its protocol and peer; a group or prefix list may have both.
pub(super) fn families(protocol: Protocol, net: Option<IpNet>) -> impl Iterator<Item = Family> {
    [Family::V4, Family::V6].into_iter().filter(move |family| {
        let by_net = match net {
            Some(IpNet::V4(_)) => *family == Family::V4,
            Some(IpNet::V6(_)) => *family == Family::V6,
            None => true,
        };
        protocol.goes_over(*family) && by_net
    })
}
