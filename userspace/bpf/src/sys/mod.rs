//! System calls that aya lacks, and all the unsafe code of this crate: memory shared with an
//! array, hash tables that are read in batches and emptied entry by entry, programs attached to links, test runs of programs, the
//! grace period, limits of the process.
//!
//! Everything here is safe to call: the sizes of a map's keys and values are compared with the Rust types once, when a
//! [`MmapArray`] or a [`BpfHashMap`] is made of it.
#![expect(
    unsafe_code,
    reason = "system calls and memory shared with the kernel: nowhere else in user space"
)]

#[cfg(feature = "testing")]
mod assemble;
mod attach;
mod hash;
mod info;
mod mmap_array;
mod pin;
mod run;
#[cfg(feature = "testing")]
mod test_run;

use std::{
    ffi::{c_int, c_long},
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
    sync::atomic::AtomicU64,
};

use aya::maps::{MapData, MapError};
use taskgate_ebpf::abi::{Fragment, Key4, Key6};
#[cfg(feature = "testing")]
use taskgate_ebpf::abi::{LinkLocal, LinkLocalKey};

pub(crate) use self::pin::pin;
pub use self::pin::pinned;
#[cfg(feature = "testing")]
pub use self::{
    assemble::{ProgramKind, counter, load_instructions, program_array},
    info::link_by_id,
    test_run::{TestPacket, test_run, test_run_prefilter},
};
pub use self::{
    attach::{Attached, TcxEntry, attach_tcx, attach_xdp, attached, detach, tcx_links, tcx_programs, update},
    hash::BpfHashMap,
    info::{ProgramInfo, map_id, program_id, program_info},
    mmap_array::MmapArray,
    run::{TestRunResult, call},
};

const BPF_MAP_CREATE: c_int = 0;
const BPF_MAP_LOOKUP_ELEM: c_int = 1;
const BPF_MAP_UPDATE_ELEM: c_int = 2;
const BPF_MAP_DELETE_ELEM: c_int = 3;
const BPF_PROG_TEST_RUN: c_int = 10;
const BPF_OBJ_GET_INFO_BY_FD: c_int = 15;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: c_int = 21;
const BPF_MAP_LOOKUP_BATCH: c_int = 24;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
const MEMBARRIER_CMD_GLOBAL: c_int = 1;
/// The kernel's internal "not supported", which C libraries do not define.
const ENOTSUPP: i32 = 524;

/// A type that the kernel may fill with any bytes.
///
/// # Safety
/// Every pattern of bytes is a value of the type, and it has no padding.
pub unsafe trait Pod: Sized {}

// SAFETY: integers and cells of them alone; the assertions on sizes in the `abi` module leave no room for padding.
unsafe impl Pod for Key4 {}
// SAFETY: as above.
unsafe impl Pod for Key6 {}
// SAFETY: as above.
unsafe impl Pod for Fragment {}
// SAFETY: as above.
#[cfg(feature = "testing")]
unsafe impl Pod for LinkLocalKey {}
// SAFETY: as above.
#[cfg(feature = "testing")]
unsafe impl Pod for LinkLocal {}
// SAFETY: an atomic integer.
unsafe impl Pod for AtomicU64 {}

/// A type for memory that the kernel writes concurrently.
///
/// # Safety
/// The type consists of atomics alone.
pub unsafe trait Atomics: Pod + Sync {}

// SAFETY: it is an atomic.
unsafe impl Atomics for AtomicU64 {}

/// Whether an error means that this kernel does not know the call, so that an older call may work.
pub(crate) fn is_unknown(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS | libc::EPERM | ENOTSUPP)
    )
}

/// bpf(2).
///
/// # Safety
/// `attr` is laid out as the kernel's `union bpf_attr` for `command`, up to a field's end, and the addresses in it are
/// of memory that the kernel may read or write as `command` does.
unsafe fn bpf<A>(command: c_int, attr: &mut A) -> io::Result<c_long> {
    // SAFETY: `attr` is valid for its own size; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A file descriptor in the type of the kernel's structures.
fn number(file: BorrowedFd<'_>) -> u32 {
    file.as_raw_fd().cast_unsigned()
}

fn address<T: ?Sized>(of: &T) -> u64 {
    ptr::from_ref(of).addr() as u64
}

fn address_mut<T: ?Sized>(of: &mut T) -> u64 {
    ptr::from_mut(of).expose_provenance() as u64
}

#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct Info {
    object: u32,
    size: u32,
    to: u64,
}

