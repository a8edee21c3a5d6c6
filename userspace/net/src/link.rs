//! Links of this host, which carry tasks' ENIs.

use std::io;

use futures_util::TryStreamExt as _;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage};
use nix::{errno::Errno, net::if_::if_indextoname};
use rtnetlink::LinkGetRequest;

use super::netlink::{Netlink, NetlinkError};

/// A link that can carry an ENI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The link's name, which may change.
    pub name: String,
    /// The link's ifindex, which does not change.
    pub ifindex: u32,
    /// The kind of link.
    pub kind: LinkKind,
}

/// The kinds of link that can carry an ENI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// The host's end of a veth pair, with the task at the other end.
    Veth {
        /// The other end's ifindex; `None` if that end is in another network namespace.
        peer_here: Option<u32>,
    },
    /// A VLAN link: the task is on the host's side, the wire beyond.
    Vlan,
    /// The uplink, of any kind: the tasks are on the host's side, the wire beyond.
    Uplink(UplinkPeer),
    /// Any other kind. It cannot have a gate that judges, only one that drops everything.
    Other,
}

/// The other end of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkPeer {
    /// The wire.
    Wire,
    /// The other end of a veth pair, with this ifindex.
    Here(u32),
    /// The other end of a veth pair, in another network namespace.
    Elsewhere,
}

/// The name of the link of this network namespace with an ifindex; ENXIO if there is none.
#[expect(clippy::disallowed_methods, reason = "what is wrong with it is made up for here")]
pub fn name_of(ifindex: u32) -> io::Result<String> {
    let name = if_indextoname(ifindex)?.into_string().map_err(io::Error::other)?;
    // nix 0.31 turns the null pointer of an error into an empty name.
    if name.is_empty() {
        return Err(Errno::ENXIO.into());
    }
    Ok(name)
}

impl Link {
    /// Whether the link's other end is a task, not the wire.
    pub fn faces_task(&self) -> bool {
        matches!(self.kind, LinkKind::Veth { .. })
    }
}

/// Why a link cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// There is no such link, at least not yet.
    #[error("there is no link `{name}`")]
    Missing {
        /// The name that was looked up.
        name: String,
    },
    /// The link is of a kind that no gate works on.
    #[error("link `{name}` is of kind `{kind}`: a gate works on `veth` and `vlan` links")]
    Kind {
        /// The link.
        name: String,
        /// Its kind, as `ip -details link` shows it; `device` for those that have none.
        kind: String,
    },
    /// The link cannot be the uplink.
    #[error("link `{name}` has no Ethernet headers: an uplink has")]
    NoEthernet {
        /// The link.
        name: String,
    },
    /// The kernel refused the request.
    #[error(transparent)]
    Refused(#[from] NetlinkError),
}

impl Netlink {
    /// Looks up a link by name.
    pub async fn link(&self, name: &str) -> Result<Link, LinkError> {
        match self.link_message(name).await? {
            Some(message) => parse(&message),
            None => Err(LinkError::Missing { name: name.to_owned() }),
        }
    }

    /// Looks up the uplink by name: a link of any kind that carries Ethernet.
    pub async fn uplink(&self, name: &str) -> Result<Link, LinkError> {
        match self.link_message(name).await? {
            Some(message) => parse_uplink(&message),
            None => Err(LinkError::Missing { name: name.to_owned() }),
        }
    }

    /// The kernel's message about a link; `None` if there is no such link.
    pub(super) async fn link_message(&self, name: &str) -> Result<Option<LinkMessage>, NetlinkError> {
        // No link has a longer name; the kernel would return another error.
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Ok(None);
        }
        look_up(self.handle().link().get().match_name(name.to_owned()), name).await
    }

    /// The kernel's message about the link with an ifindex; `name` is its name in errors.
    pub(super) async fn link_message_of(&self, ifindex: u32, name: &str) -> Result<Option<LinkMessage>, NetlinkError> {
        look_up(self.handle().link().get().match_index(ifindex), name).await
    }
}

