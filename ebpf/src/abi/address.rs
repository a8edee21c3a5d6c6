//! IP addresses of both families as a pair of words.

use core::net::{IpAddr, Ipv6Addr};

/// An IP address as stored in tables and rows: its upper and lower half as numbers, IPv4 mapped (`::ffff:a.b.c.d`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Address([u64; 2]);

impl Address {
    /// 255.255.255.255.
    pub const BROADCAST: Self = Self::from_v4(u32::MAX);
    /// `ff02::1`.
    pub const ALL_NODES: Self = Self::new(0xff02 << 48, 1);
    /// `ff02::1:2` (RFC 8415, 7.1).
    pub const ALL_DHCP_SERVERS: Self = Self::new(0xff02 << 48, 0x0001_0002);
    /// The upper half of link-local addresses, `fe80::/64`: no other part of `fe80::/10` is in use (RFC 4291, 2.5.6).
    pub const LINK_LOCAL_NETWORK: u64 = 0xfe80 << 48;

    /// The address with these halves.
    #[inline(always)]
    pub const fn new(upper: u64, lower: u64) -> Self {
        Self([upper, lower])
    }

    /// An IPv4 address.
    #[inline(always)]
    pub const fn from_v4(address: u32) -> Self {
        Self([0, 0xffff_0000_0000 | address as u64])
    }

    /// From the octets in an IPv4 header.
    #[inline(always)]
    pub const fn from_v4_octets(octets: [u8; 4]) -> Self {
        Self::from_v4(u32::from_be_bytes(octets))
    }

    /// From the octets in an IPv6 header.
    #[inline(always)]
    pub const fn from_octets(b: [u8; 16]) -> Self {
        Self([
            u64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            u64::from_be_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        ])
    }

    /// From one number, as [`Ipv6Addr::to_bits`] gives it.
    pub const fn from_bits(bits: u128) -> Self {
        Self([(bits >> 64) as u64, bits as u64])
    }

    /// As one number.
    pub const fn to_bits(self) -> u128 {
        (self.0[0] as u128) << 64 | self.0[1] as u128
    }

    /// Upper and lower half.
    #[inline(always)]
    pub const fn halves(self) -> [u64; 2] {
        self.0
    }

    /// The IPv4 address; meaningless for an IPv6 address.
    #[inline(always)]
    pub const fn v4(self) -> u32 {
        self.0[1] as u32
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0[0] | (self.0[1] >> 32 ^ 0xffff) == 0
    }

    /// Whether two addresses are equal, with one branch.
    #[inline(always)]
    pub const fn is(self, other: Self) -> bool {
        self.difference(other) == 0
    }

    /// 0 if two addresses are equal.
    #[inline(always)]
    pub const fn difference(self, other: Self) -> u64 {
        (self.0[0] ^ other.0[0]) | (self.0[1] ^ other.0[1])
    }

    /// Whether it is unspecified: `::`, or 0.0.0.0.
    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        self.0[0] == 0 && (self.0[1] == 0 || self.0[1] == 0xffff_0000_0000)
    }

    /// Whether it is link-local: `fe80::/10`.
    #[inline(always)]
    pub const fn is_link_local(self) -> bool {
        self.0[0] >> 54 == 0xfe80 >> 6
    }

    /// Whether it is link-scope multicast: `ff02::/16` (RFC 4291, 2.7).
    #[inline(always)]
    pub const fn is_link_group(self) -> bool {
        self.0[0] >> 48 == 0xff02
    }

    /// Whether routers do not forward packets to it: link-local, or link-scope multicast.
    #[inline(always)]
    pub const fn is_link_scope(self) -> bool {
        self.is_link_local() || self.is_link_group()
    }
}

impl From<[u64; 2]> for Address {
    fn from(halves: [u64; 2]) -> Self {
        Self(halves)
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::from_v4(address.to_bits()),
            IpAddr::V6(address) => Self::from_bits(address.to_bits()),
        }
    }
}

impl From<Address> for Ipv6Addr {
    fn from(address: Address) -> Self {
        Self::from_bits(address.to_bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_the_same_words_wherever_it_comes_from() {
        let v4 = [10, 1, 2, 3];
        let expected = Address([0, 0xffff_0a01_0203]);
        assert_eq!(Address::from_v4_octets(v4), expected);
        assert_eq!(Address::from(IpAddr::from(v4)), expected);
        assert_eq!(
            (expected.v4(), Ipv6Addr::from(expected).to_string()),
            (0x0a01_0203, "::ffff:10.1.2.3".into())
        );

        let v6 = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        let expected = Address([0x2001_0db8_0001_0000, 7]);
        assert_eq!(Address::from_octets(v6), expected);
        assert_eq!(Address::from(IpAddr::from(v6)), expected);
        assert_eq!(Address::from_bits(expected.to_bits()), expected);
        assert_eq!(Ipv6Addr::from(expected), Ipv6Addr::from(v6));
        assert!(expected.is(expected) && !expected.is(Address([0x2001_0db8_0001_0000, 6])));
        assert!(!expected.is(Address([0x2001_0db8_0001_0001, 7])));
    }

    #[test]
    fn what_an_address_is_good_for() {
        for (text, v4, unspecified, link_local, link_group) in [
            ("0.0.0.0", true, true, false, false),
            ("255.255.255.255", true, false, false, false),
            ("169.254.0.1", true, false, false, false),
            ("::", false, true, false, false),
            ("::1", false, false, false, false),
            ("::fffe:10.0.0.1", false, false, false, false),
            ("fe80::", false, false, true, false),
            ("febf:ffff::1", false, false, true, false),
            ("fec0::1", false, false, false, false),
            ("fe7f:ffff::1", false, false, false, false),
            ("ff02::1", false, false, false, true),
            ("ff01::1", false, false, false, false),
            ("ff12::1", false, false, false, false),
            ("ff05::1:3", false, false, false, false),
        ] {
            let address = Address::from(text.parse::<IpAddr>().unwrap());
            let is = (
                address.is_v4(),
                address.is_unspecified(),
                address.is_link_local(),
                address.is_link_group(),
            );
            assert_eq!(is, (v4, unspecified, link_local, link_group), "{text}");
            assert_eq!(address.is_link_scope(), link_local || link_group, "{text}");
        }
        let named = [Address::BROADCAST, Address::ALL_NODES, Address::ALL_DHCP_SERVERS]
            .map(|of| Ipv6Addr::from(of).to_canonical().to_string());
        assert_eq!(named, ["255.255.255.255", "ff02::1", "ff02::1:2"]);
    }
}
