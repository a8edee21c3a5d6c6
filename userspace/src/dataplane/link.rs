//! Links of this host: what carries a task's ENI, and how they come and go.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
};

use futures_util::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage},
};
use rtnetlink::{
    LinkGetRequest, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::netlink::{Netlink, Refused};

/// A link that can carry an ENI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name, which may change.
    pub name: String,
    /// Its number, which does not.
    pub ifindex: u32,
    /// What it is.
    pub kind: LinkKind,
}

/// The kinds of link that can carry an ENI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// One end of a veth pair: the host's, with the task at the other end.
    Veth {
        /// The other end's ifindex; `None` where it is in another network namespace.
        peer_here: Option<u32>,
    },
    /// A VLAN link: the task is on the host's side, the wire beyond.
    Vlan,
    /// The uplink, of whatever kind: the tasks are on the host's side, the wire beyond.
    Uplink(OtherEnd),
}

/// What is at the other end of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherEnd {
    /// The wire.
    Wire,
    /// The other end of a veth pair, with this ifindex.
    Here(u32),
    /// The other end of a veth pair, in another network namespace.
    Elsewhere,
}

impl Link {
    /// Whether a task is at its other end, and not the wire.
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
    /// The kernel does not tell.
    #[error(transparent)]
    Refused(#[from] Refused),
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
        let message = self.link_message(name).await?;
        let message = message.ok_or_else(|| LinkError::Missing { name: name.to_owned() })?;
        if message.header.link_layer_type != LinkLayerType::Ether {
            return Err(LinkError::NoEthernet { name: name.to_owned() });
        }
        let other_end = match parse(&message) {
            Ok(Link {
                kind: LinkKind::Veth { peer_here },
                ..
            }) => peer_here.map_or(OtherEnd::Elsewhere, OtherEnd::Here),
            _ => OtherEnd::Wire,
        };
        Ok(Link {
            name: name.to_owned(),
            ifindex: message.header.index,
            kind: LinkKind::Uplink(other_end),
        })
    }

    /// What the kernel says of a link; `None` where there is none.
    pub(super) async fn link_message(&self, name: &str) -> Result<Option<LinkMessage>, Refused> {
        // A longer name is none; the kernel would call it invalid instead.
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Ok(None);
        }
        look_up(self.handle().link().get().match_name(name.to_owned()), name).await
    }

    /// What the kernel says of the link of a number, whatever its name; `name`: that it has in an error.
    pub(super) async fn link_message_of(&self, ifindex: u32, name: &str) -> Result<Option<LinkMessage>, Refused> {
        look_up(self.handle().link().get().match_index(ifindex), name).await
    }

    /// What the kernel says of all links.
    pub(super) async fn links(&self) -> Result<Vec<LinkMessage>, Refused> {
        let messages = self.handle().link().get().execute().try_collect();
        messages.await.map_err(Refused::of("list", "links"))
    }
}

async fn look_up(request: LinkGetRequest, name: &str) -> Result<Option<LinkMessage>, Refused> {
    // All there is, or the rest would come for nobody.
    let messages: Result<Vec<LinkMessage>, _> = request.execute().try_collect().await;
    match messages.map_err(Refused::of("look up link", name)) {
        Err(refused) if refused.is(libc::ENODEV) => Ok(None),
        found => Ok(found?.into_iter().next()),
    }
}

fn parse(message: &LinkMessage) -> Result<Link, LinkError> {
    let (mut kind, mut other_end, mut elsewhere) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::LinkInfo(infos) => {
                kind = kind.or(infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind),
                    _ => None,
                }));
            }
            LinkAttribute::Link(ifindex) => other_end = Some(*ifindex),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            _ => {}
        }
    }
    let name = name(message).unwrap_or_default().to_owned();
    let kind = match kind {
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

/// A link's name.
pub(super) fn name(message: &LinkMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(&**name),
        _ => None,
    })
}

/// A link came or went. A new name is both: the old one went, the new one came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// There is a link of this name.
    Present {
        /// Its name.
        name: String,
        /// Its number.
        ifindex: u32,
    },
    /// There is no such link any more.
    Gone {
        /// The name it had.
        name: String,
        /// The number it had.
        ifindex: u32,
    },
}

