//! Reading a configuration, on a separate thread, so that signals are handled meanwhile.

use std::{io, thread};

use taskgate_config::Loaded;
use tokio::sync::oneshot;
use tracing::warn;

use super::{
    RunOptions,
    error::{ConfigurationError, RunError, StartError},
};

const THREAD: &str = "the thread that reads the configuration";

/// A configuration that is being read. The thread is left alone when nobody waits for it any more.
#[derive(Debug)]
pub(super) struct Reading {
    loaded: oneshot::Receiver<Result<Loaded, ConfigurationError>>,
    /// Files may have changed since it began.
    is_stale: bool,
    /// It takes the place of one that was stale.
    is_second: bool,
}

impl Reading {
    pub(super) fn begin(options: &RunOptions) -> Result<Self, StartError> {
        let (done, loaded) = oneshot::channel();
        let options = options.clone();
        let read = move || {
            // Nobody may be interested any more.
            let _told = done.send(load(&options));
        };
        let thread = thread::Builder::new().name("config".to_owned()).spawn(read);
        thread.map_err(StartError::without(THREAD))?;
        Ok(Self {
            loaded,
            is_stale: false,
            is_second: false,
        })
    }

    /// A reload was asked for: the files that are being read may be older than that.
    pub(super) fn ask_again(&mut self) {
        self.is_stale = true;
    }

    /// The configuration that was read; to be called once. Nothing is lost when the future is dropped before it is ready.
    pub(super) async fn done(&mut self) -> Result<Loaded, RunError> {
        let loaded = (&mut self.loaded).await;
        let lost = |error| StartError::without(THREAD)(io::Error::other(error));
        Ok(loaded.map_err(lost)??)
    }

    /// Begins anew where what was read is stale. Once only, so that what is read comes into
    /// force however often a reload is asked for.
    pub(super) fn begin_again(&mut self, options: &RunOptions) -> Result<Again, StartError> {
        Ok(match (self.is_stale, self.is_second) {
            (false, _) => Again::No,
            (true, true) => Again::Afterwards,
            (true, false) => {
                *self = Self {
                    is_second: true,
                    ..Self::begin(options)?
                };
                Again::Now
            }
        })
    }
}

/// Whether a configuration is read once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    No,
    /// It is being read already, and what was read before is of no use.
    Now,
    /// After what was read is in force.
    Afterwards,
}

/// Reads the configuration and logs what deserves a look.
fn load(options: &RunOptions) -> Result<Loaded, ConfigurationError> {
    let mut loaded = taskgate_config::load(&options.config)?;
    if let Some(interval) = options.interval {
        for log in &mut loaded.model.flow_logs {
            log.interval = interval;
        }
    }
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    Ok(loaded)
}
