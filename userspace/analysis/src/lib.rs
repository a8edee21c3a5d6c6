//! Analysis of configurations without a kernel: the gates' verdicts on a packet, warnings about rules, and differences.

pub mod diff;
pub mod display;
pub mod explain;
pub mod flows;
mod frame;
pub mod host_image;
pub mod lint;
