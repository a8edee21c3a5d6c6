//! What the fuzzer tries to break, as functions of the bytes that it comes up with. They panic where something is wrong, so
//! that the fuzzer (`cargo xtask fuzz`) and the tests, which replay what it found, call the very same.

mod admitted;
mod books;
mod image;
mod layout;
mod parser;
mod path;
mod steps;
mod vary;

pub use image::image;
pub use parser::parser;
pub use path::path;
use std::net::IpAddr;

use taskgate_ebpf::packet::mapped;

/// An address as the data path has it: upper and lower half, IPv4 mapped.
fn halves(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => mapped(address.into()),
        IpAddr::V6(address) => [(u128::from(address) >> 64) as u64, u128::from(address) as u64],
    }
}
