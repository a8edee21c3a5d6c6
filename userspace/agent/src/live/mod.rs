//! What lives, for whoever asks: the tracked connections, and what another configuration would do to them.
//!
//! The agent hands out a [`LiveView`] of itself, which costs it next to nothing. All the rest is done by whoever asked, on
//! another thread: reading a million entries, compiling a configuration, comparing.

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

/// The configuration in force and its connections, at one moment. The connections are read as they are by then.
#[derive(Clone, Debug)]
pub(crate) struct LiveView {
    /// The folder that is followed.
    pub(super) source: Source,
    /// The configuration in force.
    pub(super) model: Arc<Model>,
    /// What is added to any configuration.
    pub(super) fitting: Fitting,
    /// The ENI of each slot, by its id.
    pub(super) slots: BTreeMap<u16, String>,
    /// The rules in the order of their numbers, from 1.
    pub(super) rules: Vec<RuleName>,
    /// The idle time-outs in ticks.
    pub(super) timeouts: [u32; TIMEOUTS],
    /// The image that gates judge by.
    pub(super) image: ImageMemory,
    /// The tables.
    pub(super) reader: Arc<ConnReader>,
}

/// Ways of the tables that are read at once.
const PIECE: u32 = 4096;

impl LiveView {
    /// The rule of a number.
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

    /// Another folder's configuration, or the followed one's.
    pub(crate) fn source(&self, folder: Option<Folder>) -> Source {
        self.source.with(folder)
    }
}
