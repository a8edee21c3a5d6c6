//! The link that faces the wire: a trunk whose VLANs are tasks, or the route to the tasks' addresses. Records and
//! counters are the same whether XDP in the driver, generic XDP or tc alone judges its packets.

mod branches;
mod changes;
mod place;
mod routed;
mod switches;
mod trunk;
