//! Allocation of policies in the policy banks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use taskgate_ebpf::abi::image::{BANK_BYTES, PolicyRef};

use super::CompileError;

/// Bytes in the unit of allocation.
const UNIT: u32 = 64;
/// Units in a bank.
const BANK_UNITS: u32 = BANK_BYTES / UNIT;

/// The blocks in the policy banks. A block of the current generation never moves; an unused block stays until
/// [`PolicyAllocator::place`] needs its room, and is used again if the same policy returns.
#[derive(Debug)]
pub(super) struct PolicyAllocator {
    /// The first bank of policies.
    first: u32,
    standing: HashMap<Arc<[u64]>, PolicyRef>,
    current: HashSet<PolicyRef>,
}

/// The result of [`PolicyAllocator::place`] for a list of policies.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Placed {
    /// Their references, in the given order.
    pub(super) roots: Vec<PolicyRef>,
    /// The indexes of the blocks that have yet to be written.
    pub(super) new: Vec<usize>,
}

/// Free units in one bank.
#[derive(Clone, Copy, Debug)]
struct Gap {
    bank: u32,
    start: u32,
    length: u32,
}

impl PolicyAllocator {
    /// An allocator for an image whose policies begin at this bank.
    pub(super) fn new(first: u32) -> Self {
        Self {
            first,
            standing: HashMap::new(),
            current: HashSet::new(),
        }
    }

    /// Finds room for the distinct `blocks` within `banks` banks in total; the caller writes the new ones. Only blocks of
    /// the current generation are kept: no packet may still read any other.
    pub(super) fn place(&mut self, blocks: &[Arc<[u64]>], banks: u32) -> Result<Placed, CompileError> {
        let known: Vec<Option<PolicyRef>> = blocks.iter().map(|block| self.standing.get(block).copied()).collect();
        let kept: HashSet<PolicyRef> = known.iter().flatten().chain(&self.current).copied().collect();
        self.standing.retain(|_, root| kept.contains(root));

        let mut new: Vec<usize> = (0..blocks.len()).filter(|&at| known[at].is_none()).collect();
        // Placing long blocks first leaves fewer small gaps.
        new.sort_by_key(|&at| std::cmp::Reverse(blocks[at].len()));
        let mut gaps = self.gaps(banks);
        let mut roots: Vec<PolicyRef> = known.into_iter().map(Option::unwrap_or_default).collect();
        for &at in &new {
            roots[at] = take(&mut gaps, units(&blocks[at]))?;
        }
        for &at in &new {
            self.standing.insert(Arc::clone(&blocks[at]), roots[at]);
        }
        Ok(Placed { roots, new })
    }

    /// Sets the blocks that packets read from now on.
    pub(super) fn commit(&mut self, roots: &[PolicyRef]) {
        self.current = roots.iter().copied().collect();
    }

    /// The gaps between existing blocks, ascending.
    fn gaps(&self, banks: u32) -> Vec<Gap> {
        let mut standing: Vec<(PolicyRef, u32)> = self
            .standing
            .iter()
            .map(|(block, root)| (*root, units(block)))
            .collect();
        standing.sort_unstable();
        let mut standing = standing.into_iter().peekable();
        let mut gaps = Vec::new();
        for bank in self.first..banks {
            let mut start = 0;
            let mut gap = |start: u32, end: u32| {
                if start < end {
                    gaps.push(Gap {
                        bank,
                        start,
                        length: end - start,
                    });
                }
            };
            while let Some((root, length)) = standing.next_if(|(root, _)| root.bank() == bank) {
                let at = root.offset() / UNIT;
                gap(start, at);
                start = at + length;
            }
            gap(start, BANK_UNITS);
        }
        gaps
    }
}

/// The size of a block in units.
fn units(block: &[u64]) -> u32 {
    (block.len() as u32 * 8).div_ceil(UNIT)
}

/// Allocates `length` units from the first gap that is long enough.
fn take(gaps: &mut Vec<Gap>, length: u32) -> Result<PolicyRef, CompileError> {
    let Some(at) = gaps.iter().position(|gap| gap.length >= length) else {
        let largest = gaps.iter().map(|gap| gap.length).max().unwrap_or(0);
        return Err(CompileError::PoliciesFull {
            bytes: length * UNIT,
            largest: largest * UNIT,
        });
    };
    let gap = &mut gaps[at];
    let root = PolicyRef::new(gap.bank, gap.start * UNIT);
    gap.start += length;
    gap.length -= length;
    if gap.length == 0 {
        gaps.remove(at);
    }
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of `units` units that differs by `mark` from others.
    fn block(units: u32, mark: u64) -> Arc<[u64]> {
        vec![mark; units as usize * 8].into()
    }

    fn root(bank: u32, unit: u32) -> PolicyRef {
        PolicyRef::new(bank, unit * UNIT)
    }

    #[test]
    fn blocks_stay_until_nobody_needs_them_and_their_room_is_wanted() {
        let mut space = PolicyAllocator::new(3);
        let [a, b, c] = [block(2, 1), block(3, 2), block(BANK_UNITS - 4, 3)];
        let placed = |roots: &[PolicyRef], new: &[usize]| Placed {
            roots: roots.into(),
            new: new.into(),
        };
        // Long blocks first.
        let first = space.place(&[a.clone(), b.clone()], 4).unwrap();
        assert_eq!(first, placed(&[root(3, 3), root(3, 0)], &[1, 0]));
        space.commit(&first.roots);
        // `a` already has a place; there is no room for `c` next to both.
        assert_eq!(
            space.place(&[a.clone(), c.clone()], 4),
            Err(CompileError::PoliciesFull {
                bytes: (BANK_UNITS - 4) * UNIT,
                largest: (BANK_UNITS - 5) * UNIT
            })
        );
        // Another bank has room.
        let second = space.place(&[a.clone(), c.clone()], 5).unwrap();
        assert_eq!(second, placed(&[root(3, 3), root(4, 0)], &[1]));
        // `c` was never committed, but is still there.
        assert_eq!(
            space.place(std::slice::from_ref(&c), 5).unwrap(),
            placed(&[root(4, 0)], &[])
        );
        // `b` is unused from here on, but still there when it is needed again.
        space.commit(&[root(3, 3)]);
        assert_eq!(
            space.place(std::slice::from_ref(&b), 4).unwrap(),
            placed(&[root(3, 0)], &[])
        );
        // It is overwritten if its room is needed first.
        assert_eq!(space.place(&[block(3, 4)], 4).unwrap(), placed(&[root(3, 0)], &[0]));
    }
}