#[repr(C)]
struct Create {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
    inner: u32,
}

/// An array with one value of so many bytes.
fn create_array(kind: u32, value_size: u32, inner: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let mut attr = Create {
        kind,
        key_size: 4,
        value_size,
        entries: 1,
        flags: 0,
        inner: inner.map_or(0, number),
    };
    // SAFETY: no addresses in it.
    let map = unsafe { bpf(BPF_MAP_CREATE, &mut attr) }?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(map as c_int) })
}

/// Waits for a grace period: until every program that began before the call has ended, 20 to 180 ms. Memory that these could read
/// may be reused afterwards.
pub fn wait_grace_period() -> io::Result<()> {
    // SAFETY: it takes a number.
    if unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) } == 1 {
        // On one CPU membarrier does not wait (kernel/sched/membarrier.c), and programs may be interrupted if the kernel is
        // preemptible.
        return wait_grace_period_by_map();
    }
    // SAFETY: membarrier takes no addresses.
    if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if is_unknown(&error) => wait_grace_period_by_map(),
        error => Err(error),
    }
}

/// [`wait_grace_period`] if membarrier is refused, as with nohz_full: the kernel itself waits after an update of an array of
/// maps.
pub fn wait_grace_period_by_map() -> io::Result<()> {
    let inner = create_array(BPF_MAP_TYPE_ARRAY, 4, None)?;
    let outer = create_array(BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, Some(inner.as_fd()))?;
    set_first(outer.as_fd(), inner.as_fd())
}

/// Sets the first element of an array of maps or programs.
fn set_first(array: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<()> {
    let (key, value) = (0_u32, number(file));
    let mut attr = Element {
        map: number(array),
        key: address(&key),
        value: address(&value),
        ..Element::default()
    };
    // SAFETY: key and value are the four bytes that an array of files has, and the kernel only reads them.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Random words.
pub(crate) fn random<const WORDS: usize>() -> io::Result<[u64; WORDS]> {
    let mut words = [0_u64; WORDS];
    let bytes = size_of_val(&words);
    // SAFETY: the kernel writes at most as many bytes as the words have, any of which are a word.
    let written = unsafe { libc::getrandom(words.as_mut_ptr().cast(), bytes, 0) };
    match usize::try_from(written) {
        Ok(written) if written == bytes => Ok(words),
        // Up to 256 bytes are returned entirely or not at all (getrandom(2)).
        _ => Err(io::Error::last_os_error()),
    }
}

/// The length of the kernel's jiffy in nanoseconds: the resolution of the coarse clock.
pub fn tick_nanoseconds() -> io::Result<u32> {
    let mut tick = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the C library writes `tick` alone.
    if unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut tick) } != 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(tick.tv_nsec).map_err(io::Error::other)
}

/// Another handle on the same map, with a separate lifetime.
pub fn share(map: &MapData) -> Result<MapData, MapError> {
    let fd = map.fd().as_fd().try_clone_to_owned().map_err(MapError::IoError)?;
    MapData::from_fd(fd)
}

/// Lifts the limit on locked memory, to which kernels before 5.11 charge maps. A refusal shows as an error at load.
pub fn lift_memory_lock_limit() {
    let limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the kernel only reads `limit`.
    let refused = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } != 0;
    if refused {
        tracing::debug!("cannot lift the limit on locked memory: {}", io::Error::last_os_error());
    }
}

/// Gives the calling thread the highest priority of normal scheduling (nice -20), for short and urgent work.
pub fn prefer_thread() -> io::Result<()> {
    const NICEST: c_int = -20;
    // SAFETY: the call takes numbers alone; on Linux a process of 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICEST) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Raises the soft limit on open files to the hard one: a task needs three, and login shells and service managers
/// set 1,024. A refusal shows as an error when files are opened.
pub fn lift_open_files_limit() {
    let lifted = open_files().and_then(|mut limit| {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the kernel only reads `limit`.
        match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    });
    if let Err(error) = lifted {
        tracing::debug!("cannot lift the limit on open files: {error}");
    }
}

/// How many files this process may have open; `None` if the limit cannot be read.
pub fn open_files_limit() -> Option<u64> {
    open_files().ok().map(|limit| limit.rlim_cur)
}

fn open_files() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the C library writes `limit` alone.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } {
        0 => Ok(limit),
        _ => Err(io::Error::last_os_error()),
    }
}
