//! The kernel's entry points: they wire [`taskgate_ebpf`] to BPF and decide nothing themselves.
//!
//! On any other target this is an empty program, so that one `cargo build --workspace` serves both.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics, asm_experimental_arch))]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        internal_features,
        reason = "BPF has locked adds and compare-and-swap, and AtomicU64 has no way to say so there"
    )
)]

#[cfg(target_arch = "bpf")]
mod kernel;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
