//! The words of `links` and `members`: two open-addressed tables.

use std::collections::{BTreeSet, HashMap, VecDeque};

use taskgate_ebpf::abi::Address;
use taskgate_ebpf::abi::image::{
    ADDRESS_ROWS, CONTROL_BANK, EMPTY, IndexWord, LINK_ROWS, LINKS, MEMBER_BANK, MEMBERS, MemberBanks, PROBES, Probe,
    Region, TOMBSTONE, probe,
};
use taskgate_tables::image::ImageView;

use super::CompileError;

/// One table: each key's word, and its index. An index belongs to its key until the key is removed.
#[derive(Debug)]
pub(super) struct Table {
    name: &'static str,
    /// Formats a key for messages.
    show: fn(u128) -> String,
    /// Its words in each of its banks.
    words: Region,
    /// The first of its banks.
    first: u32,
    /// Selects the bank in which a key is searched.
    bank_of: BankOf,
    /// The number of rows in each part.
    rows: u32,
    /// The rows of each bank or pair of banks.
    parts: Vec<Part>,
    entries: HashMap<u128, Entry>,
    /// Positions that may have tombstones.
    tombstones: BTreeSet<u32>,
}

/// The rows of one bank, or of a pair of them.
#[derive(Clone, Debug, Default)]
struct Part {
    /// Indexes that were used before and are free.
    free: Vec<u32>,
    /// Freed indexes that packets may still hold, each with the change whose grace period ends that.
    resting: VecDeque<(u64, u32)>,
    /// The number of indexes ever used: the first ones of the part.
    used: u32,
}

/// The bank of a key.
#[derive(Clone, Copy, Debug)]
enum BankOf {
    /// The table has a single bank.
    First,
    /// One of the banks of `members`, by the key.
    Members(MemberBanks),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The position of the key's word, counted over all banks.
    position: u32,
    index: u32,
}

