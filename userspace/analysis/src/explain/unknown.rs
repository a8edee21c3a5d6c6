//! Missing information about a gate where no known rule allows the packet, so that a denial is not certain.
//!
//! A gate on this host uses only the files: groups and lists of its task are known, and an address that no file has is in no
//! group. For gates of other ENIs, AWS may know more.

use std::net::IpAddr;

use taskgate_ebpf::wire::dhcp;
use taskgate_model::{Direction, Eni, Exempt, GroupIndex, Model, Peer, PrefixListIndex, Rule};

use super::{
    nearest::{allows_message, far, of_family},
    question::{End, Question},
};
use crate::display;
use crate::frame::Message;

/// A missing piece of information.
pub enum Unknown<'a> {
    /// Whether the ENI has a gate.
    Gate,
    /// Whether the gate passes exempt traffic without a rule.
    Exempt,
    /// The groups of the ENI.
    OwnGroups,
    /// The rules of some of the ENI's groups.
    Rules(Vec<GroupIndex>),
    /// The entries of a prefix list in a rule.
    PrefixList {
        /// The group that has the rule.
        group: GroupIndex,
        /// The rule.
        rule: &'a Rule,
        /// The rule's list.
        list: PrefixListIndex,
    },
    /// The groups of the peer, where a rule allows a group.
    Peer {
        /// The group that has the rule.
        group: GroupIndex,
        /// The rule.
        rule: &'a Rule,
    },
}

/// The missing information about an ENI's gate that makes a denial uncertain. `None` if nothing is missing.
pub fn unknown<'a>(model: &'a Model, question: &Question<'_>, direction: Direction, eni: &Eni) -> Option<Unknown<'a>> {
    if !eni.gate_known {
        return Some(Unknown::Gate);
    }
    if direction == Direction::Egress && eni.binding.is_none() && may_be_exempt(model, question) {
        return Some(Unknown::Exempt);
    }
    if !eni.groups_known {
        return Some(Unknown::OwnGroups);
    }
    let rules_unknown = |group: &&GroupIndex| !model.group(**group).rules_known;
    let unknown: Vec<GroupIndex> = eni.groups.iter().filter(rules_unknown).copied().collect();
    if !unknown.is_empty() {
        return Some(Unknown::Rules(unknown));
    }
    let end = far_end(question, direction);
    let peer_unknown = eni.binding.is_none() && may_have_groups(end);
    let family = question.family();
    eni.groups
        .iter()
        .flat_map(|&group| {
            model
                .group(group)
                .rules(direction)
                .iter()
                .map(move |rule| (group, rule))
        })
        .filter(|(_, rule)| of_family(model, rule, family) && allows_message(question.message, rule))
        .find_map(|(group, rule)| match &rule.peer {
            &Peer::PrefixList(list) if model.prefix_list(list).entries.is_none() => {
                Some(Unknown::PrefixList { group, rule, list })
            }
            Peer::Group(_) | Peer::Missing(_) if peer_unknown => Some(Unknown::Peer { group, rule }),
            _ => None,
        })
}

/// Whether a gate may pass the packet without a rule: to AWS's own services, or DHCP.
fn may_be_exempt(model: &Model, question: &Question<'_>) -> bool {
    let Exempt { addresses, dhcp } = model.perhaps_exempt();
    let is_dhcp = matches!(
        question.message,
        Message::Udp {
            source: dhcp::CLIENT,
            port: dhcp::SERVER
        } | Message::Udp {
            source: dhcp::CLIENT_V6,
            port: dhcp::SERVER_V6
        }
    );
    addresses.contains(&question.to.address) || dhcp && is_dhcp
}

fn far_end<'a>(question: &Question<'a>, direction: Direction) -> End<'a> {
    match direction {
        Direction::Ingress => question.from,
        Direction::Egress => question.to,
    }
}