async fn look_up(request: LinkGetRequest, name: &str) -> Result<Option<LinkMessage>, NetlinkError> {
    // Read all answers, or the rest would arrive without a receiver.
    let messages: Result<Vec<LinkMessage>, _> = request.execute().try_collect().await;
    match messages.map_err(NetlinkError::of("look up link", name)) {
        Err(refused) if refused.is(libc::ENODEV) => Ok(None),
        found => Ok(found?.into_iter().next()),
    }
}

/// Parses a message as the uplink.
pub(super) fn parse_uplink(message: &LinkMessage) -> Result<Link, LinkError> {
    let name = name(message).unwrap_or_default().to_owned();
    if message.header.link_layer_type != LinkLayerType::Ether {
        return Err(LinkError::NoEthernet { name });
    }
    let other_end = match parse(message) {
        Ok(Link {
            kind: LinkKind::Veth { peer_here },
            ..
        }) => peer_here.map_or(UplinkPeer::Elsewhere, UplinkPeer::Here),
        _ => UplinkPeer::Wire,
    };
    Ok(Link {
        name,
        ifindex: message.header.index,
        kind: LinkKind::Uplink(other_end),
    })
}

/// Parses a message as a task's link.
pub(super) fn parse(message: &LinkMessage) -> Result<Link, LinkError> {
    let (mut other_end, mut elsewhere) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Link(ifindex) => other_end = Some(*ifindex),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            _ => {}
        }
    }
    let name = name(message).unwrap_or_default().to_owned();
    let kind = match kind(message) {
        Some(InfoKind::Veth) => LinkKind::Veth {
            peer_here: other_end.filter(|_| !elsewhere),
        },
        Some(InfoKind::Vlan) => LinkKind::Vlan,
        other => {
            let kind = other.map_or_else(|| "device".to_owned(), ToString::to_string);
            return Err(LinkError::Kind { name, kind });
        }
    };
    Ok(Link {
        name,
        ifindex: message.header.index,
        kind,
    })
}

/// The kind of link; physical ones have none.
pub(super) fn kind(message: &LinkMessage) -> Option<&InfoKind> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind),
            _ => None,
        }),
        _ => None,
    })
}

/// A link's name.
pub(super) fn name(message: &LinkMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(&**name),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

    use super::{Link, LinkKind, parse};

    fn message(kind: Option<InfoKind>, more: &[LinkAttribute]) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.attributes = vec![LinkAttribute::IfName("it".to_owned())];
        message
            .attributes
            .extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
        message.attributes.extend_from_slice(more);
        message
    }

    #[test]
    fn the_kinds_that_a_gate_works_on() {
        let lower = LinkAttribute::Link(3);
        let elsewhere = LinkAttribute::LinkNetNsId(0);
        let veth = |peer_here| LinkKind::Veth { peer_here };
        let cases = [
            (
                message(Some(InfoKind::Veth), std::slice::from_ref(&lower)),
                veth(Some(3)),
            ),
            (message(Some(InfoKind::Veth), &[lower.clone(), elsewhere]), veth(None)),
            (message(Some(InfoKind::Vlan), &[lower]), LinkKind::Vlan),
        ];
        for (message, kind) in cases {
            let expected = Link {
                name: "it".to_owned(),
                ifindex: 7,
                kind,
            };
            assert_eq!(parse(&message).unwrap(), expected);
        }
    }

    #[test]
    fn other_kinds_are_refused_by_name() {
        for (kind, shown) in [
            (None, "device"),
            (Some(InfoKind::MacVlan), "macvlan"),
            (Some(InfoKind::Tun), "tun"),
        ] {
            let error = parse(&message(kind, &[])).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("link `it` is of kind `{shown}`: a gate works on `veth` and `vlan` links")
            );
        }
    }
}
