//! How much of each entry was already reported. Totals only grow: a window's delta is the counter minus this baseline.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use serde::{Deserialize, Serialize};
use taskgate_ebpf::abi::{Direction, window};
use taskgate_tables::{ConnState, DenialState, FlowCount, FlowId};

/// The part of an entry that is counted, by [`Direction`]: egress, ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) totals: [FlowCount; 2],
    /// The TCP flags of two windows, see [`window`].
    pub(super) windows: [u32; 2],
    /// Whether packets are counted modulo 2^32, as the kernel does for connections.
    pub(super) wraps: bool,
}

impl From<&ConnState> for Sample {
    fn from(state: &ConnState) -> Self {
        Self {
            totals: state.totals,
            windows: state.windows,
            wraps: true,
        }
    }
}

impl Sample {
    /// A denied flow has one direction.
    pub(super) fn of_denial(state: &DenialState, direction: Direction) -> Self {
        let mut totals = [FlowCount::default(); 2];
        totals[direction.index()] = state.totals;
        Self {
            totals,
            windows: state.windows,
            wraps: false,
        }
    }
}

/// The delta of one direction of an entry in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) count: FlowCount,
    /// In AWS's encoding of `tcp-flags`.
    pub(super) tcp_flags: u8,
    /// Whether the true packet count may be higher by 2^32 or a multiple of it.
    pub(super) at_least: bool,
}

/// The fewest bytes that 2^32 packets can have: IPv4 headers alone. A connection that has carried so many bytes since it was read
/// may have carried 2^32 packets more than its counter shows.
const WRAP_BYTES: u64 = 20 << 32;

/// A connection that has grown by this many bytes since its baseline is also read between two windows, so that few ever come near
/// [`WRAP_BYTES`].
const LARGE_BYTES: u64 = WRAP_BYTES / 8;

/// The longest IP packet: IPv6's header and 64 KiB.
const LONGEST_PACKET: u64 = 40 + 0xffff;

/// The reported part of an entry: 48 bytes, or 56 with the entry's id as key.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Baseline {
    totals: [FlowCount; 2],
    /// The window for which the entry was last read.
    read: u32,
    /// The last window to which the entry added packets or bytes; if none, the first window that read it.
    active: u32,
    /// The TCP flags already reported for two windows, by the parity of their numbers, as in the kernel's entry.
    flags: [u8; 2],
    /// The value of [`Baselines::saves`] when `totals` last changed.
    #[serde(skip)]
    changed: u32,
}

/// The baselines of one kind of entry. Keyed by entry, not by flow: a flow that comes back gets another entry, with totals from 0.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Baselines {
    entries: HashMap<FlowId, Baseline, BuildHasherDefault<InOrder>>,
    /// How many journals were written. A baseline that changed since the last of them is not in it.
    #[serde(skip)]
    saves: u32,
}

/// Hashes entries so that neighbours in the kernel's table are neighbours here: a table is read from one end to the other,
/// and a million of baselines are in no cache.
#[derive(Debug, Default)]
struct InOrder(u64);

impl Hasher for InOrder {
    fn write(&mut self, _: &[u8]) {
        debug_assert!(false, "entries are hashed by one number");
    }

