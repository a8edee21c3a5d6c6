//! What the fuzzer tries to break, as functions of the bytes that it comes up with. They panic where something is wrong, so
//! that the fuzzer (`cargo xtask fuzz`) and the tests, which replay what it found, call the very same.

mod books;
mod parser;
mod path;
mod steps;
mod vary;

pub use parser::parser;
pub use path::path;
/// todo
pub fn image(_: &[u8]) {}
