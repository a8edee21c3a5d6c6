//! A flow log's stream: capture windows in, lines out.

use std::{collections::BTreeMap, sync::Arc};

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use taskgate_model::{FlowLog, Traffic};

use super::{
    budget::{Overflow, cut},
    eni::LoggedEni,
    format::{LogStatus, RecordWriter},
    record::{FlowRecord, RecordAction, coalesce},
    saved::{EniNumbers, NumberedEnis, RecordsToSave, SavedRecord},
    schedule::{Bounds, aligned},
    window::{Loss, Window},
};

/// Makes the lines of one flow log. All streams read the same windows, each with its own filter and interval.
#[derive(Debug)]
pub struct Stream {
    writer: RecordWriter,
    traffic: Traffic,
    /// The tasks that the flow log selects, in lower case; empty: all.
    tasks: Vec<String>,
    interval: u32,
    nodata: bool,
    start: u64,
    /// Records of the windows since `start`, in the order of lines.
    records: Vec<FlowRecord>,
    /// The limit of `records`.
    most: usize,
    /// By id, the ENIs with traffic or losses since `start`: `true` if records of theirs are missing.
    heard: BTreeMap<String, (Arc<LoggedEni>, bool)>,
    /// Packets whose records were given up since the last [`Stream::take_lost`].
    lost: u64,
}

/// A flow log's open window in the journal. Written, it borrows records; read back, it owns them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StreamState<R = Vec<SavedRecord>> {
    start: u64,
    records: R,
    /// The numbers of ENIs with traffic or losses, and whether records of theirs are missing.
    heard: Vec<(u32, bool)>,
}

impl Stream {
    /// A flow log whose first window begins at `start`: at the [`aligned`] time when taskgate begins; at the end of the last
    /// window when flow logs change. It holds `most` records at most.
    pub fn new(log: &FlowLog, start: u64, most: usize) -> Self {
        Self {
            writer: RecordWriter::new(&log.format),
            traffic: log.traffic,
            tasks: log.tasks.clone(),
            interval: log.interval.max(1),
            nodata: log.nodata,
            start,
            records: Vec::new(),
            most,
            heard: BTreeMap::new(),
            lost: 0,
        }
    }

    /// The start of the open window: the end of the last one.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// The packets whose records were given up for want of room since this was called last.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Whether the flow log selects an ENI.
    fn is_about(&self, eni: &LoggedEni) -> bool {
        let named = |task: &String| self.tasks.contains(&task.to_lowercase());
        self.tasks.is_empty() || eni.eni().task.as_ref().is_some_and(named)
    }

    /// The state that has to outlive the process.
    pub(super) fn state<'a>(&'a self, enis: &'a EniNumbers) -> StreamState<RecordsToSave<'a>> {
        let heard = self.heard.values();
        StreamState {
            start: self.start,
            records: RecordsToSave {
                records: &self.records,
                enis,
            },
            heard: heard.map(|(eni, lacks)| (enis.of(eni), *lacks)).collect(),
        }
    }

    /// Continues the flow log's open window.
    pub(super) fn resume(log: &FlowLog, saved: StreamState, most: usize, enis: &NumberedEnis) -> Self {
        let mut stream = Self::new(log, saved.start, most);
        stream.records = enis.records(saved.records);
        for (number, lacks) in saved.heard {
            if let Some(eni) = enis.get(number) {
                stream.mark_active(&eni, lacks);
            }
        }
        stream
    }

