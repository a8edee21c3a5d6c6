//! What `taskgate run` runs.

use std::path::PathBuf;

use log::LevelFilter;

/// What `taskgate run` is told.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The folder with the configuration.
    pub config: PathBuf,
    /// The instance's name.
    pub instance: String,
    /// The flow logs' aggregation interval in seconds, instead of the configured one: 1 to 600.
    pub interval: Option<u32>,
    /// How much is told.
    pub log_level: LevelFilter,
}

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there yet.
    #[error("`run` is not built yet")]
    NotBuilt,
}

/// Gates the tasks' links and streams flow records until it is told to end.
///
/// # Errors
/// Why it ended.
pub fn run(_options: RunOptions) -> Result<(), Error> {
    Err(Error::NotBuilt)
}
