//! Load options of the kernel program, and the expected shapes of its maps.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Ebpf, EbpfError,
    maps::{MapData, MapError, MapType},
    programs::ProgramError,
};
use log::LevelFilter;
use taskgate_ebpf::{
    abi::{
        Conn, EniUsage, FlowMaps, Fragment, Key4, Key6, LinkLocal, LinkLocalKey, NeighbourCache,
        image::{BANK_BYTES, LEAST_MEMBER_BANKS, MOST_MEMBER_BANKS, SLOTS, Shared, policy_bank},
        map,
        outcome::OUTCOMES,
        tables::{Entry, Rest},
    },
    conntable::{WAYS, half_for},
};

use super::{pins::PinError, sk_buff::Sight};

/// Sizes of the tables, in entries, and the kernel program's log level. They are fixed once loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Tracked connections of each family: 1 and up. 131 bytes of locked memory each for IPv4, 189 for IPv6.
    pub conns: u32,
    /// Denied flows of each family: 1 and up.
    pub denials: u32,
    /// Slots, slot 0 included: 2 to [`SLOTS`].
    pub slots: u32,
    /// Banks of addresses of members, of 2 MiB each: a power of two, [`LEAST_MEMBER_BANKS`] to [`MOST_MEMBER_BANKS`].
    pub member_banks: u32,
    /// Banks for policies, of 2 MiB each: 1 to 4,096.
    pub policy_banks: u32,
    /// The kernel program's log level. Code of levels that are off is removed at load.
    pub log_level: LevelFilter,
    /// The instance's number, which distinguishes its clsact filters from those of other instances on the same links.
    pub instance: u16,
    /// The best way in which the program may read the pending offloads of a frame that a task sends. A lower value shows its behaviour
    /// on a kernel that does not allow more.
    pub sight: Sight,
}

impl LoadOptions {
    /// The connection tables, and the buckets in one half of each.
    pub(super) const fn flow_tables(&self) -> [(FlowMaps, u32); 4] {
        let (conns, denials) = (half_for(self.conns), half_for(self.denials));
        [
            (map::CONNS_V4, conns),
            (map::CONNS_V6, conns),
            (map::DENIALS_V4, denials),
            (map::DENIALS_V6, denials),
        ]
    }

    /// Bytes of locked memory that the connection tables take.
    pub fn flow_bytes(&self) -> usize {
        let of = |(maps, half): (FlowMaps, u32)| {
            let ways = 2 * half as usize * WAYS as usize;
            let rest = if maps.rests.is_some() { size_of::<Rest>() } else { 0 };
            ways * (size_of::<u64>() + size_of::<Entry<Conn>>() + rest)
        };
        self.flow_tables().into_iter().map(of).sum()
    }

    /// Refuses sizes that cannot work.
    pub(super) fn check(&self) -> Result<(), LoadError> {
        let sizes = [
            ("tracked connections", self.conns, 1, 1 << 26),
            ("denied flows", self.denials, 1, 1 << 26),
            ("slots", self.slots, 2, SLOTS),
            (
                "banks of members",
                self.member_banks,
                LEAST_MEMBER_BANKS,
                MOST_MEMBER_BANKS,
            ),
            ("banks of policies", self.policy_banks, 1, 4096),
        ];
        match sizes
            .into_iter()
            .find(|(_, value, least, most)| !(least..=most).contains(&value))
        {
            None => Ok(()),
            Some((what, value, least, most)) => Err(LoadError::Size {
                what,
                value,
                least,
                most,
            }),
        }
    }
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            conns: 262_144,
            denials: 65_536,
            slots: SLOTS,
            member_banks: LEAST_MEMBER_BANKS,
            policy_banks: 8,
            log_level: LevelFilter::Off,
            instance: 0,
            sight: Sight::Cast,
        }
    }
}

