//! A host with a trunk:
//!
//! ```text
//!   wire: eth0 ── [outer ── bridge ── far] ── trunk ── bridge ── port ── eth0: inside
//! ```
//!
//! The part in brackets is on the host, too, or is left out: then `trunk` is connected to `wire`. `inside` is in the
//! tasks' place: it gets and sends the trunk's frames for them.

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use taskgate_bpf::{load::LoadOptions, object::BpfObject, prefilter::XdpPrefilter};
use taskgate_net::link::{Link, LinkKind, UplinkPeer};
use testkit::{Capture, Config, Daemon, Netns, Topology, kernel::await_gates, netns::await_up, traffic::Sender};

/// The hook that first judges packets from the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judge {
    /// XDP in the driver.
    Native,
    /// XDP in the kernel.
    Generic,
    /// The gate: another XDP program has the place.
    Gate,
}

impl Judge {
    /// taskgate's message about it.
    pub(crate) fn said(self) -> &'static str {
        match self {
            Self::Native => "dropped early, by its driver (XDP)",
            Self::Generic => "dropped early, by the kernel (generic XDP)",
            Self::Gate => "nothing is dropped early",
        }
    }

    /// A driver refuses XDP if it could not serve every queue of the sending peer.
    pub(crate) fn queues(self) -> &'static str {
        match self {
            Self::Generic => "numtxqueues 4 numrxqueues 4",
            Self::Native | Self::Gate => "numtxqueues 1 numrxqueues 1",
        }
    }
}

/// The queues of the uplink itself.
pub(crate) const ONE_QUEUE: &str = "numtxqueues 1 numrxqueues 1";

/// A program in the place of the prefilter, which passes everything.
pub(crate) struct Occupied(#[expect(dead_code, reason = "it comes off when it is dropped")] XdpPrefilter);

/// Puts another program in the place of the prefilter.
pub(crate) fn occupy(host: &Netns, link: &str) -> Result<Occupied> {
    host.run(|| {
        let link = Link {
            name: link.to_owned(),
            ifindex: if_nametoindex(link)?,
            kind: LinkKind::Uplink(UplinkPeer::Wire),
        };
        // The program's image is empty, so it decides nothing.
        let mut object = BpfObject::load(&LoadOptions {
            conns: 1,
            denials: 1,
            policy_banks: 1,
            ..LoadOptions::default()
        })?;
        Ok(Occupied(object.attach_prefilter(&link)?))
    })
}

/// Where the other end of the trunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Far {
    /// On the host.
    Here,
    /// In the namespace of the wire.
    Elsewhere,
}

/// The host and both of its sides.
pub(crate) struct Place {
    pub(crate) topology: Topology,
    pub(crate) wire: Netns,
    pub(crate) inside: Netns,
    pub(crate) judge: Judge,
    _occupied: Option<Occupied>,
}

impl Place {
    pub(crate) fn new(judge: Judge, far: Far) -> Result<Self> {
        let topology = Topology::new()?;
        let (wire, inside) = (Netns::new("wire")?, Netns::new("inside")?);
        // The only frames are those of the test.
        for netns in [&wire, &inside, &topology.host] {
            netns.set("net.ipv6.conf.default.disable_ipv6", "1")?;
        }
        let queues = judge.queues();
        let host = &topology.host;
        host.add_veth("port", &inside, "eth0")?;
        host.ip("link add name behind type bridge mcast_snooping 0
             link set dev port master behind
             link set dev port up
             link set dev behind up")?;
        inside.ip("link set dev eth0 up")?;
        await_up(&[(host, "port"), (&inside, "eth0")])?;
        match far {
            Far::Elsewhere => plug(host, &wire, queues)?,
            Far::Here => {
                host.ip(&format!(
                    "link add name trunk {ONE_QUEUE} type veth peer name far {queues}"
                ))?;
                host.add_veth("outer", &wire, "eth0")?;
                host.ip("link add name before type bridge mcast_snooping 0
                     link set dev far master before
                     link set dev outer master before
                     link set dev far up
                     link set dev outer up
                     link set dev before up
                     link set dev trunk master behind
                     link set dev trunk up")?;
                wire.ip("link set dev eth0 up")?;
                await_up(&[(host, "trunk"), (&wire, "eth0")])?;
            }
        }
        let occupied = (judge == Judge::Gate)
            .then(|| occupy(&topology.host, "trunk"))
            .transpose()?;
        Ok(Self {
            topology,
            wire,
            inside,
            judge,
            _occupied: occupied,
        })
    }

    /// Takes the trunk away.
    pub(crate) fn unplug(&self) -> Result<()> {
        self.topology.host.ip("link delete trunk")
    }

    /// Makes the trunk again, connected directly to the wire.
    pub(crate) fn plug(&self) -> Result<()> {
        plug(&self.topology.host, &self.wire, self.judge.queues())
    }

    /// A configuration with the trunk alone.
    pub(crate) fn config(&self) -> Config {
        self.topology.config().with("uplink: { device: trunk, mode: trunk }")
    }

    pub(crate) fn start(&self, config: &Config) -> Result<Daemon> {
        let daemon = self.topology.start(config)?;
        await_gates(&self.topology.host, "trunk")?;
        daemon.await_message(self.judge.said())?;
        Ok(daemon)
    }

    /// Sends from the wire, or from inside.
    pub(crate) fn sender(&self, side: Side) -> Result<Sender> {
        Sender::on(self.netns(side), "eth0")
    }

    /// Captures the frames that arrive at this side.
    pub(crate) fn capture(&self, side: Side) -> Result<Capture> {
        Capture::tap(self.netns(side), "eth0").context("nobody listens")
    }

    fn netns(&self, side: Side) -> &Netns {
        match side {
            Side::Wire => &self.wire,
            Side::Inside => &self.inside,
        }
    }
}

fn plug(host: &Netns, wire: &Netns, queues: &str) -> Result<()> {
    let path = wire.path();
    host.ip(&format!(
        "link add name trunk {ONE_QUEUE} type veth peer name eth0 netns {path} {queues}
         link set dev trunk master behind
         link set dev trunk up"
    ))?;
    wire.ip("link set dev eth0 up")?;
    await_up(&[(host, "trunk"), (wire, "eth0")])
}

/// A side of the trunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Wire,
    Inside,
}

impl Side {
    fn mac(self) -> [u8; 6] {
        match self {
            Self::Wire => [2, 0, 0, 0, 0, 0x11],
            Self::Inside => [2, 0, 0, 0, 0, 0x22],
        }
    }

    /// A frame from this side to the other, with these tags, the outermost first.
    pub(crate) fn sends(self, tags: &[(u16, u16)], frame: &[u8]) -> Vec<u8> {
        let other = if self == Self::Wire { Self::Inside } else { Self::Wire };
        // A branch has a separate hardware address.
        let destination = match (other, tags.first()) {
            (Self::Inside, Some((_, control))) if control & 0xfff != 0 => Config::vlan_mac(control & 0xfff),
            _ => other.mac(),
        };
        let tags = tags
            .iter()
            .flat_map(|(kind, control)| [kind.to_be_bytes(), control.to_be_bytes()].concat());
        [&destination, &self.mac(), &*tags.collect::<Vec<_>>(), &frame[12..]].concat()
    }
}

/// The tag of a VLAN.
pub(crate) fn vlan(id: u16) -> [(u16, u16); 1] {
    [(0x8100, id)]
}
