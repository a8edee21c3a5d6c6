//! What a configuration means, worked out without a kernel: what its gates say of a packet, and what about its rules deserves
//! a look.

pub mod display;
pub mod explain;
pub mod host_image;
pub mod lint;
