use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    thread,
};

use proptest::prelude::*;

use super::{
    ControlWord, InsertOutcome, State, TableMemory as _,
    gc::{free, freeze, mark, remove, unmark},
    hash::hash_two,
    plain::PlainTable,
};

type Table = PlainTable<2, 1>;

const fn key(number: u64) -> [u64; 2] {
    [0x0a00_0001_0b00_0000 + number, 0x01bb_9c40_0000_0506]
}

fn hash(number: u64) -> u64 {
    hash_two(key(number), |at| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(at as u64 + 1))
}

fn insert(table: &Table, number: u64, value: u64) -> InsertOutcome {
    table.insert(hash(number), &key(number), &[value])
}

fn find(table: &Table, number: u64) -> Option<u32> {
    table.find(hash(number), &key(number))
}

/// Every entry's key and value; fails if a key has two entries.
fn contents(table: &Table) -> BTreeMap<u64, u64> {
    let mut found = BTreeMap::new();
    for (way, _) in table.entries() {
        let number = table.key(way)[0] - key(0)[0];
        let value = table.value(way)[0].load(SeqCst);
        assert_eq!(found.insert(number, value), None, "two entries of key {number}");
    }
    found
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(u64),
    Find(u64),
    Mark(u64),
    Remove(u64),
    Freeze(u64),
    Unmark(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..24_u64;
    let step = prop_oneof![
        4 => key.clone().prop_map(Step::Insert),
        4 => key.clone().prop_map(Step::Find),
        2 => key.clone().prop_map(Step::Mark),
        1 => key.clone().prop_map(Step::Remove),
        1 => key.clone().prop_map(Step::Freeze),
        1 => key.prop_map(Step::Unmark),
    ];
    prop::collection::vec(step, 0..200)
}

/// A key's entry in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    value: u64,
    dying: bool,
}

proptest! {
    /// Run sequentially, the operations behave like a map of at most 16 entries that can be marked.
    #[test]
    fn alone_it_is_a_map(steps in steps()) {
        let table = Table::new(1);
        let mut model: HashMap<u64, Entry> = HashMap::new();
        let way_of = |number: u64| table.entries().find(|(way, _)| table.key(*way) == key(number));
        for (at, step) in steps.into_iter().enumerate() {
            let at = at as u64;
            match step {
                Step::Insert(number) => match (insert(&table, number, at), model.get_mut(&number)) {
                    (InsertOutcome::Exists(way), Some(entry)) => {
                        prop_assert_eq!(table.value(way)[0].load(SeqCst), entry.value);
                        entry.dying = false;
                    }
                    (InsertOutcome::Created(_), None) => {
                        model.insert(number, Entry { value: at, dying: false });
                    }
                    (InsertOutcome::Full, None) => {
                        let taken = (0..table.capacity()).filter(|way| !table.control(*way).is(State::Empty));
                        prop_assert_eq!(taken.count() as u32, table.capacity());
                    }
                    (InsertOutcome::Full, Some(entry)) => {
                        // A full table allows no claim; the final lookup finds the entry.
                        prop_assert!(false, "full, though {:?} is there", entry);
                    }
                    other => prop_assert!(false, "{:?}", other),
                },
                Step::Find(number) => {
                    let found = find(&table, number).map(|way| table.value(way)[0].load(SeqCst));
                    prop_assert_eq!(found, model.get(&number).map(|entry| entry.value));
                    if let Some(entry) = model.get_mut(&number) {
                        entry.dying = false;
                    }
                }
                Step::Mark(number) => if let Some((way, word)) = way_of(number) {
                    let entry = model.get_mut(&number).unwrap();
                    prop_assert_eq!(mark(&table, way, word), !entry.dying);
                    entry.dying = true;
                },
                Step::Unmark(number) => if let Some((way, word)) = way_of(number) {
                    unmark(&table, way, word.with(State::Dying));
                    model.get_mut(&number).unwrap().dying = false;
                },
                Step::Remove(number) | Step::Freeze(number) => if let Some((way, word)) = way_of(number) {
                    let dying = word.with(State::Dying);
                    let frees = matches!(step, Step::Freeze(_));
                    let done = if frees { freeze(&table, way, dying) } else { remove(&table, way, dying) };
                    prop_assert_eq!(done, model[&number].dying);
                    if done {
                        model.remove(&number);
                        if frees {
                            prop_assert_eq!(find(&table, number), None);
                            free(&table, way, dying.with(State::Frozen));
                        }
                        prop_assert!(table.control(way).is(State::Empty));
                    }
                },
            }
            let expected: BTreeMap<_, _> = model.iter().map(|(key, entry)| (*key, entry.value)).collect();
            prop_assert_eq!(contents(&table), expected);
        }
    }
}

#[test]
fn a_version_names_one_occupancy() {
    let table = Table::new(1);
    let mut seen = BTreeSet::new();
    for round in 0..100 {
        let InsertOutcome::Created(way) = insert(&table, 1, round) else {
            panic!("no room")
        };
        let word = table.control(way);
        assert!(seen.insert((way, word.version())), "{way} had {word:?} before");
        assert!(mark(&table, way, word) && remove(&table, way, word.with(State::Dying)));
        assert!(!remove(&table, way, word.with(State::Dying)), "removed twice");
    }
}

