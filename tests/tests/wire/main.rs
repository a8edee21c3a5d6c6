//! Traffic that needs live links: tags in metadata, non-linear frames, fragments and segments made by the kernel,
//! routers' errors, checksums that are filled in late. The real taskgate judges it; its records and counters are
//! compared.

mod fragments;
mod linear;
mod mtu;
mod offload;
mod segments;
mod tags;
mod trace;

use testkit::fixture::frames::{self, with_checksum};