/// The links of a network namespace as they come and go, those that are there first. Nothing is missed for good: where
/// the kernel had to drop messages, all links are read again, and all of them told of again. One of them may have gone
/// meanwhile, and another have come to its name and number.
pub struct LinkWatch {
    /// For reading all links. Not the connection that the messages come on: a message that another process caused
    /// carries that one's sequence number, which could be taken for an answer's.
    netlink: Netlink,
    news: UnboundedReceiver<News>,
    known: BTreeMap<u32, String>,
    events: VecDeque<LinkEvent>,
    /// What is known may be behind what is there.
    behind: bool,
}

/// What the kernel said, in a few bytes: many may wait while nobody asks for the next event, and each message is some
/// kilobytes.
enum News {
    Link(u32, String),
    Gone(u32),
    /// The kernel had to drop messages.
    Lost,
}

impl News {
    fn of(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Self> {
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => {
                Some(Self::Link(message.header.index, name(&message)?.to_owned()))
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message)) => {
                Some(Self::Gone(message.header.index))
            }
            NetlinkPayload::Overrun(_) => Some(Self::Lost),
            _ => None,
        }
    }
}

fn subscribe() -> Result<UnboundedReceiver<News>, Refused> {
    let opened = rtnetlink::new_multicast_connection(&[MulticastGroup::Link]);
    let (connection, _, mut messages) = opened.map_err(Refused::of("watch", "links"))?;
    tokio::spawn(connection);
    let (to, news) = unbounded_channel();
    tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                () = to.closed() => return,
                message = messages.next() => message,
            };
            let Some((message, _)) = message else { return };
            // Without a receiver it has ended by the next round.
            let _closed = News::of(message).map(|news| to.send(news));
        }
    });
    Ok(news)
}

impl LinkWatch {
    /// Begins to watch the network namespace of the calling thread, on the tokio runtime around it.
    pub fn new() -> Result<Self, Refused> {
        Ok(Self {
            news: subscribe()?,
            netlink: Netlink::open()?,
            known: BTreeMap::new(),
            events: VecDeque::new(),
            behind: true,
        })
    }

    /// The next event. Nothing is lost when the future is dropped before it is ready.
    pub async fn next(&mut self) -> Result<LinkEvent, Refused> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if self.behind {
                let links = self.netlink.links().await?;
                self.behind = false;
                self.compare(&links);
                continue;
            }
            let Some(news) = self.news.recv().await else {
                let closed = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Err(Refused::of("watch", "links")(closed));
            };
            match news {
                News::Link(ifindex, name) => self.present(ifindex, name),
                News::Gone(ifindex) => self.gone(ifindex),
                News::Lost => {
                    // The messages that are kept are the oldest ones: they would undo what is read now.
                    self.news = subscribe()?;
                    self.behind = true;
                }
            }
        }
    }

    fn compare(&mut self, links: &[LinkMessage]) {
        let named = |link: &LinkMessage| Some((link.header.index, name(link)?.to_owned()));
        let links: BTreeMap<u32, String> = links.iter().filter_map(named).collect();
        let gone: Vec<u32> = self
            .known
            .keys()
            .filter(|known| !links.contains_key(known))
            .copied()
            .collect();
        for ifindex in gone {
            self.gone(ifindex);
        }
        for (ifindex, name) in links {
            if self.known.get(&ifindex) == Some(&name) {
                self.events.push_back(LinkEvent::Present { name, ifindex });
            } else {
                self.present(ifindex, name);
            }
        }
    }

    fn present(&mut self, ifindex: u32, name: String) {
        if self.known.get(&ifindex) == Some(&name) {
            return;
        }
        self.gone(ifindex);
        self.known.insert(ifindex, name.clone());
        self.events.push_back(LinkEvent::Present { name, ifindex });
    }

    fn gone(&mut self, ifindex: u32) {
        if let Some(name) = self.known.remove(&ifindex) {
            self.events.push_back(LinkEvent::Gone { name, ifindex });
        }
    }
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