    /// Adds a capture window, and returns the lines of the flow log's window if that ends with it: whole lines,
    /// in the order of ENI, tuple and action, an ENI's SKIPDATA or NODATA after its flows. Empty: there is nothing to
    /// write.
    ///
    /// `room`: whether the queue can take lines. If not, the flow log's window goes on until it can, or until the last capture
    /// window. If the window grows too large, the ENIs with most records lose some, and SKIPDATA names them.
    pub fn push(&mut self, window: &Window, room: bool) -> BytesMut {
        if window.bounds.start < self.start {
            // The clock was set back.
            self.start = aligned(window.bounds.start, self.interval);
        }
        for records in window.records.chunk_by(|a, b| Arc::ptr_eq(&a.eni, &b.eni)) {
            if self.is_about(&records[0].eni) {
                self.mark_active(&records[0].eni, false);
            }
        }
        for loss in &window.losses {
            if self.is_about(&loss.eni) {
                self.mark_active(&loss.eni, concerns(self.traffic, loss));
            }
        }
        let end = if window.last {
            window.bounds.end
        } else {
            aligned(window.bounds.end, self.interval)
        };
        let ends = window.last || room && end > self.start;
        let bounds = Bounds { start: self.start, end };

        let traffic = self.traffic;
        let by_eni = window.records.chunk_by(|a, b| Arc::ptr_eq(&a.eni, &b.eni));
        let chosen: Vec<_> = by_eni.filter(|records| self.is_about(&records[0].eni)).collect();
        let wanted = chosen
            .into_iter()
            .flatten()
            .filter(|record| wants(traffic, record.action));
        if ends && self.records.is_empty() {
            return self.lines(wanted, bounds, window);
        }
        self.records.extend(wanted.cloned());
        if !ends {
            let mut overflow = Overflow::new();
            cut(&mut self.records, self.most, &mut overflow);
            for loss in overflow.values() {
                self.lost += loss.passed + loss.denied;
                self.mark_active(&loss.eni, true);
            }
            return BytesMut::new();
        }
        coalesce(&mut self.records);
        let records = std::mem::take(&mut self.records);
        self.lines(records.iter(), bounds, window)
    }

    /// Ends the flow log's window.
    fn lines<'a>(
        &mut self,
        records: impl Iterator<Item = &'a FlowRecord>,
        bounds: Bounds,
        window: &Window,
    ) -> BytesMut {
        self.start = bounds.end;
        let heard = std::mem::take(&mut self.heard);
        let lacking = heard
            .values()
            .filter(|(_, lacks)| *lacks)
            .map(|(eni, _)| (eni, LogStatus::SkipData));
        let silent = window
            .active
            .iter()
            // No NODATA for a window of zero length, as the last one may be.
            .filter(|eni| self.nodata && bounds.start < bounds.end && !heard.contains_key(eni.id()))
            .filter(|eni| self.is_about(eni));
        let mut statuses: Vec<_> = lacking.chain(silent.map(|eni| (eni, LogStatus::NoData))).collect();
        statuses.sort_by(|(a, _), (b, _)| a.id().cmp(b.id()));

        let writer = &self.writer;
        let most = records.size_hint().1.unwrap_or_default();
        let mut lines = BytesMut::with_capacity(writer.line_bytes() * (most + statuses.len()));
        let mut statuses = statuses.into_iter().peekable();
        for record in records {
            while let Some((eni, status)) = statuses.next_if(|(eni, _)| eni.id() < record.eni.id()) {
                writer.write_status(&mut lines, eni, status, bounds);
            }
            writer.write_flow(&mut lines, record, bounds);
        }
        for (eni, status) in statuses {
            writer.write_status(&mut lines, eni, status, bounds);
        }
        lines
    }

    fn mark_active(&mut self, eni: &Arc<LoggedEni>, lacks: bool) {
        if let Some((_, lacked)) = self.heard.get_mut(eni.id()) {
            *lacked |= lacks;
        } else {
            self.heard.insert(eni.id().to_owned(), (Arc::clone(eni), lacks));
        }
    }
}

fn wants(traffic: Traffic, action: RecordAction) -> bool {
    match traffic {
        Traffic::All => true,
        Traffic::Accept => action == RecordAction::Accept,
        Traffic::Reject => action == RecordAction::Reject,
    }
}

fn concerns(traffic: Traffic, loss: &Loss) -> bool {
    wants(traffic, RecordAction::Accept) && loss.passed != 0 || wants(traffic, RecordAction::Reject) && loss.denied != 0
}