/// A lookup finds two keys with one tag, an insert also a third; a fourth (once in 2^120) cannot be inserted. No key has two
/// entries, and no entry is taken for another key's.
#[test]
fn keys_of_one_tag_are_told_apart() {
    let table = Table::new(4);
    for number in 0..3 {
        assert!(matches!(
            table.insert(7, &key(number), &[number]),
            InsertOutcome::Created(_)
        ));
    }
    for number in 0..2 {
        let way = table.find(7, &key(number)).unwrap();
        assert_eq!(table.value(way)[0].load(SeqCst), number);
    }
    let third = table.insert(7, &key(2), &[7]);
    assert!(
        matches!(third, InsertOutcome::Exists(way) if table.key(way) == key(2)),
        "{third:?}"
    );
    assert_eq!(table.find(7, &key(3)), None);
    assert_eq!(table.insert(7, &key(3), &[3]), InsertOutcome::Busy);
    assert_eq!(contents(&table).len(), 3);
    let (way, word) = table.entries().find(|(way, _)| table.key(*way) == key(1)).unwrap();
    assert!(mark(&table, way, word));
    assert_eq!(
        table.find(7, &key(1)),
        Some(way),
        "found and revived behind another of its tag"
    );
    assert!(table.control(way).is(State::Live));
}

#[test]
fn there_is_no_bucket_beyond_the_table() {
    let table = Table::new(3);
    assert_eq!(table.bucket(5), Some(5));
    assert_eq!(table.bucket(6), None);
}

/// Packets on several threads while user space marks, waits, reports and removes: in the end every packet is in a report or
/// in an entry, exactly once. A grace period ends when each thread has begun another packet.
#[test]
fn threads_lose_and_double_no_packet() {
    const THREADS: usize = 3;
    const SWEEPS: u64 = 100;
    const KEYS: u64 = 24;
    let table = Table::new(2);
    let began: [AtomicU64; THREADS] = Default::default();
    let sweeps = AtomicU64::new(0);
    let counted: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let mut reported = vec![0_u64; KEYS as usize];

    let packets = |thread: usize| {
        let mut random = 0x2545_f491_4f6c_dd1d_u64.wrapping_mul(thread as u64 + 1);
        loop {
            let sweep = sweeps.load(SeqCst);
            if sweep == SWEEPS {
                break;
            }
            began[thread].fetch_add(1, SeqCst);
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // Four keys at a time, changed after every second sweep: the earlier ones become idle, are removed, and return.
            let number = (4 * (sweep / 2) + (random >> 20) % 4) % KEYS;
            let kept = match find(&table, number) {
                Some(way) => {
                    table.value(way)[0].fetch_add(1, SeqCst);
                    true
                }
                None => match insert(&table, number, 1) {
                    InsertOutcome::Created(_) => true,
                    InsertOutcome::Exists(way) => {
                        table.value(way)[0].fetch_add(1, SeqCst);
                        true
                    }
                    InsertOutcome::Full | InsertOutcome::Busy => false,
                },
            };
            if kept {
                counted[number as usize].fetch_add(1, SeqCst);
            }
        }
        // The thread has ended: no grace period waits for it.
        began[thread].store(u64::MAX, SeqCst);
    };
    let grace = || {
        let before: Vec<u64> = began.iter().map(|began| began.load(SeqCst)).collect();
        for (began, before) in began.iter().zip(before) {
            while before != u64::MAX && began.load(SeqCst) == before {
                thread::yield_now();
            }
        }
    };
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let packets = &packets;
            scope.spawn(move || packets(thread));
        }
        for sweep in 1..=SWEEPS {
            let marked: Vec<(u32, ControlWord)> = (0..table.capacity())
                .map(|way| (way, table.control(way)))
                .filter(|(way, word)| (u64::from(*way) + sweep).is_multiple_of(3) && mark(&table, *way, *word))
                .map(|(way, word)| (way, word.with(State::Dying)))
                .collect();
            grace();
            for (way, word) in marked {
                if freeze(&table, way, word) {
                    let number = table.key(way)[0] - key(0)[0];
                    reported[number as usize] += table.value(way)[0].load(SeqCst);
                    free(&table, way, word.with(State::Frozen));
                }
            }
            sweeps.store(sweep, SeqCst);
        }
    });
    assert!(reported.iter().any(|sum| *sum > 0), "no entry was removed under way");
    for (number, value) in contents(&table) {
        reported[number as usize] += value;
    }
    let counted: Vec<u64> = counted.iter().map(|count| count.load(SeqCst)).collect();
    assert_eq!(reported, counted);
    let left = (0..table.capacity()).filter(|way| {
        !matches!(
            table.control(*way).state(),
            Some(State::Empty | State::Live | State::Dying)
        )
    });
    assert_eq!(left.collect::<Vec<_>>(), Vec::<u32>::new(), "ways that nobody owns");
}
