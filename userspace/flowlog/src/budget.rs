//! How many records are held at most. Beyond that the ENIs that have most of them lose some, and are told to lack them:
//! what one task causes costs no other one its records.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    eni::LoggedEni,
    record::{Action, Record, coalesce},
    window::Loss,
};

/// What was given up, by the ENI's id.
pub(super) type GivenUp = BTreeMap<String, Loss>;

/// Makes one of records that are one, then gives up what is beyond `most` records.
///
/// An ENI keeps all of its records unless it has more than its even share of the room; what smaller ones leave of theirs
/// goes to the larger ones.
pub(super) fn cut(records: &mut Vec<Record>, most: usize, given_up: &mut GivenUp) {
    coalesce(records);
    if records.len() <= most {
        return;
    }
    let mut sizes: Vec<usize> = records
        .chunk_by(|a, b| a.eni.id() == b.eni.id())
        .map(<[Record]>::len)
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
            overflow(record, given_up);
        }
        kept <= level
    });
    records.shrink_to(most);
}

fn overflow(record: &Record, given_up: &mut GivenUp) {
    let loss = given_up.entry(record.eni.id().to_owned()).or_insert_with(|| Loss {
        eni: Arc::clone(&record.eni),
        passed: 0,
        denied: 0,
    });
    match record.action {
        Action::Accept => loss.passed += record.count.packets,
        Action::Reject => loss.denied += record.count.packets,
    }
}
