//! The link monitor: reports links of a network namespace that appear, disappear or change.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io, mem,
    os::fd::{AsFd as _, BorrowedFd},
    time::{Duration, Instant},
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rtnetlink::packet_core::NetlinkPayload;

use super::{
    link::{Link, LinkError, LinkKind, kind, name, parse, parse_uplink},
    netlink::NetlinkError,
    rtnl::Rtnl,
};

/// A link appeared, disappeared, or changed its controller. A rename is both: the old name is gone, the new one is present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// There is a link of this name.
    Present {
        /// The link's name.
        name: String,
        /// The link's ifindex.
        ifindex: u32,
        /// Whether it may be another link than the earlier one of this name and ifindex, as messages were lost meanwhile.
        unseen: bool,
    },
    /// There is no such link any more.
    Gone {
        /// The name it had.
        name: String,
        /// The ifindex it had.
        ifindex: u32,
        /// The namespace and ifindex that it moved to, if the kernel reported them.
        moved: Option<Moved>,
        /// Whether the link still exists, under another name.
        renamed: bool,
    },
    /// A link was added to or removed from a bridge, or a bridge's VLAN filtering was turned on or off.
    Attached {
        /// The link's or bridge's ifindex.
        ifindex: u32,
    },
}

/// The new place of a link that moved to another network namespace (reported since Linux 4.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The namespace's id in the one that the link left.
    pub namespace: i32,
    /// The link's ifindex there.
    pub ifindex: u32,
}

/// An existing link.
#[derive(Debug)]
pub struct KnownLink {
    name: String,
    /// The needed parts of its message: a whole one has some kilobytes.
    message: LinkMessage,
    /// The ifindex of its controller: a bridge, or any other link.
    controller: Option<u32>,
    /// Whether it is a bridge whose ports form one segment: a bridge with VLAN filtering has several.
    is_segment: bool,
}

impl KnownLink {
    fn of(message: &LinkMessage) -> Option<Self> {
        let name = name(message)?.to_owned();
        let mut kept = LinkMessage::default();
        kept.header = message.header.clone();
        let mut controller = None;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(_) | LinkAttribute::Link(_) | LinkAttribute::LinkNetNsId(_) => {
                    kept.attributes.push(attribute.clone());
                }
                LinkAttribute::Controller(ifindex) => controller = Some(*ifindex),
                LinkAttribute::LinkInfo(infos) => {
                    let kind = infos.iter().filter(|info| matches!(info, LinkInfo::Kind(_)));
                    kept.attributes.push(LinkAttribute::LinkInfo(kind.cloned().collect()));
                }
                _ => {}
            }
        }
        Some(Self {
            name,
            message: kept,
            controller,
            is_segment: matches!(kind(message), Some(InfoKind::Bridge)) && !tells_vlans_apart(message),
        })
    }

    /// The link's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The link as one that carries a task.
    ///
    /// # Errors
    /// [`LinkError::Kind`].
    pub fn task(&self) -> Result<Link, LinkError> {
        parse(&self.message)
    }

    /// The link, if it can be closed without closing anything else: if it leads to a single neighbour. Other links,
    /// such as the host's network card or a bridge, may lead to more than a task.
    pub fn closable(&self) -> Option<Link> {
        let leads_to_one = |kind: &InfoKind| {
            use InfoKind::{IpVlan, IpVtap, MacVlan, MacVtap, Netkit, Tun};
            matches!(kind, MacVlan | MacVtap | IpVlan | IpVtap | Tun | Netkit)
        };
        match self.task() {
            Ok(link) => Some(link),
            Err(_) => kind(&self.message).filter(|kind| leads_to_one(kind)).map(|_| Link {
                name: self.name.clone(),
                ifindex: self.message.header.index,
                kind: LinkKind::Other,
            }),
        }
    }

    /// The link as the uplink.
    ///
    /// # Errors
    /// [`LinkError::NoEthernet`].
    pub fn uplink(&self) -> Result<Link, LinkError> {
        parse_uplink(&self.message)
    }
}

