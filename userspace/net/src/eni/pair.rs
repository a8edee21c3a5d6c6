//! The parts of an ENI: the veth pair, and the host's settings for it.

use std::{error::Error, io, net::IpAddr, os::fd::AsRawFd as _, time::Duration};

use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage, State};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use tokio::time::{Instant, sleep};

use super::{
    EniError, EniSpec, EniWarning,
    provisioned::{Complete, LinkRecord, Provisioned},
    routes, undo,
};
use crate::{
    link::Link,
    netlink::{Netlink, NetlinkError},
    netns::Namespace,
    sys,
    sysctl::{NeighbourControl, Sysctl},
};

/// The ENI's name inside the namespace.
pub(super) const INSIDE: &str = "eth0";

/// Makes an ENI in an existing namespace. On failure no part of it remains.
pub(super) async fn build<G, E>(
    host: &Netlink,
    list: &Provisioned,
    spec: &EniSpec<'_>,
    namespace: &Namespace,
    gate: impl FnOnce(&Link) -> Result<G, E>,
) -> Result<(Link, LinkRecord, Vec<EniWarning>, G), EniError>
where
    E: Error + Send + Sync + 'static,
{
    let task = namespace.netlink()?;
    if task.link_message(INSIDE).await?.is_some() {
        return Err(EniError::Occupied {
            namespace: namespace.name().to_owned(),
        });
    }
    let mut record = list.announce_link(spec)?;
    let added = add_pair(host, spec, namespace).await;
    if let Ok(link) = &added {
        record.ifindex = Some(link.ifindex);
    }
    let failed = async |error| {
        undo(list.remove_link(host, &record).await.map(drop));
        Err(error)
    };
    let link = match added {
        Ok(link) => link,
        Err(error) => return failed(error).await,
    };
    if let Err(refused) = list.put(&record) {
        return failed(refused.into()).await;
    }
    if let Err(error) = configure(host, &task, spec, namespace, &link).await {
        return failed(error).await;
    }
    let mut warnings = distrust(&link);
    let gate = match gate(&link) {
        Ok(gate) => gate,
        Err(cause) => {
            let task = spec.task.to_owned();
            let cause = cause.into();
            return failed(EniError::Gate { task, cause }).await;
        }
    };
    let complete = async {
        bring_up(host, &task, spec, &link).await?;
        let mut record = record.clone();
        record.complete = Some(Complete {
            task: namespace.id()?,
            addresses: spec.addresses.to_vec(),
            changing: false,
        });
        list.put(&record)?;
        Ok(record)
    };
    match complete.await {
        Ok(record) => {
            warnings.append(&mut self::warnings(spec.addresses, &link));
            Ok((link, record, warnings, gate))
        }
        // The gate is dropped after the link is removed, so that the link is gated until then.
        Err(error) => failed(error).await,
    }
}

/// Makes both ends, down.
async fn add_pair(host: &Netlink, spec: &EniSpec<'_>, namespace: &Namespace) -> Result<Link, EniError> {
    let name = spec.link_name();
    let [host_mac, task_mac] = spec.macs();
    let inside = LinkMessageBuilder::<LinkUnspec>::default()
        .name(INSIDE)
        .address(task_mac.to_vec())
        .setns_by_fd(namespace.file().as_raw_fd())
        .build();
    let pair = LinkVeth::new(&name, INSIDE)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(inside)))
        .address(host_mac.to_vec())
        .build();
    let added = host.handle().link().add(pair).execute().await;
    added.map_err(NetlinkError::of("make veth pair", &name))?;
    Ok(host.link(&name).await?)
}

/// Sets the alias, and adds both ends' addresses while they are down.
async fn configure(
    host: &Netlink,
    task: &Netlink,
    spec: &EniSpec<'_>,
    namespace: &Namespace,
    link: &Link,
) -> Result<(), EniError> {
    let alias = LinkUnspec::new_with_index(link.ifindex).alias(spec.alias());
    routes::set(host, alias, "name the owner of", link).await?;
    for family in routes::families(spec.addresses) {
        family.add_gateway(host, link).await?;
    }
    let inside = inside(task).await?;
    for address in spec.addresses {
        routes::add_own_address(task, &inside, *address).await?;
    }
    fill_checksums(spec, namespace)
}

