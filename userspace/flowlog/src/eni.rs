//! Whose traffic a slot's entries are.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc};

use taskgate_model::Eni;

/// An ENI as flow records name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedEni {
    eni: Eni,
    account: String,
    primary_ipv4: Option<Ipv4Addr>,
}

impl LoggedEni {
    /// The ENI, with `account` (twelve digits) where it names no owner of its own.
    pub fn new(eni: Eni, account: &str) -> Self {
        Self {
            account: eni.account.clone().unwrap_or_else(|| account.to_owned()),
            primary_ipv4: eni.primary_ipv4(),
            eni,
        }
    }

    /// `interface-id`.
    pub fn id(&self) -> &str {
        &self.eni.id
    }

    /// `account-id`: twelve digits.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The address that represents all of its IPv4 addresses.
    pub fn primary_ipv4(&self) -> Option<Ipv4Addr> {
        self.primary_ipv4
    }

    /// All that the configuration says of it.
    pub fn eni(&self) -> &Eni {
        &self.eni
    }
}

/// The ENIs by slot.
#[derive(Debug, Default)]
pub(super) struct Registry {
    slots: HashMap<u16, Slot>,
}

#[derive(Debug)]
struct Slot {
    eni: Arc<LoggedEni>,
    /// It left a record once.
    active: bool,
    /// The configuration no longer names it; its last entries still do.
    retired: bool,
}

impl Registry {
    /// Binds a slot to an ENI. The same ENI with other facts keeps its history.
    pub(super) fn set(&mut self, slot: u16, eni: LoggedEni) {
        let active = self
            .slots
            .get(&slot)
            .is_some_and(|old| old.active && old.eni.id() == eni.id());
        self.slots.insert(
            slot,
            Slot {
                eni: Arc::new(eni),
                active,
                retired: false,
            },
        );
    }

    /// Marks a slot whose entries are to go.
    pub(super) fn retire(&mut self, slot: u16) {
        if let Some(slot) = self.slots.get_mut(&slot) {
            slot.retired = true;
        }
    }

    /// Whether the slot was retired and still has entries, as far as is known.
    pub(super) fn is_retired(&self, slot: u16) -> bool {
        self.slots.get(&slot).is_some_and(|slot| slot.retired)
    }

    /// Forgets a slot that has no entry left.
    pub(super) fn remove(&mut self, slot: u16) {
        self.slots.remove(&slot);
    }

    /// The slot's ENI, which has had traffic from now on.
    pub(super) fn touch(&mut self, slot: u16) -> Option<&Arc<LoggedEni>> {
        let slot = self.slots.get_mut(&slot)?;
        slot.active = true;
        Some(&slot.eni)
    }

    /// The slot's ENI.
    pub(super) fn eni(&self, slot: u16) -> Option<&Arc<LoggedEni>> {
        self.slots.get(&slot).map(|slot| &slot.eni)
    }

    /// Every slot in rising order, with its ENI.
    pub(super) fn slots(&self) -> Vec<(u16, Arc<LoggedEni>)> {
        let mut all: Vec<_> = self
            .slots
            .iter()
            .map(|(number, slot)| (*number, Arc::clone(&slot.eni)))
            .collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        all
    }

    /// The ENIs that are there and have had traffic, in the order of their ids.
    pub(super) fn active(&self) -> Vec<Arc<LoggedEni>> {
        let mut active: Vec<_> = self
            .slots
            .values()
            .filter(|slot| slot.active && !slot.retired)
            .map(|slot| Arc::clone(&slot.eni))
            .collect();
        active.sort_unstable_by(|a, b| a.id().cmp(b.id()));
        active
    }
}
