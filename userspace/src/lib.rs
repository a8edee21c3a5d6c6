//! taskgate: a security group in front of every task on a Linux host.
//!
//! Knowledge flows one way: sources → [`model`] → compile → dataplane → flow logs; the command line knows them all and
//! none of them knows it.

pub mod cli;
pub mod compile;
pub mod daemon;
pub mod dataplane;
pub mod flowlog;
pub mod model;
mod near;
pub mod sources;
