//! The differences between IPv4 and IPv6 after parsing: the form of a key, and the lookup of a peer.

use crate::{
    abi::{Address, Key4, Key6, pair, tables::KeyTag},
    policy::{Peer4, Peer6, PeerKey},
};

/// Scratch memory for a key of either family.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Keys {
    v4: Key4,
    v6: Key6,
}

/// IPv4 or IPv6, as a type parameter.
pub trait IpVersion {
    /// The key of its tables.
    type Key;
    /// A peer's address in its policies.
    type Peer: PeerKey;
    /// The key of this family in scratch memory.
    fn key(keys: &mut Keys) -> &mut Self::Key;
    /// Sets the key to a flow, seen from the task.
    fn set_key(key: &mut Self::Key, local: Address, remote: Address, ports: u32, tag: KeyTag);
    /// The key of an address on the peer axis.
    fn peer(address: Address) -> Self::Peer;
}

/// IPv4.
pub enum V4 {}

/// IPv6.
pub enum V6 {}

impl IpVersion for V4 {
    type Key = Key4;
    type Peer = Peer4;

    #[inline(always)]
    fn key(keys: &mut Keys) -> &mut Key4 {
        &mut keys.v4
    }

    #[inline(always)]
    fn set_key(key: &mut Key4, local: Address, remote: Address, ports: u32, tag: KeyTag) {
        *key = Key4 {
            addresses: pair(local.v4(), remote.v4()),
            ports,
            tag,
        };
    }

    #[inline(always)]
    fn peer(address: Address) -> Peer4 {
        Peer4(address.v4())
    }
}

impl IpVersion for V6 {
    type Key = Key6;
    type Peer = Peer6;

    #[inline(always)]
    fn key(keys: &mut Keys) -> &mut Key6 {
        &mut keys.v6
    }

    #[inline(always)]
    fn set_key(key: &mut Key6, local: Address, remote: Address, ports: u32, tag: KeyTag) {
        *key = Key6 {
            local,
            remote,
            ports,
            tag,
        };
    }

    #[inline(always)]
    fn peer(address: Address) -> Peer6 {
        Peer6(address)
    }
}
