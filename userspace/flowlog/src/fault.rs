//! The points at which tests kill the recorder. Without tests they compile to nothing.

/// A point just after a step that writes or removes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A window is closed: the entries that it removes are frozen.
    Closed,
    /// The next journal is written in part.
    PartlyWritten,
    /// The next journal is written in full, the previous one is still in force.
    Written,
    /// The next journal is in force, and nothing that it decided is done.
    Decided,
    /// The journal's lines are in the queues.
    Sent,
    /// The removed entries are freed.
    Freed,
    /// Changes are added to the journal in part.
    PartlyAdded,
    /// Changes are added to the journal.
    Added,
    /// A write to a destination is done in part.
    PartlyTaken,
    /// A write to a destination is done.
    LinesTaken,
    /// A truncated line is completed.
    LineEnded,
    /// A numbered file was renamed to its next number.
    Rotating,
    /// The current file was renamed to number 1, and no file is in its place.
    Rotated,
    /// The journal has the destination's new position.
    Confirmed,
}

/// Does nothing.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn point(_: Fault) {}

/// How many of `bytes` are written before the fault point: all.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn first_part(bytes: usize) -> usize {
    bytes
}

#[cfg(test)]
pub(crate) use by_tests::{Killed, arm, first_part, point, step};

#[cfg(test)]
mod by_tests {
    use std::{
        cell::{Cell, RefCell},
        collections::BTreeSet,
        panic::resume_unwind,
    };

    use super::Fault;

    /// The panic payload that stands in for a SIGKILL.
    pub(crate) struct Killed;

    thread_local! {
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
        static VISITED: RefCell<BTreeSet<Fault>> = const { RefCell::new(BTreeSet::new()) };
    }

    impl Fault {
        /// All fault points.
        pub(crate) const ALL: [Self; 14] = [
            Self::Closed,
            Self::PartlyWritten,
            Self::Written,
            Self::Decided,
            Self::Sent,
            Self::Freed,
            Self::PartlyAdded,
            Self::Added,
            Self::PartlyTaken,
            Self::LinesTaken,
            Self::LineEnded,
            Self::Rotating,
            Self::Rotated,
            Self::Confirmed,
        ];
    }

    /// Kills after so many steps; `None`: not at all. Returns the points at which something was killed since the last call.
    pub(crate) fn arm(steps: Option<u32>) -> BTreeSet<Fault> {
        LEFT.set(steps);
        VISITED.take()
    }

    /// A step outside the code under test: an operation of the kernel's tables.
    pub(crate) fn step() {
        if dies() {
            resume_unwind(Box::new(Killed));
        }
    }

    pub(crate) fn point(fault: Fault) {
        if dies() {
            VISITED.with_borrow_mut(|visited| visited.insert(fault));
            resume_unwind(Box::new(Killed));
        }
    }

    pub(crate) fn first_part(bytes: usize) -> usize {
        bytes / 2
    }

    fn dies() -> bool {
        let left = LEFT.get();
        LEFT.set(left.and_then(|left| left.checked_sub(1)));
        left == Some(0)
    }
}
