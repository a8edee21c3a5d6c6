//! The words of `links` and `members`: two open-addressed tables.

use std::collections::{BTreeSet, HashMap};

use taskgate_ebpf::abi::Address;
use taskgate_ebpf::abi::image::{
    ADDRESS_ROWS, CONTROL_BANK, EMPTY, IndexWord, LINK_ROWS, LINKS, MEMBERS, PROBES, Probe, Region, TOMBSTONE, probe,
};
use taskgate_tables::image::ImageView;

use super::CompileError;

/// One table: each key's word, and the index that it holds. An index stays its key's until the key is removed.
#[derive(Debug)]
pub(super) struct Table {
    name: &'static str,
    /// How a message writes a key.
    show: fn(u128) -> String,
    /// Its words in the control bank.
    words: Region,
    /// How many rows there are.
    rows: u32,
    entries: HashMap<u128, Entry>,
    /// Indexes that were used and are free.
    free: Vec<u32>,
    /// One more than the highest index ever used.
    used: u32,
    /// Positions that may have tombstones.
    tombstones: BTreeSet<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    position: u32,
    index: u32,
}

/// A word that is about to be written.
#[derive(Clone, Copy, Debug)]
#[must_use = "the key is not found before its word is published"]
pub(super) struct Claim {
    key: u128,
    entry: Entry,
    /// The word in its place.
    before: u64,
}

impl Claim {
    /// The index of the key's row.
    pub(super) fn index(self) -> u32 {
        self.entry.index
    }
}

impl Table {
    /// The empty table of links.
    pub(super) fn links() -> Self {
        Self::new("links", |key| format!("link {key}"), LINKS, LINK_ROWS.count)
    }

    /// The empty table of addresses.
    pub(super) fn members() -> Self {
        Self::new("members", show_address, MEMBERS, ADDRESS_ROWS.count)
    }

    fn new(name: &'static str, show: fn(u128) -> String, words: Region, rows: u32) -> Self {
        Self {
            name,
            show,
            words,
            rows,
            entries: HashMap::new(),
            free: Vec::new(),
            used: 0,
            tombstones: BTreeSet::new(),
        }
    }

    /// The index of a key's row.
    pub(super) fn index(&self, key: u128) -> Option<u32> {
        self.entries.get(&key).map(|entry| entry.index)
    }

    /// The keys and the indexes of their rows.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, u32)> {
        self.entries.iter().map(|(key, entry)| (*key, entry.index))
    }

    /// One more than the highest index ever used.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// The offsets of the words that a search for `key` looks at, in its order.
    fn path(&self, key: u128) -> impl Iterator<Item = u32> + use<> {
        let probe = probe_of(key);
        let mask = self.words.count - 1;
        (0..PROBES).map(move |step| probe.position(step) & mask)
    }

    fn word(&self, words: ImageView<'_>, position: u32) -> u64 {
        words.get(CONTROL_BANK, self.words.at(position))
    }

    fn put(&self, words: ImageView<'_>, position: u32, word: u64) {
        words.publish(CONTROL_BANK, self.words.at(position), word);
    }

    /// Finds a place and an index for a key that has none. Its row is to be written next, then [`Table::publish`].
    pub(super) fn claim(&mut self, words: ImageView<'_>, key: u128) -> Result<Claim, CompileError> {
        let (position, before) = self
            .path(key)
            .map(|position| (position, self.word(words, position)))
            .find(|(_, word)| matches!(*word, EMPTY | TOMBSTONE))
            .ok_or_else(|| CompileError::ProbesExhausted {
                table: self.name,
                key: (self.show)(key),
            })?;
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.used < self.rows => {
                self.used += 1;
                self.used - 1
            }
            None => {
                return Err(CompileError::RowsFull {
                    table: self.name,
                    key: (self.show)(key),
                    rows: self.rows,
                });
            }
        };
        let entry = Entry { position, index };
        self.entries.insert(key, entry);
        Ok(Claim { key, entry, before })
    }

    /// Writes the word of a claim.
    pub(super) fn publish(&self, words: ImageView<'_>, claim: Claim) {
        let word = IndexWord {
            tag: probe_of(claim.key).tag,
            index: claim.entry.index,
        };
        self.put(words, claim.entry.position, word.to_word());
    }

    /// Takes the last claim back, published or not: the table is what it was before.
    pub(super) fn rollback(&mut self, words: ImageView<'_>, claim: Claim) {
        self.put(words, claim.entry.position, claim.before);
        self.entries.remove(&claim.key);
        self.free.push(claim.entry.index);
    }

    /// Removes a key whose row is absent. Returns its index.
    pub(super) fn remove(&mut self, words: ImageView<'_>, key: u128) -> Option<u32> {
        let entry = self.entries.remove(&key)?;
        self.put(words, entry.position, TOMBSTONE);
        self.tombstones.insert(entry.position);
        self.free.push(entry.index);
        Some(entry.index)
    }

    /// Empties the tombstones that no search for a key of the table passes, so that absent keys are found absent soon.
    pub(super) fn prune(&mut self, words: ImageView<'_>) {
        let mut tombstones = std::mem::take(&mut self.tombstones);
        tombstones.retain(|&position| self.word(words, position) == TOMBSTONE);
        if tombstones.is_empty() {
            return;
        }
        for (&key, entry) in &self.entries {
            for position in self.path(key).take_while(|position| *position != entry.position) {
                if tombstones.remove(&position) {
                    self.tombstones.insert(position);
                }
            }
        }
        for position in tombstones {
            self.put(words, position, EMPTY);
        }
    }
}

