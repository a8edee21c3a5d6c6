//! Configuration texts, mutated as by a typing error, a broken tool, or an attacker.

use crate::random::Random;

/// Numbers at the limits of valid ranges, and some that are not valid numbers.
const NUMBERS: [&str; 14] = [
    "0",
    "1",
    "-1",
    "00",
    "32",
    "33",
    "129",
    "65535",
    "65536",
    "4294967296",
    "99999999999999999999",
    "1.5",
    "0x1f",
    "1e9",
];
/// Words and signs that mean something to the reader.
const WORDS: [&str; 46] = [
    "any",
    "tcp",
    "udp",
    "icmp",
    "icmpv6",
    "all",
    "esp",
    "group:web",
    "group:nobody",
    "prefix-list:none",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "::/0",
    "10.0.1.10",
    "::ffff:10.0.0.1",
    "ff02::1",
    "fe80::1",
    "ingress",
    "egress",
    "groups",
    "tasks",
    "settings",
    "members",
    "ports",
    "from",
    "to",
    "type",
    "null",
    "~",
    "true",
    "\"\"",
    "''",
    "[]",
    "{}",
    "&a",
    "*a",
    "<<",
    "!!binary",
    "!x",
    "|",
    "%YAML 9.9",
    "---",
    "...",
    "\u{feff}",
    "\u{0}",
    "ß\u{202e}",
];
const SIGNS: &str = "{}[]:,-#&*!|>'\"%@`?\\\t\n \r\u{7f}\u{85}";

/// A text with a few changes.
pub fn mutated(text: &str, random: &mut Random) -> String {
    let mut text = text.to_owned();
    for _ in 0..=random.index(3) {
        change(&mut text, random);
    }
    text
}

fn change(text: &mut String, random: &mut Random) {
    let at = place(text, random);
    match random.below(11) {
        0 => {
            let end = floor(text, at + 1 + random.index(20));
            text.replace_range(at..end, "");
        }
        1 => text.insert_str(at, random.pick::<&str>(&WORDS)),
        2 => {
            let signs: Vec<char> = SIGNS.chars().collect();
            text.insert(at, *random.pick(&signs));
        }
        3 => {
            let word = random.pick::<&str>(&WORDS);
            replace_run(text, random, char::is_alphanumeric, word);
        }
        4 | 5 => {
            let number = *random.pick(&NUMBERS);
            replace_run(text, random, |letter| letter.is_ascii_digit(), number);
        }
        6 => {
            let other = word_of(text, random);
            replace_run(text, random, char::is_alphanumeric, &other);
        }
        7 => text.truncate(at),
        kind => {
            let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
            let (one, other) = (random.index(lines.len()), random.index(lines.len()));
            match kind {
                8 => lines.swap(one, other),
                9 => lines.insert(one, lines[other]),
                _ => drop(lines.remove(one)),
            }
            *text = lines.concat();
        }
    }
    if text.is_empty() {
        text.push('\n');
    }
}

/// A place between two letters.
fn place(text: &str, random: &mut Random) -> usize {
    floor(text, random.index(text.len() + 1))
}

fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or_default()
}

/// Puts another text in the place of a run of letters of a kind.
fn replace_run(text: &mut String, random: &mut Random, is_part: impl Fn(char) -> bool, by: &str) {
    let runs: Vec<(usize, usize)> = text
        .split(|letter| !is_part(letter))
        .filter(|run| !run.is_empty())
        .map(|run| {
            let start = run.as_ptr().addr() - text.as_ptr().addr();
            (start, start + run.len())
        })
        .collect();
    if !runs.is_empty() {
        let (start, end) = *random.pick(&runs);
        text.replace_range(start..end, by);
    }
}

fn word_of(text: &str, random: &mut Random) -> String {
    let words: Vec<&str> = text
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    if words.is_empty() {
        return String::from("x");
    }
    (*random.pick(&words)).to_owned()
}
