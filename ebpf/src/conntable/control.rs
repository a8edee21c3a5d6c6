//! The control word of a way: what its entry is, and which of the entries that the way has had.

/// A control word: `tag << 24 | version << 3 | state`.
///
/// * Tag, 40 bits: part of the key's hash, so that a lookup reads the keys of other flows almost never.
/// * Version, 21 bits: rises by one with each claim. A way and a version name one occupancy, so a compare-and-swap that
///   expects a word seen earlier cannot meet a later entry of the same way, and a baseline kept by way and version cannot
///   be taken for that of another flow.
/// * State, 3 bits: a [`State`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ControlWord(pub u64);

/// What a way holds. The numbers are those in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum State {
    /// Nothing. Version and tag are those of the last entry, the tag zeroed.
    Empty = 0,
    /// A program is writing the entry. No other program reads or writes it, but any may kill the claim.
    Pending = 2,
    /// A claim that will not become an entry; its program makes it [`State::Empty`].
    Killed = 3,
    /// An entry.
    Live = 4,
    /// An entry that user space is about to remove. A packet of its flow makes it [`State::Live`] again.
    Dying = 5,
    /// No program finds it any more: the totals are final, and user space has still to report them.
    Frozen = 6,
}

impl ControlWord {
    const STATE: u64 = 0b111;
    /// Bits of the version, in place.
    pub const VERSION: u64 = 0x00ff_fff8;
    const VERSION_ONE: u64 = 0b1000;
    /// Bits of the tag, in place.
    pub const TAG: u64 = !0 << 24;
    /// What [`State::Live`] and [`State::Dying`] of one tag have in common, and nothing else has.
    const FOUND: u64 = Self::TAG | 0b110;

    /// The state; `None` for a number that no state has.
    #[inline(always)]
    pub const fn state(self) -> Option<State> {
        match self.0 & Self::STATE {
            0 => Some(State::Empty),
            2 => Some(State::Pending),
            3 => Some(State::Killed),
            4 => Some(State::Live),
            5 => Some(State::Dying),
            6 => Some(State::Frozen),
            _ => None,
        }
    }

    /// Whether the state is `state`: one comparison, where [`ControlWord::state`] is a match.
    #[inline(always)]
    pub const fn is(self, state: State) -> bool {
        self.0 & Self::STATE == state as u64
    }

    /// The number of the state: zero for [`State::Empty`] alone.
    #[inline(always)]
    pub const fn state_bits(self) -> u64 {
        self.0 & Self::STATE
    }

    /// The tag, in place.
    #[inline(always)]
    pub const fn tag(self) -> u64 {
        self.0 & Self::TAG
    }

    /// The version, in place: only good to tell occupancies of one way apart.
    #[inline(always)]
    pub const fn version(self) -> u64 {
        self.0 & Self::VERSION
    }

    /// Whether it is an entry whose key has this tag (in place). One AND and one comparison.
    #[inline(always)]
    pub const fn is_entry_of(self, tag: u64) -> bool {
        self.0 & Self::FOUND == tag | State::Live as u64
    }

    /// The same occupancy in another state.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, state: State) -> Self {
        Self(self.0 & !Self::STATE | state as u64)
    }

    /// The way given back.
    #[inline(always)]
    #[must_use]
    pub const fn emptied(self) -> Self {
        Self(self.0 & Self::VERSION)
    }

    /// The claim of the next entry in this way, with a tag in place.
    #[inline(always)]
    #[must_use]
    pub const fn claimed(self, tag: u64) -> Self {
        Self(tag | self.0.wrapping_add(Self::VERSION_ONE) & Self::VERSION | State::Pending as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: u64 = 0xabcd_ef01_2300_0000;
    const ALL: [State; 6] = [
        State::Empty,
        State::Pending,
        State::Killed,
        State::Live,
        State::Dying,
        State::Frozen,
    ];

    #[test]
    fn the_parts_of_a_word_stay_apart() {
        let claim = ControlWord(0x7_fff8 | State::Empty as u64).claimed(TAG);
        assert_eq!(claim.0, 0xabcd_ef01_2308_0002, "tag, next version, PENDING");
        for state in ALL {
            let word = claim.with(state);
            assert_eq!(
                (word.tag(), word.version(), word.state()),
                (TAG, 0x08_0000, Some(state))
            );
            assert!(word.is(state) && ALL.iter().filter(|other| word.is(**other)).count() == 1);
            assert_eq!(word.emptied().0, 0x08_0000);
            assert_eq!(word.state_bits() == 0, state == State::Empty);
        }
        assert_eq!([1, 7].map(|number| ControlWord(number).state()), [None; 2]);
    }

    #[test]
    fn only_live_and_dying_of_the_same_tag_are_found() {
        for state in ALL {
            let word = ControlWord(0).claimed(TAG).with(state);
            let is_entry = matches!(state, State::Live | State::Dying);
            assert_eq!(word.is_entry_of(TAG), is_entry, "{state:?}");
            assert!(!word.is_entry_of(TAG ^ 1 << 24) && !word.is_entry_of(TAG ^ 1 << 63));
        }
    }

    #[test]
    fn a_version_comes_round_without_touching_the_tag() {
        let last = ControlWord(ControlWord::VERSION);
        assert_eq!(last.claimed(TAG).0, TAG | State::Pending as u64);
    }
}
