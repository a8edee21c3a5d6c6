//! Builds a [`Model`] from the raw objects: copies are compared, references resolved, limits checked.

mod described;
mod enis;
mod flow_logs;
mod groups;
mod limits;
mod names;
mod owners;
mod pairing;
mod placed;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use taskgate_model::{Eni, Model, PrefixList, PrefixListIndex};

use super::problem::{Diagnostics, Location};
use super::raw::{AwsRule, Collected, Network, Object, RawPrefixList, Section};
use names::Names;

/// The account if neither the ENI nor the configuration has one.
const NO_ACCOUNT: &str = "000000000000";

/// Builds the model. If errors are reported, the model must not be used.
pub(super) fn model(all: Collected, report: &mut Diagnostics) -> Model {
    let enis = unique(all.enis, report);
    let rules: Vec<AwsRule> = unique(all.rules, report);
    let raw_groups = groups::gather(unique(all.groups, report), rules, &enis, report);
    let raw_lists = unique(all.prefix_lists, report);
    let mut names = Names::new(&raw_groups, &raw_lists);
    let resolved = groups::resolve(&raw_groups, &mut names, report);
    let lists = prefix_lists(raw_lists, &names);
    limits::groups(&resolved.groups, &raw_groups, &lists, report);
    let elsewhere = enis::Elsewhere {
        enis,
        members: unique(all.members, report),
        networks: unique(all.networks, report),
        ecs_tasks: unique(all.ecs_tasks, report),
    };
    let uplink = only(all.uplinks, report);
    let tasks = unique(all.tasks, report);
    let (enis, locations) = enis::resolve(&tasks, &elsewhere, uplink.as_ref(), &names, &resolved.groups, report);
    let reserved = reserved(&elsewhere.networks, &enis, report);
    let account = only(all.accounts, report).unwrap_or_else(|| NO_ACCOUNT.to_owned());
    let flow_logs = flow_logs::resolve(all.flow_logs, &account, &enis, report);
    let model = Model {
        account,
        groups: resolved.groups,
        prefix_lists: lists,
        enis,
        uplink,
        settings: only(all.settings, report).unwrap_or_default(),
        flow_logs,
        metrics: only(all.metrics, report),
        reserved,
    };
    limits::enis(&model, &locations, report);
    owners::warn_of_overlaps(&model, &locations, report);
    needed_lists(&model, &resolved.list_uses, report);
    model
}

/// Merges identical copies of objects; refuses different ones, with both places.
fn unique<T: Object>(objects: Vec<T>, report: &mut Diagnostics) -> Vec<T> {
    let mut positions: HashMap<String, usize> = HashMap::with_capacity(objects.len());
    let mut kept: Vec<T> = Vec::with_capacity(objects.len());
    for object in objects {
        let (key, location) = object.key();
        let Some(&position) = positions.get(&key) else {
            positions.insert(key, kept.len());
            kept.push(object);
            continue;
        };
        let title = object.title();
        let first = &mut kept[position];
        if !first.merge(object) {
            let (_, first) = first.key();
            let message = format!("{title} differs from the one at {}", report.place(first));
            report.error(location, message, "keep one of them");
        }
    }
    kept
}

/// The value of a section that may occur once in a configuration.
fn only<T: PartialEq>(sections: Vec<Section<T>>, report: &mut Diagnostics) -> Option<T> {
    unique(sections, report).into_iter().next().map(|section| section.value)
}

/// The lists in the files, then those known only from rules, without entries.
fn prefix_lists(raw: Vec<RawPrefixList>, names: &Names) -> Vec<PrefixList> {
    let known = raw.into_iter().map(|list| {
        let RawPrefixList {
            id,
            name,
            max_entries,
            entries,
            ..
        } = list;
        PrefixList {
            id,
            name,
            max_entries,
            entries,
        }
    });
    let unknown = names.unknown_lists().iter().map(|id| PrefixList {
        id: id.clone(),
        name: None,
        max_entries: None,
        entries: None,
    });
    known.chain(unknown).collect()
}

/// A rule of a group that uses a prefix list.
struct ListUse {
    group: usize,
    list: PrefixListIndex,
    location: Location,
}

/// Reports lists without entries, once each: an error if a gated task uses the list, else a warning.
fn needed_lists(model: &Model, uses: &[ListUse], report: &mut Diagnostics) {
    if report.objects_lost {
        return;
    }
    for (position, list) in model
        .prefix_lists
        .iter()
        .enumerate()
        .filter(|(_, list)| list.entries.is_none())
    {
        let uses = || uses.iter().filter(|rule| rule.list.0 == position);
        let gated = uses().find_map(|rule| {
            let user = model
                .gated()
                .find(|eni| eni.groups.iter().any(|group| group.0 == rule.group))?;
            Some((rule.location, user))
        });
        let id = &list.id;
        let hint = format!(
            "save the output of `aws ec2 get-managed-prefix-list-entries --prefix-list-id {id}` as `{id}.json`"
        );
        if let Some((location, eni)) = gated {
            let message = format!(
                "the entries of prefix list `{id}` are not known, and task `{}` uses it",
                eni.display_name()
            );
            report.error(location, message, hint);
        } else if let Some(rule) = uses().next() {
            let message = format!("the entries of prefix list `{id}` are not known: whom the rule allows is not known");
            report.warn(rule.location, message, hint);
        }
    }
}

/// The addresses that AWS reserves in each CIDR of the tasks' VPCs, sorted; of all VPCs if a task's VPC is unknown, or there
/// are no tasks. An address that is reserved in one VPC can be an ENI's in another: it is not exempt there.
fn reserved(networks: &[Network], enis: &[Eni], report: &mut Diagnostics) -> Vec<IpAddr> {
    let address = |net: &IpNet, offset: u8| match net {
        IpNet::V4(net) => IpAddr::V4(Ipv4Addr::from_bits(net.network().to_bits().wrapping_add(offset.into()))),
        IpNet::V6(net) => IpAddr::V6(Ipv6Addr::from_bits(net.network().to_bits().wrapping_add(offset.into()))),
    };
    let of_tasks = enis.iter().filter(|eni| eni.binding.is_some());
    let of_tasks: Option<HashSet<&str>> = of_tasks.map(|eni| eni.vpc.as_deref()).collect();
    let of_tasks = of_tasks.filter(|vpcs| !vpcs.is_empty());
    let concerns = |network: &&Network| match (&of_tasks, &network.vpc) {
        (Some(vpcs), Some(vpc)) => vpcs.contains(vpc.as_str()),
        _ => true,
    };
    let mut found: BTreeMap<IpAddr, &Network> = BTreeMap::new();
    for network in networks.iter().filter(concerns) {
        let addresses = network.cidrs.iter().map(|net| address(net, network.reserved));
        found.extend(addresses.map(|address| (address, network)));
    }
    let near = |eni: &&Eni| match (&of_tasks, &eni.vpc) {
        (Some(vpcs), Some(vpc)) => vpcs.contains(vpc.as_str()),
        _ => true,
    };
    for eni in enis.iter().filter(near) {
        for address in &eni.addresses {
            if let Some(network) = found.remove(address) {
                let message = format!(
                    "`{address}`, which AWS keeps in {}, is an address of `{}`, so rules decide about it",
                    network.title(),
                    eni.display_name()
                );
                report.warn(
                    network.location,
                    message,
                    "right where VPCs overlap; else put the address of the ENI right",
                );
            }
        }
    }
    found.into_keys().collect()
}
