//! One run for each instance: a lock that the kernel takes away with the process.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use taskgate_net::eni::STATE_FOLDER;

use sha2::{Digest as _, Sha256};

use super::error::StartError;

/// The number by which the kernel tells an instance's filters from those of others: the same at each start.
pub(super) fn number(name: &str) -> u16 {
    let hash = Sha256::digest(name);
    u16::from_be_bytes([hash[0], hash[1]])
}

/// The instance, held as long as this lives.
#[derive(Debug)]
pub(super) struct Instance {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Instance {
    /// Claims it.
    pub(super) fn claim(name: &str) -> Result<Self, StartError> {
        let path = Path::new(STATE_FOLDER).join(format!("{name}.lock"));
        let failed = |operation| {
            let path = path.display().to_string();
            move |cause| StartError::Lock { operation, path, cause }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(STATE_FOLDER)
            .map_err(failed("make the folder of"))?;
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(failed("open"))?;
            let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((mut file, nix::Error::EWOULDBLOCK)) => {
                    let mut pid = String::new();
                    file.read_to_string(&mut pid).map_err(failed("read"))?;
                    return Err(StartError::Taken {
                        instance: name.to_owned(),
                        pid: pid.trim().to_owned(),
                    });
                }
                Err((_, errno)) => return Err(failed("lock")(errno.into())),
            };
            // The one who held it before may have removed the file between our opening and locking it.
            let same = match (lock.metadata(), fs::metadata(&path)) {
                (Ok(ours), Ok(there)) => {
                    std::os::unix::fs::MetadataExt::ino(&ours) == std::os::unix::fs::MetadataExt::ino(&there)
                }
                _ => false,
            };
            if !same {
                continue;
            }
            let written = lock
                .set_len(0)
                .and_then(|()| lock.rewind())
                .and_then(|()| writeln!(lock, "{}", std::process::id()));
            written.map_err(failed("write"))?;
            return Ok(Self { path, _lock: lock });
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Still locked: another process that opens it meanwhile notices that it is another file.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove `{}`: {error}", self.path.display());
        }
    }
}
