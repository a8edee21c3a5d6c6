//! Groups: rules joined with their ids, and their peers looked up.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use ipnet::IpNet;
use taskgate_model::{Direction, Peer, Protocol, Rule, SecurityGroup};

use super::super::problem::{Diagnostics, Location};
use super::super::raw::{AwsRule, Dialect, Object as _, Peering, RawEni, RawGroup, RawPeer, RawRule, families};
use super::super::value::protocol_text;
use super::ListUse;
use super::names::{Found, Names};
use super::pairing::pair;

/// All groups: those with a head, their rules joined with the rules' ids; those known only from their rules; and those known
/// only from ENIs.
pub(super) fn gather(
    mut groups: Vec<RawGroup>,
    rules: Vec<AwsRule>,
    enis: &[RawEni],
    report: &mut Diagnostics,
) -> Vec<RawGroup> {
    let mut order: Vec<String> = Vec::new();
    let mut by_group: HashMap<String, Vec<AwsRule>> = HashMap::new();
    for rule in rules {
        if !by_group.contains_key(&rule.group) {
            order.push(rule.group.clone());
        }
        by_group.entry(rule.group.clone()).or_default().push(rule);
    }
    for group in &mut groups {
        let rules = by_group.remove(&group.id);
        match (group.lacks, rules) {
            (Some(_), Some(rules)) => {
                group.lacks = None;
                for rule in rules {
                    group.rules_mut(rule.direction).push(rule.rule);
                }
            }
            (None, Some(rules)) => join(group, rules, report),
            (_, None) => {}
        }
    }
    refuse_heads(&groups, report);
    for id in order {
        if let Some(rules) = by_group.remove(&id) {
            groups.push(from_rules(id, rules));
        }
    }
    name_by_enis(&mut groups, enis);
    only_on_enis(&mut groups, enis, report);
    groups
}

/// Refuses groups without rule keys: they would deny everything, and `explain` would report that for gates elsewhere. One
/// error for all.
fn refuse_heads(groups: &[RawGroup], report: &mut Diagnostics) {
    let mut heads = groups
        .iter()
        .filter_map(|group| Some((group, group.lacks.filter(|_| !group.partial)?)));
    let Some((first, lacks)) = heads.next() else {
        return;
    };
    let more = match heads.count() {
        0 => String::new(),
        1 => String::from(", and neither has one other"),
        more => format!(", and neither have {more} others"),
    };
    let message = format!(
        "{} has no {lacks}{more}: the rules were left out of this output",
        first.title()
    );
    let hint = "print it without `--query`, or add the output of `aws ec2 describe-security-group-rules`";
    report.error(first.location, message, hint);
}

/// Adds groups that are known only from ENIs: rules that refer to such a group cover its members. One warning for each.
fn only_on_enis(groups: &mut Vec<RawGroup>, enis: &[RawEni], report: &mut Diagnostics) {
    let mut positions: HashMap<String, Option<usize>> =
        groups.iter().map(|group| (group.id.to_lowercase(), None)).collect();
    // For each group: its first ENI, its last ENI, and their number.
    let mut holders: Vec<(&RawEni, &RawEni, usize)> = Vec::new();
    let held = groups.len();
    for eni in enis {
        for (reference, name) in eni.groups.iter().zip(&eni.group_names) {
            match positions.entry(reference.text.to_lowercase()) {
                Entry::Occupied(known) => {
                    if let Some(position) = known.get() {
                        let (_, last, count) = &mut holders[*position];
                        if !std::ptr::eq(*last, eni) {
                            (*last, *count) = (eni, *count + 1);
                        }
                    }
                }
                Entry::Vacant(new) => {
                    new.insert(Some(holders.len()));
                    holders.push((eni, eni, 1));
                    groups.push(RawGroup {
                        id: reference.text.clone(),
                        name: name.clone(),
                        vpc: eni.vpc.clone(),
                        dialect: Dialect::Aws,
                        rules_known: false,
                        lacks: None,
                        ingress: Vec::new(),
                        egress: Vec::new(),
                        location: reference.location,
                        partial: false,
                    });
                }
            }
        }
    }
    if report.objects_lost {
        return;
    }
    for (group, (first, _, count)) in groups[held..].iter().zip(holders) {
        let who = match count {
            1 => format!("`{}` has", first.id),
            more => format!("{more} ENIs have, `{}` first", first.id),
        };
        let message = format!(
            "no file holds {}, which {who}: rules that refer to it cover its members, its own rules are not known",
            group.title(),
        );
        let hint = "add the output of `aws ec2 describe-security-groups` that holds it";
        report.warn(group.location, message, hint);
    }
}

