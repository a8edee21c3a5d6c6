//! The interface between the kernel programs and user space: names, layouts, numbers. Only this module defines them.
//!
//! All sizes are fixed: tables hold no `bool`, `enum` or `Option`, a `const` assertion checks each structure's size,
//! and addresses and ports are numbers in host order (the parser converts them).

mod address;
pub mod image;
pub mod outcome;
pub mod sk_buff;
pub mod tables;

pub use address::Address;
pub use outcome::{Direction, DropReason, Outcome, PassReason};
pub use tables::{
    Charge, Charges, Conn, Denial, EniUsage, Event, Fragment, Key4, Key6, LinkLocal, LinkLocalKey, NeighbourCache,
    window,
};

/// Raised whenever a layout of the [`tables`] that outlive a process changes its meaning; part of [`TABLE_LAYOUT`], with the
/// sizes.
pub const TABLE_VERSION: u32 = 5;

/// Differs between builds whose tables differ. A process that finds tables with another layout cannot take them over.
pub const TABLE_LAYOUT: u64 = layout(&[
    TABLE_VERSION as u64,
    size_of::<Conn>() as u64,
    size_of::<Denial>() as u64,
    size_of::<Key4>() as u64,
    size_of::<Key6>() as u64,
    size_of::<EniUsage>() as u64,
    size_of::<NeighbourCache>() as u64,
    size_of::<LinkLocalKey>() as u64,
    size_of::<LinkLocal>() as u64,
    size_of::<Fragment>() as u64,
    image::SLOTS as u64,
    outcome::OUTCOMES as u64,
]);

/// A number that identifies a layout: FNV-1a over versions, sizes and offsets.
const fn layout(parts: &[u64]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < parts.len() {
        hash = (hash ^ parts[at]).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

/// Packs two numbers of 32 bits into a word.
#[inline(always)]
pub const fn pair(upper: u32, lower: u32) -> u64 {
    (upper as u64) << 32 | lower as u64
}

/// The two halves of a word, the upper one first.
#[inline(always)]
pub const fn unpair(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// The names of the maps, as user space opens them.
pub mod map {
    use super::FlowMaps;

    /// The image: a mmapable array of banks, see [`super::image`].
    pub const IMAGE: &str = "IMAGE";
    /// Tracked connections, IPv4: [`super::Key4`] → [`super::Conn`].
    pub const CONNS_V4: FlowMaps = FlowMaps {
        buckets: "CONN_BUCKETS_V4",
        entries: "CONN_ENTRIES_V4",
        rests: None,
        half: "CONN_HALF_V4",
    };
    /// Tracked connections, IPv6: [`super::Key6`] → [`super::Conn`].
    pub const CONNS_V6: FlowMaps = FlowMaps {
        buckets: "CONN_BUCKETS_V6",
        entries: "CONN_ENTRIES_V6",
        rests: Some("CONN_RESTS_V6"),
        half: "CONN_HALF_V6",
    };
    /// Denied flows, IPv4: [`super::Key4`] → [`super::Denial`].
    pub const DENIALS_V4: FlowMaps = FlowMaps {
        buckets: "DENY_BUCKETS_V4",
        entries: "DENY_ENTRIES_V4",
        rests: None,
        half: "DENY_HALF_V4",
    };
    /// Denied flows, IPv6: [`super::Key6`] → [`super::Denial`].
    pub const DENIALS_V6: FlowMaps = FlowMaps {
        buckets: "DENY_BUCKETS_V6",
        entries: "DENY_ENTRIES_V6",
        rests: Some("DENY_RESTS_V6"),
        half: "DENY_HALF_V6",
    };
    /// Datagrams whose first fragment was admitted, IPv4: [`super::Key4`] → [`super::Fragment`].
    pub const FRAGMENTS_V4: &str = "FRAGMENTS_V4";
    /// The same for IPv6: [`super::Key6`] → [`super::Fragment`].
    pub const FRAGMENTS_V6: &str = "FRAGMENTS_V6";
    /// Slot → [`super::EniUsage`]: a mmapable array.
    pub const USAGE: &str = "USAGE";
    /// Slot → [`super::NeighbourCache`]: a mmapable array.
    pub const NEIGHBOURS: &str = "NEIGHBOURS";
    /// The latest owners of link-local addresses, by segment: [`super::LinkLocalKey`] → [`super::LinkLocal`].
    pub const LINK_LOCALS: &str = "LINK_LOCALS";
    /// [`outcome::counters_index`](super::outcome::counters_index) → packets by [`super::Outcome`] number, for each CPU.
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring buffer of [`super::Event`].
    pub const EVENTS: &str = "EVENTS";
}

/// The names of the mmapable arrays that make up a [connection table](crate::conntable), and of the constant with its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowMaps {
    /// Control words: a cache line of [`WAYS`](crate::conntable::WAYS) for each bucket.
    pub buckets: &'static str,
    /// An [`Entry`](tables::Entry) for each way.
    pub entries: &'static str,
    /// IPv6: a [`Rest`](tables::Rest) for each way.
    pub rests: Option<&'static str>,
    /// The constant in the program: buckets in one half of the table.
    pub half: &'static str,
}

/// The name of the constant with the hash seed of all connection tables: a [`Seed`](crate::conntable::Seed).
pub const SEED: &str = "SEED";

/// The names of the programs in the object.
pub mod program {
    /// The gate for packets that a task sends.
    pub const FROM_TASK: &str = "from_task";
    /// The gate for packets that are sent to a task.
    pub const TO_TASK: &str = "to_task";
    /// Drops every packet, on either side of a link: closes a link that the tables cannot name, or that left the namespace
    /// in which it was gated.
    pub const DROP_ALL: &str = "drop_all";
    /// The prefilter: drops packets from the wire that a task's gate would deny, before a socket buffer is allocated; for
    /// kernels from 5.18 on, which also pass it frames in several buffers.
    pub const PREFILTER: &str = "prefilter";
    /// The prefilter for older kernels.
    pub const PREFILTER_LINEAR: &str = "prefilter_linear";
    /// Returns the low 32 bits of the kernel's jiffies, for user space to measure their rate.
    pub const CLOCK: &str = "clock";
}

/// The number of an ENI's link on this host: 24 bits. A network device has its ifindex (below 2^23); a branch of the trunk
/// has its VLAN id with bit 23 set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(u32);

impl LinkId {
    const BRANCH: u32 = 1 << 23;

    /// Ifindexes below this one have a number. A larger one would be taken for another link's.
    pub const DEVICES: u32 = Self::BRANCH;

    /// The link of a network device: the host's end of a veth pair, or a VLAN interface.
    #[inline(always)]
    pub const fn device(ifindex: u32) -> Self {
        Self(ifindex & (Self::BRANCH - 1))
    }

    /// A branch on the trunk.
    #[inline(always)]
    pub const fn branch(vlan: u16) -> Self {
        Self(Self::BRANCH | (vlan as u32 & 0xfff))
    }

    /// Whether it is a branch on the trunk.
    #[inline(always)]
    pub const fn is_branch(self) -> bool {
        self.0 & Self::BRANCH != 0
    }

    /// The link with this number.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        Self(number & (2 * Self::BRANCH - 1))
    }

    /// The number in the tables.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        self.0
    }
}
