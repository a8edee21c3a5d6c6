//! Reproducible random numbers, from a seed or from given bytes.

use std::vec;

/// A generator of numbers (SplitMix64: Steele, Lea and Flood, OOPSLA 2014).
#[derive(Clone, Debug)]
pub(crate) struct Rng {
    state: u64,
    /// Chosen values, used before random ones.
    chosen: vec::IntoIter<u8>,
}

impl Rng {
    /// Starts with a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            state: seed,
            chosen: Vec::new().into_iter(),
        }
    }

    /// Starts with given bytes: each number takes as many of them as it needs. After their end the generator continues as
    /// with a seed.
    pub(crate) fn loaded(chosen: &[u8]) -> Self {
        Self {
            state: chosen.len() as u64,
            chosen: Vec::from(chosen).into_iter(),
        }
    }

    /// A second generator, seeded with this one's next number. This one does not advance, so given bytes keep their
    /// meaning.
    pub(crate) fn aside(&self) -> Self {
        Self::new(self.clone().any())
    }

    /// Any number.
    pub(crate) fn any(&mut self) -> u64 {
        self.number(8)
    }

    /// A number of this many given bytes, or of eight random ones.
    fn number(&mut self, bytes: usize) -> u64 {
        if self.chosen.len() > 0 {
            let chosen = self.chosen.by_ref().take(bytes);
            return chosen.enumerate().map(|(at, byte)| u64::from(byte) << (8 * at)).sum();
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let bytes = match end {
            0..=0x100 => 1,
            0x101..=0x1_0000 => 2,
            _ => 8,
        };
        (self.number(bytes) % end as u64) as usize
    }

    /// True with a chance of one in `out_of`.
    pub(crate) fn one_in(&mut self, out_of: usize) -> bool {
        self.below(out_of) == 0
    }

    /// One of the choices, all equally likely.
    pub(crate) fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.number(1) as u8).collect()
    }
}