/// The links of a network namespace, as events: first those that exist, then changes. Nothing is missed permanently: if
/// the kernel had to drop messages, all links are read again, and events for all of them are reported again. A link may have gone
/// meanwhile, and another have got its name and ifindex.
///
/// It needs no async runtime: the watching thread waits for nothing else.
#[derive(Debug)]
pub struct LinkWatch {
    /// The kernel's messages.
    messages: Rtnl,
    /// The socket to read all links. On the socket of `messages` answers would be mixed with the kernel's messages.
    questions: Rtnl,
    known: BTreeMap<u32, KnownLink>,
    /// The ifindexes of the known links.
    names: HashMap<String, u32>,
    events: VecDeque<LinkEvent>,
    /// All links have to be read: at the start, and after messages were lost.
    behind: bool,
}

impl LinkWatch {
    /// The receive buffer for unread messages, in bytes.
    const ROOM: usize = 512 * 1024;

    /// Begins to watch the network namespace of the calling thread.
    pub fn new() -> Result<Self, NetlinkError> {
        Ok(Self {
            messages: listen()?,
            questions: Rtnl::open().map_err(refused())?,
            known: BTreeMap::new(),
            names: HashMap::new(),
            events: VecDeque::new(),
            behind: true,
        })
    }

    /// The next pending event; `None` if there is none.
    pub fn poll(&mut self) -> Result<Option<LinkEvent>, NetlinkError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.behind {
                self.read_all()?;
                continue;
            }
            match self.messages.waiting() {
                Ok(messages) if messages.is_empty() => return Ok(None),
                Ok(messages) => messages.into_iter().for_each(|message| self.handle(message)),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    // The messages that remain in the buffer are older than the state that is read now, and would overwrite it.
                    self.messages = listen()?;
                    self.behind = true;
                }
                Err(error) => return Err(refused()(error)),
            }
        }
    }

    /// Waits for the next event until `patience` is over.
    pub fn next(&mut self, patience: Duration) -> Result<Option<LinkEvent>, NetlinkError> {
        let end = Instant::now() + patience;
        loop {
            if let Some(event) = self.poll()? {
                return Ok(Some(event));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.wait(None, Some(left))?;
        }
    }

    /// Waits until there may be an event, until `other` is readable, or until `patience` is over.
    pub fn wait(&self, other: Option<BorrowedFd<'_>>, patience: Option<Duration>) -> Result<(), NetlinkError> {
        let timeout = patience.map_or(PollTimeout::NONE, |patience| {
            // Round up to whole milliseconds.
            PollTimeout::try_from(patience + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let readable = |file| PollFd::new(file, PollFlags::POLLIN);
        let mut files: Vec<PollFd<'_>> = std::iter::once(self.messages.as_fd())
            .chain(other)
            .map(readable)
            .collect();
        match poll(&mut files, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(NetlinkError::of("watch", "links")(error)),
        }
    }

    /// Reads all links again, for callers that need the present state.
    pub fn refresh(&mut self) -> Result<(), NetlinkError> {
        self.read_all()
    }

    /// The existing link with a name.
    pub fn link(&self, name: &str) -> Option<(u32, &KnownLink)> {
        let ifindex = *self.names.get(name)?;
        Some((ifindex, self.known.get(&ifindex)?))
    }

    /// The bridge that a link is a port of, if all of the bridge's ports form one segment.
    pub fn segment(&self, ifindex: u32) -> Option<u32> {
        let bridge = self.known.get(&ifindex)?.controller?;
        self.known.get(&bridge)?.is_segment.then_some(bridge)
    }

    /// Whether a link has this ifindex.
    pub fn has(&self, ifindex: u32) -> bool {
        self.known.contains_key(&ifindex)
    }

    fn read_all(&mut self) -> Result<(), NetlinkError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let messages = self
            .questions
            .dump(request)
            .map_err(NetlinkError::of("list", "links"))?;
        let lost = mem::take(&mut self.behind);
        self.compare(messages, lost);
        Ok(())
    }

    fn handle(&mut self, message: NetlinkPayload<RouteNetlinkMessage>) {
        match message {
            // A bridge also sends messages about its ports, among them a DelLink for a port that only left the bridge.
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message),
            ) if message.header.interface_family == AddressFamily::Bridge => {}
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => {
                if let Some(link) = KnownLink::of(&message) {
                    self.present(message.header.index, link);
                }
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message)) => {
                self.gone(message.header.index, moved(&message));
            }
            NetlinkPayload::Overrun(_) => self.behind = true,
            _ => {}
        }
    }

    /// `lost`: whether messages were lost.
    fn compare(&mut self, messages: Vec<RouteNetlinkMessage>, lost: bool) {
        let links = messages.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(message) => Some((message.header.index, KnownLink::of(&message)?)),
            _ => None,
        });
        let links: BTreeMap<u32, KnownLink> = links.collect();
        let is_gone = |known: &&u32| !links.contains_key(known);
        let gone: Vec<u32> = self.known.keys().filter(is_gone).copied().collect();
        for ifindex in gone {
            self.gone(ifindex, None);
        }
        for (ifindex, link) in links {
            let name = link.name.clone();
            if self.known.get(&ifindex).is_some_and(|known| known.name == name) {
                self.renew(ifindex, link);
                let unseen = lost;
                self.events.push_back(LinkEvent::Present { name, ifindex, unseen });
            } else {
                if lost {
                    self.gone(ifindex, None);
                }
                self.present(ifindex, link);
            }
        }
    }

    fn present(&mut self, ifindex: u32, link: KnownLink) {
        if self.known.get(&ifindex).is_some_and(|known| known.name == link.name) {
            self.renew(ifindex, link);
            return;
        }
        self.forget(ifindex, None, true);
        let name = link.name.clone();
        self.names.insert(name.clone(), ifindex);
        self.known.insert(ifindex, link);
        let unseen = false;
        self.events.push_back(LinkEvent::Present { name, ifindex, unseen });
    }

    fn renew(&mut self, ifindex: u32, link: KnownLink) {
        let attached = (link.controller, link.is_segment);
        let before = self.known.insert(ifindex, link);
        if before.is_none_or(|before| (before.controller, before.is_segment) != attached) {
            self.events.push_back(LinkEvent::Attached { ifindex });
        }
    }

    fn gone(&mut self, ifindex: u32, moved: Option<Moved>) {
        self.forget(ifindex, moved, false);
    }

    fn forget(&mut self, ifindex: u32, moved: Option<Moved>, renamed: bool) {
        if let Some(KnownLink { name, .. }) = self.known.remove(&ifindex) {
            // Another link may have the name already.
            if self.names.get(&name) == Some(&ifindex) {
                self.names.remove(&name);
            }
            self.events.push_back(LinkEvent::Gone {
                name,
                ifindex,
                moved,
                renamed,
            });
        }
    }
}

