//! Three witnesses of the same packets: a naive oracle that reads the model, the pure core on plain collections, and the
//! loaded program. Verdicts, counters, connections and denied flows must be the same.

mod addresses;
mod compare;
mod dice;
mod dress;
pub mod fuzz;
mod generator;
mod oracle;
mod reading;
mod run;
mod talk;
mod transport;
mod uplink;
mod world;

pub(crate) use dice::Dice;
pub(crate) use generator::Generator;
pub use generator::Thrown;
pub(crate) use oracle::is_of_many;
pub(crate) use reading::{Body, Hardware, Ip, Part, Reading, read};
pub(crate) use run::{Clock, Stand};
pub use run::{Difference, Episode, Tally};
pub(crate) use world::any_model;
