//! The limit of held records. Beyond it the ENIs with most records lose some, and get SKIPDATA: a task's flows cost no other
//! task its records.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    eni::LoggedEni,
    record::{FlowRecord, RecordAction, coalesce},
    window::Loss,
};

/// By ENI id, the losses in user space: packets of given-up records, and packets that a wrapped counter may hide.
pub(super) type Overflow = BTreeMap<String, Loss>;

/// Merges records of the same flow, then gives up records beyond `most`.
///
/// An ENI keeps all of its records unless it has more than an even share of the room; room that smaller ENIs leave unused
/// goes to the larger ones.
pub(super) fn cut(records: &mut Vec<FlowRecord>, most: usize, overflow: &mut Overflow) {
    coalesce(records);
    if records.len() <= most {
        return;
    }
    let mut sizes: Vec<usize> = records
        .chunk_by(|a, b| a.eni.id() == b.eni.id())
        .map(<[FlowRecord]>::len)
        .collect();
    sizes.sort_unstable();
    let (mut room, mut left, mut level) = (most, sizes.len(), usize::MAX);
    for size in sizes {
        if size > room / left {
            level = room / left;
            break;
        }
        room -= size;
        left -= 1;
    }
    let mut current: Option<Arc<LoggedEni>> = None;
    let mut kept = 0;
    records.retain(|record| {
        if current.as_ref().is_none_or(|eni| eni.id() != record.eni.id()) {
            current = Some(Arc::clone(&record.eni));
            kept = 0;
        }
        kept += 1;
        if kept > level {
            add(record, overflow);
        }
        kept <= level
    });
    records.shrink_to(most);
}

/// The loss of an ENI, added with 0 packets if there was none.
pub(super) fn loss_of<'a>(overflow: &'a mut Overflow, eni: &Arc<LoggedEni>) -> &'a mut Loss {
    overflow.entry(eni.id().to_owned()).or_insert_with(|| Loss {
        eni: Arc::clone(eni),
        passed: 0,
        denied: 0,
    })
}

fn add(record: &FlowRecord, overflow: &mut Overflow) {
    let loss = loss_of(overflow, &record.eni);
    match record.action {
        RecordAction::Accept => loss.passed += record.count.packets,
        RecordAction::Reject => loss.denied += record.count.packets,
    }
}
