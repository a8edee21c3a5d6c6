//! A queue of lines with a writer thread for each sink, so that a slow or broken sink blocks no other thread.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing::info;

use super::{
    fault::{Fault, point},
    journal::Confirmation,
    sink::{Batch, Mark, NamedSink, NextWrite, PreparedWrite, Sink, SinkError},
};

/// Bytes of lines that may wait for their reader before flow logs hold their windows back.
const ROOM: usize = 16 << 20;
/// The pause after a failed write: the first pause, and the limit up to which it doubles.
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];
/// How often a sink that is not ready to write is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Lines on their way to a sink.
#[derive(Debug)]
pub struct Queue {
    name: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is said by somebody else")]
struct State {
    /// Batches that are not written yet.
    waiting: VecDeque<Batch>,
    /// The bytes of `waiting`.
    bytes: usize,
    /// Bytes that were written or given up since the destination's first line, over all processes.
    position: u64,
    /// The file and length that are confirmed with `position`.
    mark: Mark,
    /// When lines were last written.
    progress: Option<Instant>,
    /// No more lines come for now: a sink that collects lines before it writes should not wait for more.
    ending: bool,
    /// The queue was dropped: no more lines come.
    closed: bool,
    /// The sink has to reopen its file.
    reopen: bool,
    /// The sink to use instead of the present one.
    replacement: Option<Box<dyn Sink>>,
    /// Counts calls of [`Shared::call`], each of which ends a pause after a failure.
    calls: u64,
    /// The sink has failed since its last successful write.
    failing: bool,
    /// A failure that was not reported yet.
    failed: Option<SinkError>,
    /// The last failure in words, while the sink fails.
    failure: Option<String>,
    /// Lines that were written, and below lines that were given up.
    records: u64,
    dropped: u64,
}

/// The state of a destination of flow records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationState {
    /// The path of a file or folder, or `standard output`.
    pub name: String,
    /// Records that were written since the process began.
    pub records: u64,
    /// Bytes of records that are not written yet.
    pub waiting: u64,
    /// Records that were given up because the reader is gone.
    pub dropped: u64,
    /// Packets missing from this destination's records because too many records waited: SKIPDATA names their ENIs.
    pub lost: u64,
    /// Why writing fails at present, if it does.
    pub failure: Option<String>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("State");
        shown.field("bytes", &self.bytes).field("position", &self.position);
        shown.field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and ends any pause of the writer.
    fn call(&self, say: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        say(&mut state);
        state.calls += 1;
        drop(state);
        self.changed.notify_all();
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, most: Option<Duration>) -> MutexGuard<'a, State> {
        match most {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(most) => {
                let waited = self.changed.wait_timeout(state, most);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }
}

impl Queue {
    /// A queue for a sink, with its thread.
    ///
    /// # Errors
    /// The thread can't be started.
    pub fn new(name: &str, sink: Box<dyn Sink>) -> Result<Self, SinkError> {
        let (queue, writer) = Self::from((name.to_owned(), sink), (0, Mark::default()), None);
        writer.start()?;
        Ok(queue)
    }

    /// A queue that continues at a confirmed position, and its writer, which confirms what it has written.
    pub(super) fn from(
        (name, sink): NamedSink,
        (position, mark): (u64, Mark),
        confirmation: Option<Confirmation>,
    ) -> (Self, Writer) {
        let shared = Arc::new(Shared::default());
        let mut state = shared.lock();
        (state.position, state.mark) = (position, mark);
        drop(state);
        let writer = Writer {
            name: name.clone(),
            shared: Arc::clone(&shared),
            sink,
            confirmation,
            ready: mark.inode == 0,
        };
        (Self { name, shared }, writer)
    }

    /// The sink's name in messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is room for more lines.
    pub fn has_room(&self) -> bool {
        self.shared.lock().bytes < ROOM
    }

    /// Adds whole lines. Never waits.
    pub fn push(&self, batch: Batch) {
        if !batch.lines.is_empty() {
            let mut state = self.shared.lock();
            state.bytes += batch.lines.len();
            state.waiting.push_back(batch);
            drop(state);
            self.shared.changed.notify_all();
        }
    }

