//! All flow logs and their destinations.

use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use taskgate_model::{Destination, FlowLog};

use super::{
    journal::{Journal, Place},
    queue::{DestinationState, Queue, Writer},
    saved::{EniNumbers, NumberedEnis, RecordsToSave, SavedRecord},
    schedule::aligned,
    sink::{self, Batch, NamedSink, SinkError},
    stream::{Stream, StreamState},
    window::Window,
};

/// The most destinations to keep that no flow log has any more and that still have lines to write. Beyond it the oldest are given up.
const LEAVING: usize = 8;

/// All flow logs and their destinations. Nothing here waits for a reader: a flow log whose queue is full extends its window
/// until there is room again.
pub(super) struct Outputs {
    logs: Vec<FlowLog>,
    /// The stream of each flow log, and the key of its output.
    streams: Vec<(Stream, u64)>,
    /// The most records that each stream holds.
    most: usize,
    open: Vec<Output>,
    next_key: u64,
    sinks: Sinks,
}

/// Opens the sink of a flow log; the number distinguishes it from other outputs with the same destination.
type OpenSink = dyn Fn(&FlowLog, u64) -> Result<NamedSink, SinkError> + Send;

/// How sinks are opened and written to.
pub(super) struct Sinks {
    /// Opens them.
    pub(super) open: Box<OpenSink>,
    /// Lets a writer write.
    pub(super) start: Box<dyn FnMut(Writer) -> Result<(), SinkError> + Send>,
    /// Returns a number that no output had before.
    pub(super) number: Box<dyn FnMut() -> u64 + Send>,
}

impl Sinks {
    /// The sinks that the configuration names, for an instance, each with a writer thread.
    pub(super) fn of(instance: &str) -> Self {
        let instance = instance.to_owned();
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            open: Box::new(move |log, number| sink::open(log, &instance, number)),
            start: Box::new(Writer::start),
            number: Box::new(move || now().map_or(0, |now| now.as_nanos() as u64)),
        }
    }
}

/// A destination: several flow logs may have the same.
struct Output {
    /// The flow log that it was opened for.
    log: FlowLog,
    key: u64,
    number: u64,
    queue: Queue,
    /// The writer, until it is started.
    writer: Option<Writer>,
    /// Lines that were made and not sent to the queue yet.
    lines: Vec<Batch>,
    /// No flow log has this destination any more.
    leaving: bool,
    /// Packets whose records were given up for want of room.
    lost: u64,
}

/// The state of flow logs in the journal. Written, it borrows records; read back, it owns them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OutputsState<R = Vec<SavedRecord>> {
    logs: Vec<FlowLog>,
    streams: Vec<StreamState<R>>,
    outputs: Vec<OutputState>,
}

/// The state of a destination in the journal, except its [`Place`].
#[derive(Debug, Serialize, Deserialize)]
struct OutputState {
    log: FlowLog,
    number: u64,
    /// Where the first of `lines` begins, in bytes since the first line ever.
    position: u64,
    /// Lines that were not confirmed as written when the journal was replaced.
    lines: Vec<Batch>,
}

impl OutputsState {
    /// The flow logs.
    pub(super) fn logs(&self) -> &[FlowLog] {
        &self.logs
    }
}

impl Outputs {
    /// No flow log yet.
    fn none(most: usize, sinks: Sinks) -> Self {
        Self {
            logs: Vec::new(),
            streams: Vec::new(),
            most,
            open: Vec::new(),
            next_key: 0,
            sinks,
        }
    }

    /// Opens the flow logs at the start of taskgate, at `now` (Unix seconds). Each holds `most` records at most.
    pub(super) fn open(
        logs: &[FlowLog],
        now: u64,
        most: usize,
        sinks: Sinks,
        journal: &Journal,
    ) -> Result<Self, SinkError> {
        let mut opened = Self::none(most, sinks);
        opened.set(logs, |log| aligned(now, log.interval.max(1)), journal)?;
        Ok(opened)
    }

