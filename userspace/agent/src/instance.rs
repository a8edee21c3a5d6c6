//! Ensures a single run per instance, by a lock that the kernel releases with the process.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};
use taskgate_net::eni::STATE_FOLDER;
use tracing::{error, warn};

use super::{
    control,
    error::{StartError, chain},
};

/// The number that tells an instance's filters from those of other instances in the kernel: the same at each start.
pub(super) fn number(name: &str) -> u16 {
    let hash = Sha256::digest(name);
    u16::from_be_bytes([hash[0], hash[1]])
}

/// How long a process that is ending may hold the lock.
const ENDING: Duration = Duration::from_secs(2);
/// Interval of attempts to take the lock meanwhile.
const AGAIN: Duration = Duration::from_millis(20);

/// The claim on an instance, held as long as this value lives.
#[derive(Debug)]
pub(super) struct Instance {
    name: String,
    path: PathBuf,
    lock: Flock<File>,
    /// The problem with the lock's file that was logged last.
    complaint: String,
}

impl Instance {
    /// Claims an instance. A process that was killed may hold it for a moment.
    pub(super) fn claim(name: &str) -> Result<Self, StartError> {
        let path = Path::new(STATE_FOLDER).join(format!("{name}.lock"));
        let begun = Instant::now();
        loop {
            match lock(name, &path) {
                Err(StartError::Taken { ref pid, .. }) if is_ending(pid) && begun.elapsed() < ENDING => {
                    thread::sleep(AGAIN);
                }
                taken => {
                    return Ok(Self {
                        name: name.to_owned(),
                        lock: taken?,
                        path,
                        complaint: String::new(),
                    });
                }
            }
        }
    }

    /// Ensures that later claims find the instance taken, even if the lock's file was removed or replaced.
    pub(super) fn hold(&mut self) {
        if is_at(&self.lock, &self.path) {
            return;
        }
        match lock(&self.name, &self.path) {
            Ok(lock) => {
                self.lock = lock;
                self.complaint.clear();
                warn!("`{}` was taken away or replaced: it is made again", self.path.display());
            }
            Err(error) => {
                let complaint = chain(&error);
                if complaint != self.complaint {
                    error!("`{}` was taken away or replaced: {complaint}", self.path.display());
                    self.complaint = complaint;
                }
            }
        }
    }
}

/// Locks an instance's file and writes this process's pid to it.
fn lock(name: &str, path: &Path) -> Result<Flock<File>, StartError> {
    let failed = |operation| {
        let path = path.display().to_string();
        move |cause| StartError::Lock { operation, path, cause }
    };
    control::open_folder().map_err(failed("make the folder of"))?;
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // Whoever can open the file can lock it, so only root may.
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
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
        // The previous holder may have removed the file between opening and locking it here.
        if !is_at(&lock, path) {
            continue;
        }
        let written = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()));
        if let Err(error) = written {
            tracing::debug!("`{}` does not have the pid of its holder: {error}", path.display());
        }
        return Ok(lock);
    }
}

/// Whether a path leads to this file.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => identity(ours) == identity(there),
        _ => false,
    }
}

/// Whether a process is gone or about to be, and thus holds its lock for a moment only. An unknown holder is not taken
/// to be ending.
fn is_ending(pid: &str) -> bool {
    /// The kernel's flag for a process that is exiting.
    const PF_EXITING: u32 = 4;
    /// The bit of SIGKILL in a set of signals.
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    if pid.is_empty() || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
        // An empty file: its holder is about to write the pid.
        return pid.is_empty();
    }
    let proc = Path::new("/proc").join(pid);
    let Ok(stat) = fs::read_to_string(proc.join("stat")) else {
        return true;
    };
    // After the name, which may contain anything: the state, and the flags six fields later.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let exits = fields.first().is_some_and(|state| matches!(*state, "Z" | "X" | "x"))
        || fields
            .get(6)
            .and_then(|flags| flags.parse::<u32>().ok())
            .is_some_and(|flags| flags & PF_EXITING != 0);
    let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
    let sets = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
    let is_killed = |set: &str| u64::from_str_radix(set.trim(), 16).is_ok_and(|set| set & KILL != 0);
    exits || sets.into_iter().any(is_killed)
}

impl Drop for Instance {
    fn drop(&mut self) {
        // The path belongs to another process by now.
        if !is_at(&self.lock, &self.path) {
            return;
        }
        // Removed while still locked: another process that has opened it meanwhile notices that the path leads to
        // another file.
        if let Err(error) = fs::remove_file(&self.path) {
            warn!("cannot remove `{}`: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::is_ending;

    #[test]
    fn a_process_that_is_gone_holds_nothing_for_long() {
        assert!(!is_ending(&std::process::id().to_string()));
        assert!(!is_ending("1") && !is_ending("x"));
        assert!(is_ending(""));
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id().to_string();
        assert!(!is_ending(&pid));
        child.kill().unwrap();
        // The killed process is a zombie until it is waited for, and then gone.
        assert!(is_ending(&pid));
        child.wait().unwrap();
        assert!(is_ending(&pid));
    }
}
