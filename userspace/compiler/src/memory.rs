//! The image's words, by bank and offset in bytes.

use std::sync::atomic::{AtomicU64, Ordering};

use taskgate_ebpf::abi::image::BANK_BYTES;

/// Words in a bank.
const BANK_WORDS: usize = BANK_BYTES as usize / 8;

/// An empty image of `banks` banks on the host: for tests, and to judge without a kernel.
pub fn host_image(banks: u32) -> Vec<AtomicU64> {
    std::iter::repeat_with(AtomicU64::default)
        .take(banks as usize * BANK_WORDS)
        .collect()
}

/// An image under the hands of its one writer.
#[derive(Clone, Copy, Debug)]
pub(super) struct ImageView<'a>(pub(super) &'a [AtomicU64]);

impl<'a> ImageView<'a> {
    /// How many whole banks there are, if there are only whole ones.
    pub(super) fn banks(self) -> Option<u32> {
        self.0
            .len()
            .is_multiple_of(BANK_WORDS)
            .then_some((self.0.len() / BANK_WORDS) as u32)
    }

    fn word(self, bank: u32, offset: u32) -> &'a AtomicU64 {
        &self.0[bank as usize * BANK_WORDS + offset as usize / 8]
    }

    /// The word at `offset`.
    pub(super) fn get(self, bank: u32, offset: u32) -> u64 {
        self.word(bank, offset).load(Ordering::Relaxed)
    }

    /// Stores one word; who sees it before what follows does not matter.
    pub(super) fn set(self, bank: u32, offset: u32, value: u64) {
        self.word(bank, offset).store(value, Ordering::Relaxed);
    }

    /// Stores one word after everything that was stored before it.
    pub(super) fn publish(self, bank: u32, offset: u32, value: u64) {
        self.word(bank, offset).store(value, Ordering::Release);
    }
}

/// Banks for policies that take `bytes`: the generation in force and the next one stand side by side, and a policy never
/// crosses into another bank.
pub fn policy_banks(bytes: usize) -> u32 {
    let banks = bytes.div_ceil(BANK_BYTES as usize / 2) as u32;
    2 * banks + 2
}
