//! The addresses and routes at both ends of an ENI.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute},
    neighbour::NeighbourState,
    route::{RouteAttribute, RouteFlags, RouteMessage},
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

use crate::{
    link::Link,
    netlink::{Netlink, NetlinkError},
};

/// The task's gateways, at the host's end of every pair: link-local addresses.
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The explanation of the kernel's "permission denied" to root.
const IPV6_OFF: &str = "IPv6 is off in that network namespace: turn it on there with `sysctl -w \
                        net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0`, or give the task no IPv6 \
                        address";

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// An address family of an ENI, with the task's default source address: the first one of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Family(IpAddr);

/// The families of addresses.
pub(super) fn families(addresses: &[IpAddr]) -> impl Iterator<Item = Family> {
    let first = |of: fn(&IpAddr) -> bool| addresses.iter().copied().find(of).map(Family);
    first(IpAddr::is_ipv4).into_iter().chain(first(IpAddr::is_ipv6))
}

impl Family {
    /// Adds the task's gateway address to the host's end.
    pub(super) async fn add_gateway(self, host: &Netlink, link: &Link) -> Result<(), NetlinkError> {
        if self.0.is_ipv4() {
            return add_address(host, link, GATEWAY_V4.into(), 32).await;
        }
        // An automatic link-local address would be announced to the task, which has no use for it.
        let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let quiet =
            LinkUnspec::new_with_index(link.ifindex).append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![none]));
        set(host, quiet, "turn address generation off on", link).await?;
        // With the prefix length, as the task's link-local address must be on-link.
        add_address(host, link, GATEWAY_V6.into(), 64).await
    }

    /// Sets the task's default route, via the gateway with this MAC, replacing an earlier one.
    pub(super) async fn put_default(self, task: &Netlink, inside: &Link, mac: Mac) -> Result<(), NetlinkError> {
        let gateway = if self.0.is_ipv4() {
            GATEWAY_V4.into()
        } else {
            GATEWAY_V6.into()
        };
        put_neighbour(task, inside, gateway, mac).await?;
        let (route, name) = match self.0 {
            IpAddr::V4(address) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .gateway(GATEWAY_V4)
                    .onlink()
                    .output_interface(inside.ifindex)
                    .pref_source(address);
                (route.build(), "default (IPv4)")
            }
            IpAddr::V6(address) => {
                let route = RouteMessageBuilder::<Ipv6Addr>::new()
                    .gateway(GATEWAY_V6)
                    .output_interface(inside.ifindex)
                    .pref_source(address);
                (route.build(), "default (IPv6)")
            }
        };
        let put = task.handle().route().add(route).replace().execute().await;
        put.map_err(NetlinkError::of("add route", name))
    }
}

/// Adds one of the ENI's addresses to the task's end.
pub(super) async fn add_own_address(task: &Netlink, inside: &Link, address: IpAddr) -> Result<(), NetlinkError> {
    add_address(task, inside, address, length(address)).await
}

/// The ENI's addresses that the task's end has.
pub(super) async fn own_addresses(
    task: &Netlink,
    inside: &Link,
    addresses: &[IpAddr],
) -> Result<Vec<IpAddr>, NetlinkError> {
    let request = task.handle().address().get().set_link_index_filter(inside.ifindex);
    let found: Result<Vec<AddressMessage>, _> = request.execute().try_collect().await;
    let found = found.map_err(NetlinkError::of("list addresses of", &inside.name))?;
    let has = |address: IpAddr| {
        found.iter().any(|message| {
            let itself = |attribute: &AddressAttribute| match attribute {
                AddressAttribute::Address(of) | AddressAttribute::Local(of) => *of == address,
                _ => false,
            };
            message.header.prefix_len == length(address) && message.attributes.iter().any(itself)
        })
    };
    Ok(addresses.iter().copied().filter(|address| has(*address)).collect())
}

/// Removes one of the ENI's addresses from the task's end, if it is there.
pub(super) async fn remove_own_address(task: &Netlink, inside: &Link, address: IpAddr) -> Result<(), NetlinkError> {
    let mut request = task.handle().address().add(inside.ifindex, address, length(address));
    let message = std::mem::take(request.message_mut());
    let removed = task.handle().address().del(message).execute().await;
    let name = format!("{address} on {}", inside.name);
    unless(
        libc::EADDRNOTAVAIL,
        removed.map_err(NetlinkError::of("remove address", name)),
    )
}

