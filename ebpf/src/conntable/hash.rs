//! The keyed hash of a flow, and its two buckets in the table.
//!
//! Pair-multiply-shift (Lemire and Kaser, "Strongly universal string hashing is fast", 2014) over the key's words, with
//! secret constants: a sender who does not know them cannot choose flows that share a bucket. A final mix makes all bits
//! depend on all others, since both halves of the hash and its low 40 bits are used.

use super::HashTag;
use crate::abi::{Key4, Key6};

/// Secret random words, drawn once per set of tables and kept with it: entries cannot be found without them.
pub type Seed = [u64; 10];

/// A key of a connection table.
pub trait Hashed {
    /// The hash of the key; `seed` returns the secret word with a number.
    fn hash(&self, seed: impl Fn(usize) -> u64) -> u64;
}

impl Hashed for Key4 {
    #[inline(always)]
    fn hash(&self, seed: impl Fn(usize) -> u64) -> u64 {
        hash_two(self.to_words(), seed)
    }
}

impl Hashed for Key6 {
    #[inline(always)]
    fn hash(&self, seed: impl Fn(usize) -> u64) -> u64 {
        hash_five(self.to_words(), seed)
    }
}

/// The result of hashing a key: its two buckets and its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// A bucket of the first half of the table.
    pub first: u32,
    /// A bucket of the second half.
    pub second: u32,
    /// Part of the hash, kept in the control word.
    pub tag: HashTag,
}

impl Probe {
    /// The buckets and tag of a hash in a table with `half` buckets in each half; `half` may be any number.
    #[inline(always)]
    pub const fn new(hash: u64, half: u32) -> Self {
        Self {
            first: (((hash >> 32) * half as u64) >> 32) as u32,
            second: (((hash & 0xffff_ffff) * half as u64) >> 32) as u32 + half,
            tag: HashTag::of_hash(hash),
        }
    }

    /// The first bucket for 0, the second for 1: by arithmetic, without a branch.
    #[inline(always)]
    pub const fn bucket(self, half: u32) -> u32 {
        self.first
            .wrapping_add(self.second.wrapping_sub(self.first).wrapping_mul(half))
    }
}

/// The hash of a key of two words: IPv4.
#[inline(always)]
pub fn hash_two(words: [u64; 2], seed: impl Fn(usize) -> u64) -> u64 {
    finish(pair(words[0], seed(0), seed(1)).wrapping_add(pair(words[1], seed(2), seed(3))))
}

/// The hash of a key of five words: IPv6.
#[inline(always)]
pub fn hash_five(words: [u64; 5], seed: impl Fn(usize) -> u64) -> u64 {
    let first = pair(words[0], seed(0), seed(1)).wrapping_add(pair(words[1], seed(2), seed(3)));
    let second = pair(words[2], seed(4), seed(5)).wrapping_add(pair(words[3], seed(6), seed(7)));
    finish(
        first
            .wrapping_add(second)
            .wrapping_add(pair(words[4], seed(8), seed(9))),
    )
}

/// The product of a word's halves, each with a secret added.
#[inline(always)]
const fn pair(word: u64, upper: u64, lower: u64) -> u64 {
    (word >> 32)
        .wrapping_add(upper)
        .wrapping_mul((word & 0xffff_ffff).wrapping_add(lower))
}

/// Spreads a sum over all bits. The multiplier is 2^64 divided by the golden ratio, made odd.
#[inline(always)]
const fn finish(sum: u64) -> u64 {
    let sum = (sum ^ sum >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    sum ^ sum >> 29
}

#[cfg(test)]
mod tests {
    use super::{super::plain::SEED, *};

    #[test]
    fn a_probe_lies_in_its_halves_whatever_their_number() {
        for half in [1, 2, 3, 1000, 29_789, 1 << 22] {
            for hash in [0, 1, u64::MAX, 0x8000_0000_7fff_ffff, 0x1234_5678_9abc_def0] {
                let Probe { first, second, tag } = Probe::new(hash, half);
                assert!(first < half && (half..2 * half).contains(&second), "{hash:x} of {half}");
                assert_eq!(tag, HashTag::of_hash(hash & 0xff_ffff_ffff));
            }
        }
    }

    /// Regular keys (one bit set, counters, in the peer's place or the ports) must spread evenly in each of the three parts
    /// in use: 4,096 keys in 4,096 places leave about 37 % empty; twice the even share in an eighth of them would not.
    #[test]
    fn regular_keys_spread() {
        let four = |n: u64| {
            hash_two(
                [0x0a00_0001 << 32 | (0x0b00_0000 + n), 443 << 48 | 40_000 << 32 | 0x506],
                |at| SEED[at],
            )
        };
        let six = |n: u64| {
            hash_five(
                [0x2001_0db8_0001_0001, 0x10, 0x2001_0db8_ffff_0000, n, 443 << 48 | 0x506],
                |at| SEED[at],
            )
        };
        let ports = |n: u64| hash_two([0x0a00_0001 << 32 | 0x0b00_0001, n << 32 | 0x506], |at| SEED[at]);
        let parts: [fn(u64) -> u64; 3] = [|hash| hash >> 52, |hash| hash >> 20 & 0xfff, |hash| hash & 0xfff];
        for (name, hash) in [
            ("IPv4", &four as &dyn Fn(u64) -> u64),
            ("IPv6", &six),
            ("ports", &ports),
        ] {
            for (number, part) in parts.iter().enumerate() {
                let mut hits = [0_u32; 4096];
                for n in 0..4096 {
                    hits[part(hash(n)) as usize] += 1;
                }
                let empty = hits.iter().filter(|hits| **hits == 0).count();
                assert!(
                    (1200..1850).contains(&empty),
                    "{name}, part {number}: {empty} of 4,096 places empty"
                );
            }
        }
    }
}
