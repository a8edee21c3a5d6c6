//! Reads configurations on a separate thread, so that signals are handled meanwhile.

use std::{io, path::PathBuf, thread};

use taskgate_config::{Problem, Sources};
use taskgate_net::rights::Rights;
use tokio::sync::oneshot;
use tracing::warn;

use super::{
    error::{ConfigurationError, RunError, StartError},
    tasks::Configuration,
};

const THREAD: &str = "the thread that reads the configuration";

/// A configuration, and the warnings about it.
pub(super) type Loaded = (Configuration, Vec<Problem>);

/// Where and how a configuration is read, with settings that override the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The folder.
    pub(super) config: PathBuf,
    /// The flow logs' interval in seconds, in place of the configured one.
    pub(super) interval: Option<u32>,
    /// The rights with which the files are opened; `None`: this process's.
    pub(super) rights: Option<Rights>,
}

/// A folder that a client names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    /// The rights with which its files are opened, now and as long as the folder is followed. The client sees error
    /// messages about the files, so they must be files that it can read. `None`: this process's.
    pub(crate) rights: Option<Rights>,
}

impl Source {
    /// The same source with another folder, if one is given.
    pub(super) fn with(&self, folder: Option<Folder>) -> Self {
        match folder {
            Some(Folder { path, rights }) => Self {
                config: path,
                interval: self.interval,
                rights,
            },
            None => self.clone(),
        }
    }

    /// The folder with its rights.
    pub(super) fn folder(&self) -> Folder {
        Folder {
            path: self.config.clone(),
            rights: self.rights.clone(),
        }
    }
}

/// A configuration that is being read. If this is dropped, the thread runs on and its result is discarded.
#[derive(Debug)]
pub(super) struct Reading {
    source: Source,
    loaded: oneshot::Receiver<Result<Loaded, ConfigurationError>>,
    /// Whether files may have changed since the reading began.
    is_stale: bool,
    /// Whether this reading replaces a stale one.
    is_second: bool,
}

impl Reading {
    pub(super) fn begin(source: Source) -> Result<Self, StartError> {
        let (done, loaded) = oneshot::channel();
        let of = source.clone();
        let read = move || {
            // The receiver may have been dropped.
            let _told = done.send(load(&of));
        };
        let thread = thread::Builder::new().name("config".to_owned()).spawn(read);
        thread.map_err(StartError::without(THREAD))?;
        Ok(Self {
            source,
            loaded,
            is_stale: false,
            is_second: false,
        })
    }

    /// The source that is being read.
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// Notes a request for a reload: the files that are being read may be older than the request.
    pub(super) fn ask_again(&mut self) {
        self.is_stale = true;
    }

    /// The configuration that was read. To be called once. Cancel safe.
    pub(super) async fn done(&mut self) -> Result<Loaded, RunError> {
        let loaded = (&mut self.loaded).await;
        let lost = |error| StartError::without(THREAD)(io::Error::other(error));
        Ok(loaded.map_err(lost)??)
    }

    /// Starts reading again if the result is stale. This happens only once, so that a configuration comes into force
    /// however often a reload is requested.
    pub(super) fn begin_again(&mut self) -> Result<Again, StartError> {
        Ok(match (self.is_stale, self.is_second) {
            (false, _) => Again::No,
            (true, true) => Again::Afterwards,
            (true, false) => {
                *self = Self {
                    is_second: true,
                    ..Self::begin(self.source.clone())?
                };
                Again::Now
            }
        })
    }
}

/// Whether and when a configuration is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    No,
    /// It is being read again already, and the previous result is to be discarded.
    Now,
    /// It is to be read again after the previous result is in force.
    Afterwards,
}

/// Reads the configuration and logs the warnings about it.
fn load(source: &Source) -> Result<Loaded, ConfigurationError> {
    let loaded = read(source)?;
    for warning in &loaded.1 {
        warn!("{warning}");
    }
    Ok(loaded)
}

/// Reads a configuration. The calling thread keeps the source's rights from then on.
pub(super) fn read(source: &Source) -> Result<Loaded, ConfigurationError> {
    if let Some(rights) = &source.rights {
        rights.take().map_err(|cause| ConfigurationError::Rights {
            folder: source.config.display().to_string(),
            cause,
        })?;
    }
    let sources = Sources::open(&source.config);
    // Validate the files alone, without the added tasks, so that the warnings are about the files.
    let warnings = sources.resolve_with(&[])?.warnings;
    Ok((Configuration::new(sources, source.interval), warnings))
}