    /// Continues the flow logs of an earlier process, whose lines were written up to `places`.
    pub(super) fn resume(
        saved: OutputsState,
        places: &[Place],
        most: usize,
        enis: &NumberedEnis,
        sinks: Sinks,
        journal: &Journal,
    ) -> Result<Self, SinkError> {
        let mut resumed = Self::none(most, sinks);
        let places = places.iter().copied().chain(std::iter::repeat(Place::default()));
        for (saved, place) in saved.outputs.into_iter().zip(places) {
            let mut written = place.position.saturating_sub(saved.position) as usize;
            let output = resumed.add(&saved.log, saved.number, place, journal)?;
            for mut batch in saved.lines {
                written -= batch.lines.split_to(written.min(batch.lines.len())).len();
                if !batch.lines.is_empty() {
                    output.lines.push(batch);
                }
            }
        }
        for (log, saved) in saved.logs.iter().zip(saved.streams) {
            if let Some(key) = resumed.key_of(log) {
                let stream = Stream::resume(log, saved, most, enis);
                resumed.streams.push((stream, key));
                resumed.logs.push(log.clone());
            }
        }
        resumed.note_leaving();
        Ok(resumed)
    }

    /// The state that has to outlive the process.
    pub(super) fn state<'a>(&'a self, enis: &'a EniNumbers) -> OutputsState<RecordsToSave<'a>> {
        let output = |output: &Output| {
            let (position, mut lines) = output.queue.waiting();
            lines.extend(output.lines.iter().cloned());
            OutputState {
                log: output.log.clone(),
                number: output.number,
                position,
                lines,
            }
        };
        OutputsState {
            logs: self.logs.clone(),
            streams: self.streams.iter().map(|(stream, _)| stream.state(enis)).collect(),
            outputs: self.open.iter().map(output).collect(),
        }
    }

    /// The keys of the destinations, in the order of the state.
    pub(super) fn keys(&self) -> Vec<u64> {
        self.open.iter().map(|output| output.key).collect()
    }

    /// The flow logs.
    pub(super) fn logs(&self) -> &[FlowLog] {
        &self.logs
    }

    /// Replaces the flow logs by others, from the end of their last window on. Lines that wait for a destination that no flow log has
    /// any more are still written.
    pub(super) fn replace(&mut self, logs: &[FlowLog], end: u64, journal: &Journal) -> Result<(), SinkError> {
        self.set(logs, |_| end, journal)
    }

    fn set(&mut self, logs: &[FlowLog], start: impl Fn(&FlowLog) -> u64, journal: &Journal) -> Result<(), SinkError> {
        let mut opened = Ok(());
        for log in logs {
            let open = self.open.iter_mut().find(|output| is_same(&output.log, log));
            if let Some(output) = open {
                if output.log.destination != log.destination {
                    let (_, sink) = (self.sinks.open)(log, output.number)?;
                    output.queue.replace(sink);
                }
                output.log = log.clone();
            } else {
                let number = (self.sinks.number)();
                let added = self.add(log, number, Place::default(), journal).map(drop);
                opened = opened.and(added);
            }
        }
        self.logs = logs.to_vec();
        let streams = logs.iter().filter_map(|log| {
            let stream = Stream::new(log, start(log), self.most);
            Some((stream, self.key_of(log)?))
        });
        self.streams = streams.collect();
        self.note_leaving();
        opened
    }

    /// Opens a destination.
    fn add(&mut self, log: &FlowLog, number: u64, place: Place, journal: &Journal) -> Result<&mut Output, SinkError> {
        let named = (self.sinks.open)(log, number)?;
        let key = self.next_key;
        self.next_key += 1;
        let confirmation = journal.confirmation(key, place);
        let (queue, writer) = Queue::from(named, (place.position, place.mark), Some(confirmation));
        Ok(self.open.push_mut(Output {
            log: log.clone(),
            key,
            number,
            queue,
            writer: Some(writer),
            lines: Vec::new(),
            leaving: false,
            lost: 0,
        }))
    }

