//! Ages of tracked connections. Entries have no time of creation, so the collector, which reads all of them every few seconds
//! anyway, notes when it first saw each one.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use taskgate_tables::FlowId;

/// Ways in a part. Parts without any entry so far take no memory.
const PART: usize = 4096;

/// When each entry was first seen: eight bytes for each way.
#[derive(Debug)]
pub struct Ages {
    began: Instant,
    v4: Box<[OnceLock<Box<[AtomicU64]>>]>,
    v6: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

impl Ages {
    /// Ages for tables with so many ways.
    pub(super) fn new(v4: u32, v6: u32) -> Self {
        let parts = |ways: u32| (0..(ways as usize).div_ceil(PART)).map(|_| OnceLock::new()).collect();
        Self {
            began: Instant::now(),
            v4: parts(v4),
            v6: parts(v6),
        }
    }

    /// Seconds since `began`, plus one: 0 means "never seen".
    fn now(&self) -> u32 {
        u32::try_from(self.began.elapsed().as_secs())
            .unwrap_or(u32::MAX)
            .saturating_add(1)
    }

    fn part(&self, id: FlowId) -> Option<(&OnceLock<Box<[AtomicU64]>>, usize)> {
        let parts = if id.is_v6() { &self.v6 } else { &self.v4 };
        let way = id.way() as usize;
        Some((parts.get(way / PART)?, way % PART))
    }

    /// The note for a way: the entry's version, which differs from that of earlier entries there, and `seconds`.
    fn word(id: FlowId, seconds: u32) -> u64 {
        id.version().number() << 32 | u64::from(seconds)
    }

    /// Returns a function that notes an entry as seen now.
    pub(super) fn see(&self) -> impl Fn(FlowId) + '_ {
        let now = self.now();
        move |id| {
            let Some((part, at)) = self.part(id) else { return };
            let part = part.get_or_init(|| (0..PART).map(|_| AtomicU64::new(0)).collect());
            let noted = part[at].load(Relaxed);
            if noted == 0 || noted >> 32 != id.version().number() {
                part[at].store(Self::word(id, now), Relaxed);
            }
        }
    }

    /// Seconds since an entry was first seen; 0 if it was not seen yet.
    pub fn of(&self, id: FlowId) -> u32 {
        let noted = self.part(id).and_then(|(part, at)| Some(part.get()?[at].load(Relaxed)));
        match noted {
            Some(noted) if noted != 0 && noted >> 32 == id.version().number() => self.now() - noted as u32,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use taskgate_ebpf::conntable::Version;

    use super::*;

    fn id(v6: bool, way: u64, version: u64) -> FlowId {
        FlowId::numbered(u64::from(v6) << 63 | way << Version::BITS | version)
    }

    #[test]
    fn an_entry_is_known_since_it_was_seen_first_and_its_successor_is_another() {
        let mut ages = Ages::new(10_000, 8);
        ages.see()(id(false, 9_999, 3));
        ages.see()(id(true, 7, 3));
        // Out of reach: nothing is noted.
        ages.see()(id(true, 9_999, 3));
        ages.began -= std::time::Duration::from_secs(40);
        ages.see()(id(false, 9_999, 3));
        assert_eq!(ages.of(id(false, 9_999, 3)), 40);
        assert_eq!(ages.of(id(true, 7, 3)), 40);
        assert_eq!(ages.of(id(true, 7, 4)), 0);
        assert_eq!(ages.of(id(false, 7, 3)), 0);
        ages.see()(id(false, 9_999, 4));
        assert_eq!((ages.of(id(false, 9_999, 4)), ages.of(id(false, 9_999, 3))), (0, 0));
        let parts = ages.v4.iter().filter(|part| part.get().is_some()).count();
        assert_eq!(parts, 1);
    }
}
