//! Log and counters go to standard error through a bounded queue and a separate thread, so that a stopped reader blocks
//! nothing. Messages without room are dropped; their number is logged once there is room again.

use std::{
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
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

/// Maximum number of messages that wait.
const ROOM: usize = 4096;
/// Maximum number of bytes that wait, except that a single message may be longer.
const BYTES: usize = 4 << 20;
/// How long the program waits for a reader when it ends.
const PATIENCE: Duration = Duration::from_secs(1);

/// The log. [`LogQueue::finish`] waits until it is written.
pub(super) struct LogQueue(Arc<Input>);

/// The messages that wait to be written, and the number of messages dropped since the last report.
#[derive(Default)]
struct Waiting {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Default)]
struct Counts {
    messages: usize,
    bytes: usize,
    dropped: u64,
}

/// The writing end of the queue: each call is a message, which is written whole or not at all.
pub(super) struct Input {
    messages: SyncSender<Vec<u8>>,
    waiting: Arc<Waiting>,
}

impl LogQueue {
    /// Starts the queue as the program's logger, also for messages of the `log` crate.
    pub(super) fn start(level: LevelFilter, format: LogFormat) -> Self {
        let (sender, messages) = sync_channel(ROOM);
        let waiting = Arc::<Waiting>::default();
        let writer = Arc::clone(&waiting);
        thread::spawn(move || write_all(&messages, &writer, format));
        let input = Arc::new(Input {
            messages: sender,
            waiting,
        });
        let log = Arc::clone(&input);
        let subscriber = SubscriberBuilder::default().with_max_level(level).with_writer(log);
        match format {
            LogFormat::Text => subscriber.event_format(Text::new(has_colours(&io::stderr()))).init(),
            LogFormat::Json => {
                let subscriber = subscriber.json().flatten_event(true);
                subscriber.with_current_span(false).with_span_list(false).init();
            }
        }
        Self(input)
    }

    /// The input for messages that bypass the logger: each call of `write_all` is one.
    pub(super) fn input(&self) -> &Input {
        &self.0
    }

    /// Waits until all messages are written, but only for a moment if the reader has stopped.
    pub(super) fn finish(self) {
        let waiting = &self.0.waiting;
        let counts = waiting.lock();
        drop(
            waiting
                .changed
                .wait_timeout_while(counts, PATIENCE, |counts| counts.messages > 0),
        );
    }
}

impl Waiting {
    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &Input {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        let mut counts = self.waiting.lock();
        let has_room = counts.messages == 0 || counts.bytes + message.len() <= BYTES;
        let sent = has_room && self.messages.try_send(message.to_vec()).is_ok();
        if sent {
            counts.messages += 1;
            counts.bytes += message.len();
        } else {
            counts.dropped += 1;
        }
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes messages until the program ends. A failure cannot be reported anywhere.
fn write_all(messages: &Receiver<Vec<u8>>, waiting: &Waiting, format: LogFormat) {
    while let Ok(message) = messages.recv() {
        io::stderr().write_all(&message).ok();
        let mut counts = waiting.lock();
        counts.messages -= 1;
        counts.bytes -= message.len();
        let dropped = std::mem::take(&mut counts.dropped);
        drop(counts);
        if dropped > 0 {
            writeln!(io::stderr(), "{}", log_text::missing(dropped, format)).ok();
        }
        waiting.changed.notify_all();
    }
}
