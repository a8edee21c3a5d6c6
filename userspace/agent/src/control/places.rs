//! Limits how many clients are served at a time, in total and for each user. Root has a separate allowance, so that
//! other users cannot lock it out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The numbers of places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Places for root, and as many again for all other users together.
    pub(super) all: usize,
    /// Places for each user other than root.
    pub(super) of_one: usize,
}

/// The places that are taken, by user.
#[derive(Clone, Debug)]
pub(super) struct Places {
    bounds: Bounds,
    taken: Arc<Mutex<HashMap<u32, usize>>>,
}

/// A taken place. Dropping it releases the place.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    uid: u32,
}

impl Places {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            taken: Arc::default(),
        }
    }

    /// Takes a place, if one is left for this user.
    pub(super) fn enter(&self, uid: u32) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&uid).copied().unwrap_or_default();
        let others: usize = taken.iter().filter(|(uid, _)| **uid != 0).map(|(_, taken)| taken).sum();
        let has_room = match uid {
            0 => own < self.bounds.all,
            _ => own < self.bounds.of_one && others < self.bounds.all,
        };
        has_room.then(|| {
            taken.insert(uid, own + 1);
            Place {
                places: self.clone(),
                uid,
            }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let left = taken.get(&self.uid).map_or(0, |taken| taken - 1);
        match left {
            0 => taken.remove(&self.uid),
            left => taken.insert(self.uid, left),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_takes_no_place_of_roots() {
        let places = Places::new(Bounds { all: 64, of_one: 16 });
        let enter = |uid| (0..100).map_while(|_| places.enter(uid)).collect::<Vec<_>>();
        let users: Vec<_> = (1000..1010).map(enter).collect();
        assert_eq!(
            users.iter().map(Vec::len).collect::<Vec<_>>(),
            [16, 16, 16, 16, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(enter(0).len(), 64);
        drop(users);
        assert_eq!(enter(1009).len(), 16);
        assert!(places.taken.lock().unwrap().is_empty());
    }
}