    fn write_u64(&mut self, number: u64) {
        /// 2^64 divided by the golden ratio, odd: multiplying by it spreads numbers over the upper bits.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        const UPPER: u64 = 0x7f << 57;
        self.0 = number.wrapping_mul(SPREAD) & UPPER | FlowId::numbered(number).way() as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Baselines {
    /// The delta of an entry for the window `closing`, by direction. It counts as reported from then on. `whole`: the
    /// entry is not read again, so bytes without a packet are not deferred.
    ///
    /// Packets that came after the window's number was raised and before the entry was read are counted into `closing`,
    /// and so are their flags: a SYN is always in the window of its packet.
    pub(super) fn deltas(&mut self, id: FlowId, sample: &Sample, closing: u32, whole: bool) -> [Option<Delta>; 2] {
        let first = Baseline {
            totals: [FlowCount::default(); 2],
            read: closing,
            active: closing,
            flags: [0; 2],
            changed: self.saves,
        };
        let baseline = self.entries.entry(id).or_insert(first);
        let running = closing.wrapping_add(1);
        if baseline.read != closing {
            if baseline.read.wrapping_add(1) != closing {
                baseline.flags[parity(closing)] = 0;
            }
            baseline.flags[parity(running)] = 0;
            baseline.read = closing;
        }
        [Direction::Egress, Direction::Ingress].map(|direction| {
            let at = direction.index();
            let grown = sample.totals[at].packets.wrapping_sub(baseline.totals[at].packets);
            let bytes = sample.totals[at].bytes.wrapping_sub(baseline.totals[at].bytes);
            let at_least = sample.wraps && bytes >= WRAP_BYTES;
            let packets = match (sample.wraps, grown as u32) {
                (true, 0) if at_least => bytes.div_ceil(LONGEST_PACKET),
                (true, grown) => grown.into(),
                (false, _) => grown,
            };
            let count = FlowCount { packets, bytes };
            // The kernel adds a packet, then its bytes. A reading between the two leaves the bytes for later: growth in bytes
            // alone is deferred to the next packet.
            if count.packets == 0 && !(whole && count.bytes != 0) {
                return None;
            }
            baseline.totals[at] = sample.totals[at];
            baseline.active = closing;
            baseline.changed = self.saves;
            let mut tcp_flags = 0;
            for number in [closing, running] {
                let seen = window::of(sample.windows[parity(number)], number) & 0xf << (4 * at);
                let already = &mut baseline.flags[parity(number)];
                tcp_flags |= window::tcp_flags(u32::from(seen & !*already), 0, direction);
                *already |= seen;
            }
            Some(Delta {
                count,
                tcp_flags,
                at_least,
            })
        })
    }

    /// Whether an entry has nothing beyond its baseline.
    pub(super) fn all_reported(&self, id: FlowId, sample: &Sample) -> bool {
        self.entries
            .get(&id)
            .map_or([FlowCount::default(); 2], |baseline| baseline.totals)
            == sample.totals
    }

    /// Whether an entry has grown by [`LARGE_BYTES`] in a direction, so that it has to be read before its window ends.
    pub(super) fn is_large(&self, id: FlowId, sample: &Sample) -> bool {
        let large = |bytes: u64| bytes >= LARGE_BYTES;
        let bytes = sample.totals.map(|count| count.bytes);
        bytes.into_iter().any(large) && {
            let reported = self
                .entries
                .get(&id)
                .map_or([FlowCount::default(); 2], |baseline| baseline.totals);
            bytes
                .into_iter()
                .zip(reported)
                .any(|(bytes, reported)| large(bytes.wrapping_sub(reported.bytes)))
        }
    }

    /// How many windows an entry has been silent for when `closing` ends, including `closing`.
    pub(super) fn silent_for(&self, id: FlowId, closing: u32) -> u32 {
        self.entries
            .get(&id)
            .map_or(0, |baseline| closing.wrapping_sub(baseline.active))
    }

    /// Forgets an entry that was removed.
    pub(super) fn forget(&mut self, id: FlowId) {
        self.entries.remove(&id);
    }

    /// Forgets all entries that were not read for this window.
    pub(super) fn forget_unread(&mut self, closing: u32) {
        self.entries.retain(|_, baseline| baseline.read == closing);
    }

    /// To be called once a journal has all baselines.
    pub(super) fn saved(&mut self) {
        self.saves = self.saves.wrapping_add(1);
    }

    /// Whether the journal has an entry's current baseline.
    pub(super) fn is_saved(&self, id: FlowId) -> bool {
        self.entries
            .get(&id)
            .is_none_or(|baseline| baseline.changed != self.saves)
    }

    /// How many entries are known.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

fn parity(number: u32) -> usize {
    (number & 1) as usize
}
