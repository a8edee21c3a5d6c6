//! Flow records: from the kernel's tables to lines in the format of VPC Flow Logs.
//!
//! ```text
//! tables → Collector → Window → Stream (one for each flow log) → Queue → Sink
//! ```
//!
//! The kernel only adds up. Once in a capture window the [`Collector`] raises the window's number, reads every entry,
//! and takes what each grew by since it was read last: a [`Window`]. A [`Stream`] makes lines of windows by its flow
//! log's filter and interval, and a [`Sink`] writes them, at the end of a [`Queue`] so that nobody waits for its reader. Every packet that was counted stands in exactly one record of
//! each flow log that wants it.
//!
//! `docs/flow-logs.md` says what the lines mean.

mod baseline;
mod budget;
mod collector;
mod eni;
mod format;
mod outputs;
mod queue;
mod record;
mod schedule;
mod sink;
mod stream;
#[cfg(test)]
mod tests;
mod unlogged;
mod window;

pub use collector::{CollectError, Collector};
pub use eni::LoggedEni;
pub use format::{LogStatus, write_flow, write_status};
pub use outputs::Outputs;
pub use queue::Queue;
pub use record::{FlowRecord, Reasons, RecordAction, Tuple};
pub use schedule::{Bounds, LONGEST_WINDOW, aligned};
pub use sink::{LineSink, Sink, SinkError};
pub use stream::Stream;
pub use unlogged::Unlogged;
pub use window::{Loss, Unattributed, Window};
