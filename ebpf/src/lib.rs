//! taskgate's data path, as pure code: kernel, tests, benchmarks and `explain` all run this crate.
//!
//! A frame at a gate goes [`packet::parse`] → [`verdict::decide`]; the kernel's entry points call nothing else. They
//! read through two traits: [`packet::Frame`] for the packet, [`tables::Tables`] for the state. [`abi`] is what user
//! space shares. docs/architecture.md lists the steps of a packet and where a change goes.
#![cfg_attr(not(any(feature = "host", test)), no_std)]
#![forbid(unsafe_code)]

pub mod abi;
pub mod conntable;
pub mod conntrack;
pub mod family;
pub mod flow;
#[cfg(any(feature = "host", test))]
pub mod host;
pub mod packet;
pub mod policy;
pub mod tables;
pub mod verdict;
pub mod wire;