    /// The error since the last call, if any. A lasting failure is returned once.
    pub fn trouble(&self) -> Option<SinkError> {
        self.shared.lock().failed.take()
    }

    /// The position up to which lines are written, and the batches that are not written yet.
    pub(super) fn waiting(&self) -> (u64, Vec<Batch>) {
        let state = self.shared.lock();
        (state.position, state.waiting.iter().cloned().collect())
    }

    /// The state of the sink, without losses of its streams.
    pub(super) fn destination(&self) -> DestinationState {
        let state = self.shared.lock();
        DestinationState {
            // Messages quote paths.
            name: self.name.trim_matches('`').to_owned(),
            records: state.records,
            dropped: state.dropped,
            waiting: state.bytes as u64,
            lost: 0,
            failure: state.failure.clone(),
        }
    }

    /// The bytes that are not written yet.
    pub(super) fn bytes(&self) -> usize {
        self.shared.lock().bytes
    }

    /// Has the sink reopen its file.
    pub(super) fn reopen(&self) {
        self.shared.call(|state| state.reopen = true);
    }

    /// Replaces the sink. The new one continues at the present position.
    pub(super) fn replace(&self, sink: Box<dyn Sink>) {
        self.shared.call(|state| state.replacement = Some(sink));
    }

    /// Sets whether the sink should write at once instead of collecting more lines.
    pub(super) fn set_ending(&self, ending: bool) {
        self.shared.call(|state| state.ending = ending);
    }

    /// Waits until all lines are written, as long as their reader takes some of them every `patience`.
    ///
    /// # Errors
    /// Lines were lost, or are left: [`SinkError::Stuck`], [`SinkError::Left`].
    pub fn finish(&self, patience: Duration) -> Result<(), SinkError> {
        self.finish_from(Instant::now(), patience)
    }

    /// [`Queue::finish`], with `patience` counted from `begun`.
    pub(super) fn finish_from(&self, begun: Instant, patience: Duration) -> Result<(), SinkError> {
        let mut state = self.shared.lock();
        while state.bytes != 0 {
            let since = state.progress.map_or(begun, |progress| progress.max(begun));
            let left = patience.saturating_sub(since.elapsed());
            if left.is_zero() {
                let (sink, bytes) = (self.name.clone(), state.bytes);
                return Err(if state.failing {
                    SinkError::Left { sink, bytes }
                } else {
                    SinkError::Stuck { sink, bytes }
                });
            }
            state = self.shared.wait(state, Some(left));
        }
        // A temporary error whose retry succeeded is no failure.
        state.failed.take().filter(|error| !error.passes()).map_or(Ok(()), Err)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.shared.call(|state| state.closed = true);
    }
}

/// The writer of a queue's lines.
pub(super) struct Writer {
    name: String,
    shared: Arc<Shared>,
    sink: Box<dyn Sink>,
    confirmation: Option<Confirmation>,
    /// Whether [`Sink::prepare`] may be called without lines. Not before the first lines after a takeover with a file: part of them
    /// may have been written without confirmation.
    ready: bool,
}

/// How an attempt to write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Written,
    /// There is nothing to write, or the sink waits for more.
    Nothing,
    Failed,
}

impl Writer {
    /// Starts the thread. It writes until the queue is dropped and either empty or failing.
    pub(super) fn start(mut self) -> Result<(), SinkError> {
        let sink = self.name.clone();
        let thread = thread::Builder::new().name(String::from("flow-records"));
        let started = thread.spawn(move || self.run());
        started.map(drop).map_err(|source| SinkError::Open { sink, source })
    }

