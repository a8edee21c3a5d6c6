//! A list without duplicates.

use std::collections::HashSet;
use std::hash::Hash;

/// Items in the order of insertion, without duplicates.
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
    /// Adds an item; `false` if it is already there.
    pub(super) fn add(&mut self, item: T) -> bool {
        // A set costs more than comparing with a few items.
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

    /// All items.
    pub(super) fn into_items(self) -> Vec<T> {
        self.items
    }
}
