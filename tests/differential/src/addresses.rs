//! Whose packets are: the links that they are on, and the addresses that they come from and go to.

use std::net::IpAddr;

use super::{generator::Generator, rng::Rng};

/// Addresses that no gated ENI has.
const STRANGERS: [&str; 15] = [
    "10.0.1.1",
    "10.0.1.2",
    "10.0.0.200",
    "203.0.113.1",
    "203.0.113.2",
    "198.51.100.7",
    "169.254.169.254",
    "10.0.0.2",
    "2001:db8::101",
    "2001:db8::102",
    "2001:db8::200",
    "2001:db8:ff::1",
    "2001:db8:ff::2",
    "2001:db8:ff:0:8000::1",
    "fd00:ec2::254",
];
/// Special addresses: group, unspecified, loopback, link-local and IPv4-mapped ones.
const ODD: [&str; 14] = [
    "255.255.255.255",
    "224.0.0.1",
    "224.0.0.251",
    "0.0.0.0",
    "127.0.0.1",
    "fe80::1",
    "fe80::2",
    "ff02::1",
    "ff02::2",
    "ff02::1:2",
    "ff02::fb",
    "::",
    "::ffff:10.0.0.10",
    "::ffff:169.254.169.254",
];

/// The last addresses follow from hardware addresses.
const LINK_LOCALS: [&str; 6] = [
    "fe80::1",
    "fe80::2",
    "fe80::3",
    "fe80:0:0:1::1",
    "fe80::ff:fe00:1",
    "fe80::ff:fe00:2",
];

impl Generator {
    /// A link, rarely one without a task.
    pub(super) fn any_link(&self, rng: &mut Rng) -> u32 {
        let bound: Vec<u32> = self
            .links
            .iter()
            .filter(|(_, own)| !own.is_empty())
            .map(|(link, _)| *link)
            .collect();
        if bound.is_empty() || rng.one_in(30) {
            let at = rng.below(self.links.len());
            self.links[at].0
        } else {
            rng.of(&bound)
        }
    }

    pub(super) fn local(&self, link: u32, v6: bool, rng: &mut Rng) -> IpAddr {
        let own = self
            .links
            .iter()
            .find(|(number, _)| *number == link)
            .map(|(_, own)| own);
        let own: Vec<IpAddr> = own
            .into_iter()
            .flatten()
            .copied()
            .filter(|own| own.is_ipv6() == v6)
            .collect();
        if v6 && rng.one_in(8) {
            rng.of(&LINK_LOCALS).parse().expect("an address")
        } else if rng.one_in(16) {
            let all = [
                "224.0.0.1",
                "224.0.0.251",
                "255.255.255.255",
                "ff02::1",
                "ff02::fb",
                "ff05::2",
            ];
            let all: Vec<IpAddr> = all.iter().map(|text| text.parse().expect("an address")).collect();
            rng.of(&all
                .into_iter()
                .filter(|group: &IpAddr| group.is_ipv6() == v6)
                .collect::<Vec<_>>())
        } else if own.is_empty() || rng.one_in(24) {
            self.anybody(v6, rng)
        } else {
            rng.of(&own)
        }
    }

    /// A stranger, an ENI of this host, or a special address.
    pub(super) fn anybody(&self, v6: bool, rng: &mut Rng) -> IpAddr {
        let named: &[&str] = if rng.one_in(10) { &ODD } else { &STRANGERS };
        let named = named.iter().map(|text| text.parse().expect("an address"));
        let enis = self.links.iter().flat_map(|(_, own)| own.iter().copied());
        let all: Vec<IpAddr> = named
            .chain(enis)
            .filter(|address: &IpAddr| address.is_ipv6() == v6)
            .collect();
        rng.of(&all)
    }
}
