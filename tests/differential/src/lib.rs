//! Three implementations on the same packets: a naive oracle that reads the model, the pure core on plain collections, and the
//! loaded program. Verdicts, counters, connections and denied flows must be the same.
#![expect(missing_docs, reason = "for tests alone: names that say all need no words")]

mod addresses;
mod compare;
pub mod diff;
mod encapsulate;
pub mod fuzz;
mod generator;
mod naive_parser;
mod oracle;
mod rng;
mod run;
mod world;

pub use generator::GeneratedPacket;
pub(crate) use generator::Generator;
pub(crate) use naive_parser::{Body, Hardware, Ip, Part, Reading, read};
pub(crate) use oracle::is_of_many;
pub(crate) use rng::Rng;
pub(crate) use run::{Clock, Stand};
pub use run::{Difference, Episode, Tally};
pub(crate) use world::any_model;
