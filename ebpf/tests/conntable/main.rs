//! Proof of the connection table's protocol: every interleaving of small scenarios, with faults put in on purpose that
//! have to be found, and how full the table gets before an insert finds no room.

mod explore;
mod model;
mod overflow;
mod replay;
mod scenarios;
