//! The `taskgate` command.
fn main() {}
