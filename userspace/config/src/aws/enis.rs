//! `NetworkInterfaces`: every ENI is a member of its groups, whatever its status.

use std::net::IpAddr;

use super::super::distinct::Distinct;
use super::super::object::Object;
use super::super::problem::Diagnostics;
use super::super::raw::{RawEni, Reference};
use super::super::value;
use super::zones::zone;
use super::{AS_PRINTED, id, word};

/// Reads one ENI.
pub(super) fn read(eni: &Object<'_>, report: &mut Diagnostics) -> Option<RawEni> {
    let id = id(eni, "NetworkInterfaceId", report)?;
    let before = report.errors();
    let mut read = RawEni {
        id,
        account: eni
            .text("OwnerId", report)
            .filter(|owner| value::is_account(owner))
            .map(str::to_owned),
        vpc: eni.value("VpcId", report, word),
        subnet: eni.value("SubnetId", report, word),
        zone: zone(eni, report),
        addresses: addresses(eni, report),
        groups: Vec::new(),
        groups_known: eni.get("Groups").is_some(),
        group_names: Vec::new(),
        source_dest_check: eni.boolean("SourceDestCheck", report).unwrap_or(true),
        mac: eni.text("MacAddress", report).and_then(|mac| value::mac(mac).ok()),
        location: eni.location,
        partial: false,
    };
    for node in eni.items("Groups", report) {
        let Some(group) = Object::of_aws(node, "a group", report) else {
            continue;
        };
        let Some(text) = group.required_value("GroupId", AS_PRINTED, report, word) else {
            continue;
        };
        read.groups.push(Reference {
            text,
            location: group.location,
        });
        read.group_names.push(group.value("GroupName", report, word));
    }
    read.partial = report.errors() > before;
    Some(read)
}

/// All private addresses, the primary IPv4 address first, without public addresses and delegated prefixes.
fn addresses(eni: &Object<'_>, report: &mut Diagnostics) -> Vec<IpAddr> {
    let mut found = Distinct::default();
    let mut add = |object: &Object<'_>, key: &str, report: &mut Diagnostics| {
        if let Some(address) = object.value(key, report, value::own_address) {
            found.add(address);
        }
    };
    add(eni, "PrivateIpAddress", report);
    let lists = [
        ("PrivateIpAddresses", "PrivateIpAddress"),
        ("Ipv6Addresses", "Ipv6Address"),
    ];
    for (list, key) in lists {
        for node in eni.items(list, report) {
            if let Some(object) = Object::of_aws(node, "an address", report) {
                add(&object, key, report);
            }
        }
    }
    found.into_items()
}