/// A word that is about to be written.
#[derive(Clone, Copy, Debug)]
#[must_use = "the key is not found before its word is published"]
pub(super) struct Claim {
    key: u128,
    entry: Entry,
    /// The word that was there before.
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
        let rows = LINK_ROWS.count;
        let place = (CONTROL_BANK, BankOf::First);
        Self::new("links", |key| format!("link {key}"), LINKS, place, rows)
    }

    /// The empty table of addresses, in this number of banks.
    pub(super) fn members(banks: u32) -> Self {
        let place = (MEMBER_BANK, BankOf::Members(MemberBanks::of(banks)));
        Self::new("members", show_address, MEMBERS, place, ADDRESS_ROWS.count)
    }

    fn new(
        name: &'static str,
        show: fn(u128) -> String,
        words: Region,
        (first, bank_of): (u32, BankOf),
        rows: u32,
    ) -> Self {
        let parts = match bank_of {
            BankOf::First => 1,
            BankOf::Members(banks) => banks.count() / 2,
        };
        Self {
            name,
            show,
            words,
            first,
            bank_of,
            rows,
            parts: vec![Part::default(); parts as usize],
            entries: HashMap::new(),
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

    /// The indexes that were ever used: the first index of each part, and the number from there.
    pub(super) fn used(&self) -> impl Iterator<Item = (u32, u32)> {
        let firsts = (0..).step_by(self.rows as usize);
        firsts.zip(&self.parts).map(|(first, part)| (first, part.used))
    }

    /// The part with a key's row.
    fn part_of(&self, key: u128) -> u32 {
        match self.bank_of {
            BankOf::First => 0,
            BankOf::Members(banks) => (banks.rows_of(probe_of(key), 0) - MEMBER_BANK) / 2,
        }
    }

    /// The positions on the search path of `key`, in order: all in one bank.
    fn path(&self, key: u128) -> impl Iterator<Item = u32> + use<> {
        let probe = probe_of(key);
        let bank = match self.bank_of {
            BankOf::First => 0,
            BankOf::Members(banks) => banks.words_of(probe) - MEMBER_BANK,
        };
        let count = self.words.count;
        (0..PROBES).map(move |step| bank * count + (probe.position(step) & (count - 1)))
    }

    fn bank(&self, position: u32) -> u32 {
        self.first + position / self.words.count
    }

    fn word(&self, words: ImageView<'_>, position: u32) -> u64 {
        words.get(self.bank(position), self.words.at(position))
    }

    fn put(&self, words: ImageView<'_>, position: u32, word: u64) {
        words.publish(self.bank(position), self.words.at(position), word);
    }

    /// Finds a position and an index for a new key whose row packets do not read yet: a row of the next generation. Write
    /// that row, then call [`Table::publish`].
    pub(super) fn claim(&mut self, words: ImageView<'_>, key: u128) -> Result<Claim, CompileError> {
        self.claim_index(words, key, true)
    }

    /// [`Table::claim`] for a row of the current generation: takes only an index that no packet can hold for another key.
    pub(super) fn claim_live(&mut self, words: ImageView<'_>, key: u128) -> Result<Claim, CompileError> {
        self.claim_index(words, key, false)
    }

    fn claim_index(&mut self, words: ImageView<'_>, key: u128, resting: bool) -> Result<Claim, CompileError> {
        let (position, before) = self
            .path(key)
            .map(|position| (position, self.word(words, position)))
            .find(|(_, word)| matches!(*word, EMPTY | TOMBSTONE))
            .ok_or_else(|| CompileError::ProbesExhausted {
                table: self.name,
                key: (self.show)(key),
            })?;
        let number = self.part_of(key);
        let part = &mut self.parts[number as usize];
        let index = match part.free.pop() {
            Some(index) => index,
            None if part.used < self.rows => {
                part.used += 1;
                number * self.rows + part.used - 1
            }
            None if resting && !part.resting.is_empty() => part.resting.pop_front().map_or(0, |(_, index)| index),
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

    /// Takes back the last claim, published or not: the table is as before. Packets may hold its index until `change` is
    /// settled.
    pub(super) fn rollback(&mut self, words: ImageView<'_>, claim: Claim, change: u64) {
        self.put(words, claim.entry.position, claim.before);
        self.entries.remove(&claim.key);
        self.rest(claim.entry.index, change);
    }

    /// Retires an index that packets may hold until `change` is settled.
    fn rest(&mut self, index: u32, change: u64) {
        let part = &mut self.parts[(index / self.rows) as usize];
        part.resting.push_back((change, index));
    }

    /// Removes a key whose row is absent, and returns its index. Packets may hold the index until `change` is settled.
    pub(super) fn remove(&mut self, words: ImageView<'_>, key: u128, change: u64) -> Option<u32> {
        let entry = self.entries.remove(&key)?;
        self.put(words, entry.position, TOMBSTONE);
        self.tombstones.insert(entry.position);
        self.rest(entry.index, change);
        Some(entry.index)
    }

    /// Frees the indexes that were retired up to this change.
    pub(super) fn settle_to(&mut self, changes: u64) {
        for Part { free, resting, .. } in &mut self.parts {
            while let Some((_, index)) = resting.pop_front_if(|(change, _)| *change <= changes) {
                free.push(index);
            }
        }
    }

    /// Prunes if there are so many tombstones that searches for absent keys become slow.
    pub(super) fn prune_if_many(&mut self, words: ImageView<'_>) {
        const MANY: usize = 1024;
        if self.tombstones.len() > MANY.max(self.entries.len() / 16) {
            self.prune(words);
        }
    }

    /// Clears tombstones that are on no search path of a present key, so that searches for absent keys end early.
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

/// An address in its usual notation.
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
        Table::new("small", |key| key.to_string(), WORDS, (CONTROL_BANK, BankOf::First), 24)
    }

    /// The same over the banks of `members`.
    fn small_in_banks(banks: u32) -> Table {
        let words = Region { count: 32, ..MEMBERS };
        let place = (MEMBER_BANK, BankOf::Members(MemberBanks::of(banks)));
        Table::new("small", |key| key.to_string(), words, place, 24)
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
        fn every_key_is_found_and_no_other(steps in proptest::collection::vec(step(), 0..200), in_banks in any::<bool>()) {
            let memory = host_image(7);
            let words = ImageView(&memory);
            let mut table = if in_banks { small_in_banks(4) } else { small() };
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
                            table.rollback(words, claim, 1);
                            table.settle_to(1);
                        }
                    }
                    Step::Add(_) | Step::AddAndTakeBack(_) => {}
                    Step::Remove(key) => {
                        prop_assert_eq!(table.remove(words, key, 1), model.remove(&key));
                        table.settle_to(1);
                    }
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
                table.remove(words, key, 1);
            }
            table.prune(words);
            prop_assert!(memory.iter().all(|word| word.load(std::sync::atomic::Ordering::Relaxed) == EMPTY));
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
        assert_eq!(
            errors[0],
            "cannot add 24 to `small`: all 24 rows are taken, those included that the configuration in force leaves; \
             restart taskgate, which takes its gates and connections over with a new image"
        );

        let mut table = Table::new(
            "small",
            |key| key.to_string(),
            Region { count: 4, ..MEMBERS },
            (CONTROL_BANK, BankOf::First),
            24,
        );
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