/// Whether the address may belong to an ENI with unknown groups. Internet addresses have no groups; an IPv6 address does not
/// show whether it is on the Internet or in a VPC.
fn may_have_groups(end: End<'_>) -> bool {
    match (end.eni, end.address) {
        (Some(eni), _) => !eni.groups_known,
        (None, IpAddr::V4(address)) => {
            let [first, second, ..] = address.octets();
            // RFC 1918, and RFC 6598's 100.64.0.0/10.
            address.is_private() || first == 100 && second & 0xc0 == 64
        }
        (None, IpAddr::V6(address)) => {
            // 2000::/3 and fc00::/7, but not fd00:ec2::/32, where AWS's own services are.
            let [first, second, ..] = address.segments();
            let of_aws = (first, second) == (0xfd00, 0xec2);
            first & 0xe000 == 0x2000 || address.is_unique_local() && !of_aws
        }
    }
}

impl Unknown<'_> {
    /// The reason of the verdict.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Gate => "gate-unknown",
            Self::Exempt => "exempt-unknown",
            Self::OwnGroups | Self::Rules(_) => "groups-unknown",
            Self::PrefixList { .. } => "prefix-list-unknown",
            Self::Peer { .. } => "peer-unknown",
        }
    }

    /// The explanation why the verdict is unknown.
    pub fn why(&self, model: &Model, question: &Question<'_>, direction: Direction, eni: &Eni) -> String {
        let allows = |group: GroupIndex, rule: &Rule| {
            format!(
                "rule `{}` of group `{}` allows {}",
                rule.id,
                display::group_name(model, group),
                display::rule(model, direction, rule)
            )
        };
        match self {
            Self::Gate => String::from("it is a `members` entry, which does not say whether a gate is there"),
            Self::Exempt => format!(
                "whether it lets {} through without a rule is in no file: `settings.exempt` is of this host",
                far(question, direction)
            ),
            Self::OwnGroups => String::from("which groups it has is in no file"),
            Self::Rules(groups) => {
                let known = |group: &&GroupIndex| !groups.contains(*group);
                let others: Vec<&str> = eni
                    .groups
                    .iter()
                    .filter(known)
                    .map(|&group| display::group_name(model, group))
                    .collect();
                let others = match others.as_slice() {
                    [] => String::new(),
                    some => format!(", and no {direction} rule of {} allows it", display::all(some)),
                };
                let names: Vec<&str> = groups.iter().map(|&group| display::group_name(model, group)).collect();
                format!("the rules of {} are in no file{others}", display::all(&names))
            }
            Self::PrefixList { group, rule, .. } => {
                format!("{}, whose entries are in no file", allows(*group, rule))
            }
            Self::Peer { group, rule } => format!(
                "{}, and which groups {} has is in no file",
                allows(*group, rule),
                far(question, direction)
            ),
        }
    }

    /// The addition to the configuration that supplies the information.
    pub fn remedy(&self, model: &Model, question: &Question<'_>, direction: Direction, eni: &Eni) -> String {
        let with = |option: &str, ids: &[&str]| {
            let plain: Vec<&str> = ids.iter().filter_map(|id| display::plain_id(id)).collect();
            if plain.is_empty() {
                String::new()
            } else {
                format!(" {option} {}", plain.join(" "))
            }
        };
        let output = match self {
            Self::Gate => {
                return String::from(
                    "to know it, ask where it runs; AWS's ENIs have a gate, so that the output of `aws ec2 \
                     describe-network-interfaces` in place of the entry says it too",
                );
            }
            Self::Exempt => {
                return String::from("to know it, ask with the configuration of the host that has this gate");
            }
            Self::OwnGroups => format!(
                "describe-network-interfaces{}",
                with("--network-interface-ids", &[&eni.id])
            ),
            Self::Rules(groups) => {
                let ids: Vec<&str> = groups.iter().map(|&group| &*model.group(group).id).collect();
                format!("describe-security-groups{}", with("--group-ids", &ids))
            }
            Self::PrefixList { list, .. } => {
                let id = &model.prefix_list(*list).id;
                let option = with("--prefix-list-id", &[id]);
                return format!(
                    "to know it, save the output of `aws ec2 get-managed-prefix-list-entries{option}` as `{id}.json`"
                );
            }
            Self::Peer { .. } => match far_end(question, direction).eni {
                Some(far) => format!(
                    "describe-network-interfaces{}",
                    with("--network-interface-ids", &[&far.id])
                ),
                None => format!(
                    "describe-network-interfaces --filters Name=addresses.private-ip-address,Values={}",
                    far(question, direction)
                ),
            },
        };
        format!("to know it, save the output of `aws ec2 {output}` in the configuration's folder")
    }
}
