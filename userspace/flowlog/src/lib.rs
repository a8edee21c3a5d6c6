//! Flow records: from the kernel's tables to lines in the format of VPC Flow Logs.
//!
//! ```text
//! tables → Collector → Window → Stream (one for each flow log) → Queue → Sink
//!              └───── Journal ──────┘
//! ```
//!
//! The kernel only adds to its counters. Once per capture window the [`Collector`] raises the window's number, reads every entry,
//! and takes its growth since the last reading: a [`Window`]. A [`Stream`] makes lines of windows by its flow log's filter and
//! interval. A [`Queue`] for each destination passes them to a [`Sink`] on its own thread, so that a slow reader blocks nothing
//! else. Every counted packet is in exactly one record of each flow log that selects it. The [`Recorder`] owns all of these, and
//! a [`Journal`] that preserves this property when the process is killed.
//!
//! `docs/flow-logs.md` says what the lines mean.

mod attribution;
mod baseline;
mod budget;
mod collector;
mod eni;
mod fault;
mod format;
mod journal;
mod label;
mod names;
mod outputs;
mod queue;
mod record;
mod recorder;
mod saved;
mod schedule;
mod sink;
mod stream;
#[cfg(test)]
mod tests;
mod totals;
mod unlogged;
mod window;

pub use attribution::{Attribution, RecordedPeer, RecordedRule};
pub use collector::{CollectError, Collector};
pub use eni::LoggedEni;
pub use format::{LogStatus, RecordWriter};
pub use journal::{Journal, JournalError, Refusal};
pub use label::Label;
pub use names::{RecordNames, RuleText};
pub use queue::{DestinationState, Queue};
pub use record::{FlowRecord, Reasons, RecordAction, Tuple};
pub use recorder::{ClosedWindow, RecordError, RecordSettings, Recorder, RecorderStart};
pub use schedule::{Bounds, LONGEST_WINDOW, aligned};
pub use sink::{Batch, FileSink, FolderSink, LineSink, Mark, NextWrite, PreparedWrite, Sink, SinkError};
pub use stream::Stream;
pub use totals::{RecordTotals, TaskTotals};
pub use unlogged::Unlogged;
pub use window::{Loss, Unattributed, Window};
