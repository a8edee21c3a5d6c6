//! Arguments for bpf-linker that `aya-build` does not pass.
#![allow(
    clippy::print_stdout,
    reason = "a build script talks to cargo on its standard output"
)]

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("bpf") {
        // Without it each memset is a call and a loop over bytes: 30 ns for a packet.
        println!("cargo::rustc-link-arg-bins=--disable-expand-memcpy-in-order");
    }
}
