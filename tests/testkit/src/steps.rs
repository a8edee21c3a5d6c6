//! The steps by which a process changes persistent state: system calls, each of which waits until it is let through. A
//! test can so kill a process before any of them, with the same binary that users run.
//!
//! Uses seccomp's user notification (`Documentation/userspace-api/seccomp_filter.rst`, Linux 5.5). Stores into memory
//! that is shared with the kernel are not system calls, and so are not steps.
#![expect(unsafe_code, reason = "seccomp, and descriptors that are another process's")]

use std::{
    collections::BTreeMap,
    io, mem,
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    process::Command,
    ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_USER_NOTIF, c_long,
    seccomp_data, seccomp_notif, seccomp_notif_resp, sock_filter, sock_fprog,
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The descriptor under which the process has its listener, which nothing else has.
const LISTENER: RawFd = 777;
const BPF: c_long = libc::SYS_bpf;
const WRITES: [c_long; 3] = [libc::SYS_write, libc::SYS_writev, libc::SYS_pwrite64];

/// The system calls that are steps, by name. Calls of bpf and of sending are examined further.
const CALLS: [(c_long, &str); 16] = [
    (BPF, "bpf"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_write, "write"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_pwrite64, "pwrite"),
    (libc::SYS_ftruncate, "ftruncate"),
    (libc::SYS_rename, "rename"),
    (libc::SYS_renameat2, "rename"),
    (libc::SYS_unlink, "unlink"),
    (libc::SYS_unlinkat, "unlink"),
    (libc::SYS_rmdir, "rmdir"),
    (libc::SYS_mkdir, "mkdir"),
    (libc::SYS_mount, "mount"),
    (libc::SYS_umount2, "umount"),
    (libc::SYS_unshare, "unshare"),
];
/// Commands of bpf whose effects other processes see (`include/uapi/linux/bpf.h`).
const BPF_COMMANDS: [(u64, &str); 8] = [
    (2, "bpf: map update"),
    (3, "bpf: map delete"),
    (6, "bpf: pin"),
    (8, "bpf: attach"),
    (9, "bpf: detach"),
    (28, "bpf: link"),
    (29, "bpf: link update"),
    (34, "bpf: link detach"),
];

/// `SECCOMP_IOCTL_NOTIF_RECV` and `SECCOMP_IOCTL_NOTIF_SEND`.
const RECEIVE: libc::Ioctl = libc::_IOWR::<seccomp_notif>(b'!' as u32, 0);
const ANSWER: libc::Ioctl = libc::_IOWR::<seccomp_notif_resp>(b'!' as u32, 1);

/// Whether a process waits at each of its steps.
#[derive(Clone, Copy, Debug, Default)]
pub enum HeldUp<'a> {
    #[default]
    Never,
    AtEachStep,
    /// Killed before the step of this kind with this number, from 0.
    Until(&'a str, usize),
}

/// The steps of a process.
#[derive(Clone, Debug)]
pub struct Steps(Arc<Mutex<Taken>>);

#[derive(Debug)]
struct Taken {
    /// The number of steps of each kind since the last call of `take`.
    kinds: BTreeMap<String, usize>,
    /// The kind and number of the step before which the process is killed.
    last: Option<(String, usize)>,
}

impl Steps {
    /// Makes the process of this command wait at each step, from its beginning on: see [`Steps::of`].
    pub(crate) fn hold_up(command: &mut Command) {
        let program = program();
        // SAFETY: between fork and exec only system calls are made, with memory that was allocated before.
        unsafe {
            command.pre_exec(move || install(&program));
        }
    }

    /// The steps of a process started with [`Self::hold_up`]; `None` if it does not wait.
    pub(crate) fn of(process: u32, held_up: HeldUp<'_>) -> Result<Option<Self>> {
        let last = match held_up {
            HeldUp::Never => return Ok(None),
            HeldUp::AtEachStep => None,
            HeldUp::Until(kind, number) => Some((kind.to_owned(), number)),
        };
        let pid = i32::try_from(process)?;
        let listener = listener(pid).context("a process that waits at each step has no listener")?;
        let taken = Taken {
            kinds: BTreeMap::new(),
            last,
        };
        let taken = Arc::new(Mutex::new(taken));
        thread::spawn({
            let taken = Arc::clone(&taken);
            move || follow(&listener, pid, &taken)
        });
        Ok(Some(Self(taken)))
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of steps of each kind since the last call.
    pub fn take(&self) -> BTreeMap<String, usize> {
        mem::take(&mut self.taken().kinds)
    }

    /// Kills the process before the step of this kind with this number, counted from now on, from 0.
    pub fn kill_before(&self, kind: &str, number: usize) {
        *self.taken() = Taken {
            kinds: BTreeMap::new(),
            last: Some((kind.to_owned(), number)),
        };
    }
}

impl Taken {
    /// Counts a step. Returns whether it is the last.
    fn note(&mut self, kind: String) -> bool {
        let number = self.kinds.entry(kind.clone()).or_default();
        *number += 1;
        self.last == Some((kind, *number - 1))
    }
}

fn program() -> Vec<sock_filter> {
    let data = |offset: usize| (BPF_LD | BPF_W | BPF_ABS, 0, 0, offset as u32);
    let argument = |at: usize| data(mem::offset_of!(seccomp_data, args) + 8 * at);
    let equals = |value: u32, yes, no| (BPF_JMP | BPF_JEQ | BPF_K, yes, no, value);
    let low = |number: c_long| number.cast_unsigned() as u32;
    let ends = |how: u32| (BPF_RET | BPF_K, 0, 0, how);
    let mut lines = vec![data(mem::offset_of!(seccomp_data, nr))];
    for (number, _) in CALLS {
        if WRITES.contains(&number) {
            // Not steps: writes to standard error (the log), and writes of eight bytes, which wake a thread.
            lines.extend([
                equals(low(number), 0, 6),
                argument(0),
                equals(2, 3, 0),
                argument(2),
                equals(8, 1, 0),
                ends(SECCOMP_RET_USER_NOTIF),
                ends(SECCOMP_RET_ALLOW),
            ]);
        } else {
            lines.extend([equals(low(number), 0, 1), ends(SECCOMP_RET_USER_NOTIF)]);
        }
    }
    lines.push(ends(SECCOMP_RET_ALLOW));
    let line = |(code, jt, jf, k): (u32, u8, u8, u32)| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    lines.into_iter().map(line).collect()
}

/// Runs in the new process, before exec.
fn install(program: &[sock_filter]) -> io::Result<()> {
    let of = sock_fprog {
        len: program.len() as u16,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the program is as long as it says; the kernel only reads it.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            ptr::from_ref(&of),
        )
    };
    if listener < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a plain system call; nothing else has the number.
    let kept = unsafe { libc::dup2(listener as RawFd, LISTENER) };
    if kept < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn listener(pid: i32) -> io::Result<OwnedFd> {
    let open = |result: c_long| {
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made the descriptor for this process, and nothing else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(result as RawFd) })
    };
    // SAFETY: plain system calls with numbers.
    let process = open(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the same.
    open(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), LISTENER, 0) })
}

