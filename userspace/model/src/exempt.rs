//! Platform services: traffic that needs no rule, and traffic without flow records.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Model;
use super::settings::AddressList;

/// A set of destinations that are exempt from rules, or from flow records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exempt {
    /// The addresses, sorted, no duplicates.
    pub addresses: Vec<IpAddr>,
    /// Whether DHCP is included.
    pub dhcp: bool,
}

const fn link_local(third: u8, fourth: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(169, 254, third, fourth))
}

/// An address in fd00:ec2::/32, AWS's IPv6 counterpart of 169.254.169.0/24.
const fn ec2(last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, last))
}

/// AWS's services, and whether traffic to them is also without flow records. The ECS endpoint's traffic never crosses an ENI
/// on AWS, so AWS's list of unrecorded traffic does not mention it.
const SERVICES: [(IpAddr, bool); 9] = [
    (link_local(169, 253), true),
    (link_local(169, 254), true),
    (link_local(169, 123), true),
    (link_local(169, 250), true),
    (link_local(169, 251), true),
    (link_local(170, 2), false),
    (ec2(0x253), true),
    (ec2(0x254), true),
    (ec2(0x123), true),
];

impl Model {
    /// The destinations that a task may use without a rule: `settings.exempt`, AWS's list completed by [`Model::reserved`].
    pub fn exempt(&self) -> Exempt {
        self.services(&self.settings.exempt, |_| true)
    }

    /// The traffic that a gate elsewhere may exempt: unknown from the files, since `settings.exempt` applies to this host.
    pub fn perhaps_exempt(&self) -> Exempt {
        let Exempt { mut addresses, dhcp } = self.services(&AddressList::Aws, |_| true);
        addresses.append(&mut self.exempt().addresses);
        Exempt { addresses, dhcp }
    }

    /// The traffic without flow records: `settings.unlogged`, AWS's list completed by [`Model::reserved`].
    pub fn unlogged(&self) -> Exempt {
        self.services(&self.settings.unlogged, |unlogged| unlogged)
    }

    fn services(&self, list: &AddressList, wanted: impl Fn(bool) -> bool) -> Exempt {
        let mut addresses: Vec<IpAddr> = match list {
            AddressList::None => return Exempt::default(),
            AddressList::List(addresses) => addresses.clone(),
            AddressList::Aws => {
                let services = SERVICES.into_iter().filter(|(_, unlogged)| wanted(*unlogged));
                services
                    .map(|(address, _)| address)
                    .chain(self.reserved.iter().copied())
                    .collect()
            }
        };
        addresses.sort();
        addresses.dedup();
        Exempt {
            addresses,
            dhcp: *list == AddressList::Aws,
        }
    }
}
