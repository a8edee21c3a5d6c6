//! Analysis of a configuration without a kernel: its gates' verdict on a packet, and warnings about its rules.

pub mod diff;
pub mod display;
pub mod explain;
pub mod flows;
mod frame;
pub mod host_image;
pub mod lint;
