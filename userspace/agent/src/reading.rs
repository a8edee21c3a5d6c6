//! Reading a configuration, on a separate thread, so that signals are handled meanwhile.

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

/// A configuration, and what deserves a look in it.
pub(super) type Loaded = (Configuration, Vec<Problem>);

/// Where a configuration is read from, and what is read otherwise than it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The folder.
    pub(super) config: PathBuf,
    /// The flow logs' interval in seconds, in place of the configured one.
    pub(super) interval: Option<u32>,
    /// Whose rights the files are opened with; `None`: this process's.
    pub(super) rights: Option<Rights>,
}

/// A folder that somebody names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    /// Whose rights its files are opened with, now and as long as it is followed: what is wrong with them is told to him, so they
    /// must be files that he can read. `None`: this process's.
    pub(crate) rights: Option<Rights>,
}

impl Source {
    /// The same of another folder, if one is given.
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

    /// The folder alone.
    pub(super) fn folder(&self) -> Folder {
        Folder {
            path: self.config.clone(),
            rights: self.rights.clone(),
        }
    }
}

/// A configuration that is being read. The thread is left alone when nobody waits for it any more.
#[derive(Debug)]
pub(super) struct Reading {
    source: Source,
    loaded: oneshot::Receiver<Result<Loaded, ConfigurationError>>,
    /// Files may have changed since it began.
    is_stale: bool,
    /// It takes the place of one that was stale.
    is_second: bool,
}

impl Reading {
    pub(super) fn begin(source: Source) -> Result<Self, StartError> {
        let (done, loaded) = oneshot::channel();
        let of = source.clone();
        let read = move || {
            // Nobody may be interested any more.
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

    /// What is read.
    pub(super) fn source(&self) -> &Source {
        &self.source
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
fn load(source: &Source) -> Result<Loaded, ConfigurationError> {
    let loaded = read(source)?;
    for warning in &loaded.1 {
        warn!("{warning}");
    }
    Ok(loaded)
}

/// Reads a configuration, on a thread whose rights are the source's from then on.
pub(super) fn read(source: &Source) -> Result<Loaded, ConfigurationError> {
    if let Some(rights) = &source.rights {
        rights.take().map_err(|cause| ConfigurationError::Rights {
            folder: source.config.display().to_string(),
            cause,
        })?;
    }
    let sources = Sources::open(&source.config);
    // What is wrong with the files is told of them alone.
    let warnings = sources.resolve_with(&[])?.warnings;
    Ok((Configuration::new(sources, source.interval), warnings))
}
