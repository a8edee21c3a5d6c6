//! Axes: sorted intervals of keys, each with the row of the rules that cover it.

use std::collections::HashMap;

use taskgate_ebpf::abi::{Address, image::AxisEntry};

/// The keys from `first` to `last`, both included, are covered by the rule with this bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The first key.
    pub(super) first: u128,
    /// The last key.
    pub(super) last: u128,
    /// The rule's bit.
    pub(super) bit: u32,
}

/// The rows of a policy: bitmaps of one length, each stored once and shared by all axes.
#[derive(Debug)]
pub(super) struct Rows {
    bitmap_words: usize,
    numbers: HashMap<Box<[u64]>, u32>,
    /// The rows one after the other, each a summary word and a bitmap.
    words: Vec<u64>,
}

impl Rows {
    /// An empty set of rows, with bitmaps for this many rules.
    pub(super) fn new(rules: usize) -> Self {
        Self {
            bitmap_words: rules.div_ceil(64).max(1),
            numbers: HashMap::new(),
            words: Vec::new(),
        }
    }

    /// Words in a bitmap: 1 or more.
    pub(super) fn bitmap_words(&self) -> usize {
        self.bitmap_words
    }

    /// Bytes in a row, its summary word included.
    pub(super) fn row_bytes(&self) -> u32 {
        (self.bitmap_words as u32 + 1) * 8
    }

    /// The rows in the form that a policy stores.
    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    /// The number of the row with this bitmap.
    fn intern(&mut self, bitmap: &[u64]) -> u32 {
        if let Some(&number) = self.numbers.get(bitmap) {
            return number;
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(bitmap.into(), number);
        let summary = bitmap
            .iter()
            .enumerate()
            .fold(0, |summary, (at, word)| summary | u64::from(*word != 0) << at);
        self.words.push(summary);
        self.words.extend_from_slice(bitmap);
        number
    }
}

/// One axis: the first key of each interval, ascending from 0, and the number of its row. Neighbours differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    entries: Vec<(u128, u32)>,
}

impl Axis {
    /// The intervals between the edges of `spans`. No span's last key is above `end`, the last key of the axis.
    pub(super) fn new(spans: &[Span], end: u128, rows: &mut Rows) -> Self {
        // Each edge adds or removes one cover of one bit; a bit is set while its count is not 0, so spans of one rule
        // may overlap.
        let mut edges: Vec<(u128, u32, bool)> = Vec::with_capacity(spans.len() * 2);
        for span in spans {
            edges.push((span.first, span.bit, true));
            if span.last < end {
                edges.push((span.last + 1, span.bit, false));
            }
        }
        edges.sort_unstable_by_key(|edge| edge.0);

        let mut counts = vec![0_u32; rows.bitmap_words * 64];
        let mut bitmap = vec![0_u64; rows.bitmap_words];
        let mut entries = Vec::new();
        let mut key = 0;
        let mut rest = edges.as_slice();
        loop {
            let here = rest.partition_point(|edge| edge.0 == key);
            // Additions before removals, otherwise a count would drop below 0 where two spans of one rule are adjacent.
            for adds in [true, false] {
                for &(_, bit, _) in rest[..here].iter().filter(|edge| edge.2 == adds) {
                    let count = &mut counts[bit as usize];
                    if adds {
                        *count += 1;
                    } else {
                        *count -= 1;
                    }
                    let mask = 1 << (bit % 64);
                    let word = &mut bitmap[bit as usize / 64];
                    *word = if *count == 0 { *word & !mask } else { *word | mask };
                }
            }
            let row = rows.intern(&bitmap);
            if entries.last().is_none_or(|&(_, last)| last != row) {
                entries.push((key, row));
            }
            rest = &rest[here..];
            match rest.first() {
                Some(edge) => key = edge.0,
                None => break,
            }
        }
        Self { entries }
    }

    /// The search's depth: the axis has 2^depth entries.
    pub(super) fn depth(&self) -> u32 {
        self.entries.len().next_power_of_two().trailing_zeros()
    }

    /// The entries, the last one repeated up to 2^depth.
    fn padded(&self) -> impl Iterator<Item = (u128, u32)> {
        let last = *self.entries.last().unwrap_or(&(0, 0));
        (0..1_usize << self.depth()).map(move |at| *self.entries.get(at).unwrap_or(&last))
    }

