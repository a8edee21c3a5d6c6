//! The kernel's hash tables.

use std::{ffi::c_int, io, marker::PhantomData, os::fd::AsFd as _};

use aya::maps::{MapData, MapType};

use super::{
    BPF_MAP_DELETE_ELEM, BPF_MAP_LOOKUP_AND_DELETE_ELEM, BPF_MAP_LOOKUP_BATCH, BPF_MAP_LOOKUP_ELEM, Element, Pod,
    address, address_mut, bpf, is_unknown, number,
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

/// A hash table of the kernel. Other CPUs may change it at any time.
#[derive(Debug)]
pub struct BpfHashMap<K: Pod, V: Pod> {
    map: MapData,
    entries: u32,
    types: PhantomData<fn() -> (K, V)>,
}

/// The position at which a batched read continues.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor(Option<u32>);

impl<K: Pod + Default + Clone, V: Pod + Default> BpfHashMap<K, V> {
    /// Opens a hash table, whose keys and values must have the sizes of `K` and `V`.
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

    fn element(&self, key: u64, value: u64) -> Element {
        Element {
            map: number(self.map.fd().as_fd()),
            key,
            value,
            ..Element::default()
        }
    }

    /// Runs `command`, which writes a value; `None` if the key does not exist.
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

    /// Sets the value of a key, replacing an existing one.
    #[cfg(feature = "testing")]
    pub fn update(&self, key: &K, value: &V) -> io::Result<()> {
        let mut attr = self.element(address(key), address(value));
        // SAFETY: key and value have the sizes that the map has; the kernel only reads them.
        unsafe { bpf(super::BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
    }

    /// Removes an entry and returns its last value. Before Linux 5.14 this takes two calls, and updates of the value between
    /// them are lost.
    pub fn lookup_and_delete(&self, key: &K) -> io::Result<Option<V>> {
        match self.read(BPF_MAP_LOOKUP_AND_DELETE_ELEM, key) {
            Err(error) if is_unknown(&error) => self.lookup_then_delete(key),
            taken => taken,
        }
    }

    /// [`Self::lookup_and_delete`] for kernels before 5.14.
    fn lookup_then_delete(&self, key: &K) -> io::Result<Option<V>> {
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

    /// Reads entries into `keys` and `values`, as many as the shorter has room for. Returns their number and the position to continue
    /// at, `None` at the end. ENOSPC: the next batch needs more room.
    fn read_batch(&self, from: Cursor, keys: &mut [K], values: &mut [V]) -> io::Result<(usize, Option<Cursor>)> {
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

    /// Visits every entry, in no order. Entries that are inserted or removed meanwhile may be missed or seen twice.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &V)) -> io::Result<()> {
        // A batch consists of whole hash chains, and a chain may have any length.
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
                Err(error) => return Err(error),
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
}