fn listen() -> Result<Rtnl, NetlinkError> {
    Rtnl::listen_to_links(LinkWatch::ROOM).map_err(refused())
}

fn refused() -> impl FnOnce(io::Error) -> NetlinkError {
    NetlinkError::of("watch", "links")
}

fn tells_vlans_apart(message: &LinkMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().any(|info| match info {
            LinkInfo::Data(InfoData::Bridge(data)) => data.contains(&InfoBridge::VlanFiltering(true)),
            _ => false,
        }),
        _ => false,
    })
}

fn moved(message: &LinkMessage) -> Option<Moved> {
    let find = |of: fn(&LinkAttribute) -> Option<i32>| message.attributes.iter().find_map(of);
    let namespace = find(|attribute| match attribute {
        LinkAttribute::NewNetnsId(namespace) => Some(*namespace),
        _ => None,
    })?;
    let ifindex = find(|attribute| match attribute {
        LinkAttribute::NewIfIndex(ifindex) => Some(*ifindex),
        _ => None,
    });
    Some(Moved {
        namespace,
        ifindex: ifindex.map_or(message.header.index, i32::cast_unsigned),
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::{InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage};

    use super::KnownLink;

    #[test]
    fn a_bridge_that_tells_vlans_apart_is_not_one_link_to_its_ports() {
        for (kind, filters, is_segment) in [
            (InfoKind::Bridge, false, true),
            (InfoKind::Bridge, true, false),
            (InfoKind::Vrf, false, false),
        ] {
            let mut message = LinkMessage::default();
            let data = InfoData::Bridge(vec![InfoBridge::VlanFiltering(filters)]);
            message.attributes = vec![
                LinkAttribute::IfName("it".to_owned()),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]),
            ];
            let known = KnownLink::of(&message).expect("it has a name");
            assert_eq!(known.is_segment, is_segment, "{message:?}");
        }
    }
}
