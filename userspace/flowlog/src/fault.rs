//! The points at which tests kill the process that keeps records. Without tests they are nothing.

/// Just after a step of what is written and removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A window is closed: what it removes is frozen.
    Closed,
    /// The next journal is written in part.
    PartlyWritten,
    /// It is written, the one before is in force.
    Written,
    /// It is in force, and nothing that it decided is done.
    Decided,
    /// Its lines wait for their reader.
    Sent,
    /// What it removes is freed.
    Freed,
    /// Changes are added in part.
    PartlyAdded,
    /// Changes are added.
    Added,
    /// Lines are with their reader in part.
    PartlyTaken,
    /// Lines are with their reader.
    LinesTaken,
    /// A line that was cut is written to its end.
    LineEnded,
    /// Some numbered files have their next number.
    Rotating,
    /// A file has a number, and none is in its place.
    Rotated,
    /// The journal says so.
    Confirmed,
}

/// Does nothing.
#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn point(_: Fault) {}

/// How much of so many bytes is written at first: all.
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

    /// What unwinds instead of a SIGKILL.
    pub(crate) struct Killed;

    thread_local! {
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
        static VISITED: RefCell<BTreeSet<Fault>> = const { RefCell::new(BTreeSet::new()) };
    }

    impl Fault {
        /// All of them.
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

    /// Kills after so many steps; `None`: not at all. Gives the points at which something was killed since this was called
    /// last.
    pub(crate) fn arm(steps: Option<u32>) -> BTreeSet<Fault> {
        LEFT.set(steps);
        VISITED.take()
    }

    /// A step that is no point of the code: one of the kernel's tables.
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