/// Why the kernel program cannot be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The build left the kernel program out.
    #[error("this taskgate was built without its kernel program: run `cargo xtask setup` and build it again")]
    NotBuilt,
    /// A size is out of range.
    #[error("the kernel program cannot be loaded with {value} {what}: {least} to {most} will do")]
    Size {
        /// The unit.
        what: &'static str,
        /// The requested size.
        value: u32,
        /// The least that works.
        least: u32,
        /// The most that works.
        most: u32,
    },
    /// A pin cannot be made, found or removed.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The kernel gives no random numbers.
    #[error("there are no random numbers for the connection tables")]
    Seed(#[source] io::Error),
    /// The kernel refused the maps, or the object does not make sense.
    #[error(
        "the kernel program's maps cannot be made: `taskgate check` says how much memory they take by `connections.total` and `denials.total`"
    )]
    Maps(#[source] EbpfError),
    /// A map or program is not in the object.
    #[error("the kernel program has no {kind} `{name}`: it is of another version than this taskgate")]
    Missing {
        /// `map` or `program`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A map differs from what this build expects.
    #[error("map `{map}` has {what} {found}, expected {expected}: it is of another version than this taskgate")]
    Shape {
        /// The map.
        map: &'static str,
        /// The attribute that differs.
        what: &'static str,
        /// The kernel's value.
        found: u32,
        /// The expected value.
        expected: u32,
    },
    /// A map's information cannot be read.
    #[error("map `{map}` cannot be looked at")]
    Map {
        /// The map.
        map: &'static str,
        /// The cause.
        #[source]
        cause: MapError,
    },
    /// A map cannot be opened for reading or writing.
    #[error("map `{map}` cannot be opened")]
    Open {
        /// The map.
        map: &'static str,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// The kernel refused a program.
    #[error("program `{program}` is refused by the kernel")]
    Program {
        /// The program.
        program: &'static str,
        /// Why, with the verifier's log if the verifier refused it.
        #[source]
        cause: ProgramError,
    },
    /// A program cannot be run for a test or to read the clock.
    #[error("program `{program}` cannot be run")]
    Run {
        /// The program.
        program: &'static str,
        /// The cause.
        #[source]
        cause: io::Error,
    },
}

/// The expected shape of a map.
pub(super) struct MapSpec {
    pub(super) name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    pub(super) entries: Option<u32>,
    flags: u32,
}

impl MapSpec {
    const MMAPABLE: u32 = 1 << 10;

    /// Whether a process reuses the map of an earlier process: all except the image and the events, which each process makes anew.
    pub(super) fn is_carried(&self) -> bool {
        ![map::IMAGE, map::EVENTS].contains(&self.name)
    }

    pub(super) fn all(options: &LoadOptions) -> Vec<Self> {
        let hash = |name, key, value, entries| Self {
            name,
            kind: MapType::Hash,
            key,
            value,
            entries: Some(entries),
            flags: 0,
        };
        let array = |name, kind, value, entries, flags| Self {
            name,
            kind,
            key: 4,
            value,
            entries: Some(entries),
            flags,
        };
        let counters = size_of::<[u64; OUTCOMES]>();
        let flows = options.flow_tables().into_iter().flat_map(|(maps, half)| {
            let buckets = 2 * half;
            let of = |name, value, entries| array(name, MapType::Array, value, entries, Self::MMAPABLE);
            [
                Some(of(maps.buckets, 8 * WAYS as usize, buckets)),
                Some(of(maps.entries, size_of::<Entry<Conn>>(), buckets * WAYS)),
                maps.rests.map(|rests| of(rests, size_of::<Rest>(), buckets * WAYS)),
            ]
        });
        let others = [
            hash(
                map::FRAGMENTS_V4,
                size_of::<Key4>(),
                size_of::<Fragment>(),
                Shared::fragments(options.denials),
            ),
            hash(
                map::FRAGMENTS_V6,
                size_of::<Key6>(),
                size_of::<Fragment>(),
                Shared::fragments(options.denials),
            ),
            array(
                map::IMAGE,
                MapType::Array,
                BANK_BYTES as usize,
                policy_bank(options.member_banks) + options.policy_banks,
                Self::MMAPABLE,
            ),
            array(
                map::USAGE,
                MapType::Array,
                size_of::<EniUsage>(),
                options.slots,
                Self::MMAPABLE,
            ),
            array(
                map::NEIGHBOURS,
                MapType::Array,
                size_of::<NeighbourCache>(),
                options.slots,
                Self::MMAPABLE,
            ),
            Self {
                name: map::LINK_LOCALS,
                kind: MapType::LruHash,
                key: size_of::<LinkLocalKey>(),
                value: size_of::<LinkLocal>(),
                entries: None,
                flags: 0,
            },
            array(map::COUNTERS, MapType::PerCpuArray, counters, 2 * options.slots, 0),
            Self {
                name: map::EVENTS,
                kind: MapType::RingBuf,
                key: 0,
                value: 0,
                entries: None,
                flags: 0,
            },
        ];
        flows.flatten().chain(others).collect()
    }

    pub(super) fn check(&self, data: &MapData) -> Result<(), LoadError> {
        let of = |cause| LoadError::Map { map: self.name, cause };
        let info = data.info().map_err(of)?;
        let kind = info.map_type().map_err(of)? as u32;
        let rows = [
            ("type", kind, self.kind as u32),
            ("key size", info.key_size(), self.key as u32),
            ("value size", info.value_size(), self.value as u32),
            ("flags", info.map_flags(), self.flags),
            (
                "entries",
                info.max_entries(),
                self.entries.unwrap_or(info.max_entries()),
            ),
        ];
        match rows.into_iter().find(|(_, found, expected)| found != expected) {
            None => Ok(()),
            Some((what, found, expected)) => Err(LoadError::Shape {
                map: self.name,
                what,
                found,
                expected,
            }),
        }
    }
}

pub(super) fn missing(kind: &'static str, name: &'static str) -> LoadError {
    LoadError::Missing { kind, name }
}

/// Another handle on a loaded program.
pub(super) fn program(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, LoadError> {
    let program = ebpf.program(name).ok_or_else(|| missing("program", name))?;
    let of = |cause| LoadError::Program { program: name, cause };
    let fd = program.fd().map_err(of)?.as_fd();
    fd.try_clone_to_owned()
        .map_err(|cause| LoadError::Run { program: name, cause })
}