    fn run(&mut self) {
        let mut pause = BACKOFF[0];
        loop {
            let (calls, bytes) = {
                let state = self.shared.lock();
                (state.calls, state.bytes)
            };
            let attempt = self.write_piece();
            let mut state = self.shared.lock();
            if state.closed && (state.bytes == 0 || attempt == Attempt::Failed) {
                return;
            }
            match attempt {
                Attempt::Written => pause = BACKOFF[0],
                Attempt::Nothing => {
                    let most = (state.bytes != 0).then_some(ASK_AGAIN);
                    if (state.calls, state.bytes) == (calls, bytes) {
                        drop(self.shared.wait(state, most));
                    }
                }
                Attempt::Failed => {
                    let until = Instant::now() + pause;
                    pause = (2 * pause).min(BACKOFF[1]);
                    while state.calls == calls {
                        let left = until.saturating_duration_since(Instant::now());
                        if left.is_zero() {
                            break;
                        }
                        state = self.shared.wait(state, Some(left));
                    }
                }
            }
        }
    }

    /// Writes the next lines, if there are any.
    pub(super) fn write_piece(&mut self) -> Attempt {
        let mut state = self.shared.lock();
        if let Some(sink) = state.replacement.take() {
            self.sink = sink;
        }
        if std::mem::take(&mut state.reopen) {
            self.sink.reopen();
        }
        let batches: Vec<Batch> = state.waiting.iter().take(self.sink.batches()).cloned().collect();
        let next = NextWrite {
            batches: &batches,
            bytes: state.bytes,
            position: state.position,
            mark: state.mark,
            ending: state.ending || state.closed,
        };
        drop(state);
        if batches.is_empty() && !self.ready {
            return Attempt::Nothing;
        }
        let PreparedWrite { written, mark } = match self.sink.prepare(&next) {
            Ok(prepared) => prepared,
            Err(error) => return self.failed(error),
        };
        self.ready = true;
        if written != 0 || mark != next.mark {
            self.advance(written, mark, |state| &mut state.records);
        }
        if written != 0 {
            return Attempt::Written;
        }
        if batches.is_empty() {
            return Attempt::Nothing;
        }
        match self.sink.write(&NextWrite { mark, ..next }) {
            Ok(0) => Attempt::Nothing,
            Ok(written) => {
                point(Fault::LinesTaken);
                let length = mark.length + if mark.inode == 0 { 0 } else { written as u64 };
                self.advance(written, Mark { length, ..mark }, |state| &mut state.records);
                self.shared.lock().progress = Some(Instant::now());
                Attempt::Written
            }
            Err(error) => self.failed(error),
        }
    }

    /// Removes `done` bytes from the queue and confirms the new position and mark. The lines that end in these bytes are added to a
    /// counter.
    fn advance(&mut self, mut done: usize, mark: Mark, counter: impl Fn(&mut State) -> &mut u64) {
        let mut state = self.shared.lock();
        state.bytes -= done;
        state.position += done as u64;
        state.mark = mark;
        let recovered = done != 0 && std::mem::take(&mut state.failing);
        if recovered {
            state.failure = None;
        }
        let mut lines = 0;
        while done != 0
            && let Some(batch) = state.waiting.front_mut()
        {
            let part = batch.lines.split_to(done.min(batch.lines.len()));
            let ends = part.split(|byte| *byte == b'\n').count() - 1;
            let part = part.len();
            lines += ends as u64;
            done -= part;
            if batch.lines.is_empty() {
                state.waiting.pop_front();
            }
        }
        *counter(&mut state) += lines;
        if let Some(confirmation) = &self.confirmation {
            confirmation.confirm(state.position, mark);
        }
        drop(state);
        point(Fault::Confirmed);
        self.shared.changed.notify_all();
        if recovered {
            info!("flow records are written to {} again", self.name);
        }
    }

    fn failed(&mut self, error: SinkError) -> Attempt {
        let mut state = self.shared.lock();
        state.failure = Some(error.chain());
        if error.passes() {
            if !std::mem::replace(&mut state.failing, true) {
                state.failed = Some(error);
            }
            drop(state);
            self.shared.changed.notify_all();
            return Attempt::Failed;
        }
        // The whole batch is given up: its rest could begin in the middle of a line.
        let lost = state.waiting.front().map_or(0, |batch| batch.lines.len());
        let mark = state.mark;
        state.failed = Some(error);
        drop(state);
        self.advance(lost, mark, |state| &mut state.dropped);
        Attempt::Written
    }
}
