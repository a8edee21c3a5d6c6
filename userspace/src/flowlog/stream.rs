//! One flow log: its share of the windows, as lines.

use std::{collections::BTreeMap, sync::Arc};

use bytes::BytesMut;

use super::{
    eni::LoggedEni,
    format::{LINE_BYTES, Status, write_flow, write_status},
    record::{Action, Record, coalesce},
    schedule::{Bounds, aligned},
    window::{Loss, Window},
};
use crate::model::{FlowLog, Traffic};

/// The lines of one flow log. Several read the same windows, each with its own filter and interval.
#[derive(Debug)]
pub struct Stream {
    traffic: Traffic,
    interval: u32,
    nodata: bool,
    start: u64,
    /// Records of the windows since `start`, in the order of lines.
    records: Vec<Record>,
    /// By id, the ENIs that are not silent: `true` if something is missing.
    heard: BTreeMap<String, (Arc<LoggedEni>, bool)>,
}

impl Stream {
    /// A flow log whose first window begins at `start`: where [`aligned`] puts it when taskgate begins; where the last
    /// window ended when flow logs change.
    pub fn new(log: &FlowLog, start: u64) -> Self {
        Self {
            traffic: log.traffic,
            interval: log.interval.max(1),
            nodata: log.nodata,
            start,
            records: Vec::new(),
            heard: BTreeMap::new(),
        }
    }

    /// Takes in a capture window, and gives the lines of the flow log's own window if that ends with it: whole lines,
    /// in the order of ENI, tuple and action, an ENI's SKIPDATA or NODATA after its flows. Empty: there is nothing to
    /// write.
    pub fn push(&mut self, window: &Window) -> BytesMut {
        if window.bounds.start < self.start {
            // The clock was set back.
            self.start = aligned(window.bounds.start, self.interval);
        }
        self.take_in(window);
        let bounds = Bounds {
            start: self.start,
            end: window.bounds.end,
        };
        if window.last {
            return self.lines(bounds, window);
        }
        let end = aligned(bounds.end, self.interval);
        if end <= self.start {
            return BytesMut::new();
        }
        self.lines(Bounds { end, ..bounds }, window)
    }

    fn take_in(&mut self, window: &Window) {
        for record in &window.records {
            self.hear(&record.eni, false);
        }
        for loss in &window.losses {
            self.hear(&loss.eni, concerns(self.traffic, loss));
        }
        let traffic = self.traffic;
        let wanted = window
            .records
            .iter()
            .filter(|record| wants(traffic, record.action))
            .cloned();
        let fresh = self.records.is_empty();
        self.records.extend(wanted);
        if !fresh {
            coalesce(&mut self.records);
        }
    }

    fn lines(&mut self, bounds: Bounds, window: &Window) -> BytesMut {
        let records = std::mem::take(&mut self.records);
        let heard = std::mem::take(&mut self.heard);
        self.start = bounds.end;

        let mut statuses: Vec<(&LoggedEni, Status)> = Vec::new();
        statuses.extend(
            heard
                .values()
                .filter(|(_, lacks)| *lacks)
                .map(|(eni, _)| (&**eni, Status::SkipData)),
        );
        if self.nodata {
            let silent = window.active.iter().filter(|eni| !heard.contains_key(eni.id()));
            statuses.extend(silent.map(|eni| (&**eni, Status::NoData)));
        }
        statuses.sort_by(|(a, _), (b, _)| a.id().cmp(b.id()));

        let mut lines = BytesMut::with_capacity(LINE_BYTES * (records.len() + statuses.len()));
        let mut statuses = statuses.into_iter().peekable();
        for record in &records {
            while let Some((eni, status)) = statuses.next_if(|(eni, _)| eni.id() < record.eni.id()) {
                write_status(&mut lines, eni, status, bounds);
            }
            write_flow(&mut lines, record, bounds);
        }
        for (eni, status) in statuses {
            write_status(&mut lines, eni, status, bounds);
        }
        lines
    }

    fn hear(&mut self, eni: &Arc<LoggedEni>, lacks: bool) {
        if let Some((_, lacked)) = self.heard.get_mut(eni.id()) {
            *lacked |= lacks;
        } else {
            self.heard.insert(eni.id().to_owned(), (Arc::clone(eni), lacks));
        }
    }
}

fn wants(traffic: Traffic, action: Action) -> bool {
    match traffic {
        Traffic::All => true,
        Traffic::Accept => action == Action::Accept,
        Traffic::Reject => action == Action::Reject,
    }
}

fn concerns(traffic: Traffic, loss: &Loss) -> bool {
    wants(traffic, Action::Accept) && loss.passed != 0 || wants(traffic, Action::Reject) && loss.denied != 0
}
