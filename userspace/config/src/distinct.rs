//! A list without repetitions.

use std::collections::HashSet;
use std::hash::Hash;

/// Things in the order in which they were added, none twice.
#[derive(Debug)]
pub(super) struct Distinct<T> {
    items: Vec<T>,
    seen: HashSet<T>,
}

impl<T> Default for Distinct<T> {
    fn default() -> Self {
        let (items, seen) = (Vec::new(), HashSet::new());
        Self { items, seen }
    }
}

impl<T: Copy + Eq + Hash> Distinct<T> {
    /// Adds it; `false` if it was there.
    pub(super) fn add(&mut self, item: T) -> bool {
        // A set costs more than a look at a few.
        const FEW: usize = 8;
        let new = if self.items.len() < FEW {
            !self.items.contains(&item)
        } else {
            if self.seen.is_empty() {
                self.seen.extend(&self.items);
            }
            self.seen.insert(item)
        };
        if new {
            self.items.push(item);
        }
        new
    }

    /// All of them.
    pub(super) fn into_items(self) -> Vec<T> {
        self.items
    }
}
