//! Records in the journal: ENIs and peers are stored once and referred to by number, rules by their numbers in the tables.

use std::{cell::RefCell, collections::HashMap, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};
use taskgate_ebpf::abi::Direction;
use taskgate_tables::FlowCount;

use super::{
    attribution::{Attribution, RecordedPeer},
    budget::Overflow,
    eni::LoggedEni,
    names::RecordedRules,
    record::{FlowRecord, Reasons, RecordAction, Tuple},
    window::Loss,
};

/// Numbers ENIs and peers while records are serialised. It is serialised last, as the list of all numbered ENIs and peers.
#[derive(Debug, Default)]
pub(super) struct EniNumbers {
    state: RefCell<NumberedItems>,
}

#[derive(Debug, Default)]
struct NumberedItems {
    enis: Numbering<LoggedEni>,
    peers: Numbering<RecordedPeer>,
}

#[derive(Debug)]
struct Numbering<T> {
    /// By address in memory: equal values in two allocations get two numbers.
    numbers: HashMap<*const T, u32>,
    items: Vec<Arc<T>>,
}

impl<T> Default for Numbering<T> {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            items: Vec::new(),
        }
    }
}

impl<T> Numbering<T> {
    fn of(&mut self, item: &Arc<T>) -> u32 {
        let Self { numbers, items } = self;
        *numbers.entry(Arc::as_ptr(item)).or_insert_with(|| {
            items.push(Arc::clone(item));
            items.len() as u32 - 1
        })
    }

    fn items(&self) -> Vec<&T> {
        self.items.iter().map(AsRef::as_ref).collect()
    }
}

impl EniNumbers {
    /// The number of an ENI.
    pub(super) fn of(&self, eni: &Arc<LoggedEni>) -> u32 {
        self.state.borrow_mut().enis.of(eni)
    }

    fn of_peer(&self, peer: &Arc<RecordedPeer>) -> u32 {
        self.state.borrow_mut().peers.of(peer)
    }
}

impl Serialize for EniNumbers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let NumberedItems { enis, peers } = &*self.state.borrow();
        (enis.items(), peers.items()).serialize(serializer)
    }
}

/// The ENIs and peers of a journal in the order of their numbers.
pub(super) type SavedEnis = (Vec<LoggedEni>, Vec<RecordedPeer>);

/// The ENIs and peers of a journal, and the rules, to restore records from.
#[derive(Debug)]
pub(super) struct NumberedEnis {
    enis: Vec<Arc<LoggedEni>>,
    peers: Vec<Arc<RecordedPeer>>,
    rules: RecordedRules,
}

impl NumberedEnis {
    pub(super) fn new((enis, peers): SavedEnis, rules: RecordedRules) -> Self {
        Self {
            enis: enis.into_iter().map(Arc::new).collect(),
            peers: peers.into_iter().map(Arc::new).collect(),
            rules,
        }
    }

    /// The ENI with a number. A journal with a valid checksum has no unknown number.
    pub(super) fn get(&self, number: u32) -> Option<Arc<LoggedEni>> {
        self.enis.get(number as usize).cloned()
    }

    /// Restores records.
    pub(super) fn records(&self, saved: Vec<SavedRecord>) -> Vec<FlowRecord> {
        saved.into_iter().filter_map(|record| record.restore(self)).collect()
    }

    /// Restores losses.
    pub(super) fn overflow(&self, saved: Vec<SavedLoss>) -> Overflow {
        let restored = saved.into_iter().filter_map(|(number, passed, denied)| {
            let eni = self.get(number)?;
            Some((eni.id().to_owned(), Loss { eni, passed, denied }))
        });
        restored.collect()
    }
}

/// A loss: the ENI's number, passed packets, denied packets.
pub(super) type SavedLoss = (u32, u64, u64);

/// Losses for the journal.
pub(super) fn losses(overflow: &Overflow, enis: &EniNumbers) -> Vec<SavedLoss> {
    let saved = |loss: &Loss| (enis.of(&loss.eni), loss.passed, loss.denied);
    overflow.values().map(saved).collect()
}

/// A record in the journal.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedRecord {
    eni: u32,
    tuple: Tuple,
    action: RecordAction,
    ingress: bool,
    local: Option<IpAddr>,
    count: FlowCount,
    tcp_flags: u8,
    reasons: Reasons,
    /// The number of the rule.
    rule: Option<u32>,
    generation: u64,
    /// The number of the peer.
    peer: Option<u32>,
    last: u64,
}

impl SavedRecord {
    fn new(record: &FlowRecord, enis: &EniNumbers) -> Self {
        let FlowRecord {
            eni,
            tuple,
            action,
            direction,
            local,
            count,
            tcp_flags,
            reasons,
            attribution:
                Attribution {
                    rule,
                    generation,
                    peer,
                    last,
                },
        } = record;
        Self {
            eni: enis.of(eni),
            tuple: *tuple,
            action: *action,
            ingress: *direction == Direction::Ingress,
            local: *local,
            count: *count,
            tcp_flags: *tcp_flags,
            reasons: *reasons,
            rule: rule.as_ref().map(|rule| rule.number),
            generation: *generation,
            peer: peer.as_ref().map(|peer| enis.of_peer(peer)),
            last: *last,
        }
    }

    fn restore(self, enis: &NumberedEnis) -> Option<FlowRecord> {
        Some(FlowRecord {
            eni: enis.get(self.eni)?,
            tuple: self.tuple,
            action: self.action,
            direction: if self.ingress {
                Direction::Ingress
            } else {
                Direction::Egress
            },
            local: self.local,
            count: self.count,
            tcp_flags: self.tcp_flags,
            reasons: self.reasons,
            attribution: Attribution {
                rule: self.rule.and_then(|number| enis.rules.get(number)),
                generation: self.generation,
                peer: self.peer.and_then(|number| enis.peers.get(number as usize).cloned()),
                last: self.last,
            },
        })
    }
}

/// Records for the journal, converted one by one while they are serialised: there may be hundreds of thousands.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordsToSave<'a> {
    pub(super) records: &'a [FlowRecord],
    pub(super) enis: &'a EniNumbers,
}

impl Serialize for RecordsToSave<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let save = |record| SavedRecord::new(record, self.enis);
        serializer.collect_seq(self.records.iter().map(save))
    }
}
