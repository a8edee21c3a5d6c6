//! The link that faces the wire: a trunk whose VLANs are tasks, or the way to the tasks' addresses. Whoever judges what
//! comes from there, a driver, the kernel's generic XDP or tc alone, the records and counters are the same.

mod branches;
mod changes;
mod place;
mod routed;
mod switches;
mod trunk;
