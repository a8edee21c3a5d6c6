//! Hash tables of the kernel's.

use std::{ffi::c_int, io, marker::PhantomData, os::fd::AsFd as _};

use aya::maps::{MapData, MapType};

use super::{
    BPF_MAP_DELETE_ELEM, BPF_MAP_GET_NEXT_KEY, BPF_MAP_LOOKUP_AND_DELETE_ELEM, BPF_MAP_LOOKUP_BATCH,
    BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, Element, Plain, address, address_mut, bpf, is_unknown, number,
};

#[repr(C)]
#[derive(Default)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// A hash table of the kernel's. Another CPU may change it at any time.
#[derive(Debug)]
pub struct Hash<K: Plain, V: Plain> {
    map: MapData,
    entries: u32,
    types: PhantomData<fn() -> (K, V)>,
}

/// Where a read in batches goes on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor(Option<u32>);

impl<K: Plain + Default + Clone, V: Plain + Default> Hash<K, V> {
    /// Takes a hash table whose keys are `K`s and whose values are `V`s.
    pub fn new(map: MapData) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        let kind = info.map_type().map_err(io::Error::other)?;
        let fits = matches!(kind, MapType::Hash | MapType::LruHash)
            && info.key_size() as usize == size_of::<K>()
            && info.value_size() as usize == size_of::<V>();
        if !fits {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not such a hash table"));
        }
        Ok(Self {
            entries: info.max_entries(),
            map,
            types: PhantomData,
        })
    }

    /// How many entries it has room for.
    pub fn capacity(&self) -> u32 {
        self.entries
    }

    fn element(&self, key: u64, value: u64) -> Element {
        Element {
            map: number(self.map.fd().as_fd()),
            key,
            value,
            ..Element::default()
        }
    }

    /// Runs `command`, which writes a value; `None` where the key is not there.
    fn read(&self, command: c_int, key: &K) -> io::Result<Option<V>> {
        let mut value = V::default();
        let mut attr = self.element(address(key), address_mut(&mut value));
        // SAFETY: key and value have the sizes that the map has, and any bytes are a `V`.
        match unsafe { bpf(command, &mut attr) } {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The value at `key`.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        self.read(BPF_MAP_LOOKUP_ELEM, key)
    }

    /// Puts a value, in place of the one that is there.
    pub fn put(&self, key: &K, value: &V) -> io::Result<()> {
        let mut attr = self.element(address(key), address(value));
        // SAFETY: key and value have the sizes that the map has; the kernel only reads them.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
    }

    /// Removes an entry and gives its last value. Before 5.14 that takes two calls, and what the kernel adds to the
    /// value between them is lost.
    pub fn take(&self, key: &K) -> io::Result<Option<V>> {
        match self.read(BPF_MAP_LOOKUP_AND_DELETE_ELEM, key) {
            Err(error) if is_unknown(&error) => self.take_in_two(key),
            taken => taken,
        }
    }

    /// [`Self::take`] as kernels before 5.14 have to do it.
    pub fn take_in_two(&self, key: &K) -> io::Result<Option<V>> {
        let Some(value) = self.get(key)? else {
            return Ok(None);
        };
        let mut attr = self.element(address(key), 0);
        // SAFETY: the key has the size that the map has; the kernel only reads it.
        match unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attr) } {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The key after `key`, or the first one.
    pub fn next_key(&self, key: Option<&K>) -> io::Result<Option<K>> {
        let mut next = K::default();
        let mut attr = self.element(key.map_or(0, address), address_mut(&mut next));
        // SAFETY: both keys have the size that the map has, and any bytes are a `K`.
        match unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) } {
            Ok(_) => Ok(Some(next)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads entries into `keys` and `values`, as many as the shorter has room for: how many there are, and where to go
    /// on, or `None` at the end. ENOSPC: the next ones need more room.
    pub fn read_batch(&self, from: Cursor, keys: &mut [K], values: &mut [V]) -> io::Result<(usize, Option<Cursor>)> {
        let (start, mut end) = (from.0, 0_u32);
        let mut attr = Batch {
            from: start.as_ref().map_or(0, address),
            to: address_mut(&mut end),
            count: keys.len().min(values.len()) as u32,
            keys: address_mut(keys),
            values: address_mut(values),
            map: number(self.map.fd().as_fd()),
            ..Batch::default()
        };
        // SAFETY: `keys` and `values` have room for `count` of each, of the sizes that the map has; the cursor of a hash
        // table is a u32.
        match unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) } {
            Ok(_) => Ok((attr.count as usize, Some(Cursor(Some(end))))),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((attr.count as usize, None)),
            Err(error) => Err(error),
        }
    }

    /// Visits every entry, in no order. One that comes or goes meanwhile may be missed or seen twice.
    pub fn visit(&self, mut visit: impl FnMut(&K, &V)) -> io::Result<()> {
        match self.visit_batches(&mut visit) {
            Err(BatchError::Unknown) => self.visit_each(&mut visit),
            Err(BatchError::Refused(error)) => Err(error),
            Ok(()) => Ok(()),
        }
    }

    fn visit_batches(&self, visit: &mut impl FnMut(&K, &V)) -> Result<(), BatchError> {
        // A batch is of whole chains, and a chain may be of any length.
        let mut room = 4096.min(self.entries as usize);
        let mut at = Cursor::default();
        let mut buffers = (Vec::new(), Vec::new());
        loop {
            buffers.0.resize_with(room, K::default);
            buffers.1.resize_with(room, V::default);
            let (read, next) = match self.read_batch(at, &mut buffers.0, &mut buffers.1) {
                Ok(batch) => batch,
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    room *= 2;
                    continue;
                }
                Err(error) if at.0.is_none() && is_unknown(&error) => return Err(BatchError::Unknown),
                Err(error) => return Err(BatchError::Refused(error)),
            };
            for (key, value) in buffers.0.iter().zip(&buffers.1).take(read) {
                visit(key, value);
            }
            match next {
                Some(next) => at = next,
                None => return Ok(()),
            }
        }
    }

    /// [`Self::visit`] as kernels before 5.6 have to do it: two calls for each entry.
    pub fn visit_each(&self, visit: &mut impl FnMut(&K, &V)) -> io::Result<()> {
        let mut next = self.next_key(None)?;
        // Where a key goes just then the kernel begins anew: the bound ends what churn could make endless.
        for _ in 0..self.entries.saturating_mul(2) {
            let Some(key) = next else {
                return Ok(());
            };
            next = self.next_key(Some(&key))?;
            if let Some(value) = self.get(&key)? {
                visit(&key, &value);
            }
        }
        Ok(())
    }
}

enum BatchError {
    /// This kernel has no such call.
    Unknown,
    Refused(io::Error),
}
