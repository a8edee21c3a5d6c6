//! The tables as BPF maps.

use core::{
    cell::Cell,
    intrinsics::{AtomicOrdering, atomic_xadd},
};

use aya_ebpf::{bindings::BPF_NOEXIST, btf_maps::HashMap, helpers::generated::bpf_jiffies64};
use taskgate_ebpf::{
    abi::{
        Conn, Denial, Direction, EniUsage, Event, Fragment, Key4, Key6, LinkLocal, LinkLocalKey, NeighbourCache,
        image::BANK_BYTES,
        outcome::{OUTCOMES, counters_index},
        tables::Word,
    },
    policy::{Bank, Image},
    tables::{Flows, Inserted, Tables, insert_by},
};

use super::{
    conntable::{CONNS_V4, CONNS_V6, DENIALS_V4, DENIALS_V6},
    maps::{BankWords, COUNTERS, EVENTS, FRAGMENTS_V4, FRAGMENTS_V6, IMAGE, LINK_LOCALS, NEIGHBOURS, USAGE},
    opaque::Opaque,
};

/// The maps of this program.
pub(super) struct Kernel(pub(super) Opaque);

/// One bank of the image.
#[derive(Clone, Copy)]
pub(super) struct KernelBank(*const BankWords);

impl Bank for KernelBank {
    #[inline(always)]
    fn word(self, offset: u32) -> u64 {
        let offset = (offset & (BANK_BYTES - 8)) as usize;
        // SAFETY: the offset is masked to a whole word inside the bank. User space writes words by single stores at any
        // time, hence volatile.
        unsafe { self.0.cast::<u64>().byte_add(offset).read_volatile() }
    }
}

impl Image for Kernel {
    type Bank = KernelBank;

    #[inline(always)]
    fn bank(&self, index: u32) -> Option<KernelBank> {
        IMAGE.get_ptr(index).map(KernelBank)
    }
}

/// A hash map's element as a shared reference, although other CPUs write it.
#[inline(always)]
fn shared<K, V, const N: usize>(map: &'static HashMap<K, V, N, 0>, key: &K) -> Option<&'static V> {
    let element = map.get_ptr(key)?;
    // SAFETY: elements of a preallocated map are never unmapped while a program runs. An element may be reused for another
    // key meanwhile, which is why every field is a cell and entries hold their own key's tag.
    Some(unsafe { &*element })
}

macro_rules! flows {
    ($key:ty, $conns:ident, $denials:ident, $fragments:ident) => {
        impl Flows<$key> for Kernel {
            type Conn = &'static Conn;
            type Denial = &'static Denial;
            type Fragment = &'static Fragment;

            #[inline(always)]
            fn conn(&self, key: &$key) -> Option<&'static Conn> {
                $conns.get(key)
            }

            #[inline(always)]
            fn insert_conn(&self, key: &$key, value: &Conn) -> Inserted<&'static Conn> {
                $conns.add(key, value)
            }

            #[inline(always)]
            fn denial(&self, key: &$key) -> Option<&'static Denial> {
                $denials.get(key)
            }

            #[inline(always)]
            fn insert_denial(&self, key: &$key, value: &Denial) -> Inserted<&'static Denial> {
                $denials.add(key, value)
            }

            #[inline(always)]
            fn fragment(&self, key: &$key) -> Option<&'static Fragment> {
                shared(&$fragments, key)
            }

            #[inline(always)]
            fn insert_fragment(&self, key: &$key, value: &Fragment) -> Inserted<()> {
                insert_by(|| $fragments.insert(key, value, BPF_NOEXIST as u64))
            }

            #[inline(always)]
            fn remove_fragment(&self, key: &$key) -> bool {
                $fragments.remove(key).is_ok()
            }
        }
    };
}

flows!(Key4, CONNS_V4, DENIALS_V4, FRAGMENTS_V4);
flows!(Key6, CONNS_V6, DENIALS_V6, FRAGMENTS_V6);

impl Tables for Kernel {
    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: the helper takes nothing and only reads the kernel's clock.
        unsafe { bpf_jiffies64() as u32 }
    }

    #[inline(always)]
    fn usage(&self, slot: u16) -> Option<&EniUsage> {
        USAGE.get(slot as u32)
    }

    #[inline(always)]
    fn neighbours(&self, slot: u16) -> Option<&NeighbourCache> {
        NEIGHBOURS.get(slot as u32)
    }

    type LinkLocal = &'static LinkLocal;

    #[inline(always)]
    fn link_local(&self, key: &LinkLocalKey) -> Option<&'static LinkLocal> {
        let element = LINK_LOCALS.get_ptr(key)?;
        // SAFETY: as in `shared`: the map is preallocated, and every field is a cell.
        Some(unsafe { &*element })
    }

    #[inline(always)]
    fn insert_link_local(&self, key: &LinkLocalKey, value: &LinkLocal) -> Inserted<()> {
        insert_by(|| LINK_LOCALS.insert(key, value, BPF_NOEXIST as u64))
    }

    #[inline(always)]
    fn add(&self, count: &Word, more: u64) {
        // SAFETY: the pointer is to a live, aligned word of a map, which all writers add to by locked adds.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(count.as_ptr(), more) };
    }

    #[inline(always)]
    fn add_packets(&self, count: &Cell<u32>, more: u32) {
        // SAFETY: as above.
        unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(count.as_ptr(), more) };
    }

    #[inline(always)]
    fn count(&self, slot: u16, direction: Direction, outcome: u32, packets: u64) {
        let Some(counters) = COUNTERS.get_ptr_mut(counters_index(slot, direction)) else {
            return;
        };
        let at = (outcome as usize).min(OUTCOMES - 1);
        // SAFETY: this CPU's own value, and the index lies in it.
        unsafe { *(*counters).get_unchecked_mut(at) += packets };
    }

    #[inline(always)]
    fn opaque(&self, value: u32) -> u32 {
        self.0.opaque(value)
    }

    #[inline(always)]
    fn emit(&self, event: &Event) {
        // If the ring is full, only the event is lost: the flow's totals are in the tables.
        let _full = EVENTS.output(event, 0);
    }
}
