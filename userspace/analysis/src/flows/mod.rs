//! Stored flow records: read back from the formats of VPC Flow Logs and from taskgate's JSON, and filtered.
//!
//! The filters follow the grammar of Cilium's `hubble observe`: one flag given twice means either value, different flags have
//! to hold together, and a negated flag excludes.

mod filter;
mod reader;
mod record;

pub use filter::{FilterKey, FlowFilter, Term};
pub use reader::{LineError, RecordReader};
pub use record::{Side, StoredRecord};