    fn key_of(&self, log: &FlowLog) -> Option<u64> {
        let mut outputs = self.open.iter();
        outputs
            .find(|output| is_same(&output.log, log))
            .map(|output| output.key)
    }

    /// Marks the outputs that no flow log has as leaving.
    fn note_leaving(&mut self) {
        for output in &mut self.open {
            output.leaving = !self.streams.iter().any(|(_, key)| *key == output.key);
            output.queue.set_ending(output.leaving);
        }
    }

    /// Makes the lines of a window for all flow logs. The lines wait for [`Outputs::send`].
    pub(super) fn push(&mut self, window: &Window) {
        for (stream, key) in &mut self.streams {
            let Some(output) = self.open.iter_mut().find(|output| output.key == *key) else {
                continue;
            };
            let lines = stream.push(window, output.queue.has_room());
            if !lines.is_empty() {
                output.lines.push(Batch {
                    end: stream.start(),
                    lines: lines.freeze(),
                });
            }
        }
    }

    /// Sends the lines to the queues, and starts new writers.
    pub(super) fn send(&mut self) -> Result<(), SinkError> {
        let mut started = Ok(());
        for output in &mut self.open {
            output.lines.drain(..).for_each(|batch| output.queue.push(batch));
            if let Some(writer) = output.writer.take() {
                started = started.and((self.sinks.start)(writer));
            }
        }
        started
    }

    /// Drops leaving destinations whose lines are all written, and the oldest beyond [`LEAVING`]. Returns the errors since the last
    /// call.
    pub(super) fn troubles(&mut self) -> Vec<SinkError> {
        let mut troubles: Vec<_> = self.open.iter().filter_map(|output| output.queue.trouble()).collect();
        for (stream, key) in &mut self.streams {
            let packets = stream.take_lost();
            let output = self.open.iter_mut().find(|output| output.key == *key);
            if packets != 0
                && let Some(output) = output
            {
                output.lost += packets;
                let sink = output.queue.name().to_owned();
                troubles.push(SinkError::Lost { sink, packets });
            }
        }
        let left = |output: &Output| output.leaving && output.lines.is_empty() && output.queue.bytes() == 0;
        self.open.retain(|output| !left(output));
        let leaving = self.open.iter().filter(|output| output.leaving).count();
        for _ in LEAVING..leaving {
            if let Some(first) = self.open.iter().position(|output| output.leaving) {
                let output = self.open.remove(first);
                troubles.push(SinkError::GivenUp {
                    sink: output.queue.name().to_owned(),
                    bytes: output.queue.bytes(),
                });
            }
        }
        troubles
    }

    /// The states of the destinations.
    pub(super) fn destinations(&self) -> Vec<DestinationState> {
        let state = |output: &Output| DestinationState {
            lost: output.lost,
            ..output.queue.destination()
        };
        self.open.iter().map(state).collect()
    }

    /// Has the sinks reopen their files.
    pub(super) fn reopen(&self) {
        self.open.iter().for_each(|output| output.queue.reopen());
    }

    /// Waits until all lines are written, see [`Queue::finish`]. The destinations' patience runs concurrently.
    pub(super) fn finish(&self, patience: Duration) -> Vec<SinkError> {
        let begun = Instant::now();
        let queues = || self.open.iter().map(|output| &output.queue);
        queues().for_each(|queue| queue.set_ending(true));
        let finished = queues().filter_map(|queue| queue.finish_from(begun, patience).err());
        let left = finished.collect();
        for output in &self.open {
            output.queue.set_ending(output.leaving);
        }
        left
    }
}

/// Whether two flow logs' lines go through one queue. A folder's files begin with the names of the fields, so each flow log has
/// separate files.
fn is_same(a: &FlowLog, b: &FlowLog) -> bool {
    match (&a.destination, &b.destination) {
        (Destination::Stdout, Destination::Stdout) => true,
        (Destination::File(one), Destination::File(other)) => one.path == other.path,
        (Destination::Folder(_), Destination::Folder(_)) => a == b,
        _ => false,
    }
}
