//! What only live links make: tags beside frames, frames in pieces, fragments and segments of a kernel's own, routers'
//! errors, checksums that are filled in late. The real taskgate judges them, and its records and counters say how.

mod fragments;
mod linear;
mod mtu;
mod offload;
mod segments;
mod tags;
mod trace;

use testkit::fixture::frames::{self, with_checksum};
