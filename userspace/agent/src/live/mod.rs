//! Read-only views of the running state: the tracked connections, and the effect of another configuration on them.
//!
//! The agent hands out a [`LiveView`] of itself, which costs it next to nothing. The requesting thread does the rest:
//! reading a million entries, compiling a configuration, comparing.

mod differences;
mod lines;
mod query;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
};

use taskgate_bpf::reader::ConnReader;
use taskgate_compiler::RuleName;
use taskgate_ebpf::abi::image::TIMEOUTS;
use taskgate_model::{Eni, Model};

pub(crate) use differences::differences;
pub(crate) use lines::ConnectionLines;
pub(crate) use query::QueryError;

use super::{
    image::ImageMemory,
    reading::{Folder, Source},
    tasks::Fitting,
};

/// The configuration in force at one moment, with access to its connections, which are read later, as they are by then.
#[derive(Clone, Debug)]
pub(crate) struct LiveView {
    /// The configuration folder that is followed.
    pub(super) source: Source,
    /// The configuration in force.
    pub(super) model: Arc<Model>,
    /// The added tasks, which are fitted into any configuration.
    pub(super) fitting: Fitting,
    /// The ENI of each slot, by its id.
    pub(super) slots: BTreeMap<u16, String>,
    /// The rules in the order of their numbers, from 1.
    pub(super) rules: Vec<RuleName>,
    /// The idle time-outs in ticks.
    pub(super) timeouts: [u32; TIMEOUTS],
    /// The image that gates judge by.
    pub(super) image: ImageMemory,
    /// The reader of the connection table.
    pub(super) reader: Arc<ConnReader>,
}

/// Number of ways of the tables that are read at once.
const PIECE: u32 = 4096;

impl LiveView {
    /// The rule with this number.
    fn rule(&self, number: u32) -> Option<&RuleName> {
        self.rules.get((number as usize).checked_sub(1)?)
    }

    /// The gated ENI of each slot.
    fn enis(&self) -> BTreeMap<u16, &Eni> {
        let by_id: BTreeMap<&str, &Eni> = self.model.gated().map(|eni| (eni.id.as_str(), eni)).collect();
        let eni = |(slot, id): (&u16, &String)| Some((*slot, *by_id.get(id.as_str())?));
        self.slots.iter().filter_map(eni).collect()
    }

    /// The words of the image.
    fn words(&self) -> &[AtomicU64] {
        &self.image
    }

    /// The source of another folder's configuration, or the followed one.
    pub(crate) fn source(&self, folder: Option<Folder>) -> Source {
        self.source.with(folder)
    }
}