/// Lets each step through, except the last one, until the process has ended.
fn follow(listener: &OwnedFd, pid: i32, taken: &Mutex<Taken>) {
    loop {
        // Before Linux 6.11, receiving from a process that has ended would block forever.
        let mut waits = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let polled = poll(&mut waits, PollTimeout::NONE);
        let events = waits[0].revents().unwrap_or_else(PollFlags::empty);
        if !events.contains(PollFlags::POLLIN) && polled != Err(Errno::EINTR) {
            return;
        }
        // SAFETY: all bits zero are a notification, and the kernel wants them so.
        let mut notice: seccomp_notif = unsafe { mem::zeroed() };
        // SAFETY: the descriptor is open, and the kernel writes a whole notification or nothing.
        match Errno::result(unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut notice) }) {
            Ok(_) => {}
            // The waiting process was killed.
            Err(Errno::EINTR | Errno::ENOENT) => continue,
            Err(_) => return,
        }
        if let Some(kind) = kind(&notice)
            && taken.lock().unwrap_or_else(PoisonError::into_inner).note(kind)
        {
            // The process may already be gone.
            let _killed = kill(Pid::from_raw(pid), Signal::SIGKILL);
            return;
        }
        // SAFETY: all bits zero are an answer.
        let mut goes_on: seccomp_notif_resp = unsafe { mem::zeroed() };
        goes_on.id = notice.id;
        goes_on.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        // SAFETY: the descriptor is open, and the kernel only reads the answer. The waiting process may be gone, which is
        // no error here.
        let _answered = unsafe { libc::ioctl(listener.as_raw_fd(), ANSWER, &raw mut goes_on) };
    }
}

/// The name of a step; `None` if the call changes nothing.
fn kind(notice: &seccomp_notif) -> Option<String> {
    let call = c_long::from(notice.data.nr);
    let [first, second, third, ..] = notice.data.args;
    if call == BPF {
        let (_, name) = BPF_COMMANDS.iter().find(|(command, _)| *command == first)?;
        return Some((*name).to_owned());
    }
    let (_, name) = CALLS.iter().find(|(number, _)| *number == call)?;
    if call != libc::SYS_sendto {
        return Some((*name).to_owned());
    }
    // A netlink message begins with its length and type (RFC 3549, 2.3.2.2); of each four types the third is a query.
    match header(notice.pid, second) {
        Some((length, kind)) if u64::from(length) == third => (kind % 4 != 2).then(|| format!("netlink {kind}")),
        _ => Some((*name).to_owned()),
    }
}

fn header(pid: u32, at: u64) -> Option<(u32, u16)> {
    use std::os::unix::fs::FileExt as _;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut bytes = [0; 6];
    memory.read_exact_at(&mut bytes, at).ok()?;
    let length = bytes.first_chunk()?;
    let kind = bytes.last_chunk()?;
    Some((u32::from_ne_bytes(*length), u16::from_ne_bytes(*kind)))
}
