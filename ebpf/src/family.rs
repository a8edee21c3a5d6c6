//! What differs between IPv4 and IPv6 once a packet is parsed: the shape of a key, and how a peer is looked up.

use crate::{
    abi::{Key4, Key6},
    policy::{Peer4, Peer6, PeerKey},
};

/// The key in hand, by family.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Keys {
    v4: Key4,
    v6: Key6,
}

/// A family of addresses.
pub trait Family {
    /// The key of its tables.
    type Key;
    /// A peer's address in its policies.
    type Peer: PeerKey;
    /// The key in hand.
    fn key(keys: &mut Keys) -> &mut Self::Key;
    /// Makes it the key of a flow seen from the task; addresses in halves, IPv4 mapped.
    fn set_key(key: &mut Self::Key, local: [u64; 2], remote: [u64; 2], ports: u32, tail: u32);
    /// A peer's address.
    fn peer(address: [u64; 2]) -> Self::Peer;
}

/// IPv4.
pub enum V4 {}

/// IPv6.
pub enum V6 {}

impl Family for V4 {
    type Key = Key4;
    type Peer = Peer4;

    #[inline(always)]
    fn key(keys: &mut Keys) -> &mut Key4 {
        &mut keys.v4
    }

    #[inline(always)]
    fn set_key(key: &mut Key4, local: [u64; 2], remote: [u64; 2], ports: u32, tail: u32) {
        *key = Key4 {
            addresses: local[1] << 32 | remote[1] & 0xffff_ffff,
            ports,
            tail,
        };
    }

    #[inline(always)]
    fn peer(address: [u64; 2]) -> Peer4 {
        Peer4(address[1] as u32)
    }
}

impl Family for V6 {
    type Key = Key6;
    type Peer = Peer6;

    #[inline(always)]
    fn key(keys: &mut Keys) -> &mut Key6 {
        &mut keys.v6
    }

    #[inline(always)]
    fn set_key(key: &mut Key6, local: [u64; 2], remote: [u64; 2], ports: u32, tail: u32) {
        *key = Key6 {
            local,
            remote,
            ports,
            tail,
        };
    }

    #[inline(always)]
    fn peer(address: [u64; 2]) -> Peer6 {
        Peer6(address)
    }
}