    /// Appends the axis to `out` with keys of 32 bits; `row` gives the offset of a row by its number.
    pub(super) fn write_narrow(&self, out: &mut Vec<u64>, row: impl Fn(u32) -> u32) {
        out.extend(self.padded().map(|(key, number)| {
            AxisEntry {
                key: key as u32,
                row: row(number),
            }
            .to_word()
        }));
    }

    /// Appends the axis to `out` with keys of 128 bits.
    pub(super) fn write_wide(&self, out: &mut Vec<u64>, row: impl Fn(u32) -> u32) {
        out.extend(self.padded().flat_map(|(key, _)| Address::from_bits(key).halves()));
        out.extend(self.padded().map(|(_, number)| u64::from(row(number))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(list: &[(u128, u128, u32)]) -> Vec<Span> {
        list.iter()
            .map(|&(first, last, bit)| Span { first, last, bit })
            .collect()
    }

    /// The axis over 0..=`end` as (first key, bitmap of up to 64 rules).
    fn swept(list: &[(u128, u128, u32)], end: u128) -> Vec<(u128, u64)> {
        let mut rows = Rows::new(64);
        let axis = Axis::new(&spans(list), end, &mut rows);
        axis.entries
            .iter()
            .map(|&(key, row)| (key, rows.words[row as usize * 2 + 1]))
            .collect()
    }

    #[test]
    fn intervals_split_at_every_edge() {
        assert_eq!(swept(&[], 65535), [(0, 0)]);
        assert_eq!(swept(&[(0, 65535, 3)], 65535), [(0, 8)]);
        assert_eq!(swept(&[(0, 0, 0)], 65535), [(0, 1), (1, 0)]);
        assert_eq!(swept(&[(65535, 65535, 0)], 65535), [(0, 0), (65535, 1)]);
        assert_eq!(
            swept(&[(10, 20, 0), (15, 30, 1)], 65535),
            [(0, 0), (10, 1), (15, 3), (21, 2), (31, 0)]
        );
        assert_eq!(
            swept(&[(0, u128::MAX, 0), (u128::MAX, u128::MAX, 1)], u128::MAX),
            [(0, 1), (u128::MAX, 3)]
        );
    }

    #[test]
    fn neighbours_that_cover_the_same_merge() {
        // One rule twice, side by side and nested.
        assert_eq!(swept(&[(10, 19, 0), (20, 29, 0)], 255), [(0, 0), (10, 1), (30, 0)]);
        assert_eq!(swept(&[(10, 40, 0), (20, 29, 0)], 255), [(0, 0), (10, 1), (41, 0)]);
        assert_eq!(
            swept(&[(10, 40, 0), (20, 29, 0), (10, 10, 0)], 255),
            [(0, 0), (10, 1), (41, 0)]
        );
    }

    #[test]
    fn equal_rows_are_stored_once_over_all_axes() {
        let mut rows = Rows::new(65);
        let one = Axis::new(&spans(&[(1, 1, 0), (3, 3, 0), (5, 5, 64)]), 255, &mut rows);
        let two = Axis::new(&spans(&[(7, 9, 64)]), 65535, &mut rows);
        assert_eq!(one.entries, [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0), (5, 2), (6, 0)]);
        assert_eq!(two.entries, [(0, 0), (7, 2), (10, 0)]);
        // Summary and two words of bitmap each: nothing, rule 0, rule 64.
        assert_eq!(rows.words(), [0, 0, 0, 1, 1, 0, 2, 0, 1]);
        assert_eq!((rows.bitmap_words(), rows.row_bytes()), (2, 24));
    }

    #[test]
    fn written_axes_repeat_the_last_entry() {
        let mut rows = Rows::new(1);
        let axis = Axis::new(&spans(&[(5, 9, 0)]), u128::MAX, &mut rows);
        assert_eq!(axis.depth(), 2);
        let mut out = Vec::new();
        axis.write_narrow(&mut out, |row| 64 + row * 16);
        assert_eq!(
            out,
            [(0, 64), (5, 80), (10, 64), (10, 64)].map(|(key, row)| key << 32 | row)
        );
        out.clear();
        axis.write_wide(&mut out, |row| 64 + row * 16);
        assert_eq!(out, [0, 0, 0, 5, 0, 10, 0, 10, 64, 80, 64, 64]);
        assert_eq!(Axis::new(&[], 255, &mut rows).depth(), 0);
    }
}