/// Assigns ids to the group's rules; a rule without a counterpart on either side is an error.
fn join(group: &mut RawGroup, rules: Vec<AwsRule>, report: &mut Diagnostics) {
    let whole = !group.partial && !report.rules_lost;
    let hint = "print both again, one right after the other";
    let listed = rules.first().map(|rule| rule.rule.location);
    let unpaired = pair(group, rules);
    if whole {
        for rule in unpaired {
            let what = rule_text(rule.direction, &rule.rule);
            let place = report.place(group.location);
            let message = format!("rule `{}` ({what}) is not in group `{}` at {place}", rule.id, group.id);
            report.error(rule.rule.location, message, hint);
        }
    }
    let Some(listed) = listed.filter(|_| whole) else {
        return;
    };
    for direction in Direction::BOTH {
        for own in group.rules_mut(direction).iter().filter(|own| own.id.is_none()) {
            let message = format!(
                "the rule {} is not among the `SecurityGroupRules` of its group at {}",
                rule_text(direction, own),
                report.place(listed),
            );
            report.error(own.location, message, hint);
        }
    }
}

fn rule_text(direction: Direction, rule: &RawRule) -> String {
    let toward = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let peer = match &rule.peer {
        RawPeer::Net(net) => net.to_string(),
        RawPeer::PrefixList(name) | RawPeer::Group(name) => name.clone(),
        RawPeer::Itself => String::from("self"),
    };
    format!("{direction} {} {toward} {peer}", protocol_text(rule.protocol))
}

/// A group that is known only from its rules.
fn from_rules(id: String, rules: Vec<AwsRule>) -> RawGroup {
    let location = rules.first().map(|rule| rule.rule.location).unwrap_or_default();
    let (ingress, egress) = (Vec::new(), Vec::new());
    let mut group = RawGroup {
        id,
        name: None,
        vpc: None,
        dialect: Dialect::Aws,
        rules_known: true,
        lacks: None,
        ingress,
        egress,
        location,
        partial: false,
    };
    for rule in rules {
        group.rules_mut(rule.direction).push(rule.rule);
    }
    group
}

/// Takes the names of groups that are known only from their rules from ENIs.
fn name_by_enis(groups: &mut [RawGroup], enis: &[RawEni]) {
    let names: HashMap<&str, &String> = enis
        .iter()
        .flat_map(|eni| eni.groups.iter().zip(&eni.group_names))
        .filter_map(|(group, name)| Some((group.text.as_str(), name.as_ref()?)))
        .collect();
    for group in groups.iter_mut().filter(|group| group.name.is_none()) {
        group.name = names.get(group.id.as_str()).map(|name| (*name).clone());
    }
}

/// Groups with resolved peers, and the rules that use a prefix list.
pub(super) struct Resolved {
    pub(super) groups: Vec<SecurityGroup>,
    pub(super) list_uses: Vec<ListUse>,
}

/// Resolves the peer of every rule.
pub(super) fn resolve(raw: &[RawGroup], names: &mut Names, report: &mut Diagnostics) -> Resolved {
    let mut resolver = Resolver {
        names,
        report,
        list_uses: Vec::new(),
        missing: Missing::default(),
        unpeered: BTreeMap::new(),
    };
    let groups = raw
        .iter()
        .enumerate()
        .map(|(position, group)| {
            let name = group.name.clone().unwrap_or_else(|| group.id.clone());
            let mut rules = |direction: Direction, raw: &[RawRule]| -> Vec<Rule> {
                raw.iter()
                    .filter_map(|rule| resolver.rule(position, group, &name, direction, rule))
                    .collect()
            };
            let ingress = rules(Direction::Ingress, &group.ingress);
            let egress = rules(Direction::Egress, &group.egress);
            SecurityGroup {
                id: group.id.clone(),
                name,
                vpc: group.vpc.clone(),
                rules_known: group.rules_known,
                dialect: group.dialect,
                location: group.location,
                ingress,
                egress,
            }
        })
        .collect();
    warn_unpeered(&resolver.unpeered, resolver.report);
    resolver.missing.warn(resolver.report);
    Resolved {
        groups,
        list_uses: resolver.list_uses,
    }
}

struct Resolver<'r> {
    names: &'r mut Names,
    report: &'r mut Diagnostics,
    list_uses: Vec<ListUse>,
    missing: Missing,
    /// The peering connections that are not active, each with the place of its first rule and the number of its rules.
    unpeered: BTreeMap<Peering, (Location, usize)>,
}

/// One warning for each peering connection that is not active.
fn warn_unpeered(connections: &BTreeMap<Peering, (Location, usize)>, report: &mut Diagnostics) {
    for (Peering { connection, status }, (first, rules)) in connections {
        let connection = connection.as_ref().map_or_else(
            || String::from("the peering connection"),
            |connection| format!("peering connection `{connection}`"),
        );
        let rules = match rules {
            1 => String::from("the rule that refers to a group over it matches"),
            more => format!("the {more} rules that refer to a group over it match"),
        };
        let status = status.as_deref().unwrap_or_default();
        let message = format!("{connection} is `{status}`, not `active`, so {rules} nothing");
        let hint = "remove what is no longer of use, or print the groups again once it is active";
        report.warn(*first, message, hint);
    }
}

