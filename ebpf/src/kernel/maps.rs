//! The BPF maps. Sizes here are defaults; user space sets the real ones when it loads the programs.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use taskgate_ebpf::{
    abi::{
        Conn, Denial, EniUsage, Event, Fragment, Key4, Key6, LinkLocal, LinkLocalKey, NeighbourCache,
        image::BANK_BYTES,
        outcome::OUTCOMES,
        tables::{Entry, Rest, Word},
    },
    conntable::WAYS,
    verdict::Scratch,
};

use super::{opaque::Opaque, skb::Span};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

// The packet path never allocates.
const PREALLOCATED: usize = 0;
#[expect(clippy::bad_bit_mask, reason = "nothing set is what is asserted")]
const _: () = assert!(PREALLOCATED & BPF_F_NO_PREALLOC as usize == 0);

/// One bank of the image.
pub(super) type BankWords = [u64; BANK_BYTES as usize / 8];

#[btf_map]
pub(super) static IMAGE: Array<BankWords, 8, MMAPABLE> = Array::new();

/// The control words of a bucket: one cache line.
pub(super) type Bucket = [u64; WAYS as usize];

/// The arrays of a connection table.
pub(super) type Buckets = Array<Bucket, 1024, MMAPABLE>;
pub(super) type Entries<V> = Array<Entry<V>, 8192, MMAPABLE>;
pub(super) type Rests = Array<Rest, 8192, MMAPABLE>;

#[btf_map]
pub(super) static CONN_BUCKETS_V4: Buckets = Array::new();

#[btf_map]
pub(super) static CONN_ENTRIES_V4: Entries<Conn> = Array::new();

#[btf_map]
pub(super) static CONN_BUCKETS_V6: Buckets = Array::new();

#[btf_map]
pub(super) static CONN_ENTRIES_V6: Entries<Conn> = Array::new();

#[btf_map]
pub(super) static CONN_RESTS_V6: Rests = Array::new();

#[btf_map]
pub(super) static DENY_BUCKETS_V4: Buckets = Array::new();

#[btf_map]
pub(super) static DENY_ENTRIES_V4: Entries<Denial> = Array::new();

#[btf_map]
pub(super) static DENY_BUCKETS_V6: Buckets = Array::new();

#[btf_map]
pub(super) static DENY_ENTRIES_V6: Entries<Denial> = Array::new();

#[btf_map]
pub(super) static DENY_RESTS_V6: Rests = Array::new();

#[btf_map]
pub(super) static FRAGMENTS_V4: HashMap<Key4, Fragment, 8192, PREALLOCATED> = HashMap::new();

#[btf_map]
pub(super) static FRAGMENTS_V6: HashMap<Key6, Fragment, 8192, PREALLOCATED> = HashMap::new();

#[btf_map]
pub(super) static USAGE: Array<EniUsage, 8192, MMAPABLE> = Array::new();

#[btf_map]
pub(super) static NEIGHBOURS: Array<NeighbourCache, 8192, MMAPABLE> = Array::new();

#[btf_map]
pub(super) static LINK_LOCALS: LruHashMap<LinkLocalKey, LinkLocal, 16_384> = LruHashMap::new();

#[btf_map]
pub(super) static COUNTERS: PerCpuArray<[u64; OUTCOMES], 16_384> = PerCpuArray::new();

#[btf_map]
pub(super) static EVENTS: RingBuf<Event, 262_144> = RingBuf::new();

/// The memory of a verdict: the stack has only 512 bytes, and a map value is less work for the verifier.
#[repr(C)]
pub(super) struct PerCpuScratch {
    scratch: Scratch,
    opaque: Word,
    span: Span,
}

#[btf_map]
static DESK: PerCpuArray<PerCpuScratch, 1> = PerCpuArray::new();

/// This CPU's scratch memory.
#[inline(always)]
pub(super) fn scratch() -> Option<(&'static mut Scratch, Opaque, &'static mut Span)> {
    let scratch = DESK.get_ptr_mut(0)?;
    // SAFETY: the value lives as long as the map, no other CPU uses it, and a program at tc or XDP runs to its end with
    // bottom halves off, so no other program on this CPU uses it meanwhile.
    let PerCpuScratch { scratch, opaque, span } = unsafe { &mut *scratch };
    Some((scratch, Opaque(opaque), span))
}
