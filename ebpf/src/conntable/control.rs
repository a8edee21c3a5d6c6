//! The control word of a way: the state of its entry, part of the key's hash, and a version.

/// A control word: `tag << 24 | version << 3 | state`.
///
/// * Tag, 40 bits: part of the key's hash, so that a lookup almost never reads the key of another flow.
/// * Version, 21 bits: incremented with each claim. Way and version identify one occupancy, so a compare-and-swap with a
///   word that was read earlier cannot hit a later entry of the same way, and a baseline kept by way and version is never
///   applied to another flow.
/// * State, 3 bits: a [`State`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ControlWord(pub u64);

/// Part of a key's hash, 40 bits. Two keys have equal tags by chance once in 2^40 cases.
///
/// Stored at its position in the control word, so that a comparison needs no shift.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct HashTag(u64);

impl HashTag {
    const LOWEST_BIT: u32 = 24;
    const MASK: u64 = !0 << Self::LOWEST_BIT;

    /// The low 40 bits of a hash.
    #[inline(always)]
    pub const fn of_hash(hash: u64) -> Self {
        Self(hash << Self::LOWEST_BIT)
    }

    /// 0 if two tags are equal, else a number below 2^40.
    #[inline(always)]
    pub const fn difference(self, other: Self) -> u64 {
        (self.0 ^ other.0) >> Self::LOWEST_BIT
    }
}

/// The occupancy count of a way: incremented with each claim, modulo 2^21. Meaningful only within one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Version(u64);

impl Version {
    /// The width of a version in bits.
    pub const BITS: u32 = 21;
    const LOWEST_BIT: u32 = 3;
    const MASK: u64 = ((1 << Self::BITS) - 1) << Self::LOWEST_BIT;

    /// The version with this number; only the low [`Self::BITS`] bits count.
    pub const fn from_number(number: u64) -> Self {
        Self(number << Self::LOWEST_BIT & Self::MASK)
    }

    /// The number, below 2^21.
    pub const fn number(self) -> u64 {
        self.0 >> Self::LOWEST_BIT
    }
}

/// The state of a way. The numbers are those in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum State {
    /// No entry. The version is the last entry's, the tag is 0.
    Empty = 0,
    /// A program has claimed the way and is writing the entry. No other program reads or writes the entry, but any may kill
    /// the claim.
    Pending = 2,
    /// A killed claim, which will not become an entry; its program makes it [`State::Empty`].
    Killed = 3,
    /// An entry that programs find.
    Live = 4,
    /// An entry that user space is about to remove. Programs still find it; a packet of its flow makes it [`State::Live`]
    /// again.
    Dying = 5,
    /// An entry that programs no longer find: the totals are final, and user space has still to report them.
    Frozen = 6,
}

impl ControlWord {
    const STATE: u64 = 0b111;
    const VERSION_ONE: u64 = Version::from_number(1).0;
    /// The bits that are the same for [`State::Live`] and [`State::Dying`] entries of one tag, and differ for every other
    /// word.
    const FOUND: u64 = HashTag::MASK | 0b110;

    /// The state; `None` for an undefined number.
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

    /// The tag.
    #[inline(always)]
    pub const fn tag(self) -> HashTag {
        HashTag(self.0 & HashTag::MASK)
    }

    /// The version.
    #[inline(always)]
    pub const fn version(self) -> Version {
        Version(self.0 & Version::MASK)
    }

    /// Whether the way holds a live or dying entry with this tag: one AND and one comparison.
    #[inline(always)]
    pub const fn is_entry_of(self, tag: HashTag) -> bool {
        self.0 & Self::FOUND == tag.0 | State::Live as u64
    }

    /// The same occupancy in another state.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, state: State) -> Self {
        Self(self.0 & !Self::STATE | state as u64)
    }

    /// The word of the freed way: version kept, tag and state zero.
    #[inline(always)]
    #[must_use]
    pub const fn emptied(self) -> Self {
        Self(self.0 & Version::MASK)
    }

    /// The word that claims this way for a new entry with this tag: next version, pending.
    #[inline(always)]
    #[must_use]
    pub const fn claimed(self, tag: HashTag) -> Self {
        Self(tag.0 | self.0.wrapping_add(Self::VERSION_ONE) & Version::MASK | State::Pending as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: HashTag = HashTag(0xabcd_ef01_2300_0000);
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
                (TAG, Version(0x08_0000), Some(state))
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
            for bit in [24, 63] {
                assert!(!word.is_entry_of(HashTag(TAG.0 ^ 1 << bit)));
            }
        }
    }

    #[test]
    fn a_version_comes_round_without_touching_the_tag() {
        let last = ControlWord(Version::MASK);
        assert_eq!(last.claimed(TAG).0, TAG.0 | State::Pending as u64);
    }

    #[test]
    fn tags_and_versions_are_the_numbers_that_they_were_made_of() {
        let tag = HashTag::of_hash(0x1234_56ab_cdef_0123);
        assert_eq!(tag, HashTag(0xabcd_ef01_2300_0000));
        assert_eq!(tag.difference(tag), 0);
        assert_eq!(tag.difference(HashTag::of_hash(0xab_cdef_0122)), 1);
        assert_eq!(tag.difference(HashTag::of_hash(0x2b_cdef_0123)), 1 << 39);
        for number in [0, 1, 0x1f_ffff] {
            let version = Version::from_number(number);
            assert_eq!((version.0, version.number()), (number << 3, number));
        }
        assert_eq!(Version::from_number(1 << 21), Version::from_number(0));
    }
}
