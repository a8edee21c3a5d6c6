//! The log's way to standard error: a bounded queue and a thread of its own, so that nobody waits for a reader who has
//! stopped. What finds no room is dropped, and said once there is room again.

use std::{
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::SubscriberBuilder;

use super::{
    args::LogFormat,
    log_text::{self, Text},
    output::has_colours,
};

/// Lines that wait at most.
const ROOM: usize = 4096;
/// How long the end waits for a reader.
const PATIENCE: Duration = Duration::from_secs(1);

/// The log. [`LogQueue::finish`] waits until it is written.
pub(super) struct LogQueue(Arc<Waiting>);

/// How many lines are on their way, and how many were dropped since the last one that was not.
#[derive(Default)]
struct Waiting {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Default)]
struct Counts {
    waiting: usize,
    dropped: u64,
}

/// The end that the logger writes to: each call is a line.
struct Input {
    lines: SyncSender<Vec<u8>>,
    waiting: Arc<Waiting>,
}

impl LogQueue {
    /// Starts it as the program's logger, for what is said through the `log` crate as well.
    pub(super) fn start(level: LevelFilter, format: LogFormat) -> Self {
        let (sender, lines) = sync_channel(ROOM);
        let waiting = Arc::<Waiting>::default();
        let writer = Arc::clone(&waiting);
        thread::spawn(move || write_all(&lines, &writer, format));
        let input = Arc::new(Input {
            lines: sender,
            waiting: Arc::clone(&waiting),
        });
        let subscriber = SubscriberBuilder::default().with_max_level(level).with_writer(input);
        match format {
            LogFormat::Text => subscriber.event_format(Text::new(has_colours(&io::stderr()))).init(),
            LogFormat::Json => {
                let subscriber = subscriber.json().flatten_event(true);
                subscriber.with_current_span(false).with_span_list(false).init();
            }
        }
        Self(waiting)
    }

    /// Waits until all is written, and no longer than a moment for somebody who does not read.
    pub(super) fn finish(self) {
        let counts = self.0.lock();
        drop(
            self.0
                .changed
                .wait_timeout_while(counts, PATIENCE, |counts| counts.waiting > 0),
        );
    }
}

impl Waiting {
    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &Input {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut counts = self.waiting.lock();
        match self.lines.try_send(line.to_vec()) {
            Ok(()) => counts.waiting += 1,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => counts.dropped += 1,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes lines until the program ends. If that fails there is nobody left to tell.
fn write_all(lines: &Receiver<Vec<u8>>, waiting: &Waiting, format: LogFormat) {
    while let Ok(line) = lines.recv() {
        io::stderr().write_all(&line).ok();
        let mut counts = waiting.lock();
        counts.waiting -= 1;
        let dropped = std::mem::take(&mut counts.dropped);
        drop(counts);
        if dropped > 0 {
            writeln!(io::stderr(), "{}", log_text::missing(dropped, format)).ok();
        }
        waiting.changed.notify_all();
    }
}
