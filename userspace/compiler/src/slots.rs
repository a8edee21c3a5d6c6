//! Slots: the numbers of ENIs.

use std::collections::{BTreeMap, HashMap, VecDeque};

use taskgate_ebpf::abi::image::SLOTS;

use super::CompileError;

/// The slots of ENIs. A freed slot is reused as late as possible, so that records that still use it have time to be read.
#[derive(Debug, Default)]
pub(super) struct Slots {
    numbers: HashMap<String, u16>,
    /// The ENI of each slot from 1 up to the highest ever used.
    names: Vec<Option<String>>,
    freed: VecDeque<u16>,
}

impl Slots {
    /// The slots of an earlier process; an unused slot below the highest one is free.
    ///
    /// # Errors
    /// [`CompileError::UnknownSlot`]: a slot is out of range, or an ENI has two.
    pub(super) fn of(given: &BTreeMap<u16, String>) -> Result<Self, CompileError> {
        let highest = given.last_key_value().map_or(0, |(slot, _)| *slot);
        let unfit = given.iter().find(|(slot, _)| **slot == 0 || u32::from(**slot) >= SLOTS);
        if let Some((slot, _)) = unfit {
            return Err(CompileError::UnknownSlot { slot: *slot });
        }
        let mut slots = Self::default();
        for slot in 1..=highest {
            let eni = given.get(&slot).cloned();
            match &eni {
                Some(eni) => {
                    if slots.numbers.insert(eni.clone(), slot).is_some() {
                        return Err(CompileError::UnknownSlot { slot });
                    }
                }
                None => slots.freed.push_back(slot),
            }
            slots.names.push(eni);
        }
        Ok(slots)
    }

    /// The ENI's slot.
    pub(super) fn get(&self, eni: &str) -> Option<u16> {
        self.numbers.get(eni).copied()
    }

    /// The slot's ENI.
    pub(super) fn eni(&self, slot: u16) -> Option<&str> {
        self.names.get(usize::from(slot).checked_sub(1)?)?.as_deref()
    }

    /// The slots in use, ascending, with their ENIs.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &str)> {
        (1..)
            .zip(&self.names)
            .filter_map(|(slot, eni)| Some((slot, eni.as_deref()?)))
    }

    /// The highest slot ever used.
    pub(super) fn highest(&self) -> u16 {
        self.names.len() as u16
    }

    /// Assigns a slot to an ENI without one.
    pub(super) fn claim(&mut self, eni: &str) -> Result<u16, CompileError> {
        let slot = if self.names.len() < SLOTS as usize - 1 {
            self.names.push(None);
            self.names.len() as u16
        } else {
            self.freed
                .pop_front()
                .ok_or_else(|| CompileError::SlotsFull { eni: eni.into() })?
        };
        self.names[usize::from(slot) - 1] = Some(eni.into());
        self.numbers.insert(eni.into(), slot);
        Ok(slot)
    }

    /// Frees a slot.
    pub(super) fn release(&mut self, slot: u16) {
        if let Some(eni) = self.names[usize::from(slot) - 1].take() {
            self.numbers.remove(&eni);
            self.freed.push_back(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_slot_comes_back_last() {
        let mut slots = Slots::default();
        for eni in 1..SLOTS {
            assert_eq!(u32::from(slots.claim(&format!("eni-{eni}")).unwrap()), eni);
        }
        assert_eq!(
            slots.claim("eni-x"),
            Err(CompileError::SlotsFull { eni: "eni-x".into() })
        );
        slots.release(7);
        slots.release(5);
        assert_eq!((slots.get("eni-7"), slots.eni(7), slots.eni(0)), (None, None, None));
        assert_eq!(slots.claim("eni-x"), Ok(7));
        assert_eq!(slots.claim("eni-7"), Ok(5));
        assert_eq!((slots.get("eni-7"), slots.eni(7)), (Some(5), Some("eni-x")));
        assert_eq!((slots.iter().count(), slots.highest()), (8191, 8191));
    }
}
