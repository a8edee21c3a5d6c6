//! The pure core on plain collections.

use std::{collections::HashMap, rc::Rc, sync::atomic::AtomicU64};

use anyhow::Result;
use taskgate::dataplane::flow::{FlowKey, UsageState, Used};
use taskgate_ebpf::{
    abi::{Charge, Charges, Conn, LinkId, Outcome, Reason, Usage},
    host::{HostFrame, HostTables, decide, early},
    tables::Tables as _,
};

use super::{DataPath, Sent, State, Uplink};

/// The pure core, with tables of its own.
pub struct Host<'a> {
    /// Its tables.
    pub tables: HostTables<'a>,
    image: &'a [AtomicU64],
    room: usize,
    /// How the last packet ended.
    pub last: Option<Outcome>,
}

impl<'a> Host<'a> {
    /// Over an image, with room for so many entries in each table.
    pub fn new(image: &'a [AtomicU64], room: usize) -> Self {
        Self {
            tables: HostTables::new(image, room),
            image,
            room,
            last: None,
        }
    }
}

impl Host<'_> {
    /// Judges a frame as the uplink receives it: why it is dropped, or `None` where it goes on.
    pub fn refused_early(&self, frame: &[u8], uplink: Uplink) -> Option<Reason> {
        let tag = match uplink {
            Uplink::Trunk { tag } => Some(tag),
            Uplink::Routed => None,
        };
        let frame = HostFrame {
            came_by: Uplink::LINK,
            ..HostFrame::new(frame, LinkId::device(Uplink::LINK))
        };
        early(&self.tables, &frame, tag)
    }
}

fn make_older<K>(conns: &HashMap<K, Rc<Conn>>, ticks: u32) {
    for conn in conns.values() {
        let (last, tail) = conn.seen.get();
        conn.seen.set(last.wrapping_sub(ticks), tail);
    }
}

fn in_use(inserted: &Charges, removed: &Charges) -> Used {
    let used = |charge| inserted.of(charge).get().wrapping_sub(removed.of(charge).get());
    Used {
        floor: used(Charge::FLOOR),
        pool: used(Charge::POOL),
    }
}

fn used(usage: &Usage) -> UsageState {
    UsageState {
        conns: in_use(&usage.conns_inserted, &usage.conns_removed),
        denials: in_use(&usage.denials_inserted, &usage.denials_removed),
        fragments: in_use(&usage.fragments_inserted, &usage.fragments_removed),
        flows_lost: usage.flows_lost.get(),
        denials_lost: usage.denials_lost.get(),
        conns_refused: usage.conns_refused.get(),
        fragments_lost: usage.fragments_lost.get(),
    }
}

impl DataPath for Host<'_> {
    fn judge(&mut self, sent: &Sent<'_>) -> Result<bool> {
        let frame = HostFrame {
            segments: sent.segments,
            came_by: sent.came_by,
            left: sent.left,
            ..HostFrame::new(sent.frame, LinkId::from_number(sent.link))
        };
        let outcome = decide(&self.tables, &frame, sent.direction);
        self.last = Some(outcome);
        Ok(outcome.passes())
    }

    fn early(&mut self, frame: &[u8], uplink: Uplink) -> Result<bool> {
        Ok(self.refused_early(frame, uplink).is_none())
    }

    fn clear(&mut self) -> Result<()> {
        *self = Self::new(self.image, self.room);
        Ok(())
    }

    fn now(&mut self) -> Result<u32> {
        Ok(self.tables.now())
    }

    fn age(&mut self, ticks: u32) -> Result<()> {
        make_older(&self.tables.conns_v4(), ticks);
        make_older(&self.tables.conns_v6(), ticks);
        for first in self.tables.fragments() {
            let (last, tail) = first.seen.get();
            first.seen.set(last.wrapping_sub(ticks), tail);
        }
        Ok(())
    }

    fn state(&mut self, highest: u16) -> Result<State> {
        let tables = &self.tables;
        let v4 = tables
            .conns_v4()
            .into_iter()
            .map(|(key, conn)| (FlowKey::V4(key), (&*conn).into()));
        let v6 = tables
            .conns_v6()
            .into_iter()
            .map(|(key, conn)| (FlowKey::V6(key), (&*conn).into()));
        let conns = v4.chain(v6).collect();
        let v4 = tables
            .denials_v4()
            .into_iter()
            .map(|(key, denial)| (FlowKey::V4(key), (&*denial).into()));
        let v6 = tables
            .denials_v6()
            .into_iter()
            .map(|(key, denial)| (FlowKey::V6(key), (&*denial).into()));
        let denials = v4.chain(v6).collect();
        let usage = (0..=highest).filter_map(|slot| Some((slot, used(tables.usage(slot)?))));
        Ok(State {
            conns,
            denials,
            counters: tables
                .counters()
                .into_iter()
                .filter(|(_, packets)| *packets > 0)
                .collect(),
            usage: usage.filter(|(_, usage)| *usage != UsageState::default()).collect(),
        })
    }
}