/// Routes one of the ENI's addresses to the task, whose end has this MAC. The route has universe scope, so that the host talks
/// to the task from its usual address, not from the gateway's.
pub(super) async fn add_to_task(host: &Netlink, link: &Link, address: IpAddr, mac: Mac) -> Result<(), NetlinkError> {
    put_neighbour(host, link, address, mac).await?;
    let added = host.handle().route().add(to_task(link, address)).execute().await;
    added.map_err(NetlinkError::of("add route", format!("{address} dev {}", link.name)))
}

/// Whether one of the ENI's addresses is routed to the task.
pub(super) async fn is_to_task(host: &Netlink, link: &Link, address: IpAddr) -> Result<bool, NetlinkError> {
    let mut wanted = to_task(link, address);
    // Ask for the FIB entry itself, not for the result of a packet's lookup.
    wanted.header.flags = RouteFlags::FibMatch;
    let found: Result<Vec<RouteMessage>, _> = host.handle().route().get(wanted).execute().try_collect().await;
    let name = format!("{address} dev {}", link.name);
    match found.map_err(NetlinkError::of("look up route", name)) {
        Ok(found) => Ok(found.iter().any(|route| {
            route.header.destination_prefix_length == length(address)
                && route.attributes.contains(&RouteAttribute::Oif(link.ifindex))
        })),
        Err(refused)
            if [libc::ENETUNREACH, libc::EHOSTUNREACH]
                .iter()
                .any(|errno| refused.is(*errno)) =>
        {
            Ok(false)
        }
        Err(refused) => Err(refused),
    }
}

/// Removes the route and the neighbour entry of one of the ENI's addresses, if they exist.
pub(super) async fn remove_to_task(host: &Netlink, link: &Link, address: IpAddr) -> Result<(), NetlinkError> {
    let message = std::mem::take(host.handle().neighbours().add(link.ifindex, address).message_mut());
    let removed = host.handle().neighbours().del(message).execute().await;
    let name = format!("{address} on {}", link.name);
    unless(
        libc::ENOENT,
        removed.map_err(NetlinkError::of("remove neighbour", name)),
    )?;
    let removed = host.handle().route().del(to_task(link, address)).execute().await;
    let name = format!("{address} dev {}", link.name);
    unless(libc::ESRCH, removed.map_err(NetlinkError::of("remove route", name)))
}

pub(super) async fn set(
    netlink: &Netlink,
    change: LinkMessageBuilder<LinkUnspec>,
    operation: &'static str,
    link: &Link,
) -> Result<(), NetlinkError> {
    let set = netlink.handle().link().set(change.build()).execute().await;
    set.map_err(NetlinkError::of(operation, &link.name))
}

fn to_task(link: &Link, address: IpAddr) -> RouteMessage {
    match address {
        IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .output_interface(link.ifindex)
            .build(),
        IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(address, 128)
            .output_interface(link.ifindex)
            .build(),
    }
}

/// The prefix length of a single address.
fn length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

async fn add_address(netlink: &Netlink, link: &Link, address: IpAddr, length: u8) -> Result<(), NetlinkError> {
    let mut request = netlink.handle().address().add(link.ifindex, address, length);
    let message = request.message_mut();
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => {
            // No duplicate address detection: the link has no third host, and the task should be ready at once.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            address.is_unicast_link_local()
        }
    };
    if link_local {
        message.header.scope = AddressScope::Link;
    }
    let added = request.execute().await;
    let added = added.map_err(NetlinkError::of(
        "add address",
        format!("{address}/{length} on {}", link.name),
    ));
    added.map_err(|refused| {
        if address.is_ipv6() && refused.is(libc::EACCES) {
            let cause = io::Error::new(io::ErrorKind::PermissionDenied, IPV6_OFF);
            return NetlinkError { cause, ..refused };
        }
        refused
    })
}

/// Sets a permanent neighbour entry. A link with two ends needs no neighbour discovery; and the kernel keeps at most 1,024
/// discovered neighbours of all network namespaces together, so with more tasks some would be cut off.
async fn put_neighbour(netlink: &Netlink, link: &Link, address: IpAddr, mac: Mac) -> Result<(), NetlinkError> {
    let neighbour = netlink.handle().neighbours().add(link.ifindex, address);
    let neighbour = neighbour.link_layer_address(&mac).state(NeighbourState::Permanent);
    let put = neighbour.replace().execute().await;
    put.map_err(NetlinkError::of("add neighbour", format!("{address} on {}", link.name)))
}

/// Ignores an error with this number: the wanted state exists already.
pub(super) fn unless(errno: i32, done: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match done {
        Err(refused) if refused.is(errno) => Ok(()),
        done => done,
    }
}
