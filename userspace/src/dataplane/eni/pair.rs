//! The parts of an ENI: the veth pair, its addresses and routes, and the host's settings for it.

use std::{
    error::Error,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd as _,
};

use netlink_packet_route::{
    address::{AddressAttribute, AddressFlags, AddressScope},
    link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute},
    route::RouteMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{EniError, EniSpec, EniWarning, delete, undo};
use crate::dataplane::{
    link::Link,
    netlink::{Netlink, Refused},
    netns::Namespace,
};

/// The ENI's name inside the namespace.
const INSIDE: &str = "eth0";
/// The task's way out, at the host's end of every pair: addresses that mean nothing beyond the link.
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Makes all of an ENI but its namespace. Nothing of it stays where that fails.
pub(super) async fn build<G, E>(
    host: &Netlink,
    spec: &EniSpec<'_>,
    namespace: &Namespace,
    gate: impl FnOnce(&Link) -> Result<G, E>,
) -> Result<(Link, Vec<EniWarning>, G), EniError>
where
    E: Error + Send + Sync + 'static,
{
    let task = namespace.netlink()?;
    if task.link_message(INSIDE).await?.is_some() {
        return Err(EniError::Occupied {
            namespace: namespace.name().to_owned(),
        });
    }
    let link = add_pair(host, spec, namespace).await?;
    let failed = async |error| {
        undo(delete(host, link.ifindex, &link.name).await);
        Err(error)
    };
    if let Err(error) = configure(host, &task, spec, &link).await {
        return failed(error).await;
    }
    let gate = match gate(&link) {
        Ok(gate) => gate,
        Err(cause) => {
            let task = spec.task.to_owned();
            let cause = cause.into();
            return failed(EniError::Gate { task, cause }).await;
        }
    };
    match bring_up(host, &task, spec, &link).await {
        Ok(()) => {
            let warnings = warnings(spec, &link);
            Ok((link, warnings, gate))
        }
        // The gate is dropped after the link: what is up is gated to its end.
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
    added.map_err(Refused::of("make veth pair", &name))?;
    Ok(host.link(&name).await?)
}

/// Says whose it is, and gives both ends their addresses while they are down.
async fn configure(host: &Netlink, task: &Netlink, spec: &EniSpec<'_>, link: &Link) -> Result<(), EniError> {
    let alias = LinkUnspec::new_with_index(link.ifindex).alias(spec.alias());
    set(host, alias, "name the owner of", link).await?;
    if spec.primary_v4().is_some() {
        add_address(host, link, GATEWAY_V4.into(), 32).await?;
    }
    if spec.primary_v6().is_some() {
        // An address of its own making would be announced to the task, which could do nothing with it.
        let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let quiet =
            LinkUnspec::new_with_index(link.ifindex).append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![none]));
        set(host, quiet, "turn address generation off on", link).await?;
        // A prefix: the task's own link-local address is beyond it.
        add_address(host, link, GATEWAY_V6.into(), 64).await?;
    }
    let inside = inside(task).await?;
    for address in spec.addresses {
        let length = if address.is_ipv4() { 32 } else { 128 };
        add_address(task, &inside, *address, length).await?;
    }
    Ok(())
}

/// The task's end.
async fn inside(task: &Netlink) -> Result<Link, EniError> {
    Ok(task.link(INSIDE).await?)
}

async fn set(
    netlink: &Netlink,
    change: LinkMessageBuilder<LinkUnspec>,
    operation: &'static str,
    link: &Link,
) -> Result<(), Refused> {
    let set = netlink.handle().link().set(change.build()).execute().await;
    set.map_err(Refused::of(operation, &link.name))
}

async fn add_address(netlink: &Netlink, link: &Link, address: IpAddr, length: u8) -> Result<(), Refused> {
    let mut request = netlink.handle().address().add(link.ifindex, address, length);
    let message = request.message_mut();
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => {
            // There is nobody else on the link to ask, and the task is to be ready at once.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            address.is_unicast_link_local()
        }
    };
    if link_local {
        message.header.scope = AddressScope::Link;
    }
    let added = request.execute().await;
    added.map_err(Refused::of(
        "add address",
        format!("{address}/{length} on {}", link.name),
    ))
}

/// Takes both ends up, and puts in the routes, which need links that are up.
async fn bring_up(host: &Netlink, task: &Netlink, spec: &EniSpec<'_>, link: &Link) -> Result<(), EniError> {
    let inside = inside(task).await?;
    for (netlink, link) in [(host, link), (task, &inside)] {
        set(netlink, LinkUnspec::new_with_index(link.ifindex).up(), "take up", link).await?;
    }

    for address in spec.addresses {
        // In the universe's scope, so that the host speaks to the task as what it is elsewhere, not as its gateway.
        let route = match *address {
            IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(address, 32)
                .output_interface(link.ifindex)
                .build(),
            IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(address, 128)
                .output_interface(link.ifindex)
                .build(),
        };
        add_route(host, route, &format!("{address} dev {}", link.name)).await?;
    }
    if let Some(address) = spec.primary_v4() {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(GATEWAY_V4)
            .onlink()
            .output_interface(inside.ifindex)
            .pref_source(address);
        add_route(task, route.build(), "default (IPv4)").await?;
    }
    if let Some(address) = spec.primary_v6() {
        let route = RouteMessageBuilder::<Ipv6Addr>::new()
            .gateway(GATEWAY_V6)
            .output_interface(inside.ifindex)
            .pref_source(address);
        add_route(task, route.build(), "default (IPv6)").await?;
    }
    Ok(())
}

async fn add_route(netlink: &Netlink, route: RouteMessage, name: &str) -> Result<(), Refused> {
    let added = netlink.handle().route().add(route).execute().await;
    added.map_err(Refused::of("add route", name))
}

/// Lets the host forward what comes in from the task, and tells what it would take beyond that.
fn warnings(spec: &EniSpec<'_>, link: &Link) -> Vec<EniWarning> {
    let mut warnings = Vec::new();
    let mut set = |sysctl: String| {
        let is_on = turn_on(&sysctl);
        if let Err(cause) = &is_on
            && cause.kind() != io::ErrorKind::NotFound
        {
            let cause = cause.to_string();
            warnings.push(EniWarning::Setting { sysctl, cause });
        }
        is_on.is_ok()
    };
    let forwards_v4 = spec.primary_v4().is_some() && set(format!("net.ipv4.conf.{}.forwarding", link.name));
    // From 6.17 on; there is no other way for a single link.
    let forwards_v6 = spec.primary_v6().is_some() && set(format!("net.ipv6.conf.{}.force_forwarding", link.name));
    let families = [
        (spec.primary_v4().is_some(), "net.ipv4.ip_forward", forwards_v4),
        (spec.primary_v6().is_some(), "net.ipv6.conf.all.forwarding", forwards_v6),
    ];
    for (used, sysctl, among_tasks) in families {
        if used && !is_on(sysctl) {
            warnings.push(EniWarning::ForwardingOff { sysctl, among_tasks });
        }
    }
    warnings
}

/// Where a setting lies. It is that of the calling thread's network namespace.
fn path(sysctl: &str) -> String {
    format!("/proc/sys/{}", sysctl.replace('.', "/"))
}

fn is_on(sysctl: &str) -> bool {
    fs::read_to_string(path(sysctl)).is_ok_and(|value| value.trim() != "0")
}

fn turn_on(sysctl: &str) -> io::Result<()> {
    if is_on(sysctl) {
        return Ok(());
    }
    fs::OpenOptions::new()
        .write(true)
        .open(path(sysctl))
        .and_then(|mut file| io::Write::write_all(&mut file, b"1"))
}
