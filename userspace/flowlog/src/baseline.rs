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
    /// As AWS writes them.
    pub(super) tcp_flags: u8,
    /// Whether it may be 2^32 packets more, or a multiple of that.
    pub(super) at_least: bool,
}

/// The least bytes of 2^32 packets: IPv4 headers alone. A connection that has carried so many since it was read may have as
/// many packets more than its counter says.
const WRAP_BYTES: u64 = 20 << 32;

/// The bytes since its baseline from which on a connection is read between two windows too, so that few ever come near
/// [`WRAP_BYTES`].
const LARGE_BYTES: u64 = WRAP_BYTES / 8;

/// The longest IP packet: IPv6's header and 64 KiB.
const LONGEST_PACKET: u64 = 40 + 0xffff;

/// 48 bytes, with its entry's number 56.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Baseline {
    totals: [FlowCount; 2],
    /// The window for which it was read last.
    read: u32,
    /// The last window to which it added something; the first one that saw it, if none.
    active: u32,
    /// The TCP flags reported of two windows, by parity, as the kernel keeps them.
    flags: [u8; 2],
    /// When its totals changed last, see [`Baselines::saves`].
    #[serde(skip)]
    changed: u32,
}

/// The baselines of one kind of entry. By entry and not by flow: a flow that comes back has another entry, whose totals begin
/// at 0.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Baselines {
    entries: HashMap<FlowId, Baseline, BuildHasherDefault<InOrder>>,
    /// How many journals have them: those that changed since the last one are not in it.
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
        /// 2^64 divided by the golden ratio, odd: spreads what the upper bits are taken from.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        const UPPER: u64 = 0x7f << 57;
        self.0 = number.wrapping_mul(SPREAD) & UPPER | FlowId::numbered(number).way() as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Baselines {
    /// The delta of an entry for the window `closing`, by direction, which counts as reported from then on. `whole`: the
    /// entry is not read again.
    ///
    /// Packets that came after the window's number was raised and before the entry was read are counted into `closing`,
    /// so their flags are too: a SYN is always in its packet's window.
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
            // The kernel adds a packet, then its bytes: bytes that were read without their packet's number having grown
            // are late, and go with the next one.
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

    /// Whether everything that an entry holds was baseline.
    pub(super) fn all_reported(&self, id: FlowId, sample: &Sample) -> bool {
        self.entries
            .get(&id)
            .map_or([FlowCount::default(); 2], |baseline| baseline.totals)
            == sample.totals
    }

    /// Whether an entry has carried so much since it was read last that it has to be read before its window ends.
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

    /// Says that a journal has all of them.
    pub(super) fn saved(&mut self) {
        self.saves = self.saves.wrapping_add(1);
    }

    /// Whether the journal has what was reported of an entry.
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