/// Turns checksum and segmentation offload off at the task's end, if the specification asks for that.
pub(super) fn fill_checksums(spec: &EniSpec<'_>, namespace: &Namespace) -> Result<(), EniError> {
    if !spec.fills_checksums {
        return Ok(());
    }
    let turned = namespace.enter(|| sys::fill_checksums(INSIDE)).flatten();
    Ok(turned.map_err(NetlinkError::of("turn off checksum offload of", INSIDE))?)
}

/// The task's end.
pub(super) async fn inside(task: &Netlink) -> Result<Link, EniError> {
    Ok(task.link(INSIDE).await?)
}

/// Brings both ends up, and adds the routes, which need links that are up.
async fn bring_up(host: &Netlink, task: &Netlink, spec: &EniSpec<'_>, link: &Link) -> Result<(), EniError> {
    let inside = inside(task).await?;
    for (netlink, link) in [(host, link), (task, &inside)] {
        let up = LinkUnspec::new_with_index(link.ifindex).up();
        routes::set(netlink, up, "take up", link).await?;
    }
    for (netlink, link) in [(host, link), (task, &inside)] {
        await_carrier(netlink, link).await?;
    }
    let [host_mac, task_mac] = spec.macs();
    for address in spec.addresses {
        routes::add_to_task(host, link, *address, task_mac).await?;
    }
    for family in routes::families(spec.addresses) {
        family.put_default(task, &inside, host_mac).await?;
    }
    Ok(())
}

/// Waits until the kernel has noticed that both ends are up, within milliseconds as a rule, a second at most. Until then it drops
/// packets, and these would not be sent again. The kernel's notification could be lost, so the state is polled.
async fn await_carrier(netlink: &Netlink, link: &Link) -> Result<(), NetlinkError> {
    const LONGEST: Duration = Duration::from_secs(1);
    const EVERY: Duration = Duration::from_millis(1);
    let carries = |message: &LinkMessage| message.attributes.contains(&LinkAttribute::OperState(State::Up));
    let end = Instant::now() + LONGEST;
    while !netlink.link_message(&link.name).await?.as_ref().is_none_or(carries) && Instant::now() < end {
        sleep(EVERY).await;
    }
    Ok(())
}

/// Turns off the settings by which the task could change the host's own addresses and routes, before the link is up.
/// `send_redirects` is only off if it is off for `all` too; redirects are useless on a link without another router.
pub(super) fn distrust(link: &Link) -> Vec<EniWarning> {
    let own = NeighbourControl::ALL.map(|control| control.sysctl(&link.name));
    let sends = Sysctl::of_link("ipv4", &link.name, "send_redirects");
    let off = |sysctl: Sysctl| match sysctl.set(0) {
        // A host without IPv6 has nothing to turn off.
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Some(EniWarning::Trusting {
            sysctl: sysctl.to_string(),
            cause: cause.to_string(),
        }),
        _ => None,
    };
    own.into_iter().chain([sends]).filter_map(off).collect()
}

/// Turns on forwarding of packets from the task, and returns a warning for each setting that still prevents it.
pub(super) fn warnings(addresses: &[IpAddr], link: &Link) -> Vec<EniWarning> {
    let mut warnings = Vec::new();
    let mut set = |sysctl: Sysctl| {
        let is_on = turn_on(&sysctl);
        if let Err(cause) = &is_on
            && cause.kind() != io::ErrorKind::NotFound
        {
            let (sysctl, cause) = (sysctl.to_string(), cause.to_string());
            warnings.push(EniWarning::Setting { sysctl, cause });
        }
        is_on.is_ok()
    };
    let [has_v4, has_v6] = [IpAddr::is_ipv4, IpAddr::is_ipv6].map(|family| addresses.iter().any(family));
    let forwards_v4 = has_v4 && set(Sysctl::of_link("ipv4", &link.name, "forwarding"));
    // From 6.17 on; there is no other way for a single link.
    let forwards_v6 = has_v6 && set(Sysctl::of_link("ipv6", &link.name, "force_forwarding"));
    let families = [
        (has_v4, "net.ipv4.ip_forward", forwards_v4),
        (has_v6, "net.ipv6.conf.all.forwarding", forwards_v6),
    ];
    for (used, sysctl, among_tasks) in families {
        if used && !is_on(&Sysctl::named(sysctl)) {
            warnings.push(EniWarning::ForwardingOff { sysctl, among_tasks });
        }
    }
    warnings
}

fn is_on(sysctl: &Sysctl) -> bool {
    sysctl.get().is_ok_and(|value| value != 0)
}

fn turn_on(sysctl: &Sysctl) -> io::Result<()> {
    if is_on(sysctl) { Ok(()) } else { sysctl.set(1) }
}
