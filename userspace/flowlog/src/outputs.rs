//! All flow logs, with the sinks that their lines go to.

use std::time::Duration;

use taskgate_model::{Destination, FlowLog};

use super::{
    queue::Queue,
    schedule::aligned,
    sink::{LineSink, SinkError},
    stream::Stream,
    window::Window,
};

/// All flow logs with their sinks. Nothing here waits for a reader: a flow log whose sink has no room for its lines goes
/// on with its window, which ends once there is room again.
pub struct Outputs {
    streams: Vec<Stream>,
    /// Records that each of them holds at most.
    most: usize,
    /// One for all flow logs: lines of two writers would mix.
    stdout: Queue,
}

impl Outputs {
    /// Opens the flow logs when taskgate begins, at `now` (Unix seconds). Each holds so many records at most.
    pub fn open(logs: &[FlowLog], now: u64, most: usize) -> Result<Self, SinkError> {
        let sink = LineSink::stdout()?;
        Ok(Self {
            streams: streams(logs, most, |log| aligned(now, log.interval.max(1))),
            most,
            stdout: Queue::new(sink.name, Box::new(sink))?,
        })
    }

    /// Replaces the flow logs by others, from the end of their last window on.
    pub fn replace(&mut self, logs: &[FlowLog], end: u64) {
        self.streams = streams(logs, self.most, |_| end);
    }

    /// Writes a window to all of them, and gives the first error there was since the last one.
    pub fn write(&mut self, window: &Window) -> Result<(), SinkError> {
        let mut result = Ok(());
        for stream in &mut self.streams {
            let lines = stream.push(window, self.stdout.has_room());
            result = result.and(self.stdout.push(lines));
        }
        result
    }

    /// Waits until everything is written, as long as it is read: see [`Queue::finish`].
    pub fn finish(&self, patience: Duration) -> Result<(), SinkError> {
        self.stdout.finish(patience)
    }
}

/// The lines of flow logs, from `start` on.
fn streams(logs: &[FlowLog], most: usize, start: impl Fn(&FlowLog) -> u64) -> Vec<Stream> {
    let stream = |log: &FlowLog| match log.destination {
        Destination::Stdout => Stream::new(log, start(log), most),
    };
    logs.iter().map(stream).collect()
}
