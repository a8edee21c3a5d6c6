//! Memory that user space shares with a program.

use std::{io, num::NonZeroUsize, ops::Deref, ptr::NonNull, slice, sync::Arc};

use aya::maps::{MapData, MapType};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::Atomics;

/// A BPF array mapped into this process, as long as this value or a clone of it lives. Clones share one
/// mapping.
#[derive(Debug)]
pub struct MmapArray<T: Atomics>(Arc<Mapping<T>>);

impl<T: Atomics> Clone for MmapArray<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Mapping<T: Atomics> {
    first: NonNull<T>,
    len: usize,
    bytes: NonZeroUsize,
}

// SAFETY: it is the only owner of its mapping, and atomics may be used from any thread.
unsafe impl<T: Atomics + Send> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: Atomics> Sync for Mapping<T> {}

impl<T: Atomics> MmapArray<T> {
    const MMAPABLE: u32 = 1 << 10;

    /// Maps all of `map`: an array with BPF_F_MMAPABLE whose values are whole `T`s.
    pub fn new(map: &MapData) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        let value = info.value_size() as usize;
        let fits = info.map_type().map_err(io::Error::other)? == MapType::Array
            && info.map_flags() & Self::MMAPABLE != 0
            && value.is_multiple_of(size_of::<T>())
            && value.is_multiple_of(8);
        let bytes = NonZeroUsize::new(value * info.max_entries() as usize).filter(|_| fits);
        let bytes = bytes.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not such an array"))?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address that the kernel chooses, so it overlaps no memory in use.
        let first = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, map.fd(), 0) }?;
        Ok(Self(Arc::new(Mapping {
            first: first.cast(),
            len: bytes.get() / size_of::<T>(),
            bytes,
        })))
    }
}

impl<T: Atomics> Deref for MmapArray<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping has `len` values and is aligned to a page; an array never shrinks, and the values, which the
        // kernel writes, are atomics.
        unsafe { slice::from_raw_parts(self.0.first.as_ptr(), self.0.len) }
    }
}

impl<T: Atomics> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: made by `mmap` with this length, and no borrow of it can remain.
        let unmapped = unsafe { munmap(self.first.cast(), self.bytes.get()) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own can be unmapped");
    }
}
