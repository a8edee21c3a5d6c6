//! Numbers that the verifier does not track.

use taskgate_ebpf::abi::tables::Word;

/// A per-CPU word used to hide a value from the verifier.
#[derive(Clone, Copy)]
pub(super) struct Opaque(pub(super) &'static Word);

impl Opaque {
    /// Passes a number through memory that the verifier does not track.
    #[inline(always)]
    pub(super) fn opaque(self, value: u32) -> u32 {
        let word = self.0.as_ptr();
        // SAFETY: the pointer comes from a live reference to this CPU's own word. Volatile, so that the compiler does not
        // track the value either.
        unsafe {
            word.write_volatile(value as u64);
            word.read_volatile() as u32
        }
    }
}
