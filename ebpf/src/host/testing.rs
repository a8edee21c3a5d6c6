//! For tests, fuzzing and benchmarks only: control of time and room, and the contents of the tables.

use std::{collections::HashMap, rc::Rc};

use super::{Family, FlowTable, HostTables};
use crate::{
    abi::{Denial, Direction, EniUsage, Fragment, Key4, Key6, LinkLocal, LinkLocalKey, NeighbourCache},
    conntable::gc,
};

impl HostTables<'_> {
    /// Limits the room for first fragments to the share that belongs to `entries` entries of the other tables.
    pub fn room_for_fragments_of(&mut self, entries: usize) {
        self.room = entries;
    }

    /// Makes this many of the next inserts of connections and denied flows report a busy table.
    pub fn be_busy(&self, inserts: u32) {
        self.busy.set(inserts);
    }

    /// Advances the clock by some ticks.
    pub fn advance(&self, ticks: u32) {
        self.now.set(self.now.get().wrapping_add(ticks));
    }

    /// All non-zero counters: slot, direction, outcome number → packets.
    pub fn counters(&self) -> HashMap<(u16, Direction, u8), u64> {
        self.counters.borrow().clone()
    }

    /// Every denied flow of IPv4.
    pub fn denials_v4(&self) -> HashMap<Key4, Rc<Denial>> {
        self.v4.denials.all()
    }

    /// Every denied flow of IPv6.
    pub fn denials_v6(&self) -> HashMap<Key6, Rc<Denial>> {
        self.v6.denials.all()
    }

    /// Every remembered first fragment, of both families.
    pub fn fragments(&self) -> Vec<Rc<Fragment>> {
        let (v4, v6) = (self.v4.fragments.borrow(), self.v6.fragments.borrow());
        v4.values().chain(v6.values()).cloned().collect()
    }

    /// All link-local addresses with known owners.
    pub fn link_locals(&self) -> HashMap<LinkLocalKey, Rc<LinkLocal>> {
        self.link_locals.borrow().clone()
    }

    /// Clears connections, denied flows, fragments, and the state of neighbour discovery.
    pub fn clear(&mut self) {
        self.v4.clear();
        self.v6.clear();
        self.counters.borrow_mut().clear();
        self.usage.fill(EniUsage::default());
        self.neighbours.fill(NeighbourCache::default());
        self.link_locals.borrow_mut().clear();
    }
}

impl<K, const WORDS: usize> Family<K, WORDS> {
    fn clear(&mut self) {
        self.conns.clear();
        self.denials.clear();
        self.fragments.borrow_mut().clear();
    }
}

impl<V, const WORDS: usize> FlowTable<V, WORDS> {
    fn clear(&mut self) {
        for (way, word) in self.ways.entries() {
            gc::free(&self.ways, way, word);
        }
        self.values.borrow_mut().clear();
    }
}
