//! Decides on packets one by one, each as the first of its flow, over an image only. No state is kept, so any number of
//! packets can be judged, and none finds a table full.

use std::{
    cell::{Cell, OnceCell},
    sync::atomic::AtomicU64,
};

use super::{HostBank, HostFrame};
use crate::{
    abi::{
        Conn, Denial, Direction, EniUsage, Event, Fragment, Key4, Key6, LinkLocal, LinkLocalKey, NeighbourCache,
        Outcome, image, tables::Word,
    },
    policy::Image,
    tables::{Flows, Inserted, Tables},
    verdict::{self, FromTask, Scratch, ToTask},
};

/// The verdict on a packet as the first of its flow.
#[derive(Clone, Debug)]
pub struct AloneVerdict {
    /// How it ended.
    pub outcome: Outcome,
    /// The connection that the packet opens, if it passes and is tracked.
    pub conn: Option<Conn>,
}

/// Decides on a frame at a gate over an image (whole banks of words), as the first packet of its flow.
pub fn decide_alone(image: &[AtomicU64], frame: &HostFrame<'_>, direction: Direction) -> AloneVerdict {
    let tables = NothingKept {
        image,
        opened: OnceCell::new(),
        usage: EniUsage::default(),
        neighbours: NeighbourCache::default(),
    };
    let mut scratch = Scratch::default();
    let parsed = verdict::read(frame, &mut scratch);
    let outcome = match direction {
        Direction::Egress => verdict::decide(&tables, FromTask, &mut scratch, parsed),
        Direction::Ingress => verdict::decide(&tables, ToTask(*frame), &mut scratch, parsed),
    };
    AloneVerdict {
        outcome,
        conn: tables.opened.into_inner(),
    }
}

/// Tables that are always empty and always have room.
struct NothingKept<'a> {
    image: &'a [AtomicU64],
    opened: OnceCell<Conn>,
    usage: EniUsage,
    neighbours: NeighbourCache,
}

impl<'a> Image for NothingKept<'a> {
    type Bank = HostBank<'a>;

    fn bank(&self, index: u32) -> Option<HostBank<'a>> {
        const WORDS: usize = image::BANK_BYTES as usize / 8;
        self.image.chunks_exact(WORDS).nth(index as usize).map(HostBank)
    }
}

macro_rules! nothing_kept {
    ($key:ty) => {
        impl<'a> Flows<$key> for NothingKept<'a> {
            type Conn = &'a Conn;
            type Denial = &'a Denial;
            type Fragment = &'a Fragment;

            fn conn(&self, _: &$key) -> Option<&'a Conn> {
                None
            }

            fn insert_conn(&self, _: &$key, value: &Conn) -> Inserted<&'a Conn> {
                self.opened.get_or_init(|| value.clone());
                Inserted::Created
            }

            fn denial(&self, _: &$key) -> Option<&'a Denial> {
                None
            }

            fn insert_denial(&self, _: &$key, _: &Denial) -> Inserted<&'a Denial> {
                Inserted::Created
            }

            fn fragment(&self, _: &$key) -> Option<&'a Fragment> {
                None
            }

            fn insert_fragment(&self, _: &$key, _: &Fragment) -> Inserted<()> {
                Inserted::Created
            }

            fn remove_fragment(&self, _: &$key) -> bool {
                false
            }
        }
    };
}

nothing_kept!(Key4);
nothing_kept!(Key6);

impl<'a> Tables for NothingKept<'a> {
    fn now(&self) -> u32 {
        // Not near the wrap-around of the tick counter.
        1 << 20
    }

    fn usage(&self, _: u16) -> Option<&EniUsage> {
        Some(&self.usage)
    }

    fn neighbours(&self, _: u16) -> Option<&NeighbourCache> {
        Some(&self.neighbours)
    }

    type LinkLocal = &'a LinkLocal;

    fn link_local(&self, _: &LinkLocalKey) -> Option<&'a LinkLocal> {
        None
    }

    fn insert_link_local(&self, _: &LinkLocalKey, _: &LinkLocal) -> Inserted<()> {
        Inserted::Created
    }

    fn add(&self, _: &Word, _: u64) {}

    fn add_packets(&self, _: &Cell<u32>, _: u32) {}

    fn count(&self, _: u16, _: Direction, _: u32, _: u64) {}

    fn opaque(&self, value: u32) -> u32 {
        value
    }

    fn emit(&self, _: &Event) {}
}
