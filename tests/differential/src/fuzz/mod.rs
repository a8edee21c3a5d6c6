//! The fuzz targets as functions of bytes. They panic on a violation; the fuzzer (`cargo xtask fuzz`) and the tests
//! that replay its findings call the same functions.

mod admitted;
mod alone;
mod image;
mod invariants;
mod layout;
mod parser;
mod path;
mod steps;
mod vary;

pub use self::{image::image, parser::parser, path::path};
use crate::Rng;

/// A mutation of an input, by a seed: a few of its bytes are changed, removed or doubled.
pub fn like(input: &[u8], seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut other = input.to_vec();
    for _ in 0..=rng.below(3) {
        if other.is_empty() {
            break;
        }
        let at = rng.below(other.len());
        match rng.below(8) {
            0 => other.truncate(at),
            1 => drop(other.remove(at)),
            2 => other.insert(at, other[at]),
            3 => other[at] ^= 1 << rng.below(8),
            4 => other[at] = rng.any() as u8,
            5 => other[at] = rng.of(&[0, 1, 0x7f, 0x80, 0xff]),
            6 => other[at] = other[at].wrapping_add(1),
            _ => other[at] = other[at].wrapping_sub(1),
        }
    }
    other
}
