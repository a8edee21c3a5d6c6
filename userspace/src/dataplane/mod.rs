//! The kernel's side of a running taskgate: programs, maps, links, and the ENIs that it makes.

pub mod flow;
