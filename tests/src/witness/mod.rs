//! Three witnesses of the same packets: a naive oracle that reads the model, the pure core on plain collections, and the
//! loaded program. Verdicts, counters, connections and denied flows must be the same.

mod compare;
mod dice;
mod dress;
mod generator;
mod oracle;
mod reading;
mod run;
mod world;

pub use generator::Thrown;
pub use run::{Difference, Episode, Tally};
