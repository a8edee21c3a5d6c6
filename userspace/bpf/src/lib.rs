//! The kernel's side of a running taskgate: the program is loaded, attached to links, and its maps are read.
//!
//! All the unsafe code for that is in [`sys`].

pub mod ages;
mod btf;
pub mod conntable;
pub mod events;
pub mod gate;
mod kept_maps;
pub mod load;
pub mod object;
pub mod other_gates;
pub mod pins;
pub mod prefilter;
pub mod reader;
mod signals;
pub mod sk_buff;
pub mod sys;
pub mod tables;
#[cfg(feature = "testing")]
mod testing;
