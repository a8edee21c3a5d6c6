//! What a killed run left behind. Its gates may have gone with it, so what it made must not stay.

use std::collections::BTreeSet;

use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use super::{EniError, EniSpec, delete};
use crate::dataplane::{
    link,
    netlink::{Netlink, Refused},
    netns::Namespace,
};

/// Clears the name of an ENI's host end, if what has it is ours.
pub(super) async fn replace(netlink: &Netlink, spec: &EniSpec<'_>) -> Result<(), EniError> {
    let name = spec.link_name();
    let Some(message) = netlink.link_message(&name).await? else {
        return Ok(());
    };
    let alias = alias(&message);
    let [mac, _] = spec.macs();
    let has_mac = message.attributes.contains(&LinkAttribute::Address(mac.to_vec()));
    // A run that was killed between making the pair and giving it its alias leaves the address that it was made with.
    if alias != Some(&spec.alias()) && !(alias.is_none() && has_mac) {
        return Err(EniError::Foreign {
            link: name,
            task: spec.task.to_owned(),
            alias: alias.map(str::to_owned),
        });
    }
    Ok(delete(netlink, message.header.index, &name).await?)
}

/// Takes away what earlier runs of `instance` made and left, and gives the names of the links and namespaces that went.
/// ENIs of `tasks` and the namespaces in `namespaces` stay: [`super::TaskEni::make`] replaces them. To be called before
/// the first ENI is made, from the network namespace of `netlink`.
pub async fn remove_left_over(
    netlink: &Netlink,
    instance: &str,
    tasks: &BTreeSet<&str>,
    namespaces: &BTreeSet<&str>,
) -> Result<Vec<String>, Refused> {
    let of = |task| {
        EniSpec {
            instance,
            task,
            namespace: "",
            addresses: &[],
        }
        .alias()
    };
    let kept: BTreeSet<String> = tasks.iter().map(|task| of(task)).collect();
    let ours = of("");
    let mut removed = Vec::new();
    for message in netlink.links().await? {
        let (Some(name), Some(alias)) = (link::name(&message), alias(&message)) else {
            continue;
        };
        if alias.starts_with(&ours) && !kept.contains(alias) {
            delete(netlink, message.header.index, name).await?;
            removed.push(name.to_owned());
        }
    }
    for name in Namespace::names()? {
        if namespaces.contains(&*name) {
            continue;
        }
        if let Some(namespace) = Namespace::open(&name)?
            && is_made_by(&namespace, instance).await?
        {
            namespace.remove()?;
            removed.push(name);
        }
    }
    Ok(removed)
}

/// What `lo` says in a namespace that an instance made.
pub(super) fn namespace_alias(instance: &str) -> String {
    format!("taskgate {instance}")
}

/// Whether an instance made a namespace, in this run or in one that was killed.
pub(super) async fn is_made_by(namespace: &Namespace, instance: &str) -> Result<bool, Refused> {
    let lo = namespace.netlink()?.link_message("lo").await?;
    Ok(lo.as_ref().and_then(alias) == Some(&namespace_alias(instance)))
}

fn alias(message: &LinkMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => Some(&**alias),
        _ => None,
    })
}
