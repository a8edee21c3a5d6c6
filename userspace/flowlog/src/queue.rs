//! Between a window's lines and a reader that may be slow: a thread that writes, so that nobody else has to wait.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::sink::{Sink, SinkError};

/// Bytes of lines that may wait for their reader before flow logs hold their windows back.
const ROOM: usize = 16 << 20;
/// Written at once: how fine it is seen whether a reader still reads.
const PIECE: usize = 64 << 10;

/// Lines on their way to a sink.
#[derive(Debug)]
pub struct Queue {
    name: &'static str,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Bytes>,
    /// Bytes that are not written yet.
    bytes: usize,
    /// Bytes that were.
    written: u64,
    /// Nothing comes any more.
    closed: bool,
    failed: Option<SinkError>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// A queue for `sink`, which messages call `name`, with its thread.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn new(name: &'static str, mut sink: Box<dyn Sink>) -> Result<Self, SinkError> {
        let shared = Arc::new(Shared::default());
        let thread_shared = Arc::clone(&shared);
        thread::Builder::new()
            .name(String::from("flow-records"))
            .spawn(move || write_all(&thread_shared, &mut *sink))
            .map_err(|source| SinkError::Open { sink: name, source })?;
        Ok(Self { name, shared })
    }

    /// Whether there is room for more lines.
    pub fn has_room(&self) -> bool {
        self.shared.lock().bytes < ROOM
    }

    /// Adds whole lines, and gives what became of earlier ones if they could not be written. Never waits.
    pub fn push(&self, lines: BytesMut) -> Result<(), SinkError> {
        let mut state = self.shared.lock();
        if !lines.is_empty() {
            state.bytes += lines.len();
            state.waiting.push_back(lines.freeze());
            self.shared.changed.notify_all();
        }
        state.failed.take().map_or(Ok(()), Err)
    }

    /// Waits until all lines are written, as long as their reader takes some of them every `patience`.
    ///
    /// # Errors
    /// They could not be written, or [`SinkError::Stuck`].
    pub fn finish(&self, patience: Duration) -> Result<(), SinkError> {
        let mut state = self.shared.lock();
        let (mut written, mut since) = (state.written, Instant::now());
        while state.bytes != 0 {
            if state.written != written {
                (written, since) = (state.written, Instant::now());
            }
            let left = patience.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(SinkError::Stuck {
                    sink: self.name,
                    bytes: state.bytes,
                });
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.failed.take().map_or(Ok(()), Err)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

/// The thread: writes until the queue is dropped and empty.
fn write_all(shared: &Shared, sink: &mut dyn Sink) {
    let mut state = shared.lock();
    loop {
        let Some(mut lines) = state.waiting.pop_front() else {
            if state.closed {
                return;
            }
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        while !lines.is_empty() {
            let piece = lines.split_to(lines.len().min(PIECE));
            drop(state);
            let written = sink.write(&piece);
            state = shared.lock();
            state.bytes -= piece.len();
            match written {
                Ok(()) => state.written += piece.len() as u64,
                Err(error) => {
                    // The rest of a window whose beginning is lost would begin in the middle of a line.
                    state.bytes -= lines.len();
                    lines.clear();
                    state.failed = Some(error);
                }
            }
            shared.changed.notify_all();
        }
    }
}