/// The search for a key: an address, or a link's number.
fn probe_of(key: u128) -> Probe {
    probe(Address::from_bits(key).halves())
}

/// An address as users write it.
fn show_address(key: u128) -> String {
    std::net::Ipv6Addr::from(key).to_canonical().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use taskgate_tables::image::host_image;

    const WORDS: Region = Region { count: 32, ..LINKS };

    /// A table so small that every search meets other keys.
    fn small() -> Table {
        Table::new("small", |key| key.to_string(), WORDS, 24)
    }

    /// The indexes that a search for `key` finds, as the data path searches.
    fn found(table: &Table, words: ImageView<'_>, key: u128) -> Vec<u32> {
        table
            .path(key)
            .map(|position| table.word(words, position))
            .take_while(|word| *word != EMPTY)
            .map(IndexWord::from_word)
            .filter(|word| word.tag == probe_of(key).tag)
            .map(|word| word.index)
            .collect()
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Add(u128),
        AddAndTakeBack(u128),
        Remove(u128),
        Prune,
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = || 1_u128..40;
        prop_oneof![
            4 => key().prop_map(Step::Add),
            1 => key().prop_map(Step::AddAndTakeBack),
            3 => key().prop_map(Step::Remove),
            1 => Just(Step::Prune),
        ]
    }

    proptest! {
        #[test]
        fn every_key_is_found_and_no_other(steps in proptest::collection::vec(step(), 0..200)) {
            let memory = host_image(1);
            let words = ImageView(&memory);
            let mut table = small();
            let mut model: HashMap<u128, u32> = HashMap::new();
            for step in steps {
                match step {
                    Step::Add(key) | Step::AddAndTakeBack(key) if !model.contains_key(&key) => {
                        let Ok(claim) = table.claim(words, key) else { continue };
                        prop_assert_eq!(found(&table, words, key), Vec::<u32>::new());
                        table.publish(words, claim);
                        if matches!(step, Step::Add(_)) {
                            model.insert(key, claim.index());
                        } else {
                            table.rollback(words, claim);
                        }
                    }
                    Step::Add(_) | Step::AddAndTakeBack(_) => {}
                    Step::Remove(key) => prop_assert_eq!(table.remove(words, key), model.remove(&key)),
                    Step::Prune => table.prune(words),
                }
                for key in 1..40 {
                    let expected: Vec<u32> = model.get(&key).copied().into_iter().collect();
                    prop_assert_eq!(found(&table, words, key), expected);
                }
                let mut indexes: Vec<u32> = table.iter().map(|(_, index)| index).collect();
                indexes.sort_unstable();
                indexes.dedup();
                prop_assert_eq!(indexes.len(), model.len());
            }
            for key in 1..40 {
                table.remove(words, key);
            }
            table.prune(words);
            prop_assert!((0..WORDS.count).all(|position| table.word(words, position) == EMPTY));
        }
    }

    #[test]
    fn a_table_runs_out_of_rows_and_of_words() {
        let memory = host_image(1);
        let words = ImageView(&memory);
        let mut table = small();
        let errors: Vec<String> = (0..30)
            .filter_map(|key| {
                let claim = table.claim(words, key);
                match claim {
                    Ok(claim) => {
                        table.publish(words, claim);
                        None
                    }
                    Err(error) => Some(error.to_string()),
                }
            })
            .collect();
        assert_eq!(errors.len(), 6);
        assert_eq!(errors[0], "cannot add 24 to `small`: all 24 rows are taken");

        let mut table = Table::new("small", |key| key.to_string(), Region { count: 4, ..MEMBERS }, 24);
        let errors: Vec<String> = (0..5)
            .filter_map(|key| table.claim(words, key).map(|claim| table.publish(words, claim)).err())
            .map(|error| error.to_string())
            .collect();
        assert_eq!(
            errors,
            ["cannot add 4 to `small`: all 24 words that it may stand in are taken"]
        );
    }

    #[test]
    fn a_message_names_an_address_as_users_write_it() {
        assert_eq!(show_address(0xffff_0a00_0001), "10.0.0.1");
        assert_eq!(show_address(1), "::1");
    }
}
