//! The file of an instance's journal of flow records, and the tables it belongs to.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use taskgate_ebpf::conntable::Seed;
use taskgate_flowlog::{Journal, JournalError, RecordError};
use taskgate_net::eni::STATE_FOLDER;

use super::error::StartError;

/// Opens an instance's journal. The seed that hashes its tables identifies them: no other tables have it.
pub(super) fn open(instance: &str, seed: &Seed) -> Result<Journal, StartError> {
    let mut hash = Sha256::new();
    for word in seed {
        hash.update(word.to_le_bytes());
    }
    Ok(Journal::open(&path(instance), hash.finalize().into()).map_err(RecordError::Journal)?)
}

/// Removes the journal, once its tables are gone.
pub(super) fn remove(instance: &str) -> Result<(), JournalError> {
    Journal::remove(&path(instance))
}

fn path(instance: &str) -> PathBuf {
    Path::new(STATE_FOLDER).join(format!("{instance}.journal"))
}
