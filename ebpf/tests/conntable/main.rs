//! Model checking of the connection table's protocol: every interleaving of small scenarios, with deliberate faults that
//! must be detected; and how full the table gets before an insert fails.

mod explore;
mod model;
mod overflow;
mod replay;
mod scenarios;