/// Unknown groups that AWS rules refer to, each with the place of its first rule and the number of its rules.
#[derive(Default)]
struct Missing {
    positions: HashMap<String, usize>,
    groups: Vec<(String, Location, usize)>,
}

impl Missing {
    fn add(&mut self, group: &str, rule: Location) {
        let position = *self.positions.entry(group.to_lowercase()).or_insert(self.groups.len());
        match self.groups.get_mut(position) {
            Some((_, _, rules)) => *rules += 1,
            None => self.groups.push((group.to_owned(), rule, 1)),
        }
    }

    /// One warning for each group.
    fn warn(self, report: &mut Diagnostics) {
        if report.objects_lost {
            return;
        }
        for (group, first, rules) in self.groups {
            let rules = match rules {
                1 => String::from("the rule matches"),
                more => format!("the {more} rules that refer to it match"),
            };
            let message = format!("there is no security group `{group}`, so {rules} nothing");
            let hint = "add the group's file if it exists; a deleted group's rule can stay";
            report.warn(first, message, hint);
        }
    }
}

impl Resolver<'_> {
    fn rule(
        &mut self,
        position: usize,
        group: &RawGroup,
        name: &str,
        direction: Direction,
        rule: &RawRule,
    ) -> Option<Rule> {
        let id = rule
            .id
            .clone()
            .unwrap_or_else(|| format!("{name}/{direction}/{}", rule.number));
        let peer = match &rule.peer {
            RawPeer::Net(net) => {
                if families(rule.protocol, Some(*net)).next().is_none() {
                    self.other_family(rule, *net, direction);
                }
                match net {
                    IpNet::V4(net) => Peer::V4(*net),
                    IpNet::V6(net) => Peer::V6(*net),
                }
            }
            RawPeer::Itself => Peer::Group(taskgate_model::GroupIndex(position)),
            RawPeer::Group(text) if rule.inactive().is_some() => self.unpeered(text, rule),
            RawPeer::Group(text) => self.group(text, group.dialect, rule)?,
            RawPeer::PrefixList(text) => self.list(text, group.dialect, position, rule)?,
        };
        Some(Rule {
            id,
            protocol: rule.protocol,
            peer,
            description: rule.description.clone(),
            location: rule.location,
        })
    }

    fn other_family(&mut self, rule: &RawRule, net: IpNet, direction: Direction) {
        let (protocol, family, right) = match rule.protocol {
            Protocol::Icmpv6(_) => ("icmpv6", "IPv6", "icmp"),
            _ => ("icmp", "IPv4", "icmpv6"),
        };
        let message = format!("the {direction} rule for `{net}` matches nothing: `{protocol}` is {family} only");
        self.report
            .warn(rule.location, message, format!("write `{right}`, or another CIDR"));
    }

    /// The peer for a group in a VPC whose peering is not active.
    fn unpeered(&mut self, text: &str, rule: &RawRule) -> Peer {
        if let Some(peering) = &rule.peering {
            let entry = self.unpeered.entry(peering.clone()).or_insert((rule.location, 0));
            entry.1 += 1;
        }
        Peer::Missing(text.to_owned())
    }

    fn group(&mut self, text: &str, dialect: Dialect, rule: &RawRule) -> Option<Peer> {
        match (self.names.group(text), dialect) {
            (Found::One(index), _) => Some(Peer::Group(index)),
            (Found::Unknown(_) | Found::Ambiguous(_), Dialect::Aws) => {
                self.missing.add(text, rule.location);
                Some(Peer::Missing(text.to_owned()))
            }
            (Found::Unknown(fault), Dialect::Native) => {
                if !self.report.objects_lost {
                    self.report.take::<()>(rule.location, Err(fault));
                }
                None
            }
            (Found::Ambiguous(fault), Dialect::Native) => self.report.take(rule.location, Err(fault)),
        }
    }

    fn list(&mut self, text: &str, dialect: Dialect, group: usize, rule: &RawRule) -> Option<Peer> {
        let list = match (self.names.list(text), dialect) {
            (Found::One(list), _) => list,
            (Found::Unknown(_) | Found::Ambiguous(_), Dialect::Aws) => self.names.add_list(text),
            (Found::Unknown(fault), Dialect::Native) => {
                if !self.report.objects_lost {
                    self.report.take::<()>(rule.location, Err(fault));
                }
                return None;
            }
            (Found::Ambiguous(fault), Dialect::Native) => return self.report.take(rule.location, Err(fault)),
        };
        self.list_uses.push(ListUse {
            group,
            list,
            location: rule.location,
        });
        Some(Peer::PrefixList(list))
    }
}
