//! Group sets, the keys of the policies' group axis.

use std::collections::HashMap;

use taskgate_model::GroupId;

/// The group sets of present and former ENIs, numbered from 1. 0 is the empty set. A set keeps its number for the life of
/// the register, so policies and rows of successive generations agree.
///
/// An address in several VPCs with different groups has a number of its own: its memberships depend on the gate.
#[derive(Debug, Default)]
pub struct GroupSetIds {
    numbers: HashMap<Key, u32>,
}

/// The content behind one number.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    Groups(Vec<GroupId>),
    Overlap(Vec<Claim>),
}

/// One ENI's claim to a shared address: its VPC, whether it is bound here, and its groups.
pub(super) type Claim = (Option<String>, bool, Vec<GroupId>);

impl GroupSetIds {
    /// The number of the set of these groups, whatever their order; 0 if there are none.
    pub fn intern<'a>(&mut self, groups: impl IntoIterator<Item = &'a GroupId>) -> u32 {
        let mut set: Vec<GroupId> = groups.into_iter().cloned().collect();
        if set.is_empty() {
            return 0;
        }
        set.sort_unstable();
        set.dedup();
        self.number(Key::Groups(set))
    }

    /// The number for an address of several ENIs with different groups.
    pub(super) fn intern_overlap(&mut self, mut claims: Vec<Claim>) -> u32 {
        claims.sort_unstable();
        claims.dedup();
        self.number(Key::Overlap(claims))
    }

    fn number(&mut self, key: Key) -> u32 {
        let next = self.numbers.len() as u32 + 1;
        *self.numbers.entry(key).or_insert(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_repetition_do_not_matter_and_numbers_stay() {
        let [a, b]: [GroupId; 2] = ["sg-a".into(), "sg-b".into()];
        let mut sets = GroupSetIds::default();
        assert_eq!(
            [
                sets.intern([]),
                sets.intern([&a, &b]),
                sets.intern([&b]),
                sets.intern([&b, &a, &b]),
                sets.intern([&a]),
                sets.intern([&b]),
            ],
            [0, 1, 2, 1, 3, 2]
        );
    }
}
