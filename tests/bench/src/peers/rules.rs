//! The tasks of the servers, and their rules.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use taskgate_model::Family;

use crate::rules::{OPEN_PORT, network};

/// The port of which no rule speaks.
pub const SHUT_PORT: u16 = 9;

/// The host's end of the client's link.
pub const CLIENT_DEVICE: &str = "tg-client";

/// The transport protocol of a server's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A server's task for one protocol and one family, which has rules for those alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskedTask {
    pub protocol: Transport,
    pub family: Family,
}

/// A rule that allows ingress of one protocol, on some ports, from a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowRule {
    /// The first port and the last.
    pub ports: (u16, u16),
    /// The network, in CIDR notation.
    pub from: String,
}

impl AllowRule {
    /// A port or a range of ports, in the syntax that all tools share.
    pub fn ports(&self) -> String {
        match self.ports {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        }
    }
}

/// The client's address.
pub fn client(family: Family) -> IpAddr {
    address(family, 2)
}

fn address(family: Family, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 88, 0, host).into(),
        Family::V6 => Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, host.into()).into(),
    }
}

impl AskedTask {
    /// All of a host.
    pub const ALL: [Self; 4] = [
        Self::new(Transport::Tcp, Family::V4),
        Self::new(Transport::Tcp, Family::V6),
        Self::new(Transport::Udp, Family::V4),
        Self::new(Transport::Udp, Family::V6),
    ];

    pub const fn new(protocol: Transport, family: Family) -> Self {
        Self { protocol, family }
    }

    pub fn address(self) -> IpAddr {
        let protocol = match self.protocol {
            Transport::Tcp => 10,
            Transport::Udp => 20,
        };
        address(self.family, protocol)
    }

    /// The host's end of its link.
    pub fn device(self) -> String {
        format!("tg-{self}")
    }

    /// So many rules, 1 to 1,000. The last one lets the client in, on [`OPEN_PORT`]; each other has a network and ports of
    /// its own, every third a range of them.
    pub fn rules(self, count: u16) -> Vec<AllowRule> {
        let others = (1..count).map(|number| {
            let first = 20_000 + number;
            let last = if number % 3 == 0 { first + 50 } else { first };
            AllowRule {
                ports: (first, last),
                from: network(self.family, number),
            }
        });
        let last = AllowRule {
            ports: (OPEN_PORT, OPEN_PORT),
            from: match self.family {
                Family::V4 => "10.88.0.0/16".to_owned(),
                Family::V6 => "fd88::/64".to_owned(),
            },
        };
        others.chain([last]).collect()
    }
}

/// The name of its rules in each filter: `tcp4`.
impl fmt::Display for AskedTask {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        write!(to, "{}{family}", self.protocol)
    }
}
