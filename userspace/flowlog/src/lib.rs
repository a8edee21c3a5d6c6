//! Flow records: from the kernel's tables to lines in the format of VPC Flow Logs.
//!
//! ```text
//! tables → Collector → Window → Stream (one for each flow log) → Queue → Sink
//!              └───── Journal ──────┘
//! ```
//!
//! The kernel only adds up. Once in a capture window the [`Collector`] raises the window's number, reads every entry,
//! and takes what each grew by since it was read last: a [`Window`]. A [`Stream`] makes lines of windows by its flow
//! log's filter and interval, and a [`Sink`] for each destination writes them, at the end of a [`Queue`] so that nobody waits for its reader. Every packet that was
//! counted stands in exactly one record of each flow log that wants it. The [`Recorder`] has all of them, and a [`Journal`] by
//! which that holds when the process is killed too.
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
