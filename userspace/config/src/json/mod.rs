//! JSON, parsed in place: a first pass over the whole text checks the syntax and finds the top-level keys; then values are
//! parsed one by one, so that at most one item of a large list is in memory as a tree.

mod scalar;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use super::bounds;
use super::node::{self, Entry, Node, Value};
use super::problem::{Diagnostics, Location};
use scalar::{is_number, unescape};

/// Why [`outline`] failed.
#[derive(Debug)]
pub(super) enum Unread {
    /// The text is not JSON; it may be YAML.
    NotJson,
    /// The text exceeds a limit: place, message and remedy.
    Beyond(Location, String, &'static str),
    /// A second value begins here.
    Second(Location),
}

/// The top level of a valid JSON text.
#[derive(Debug)]
pub(super) struct Outline<'t> {
    /// The whole value.
    pub(super) root: Text<'t>,
    /// The keys with their places and values, if the value is an object.
    pub(super) parts: Option<Vec<(Cow<'t, str>, Location, Text<'t>)>>,
    /// The total number of values.
    pub(super) values: usize,
}

/// A value that is not parsed yet, in a text that is known to be valid JSON.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'t>(Cursor<'t>);

/// Checks a whole text and finds its top-level keys. The text may have at most `values` values.
pub(super) fn outline(file: Location, text: &str, values: usize) -> Result<Outline<'_>, Unread> {
    let mut skim = Skim {
        cursor: Cursor {
            text,
            file: file.file,
            at: 0,
            line: 1,
            line_start: 0,
            continued: 0,
        },
        values: 0,
        most: values,
    };
    skim.cursor.skip_space();
    let root = skim.cursor;
    let mut parts = None;
    if root.peek() == Some(b'{') {
        let mut found = Vec::new();
        skim.begin(&root)?;
        skim.cursor.at += 1;
        let mut first = true;
        while skim.cursor.next_item(&mut first, b'}').ok_or(Unread::NotJson)? {
            let location = skim.cursor.location();
            let key = skim.cursor.key().ok_or(Unread::NotJson)?;
            if found.len() == bounds::TOP_KEYS {
                let message = format!("the object has more than {} keys", bounds::TOP_KEYS);
                return Err(Unread::Beyond(location, message, "no configuration has so many"));
            }
            found.push((key, location, Text(skim.cursor)));
            skim.value(1)?;
        }
        parts = Some(found);
    } else {
        skim.value(0)?;
    }
    skim.cursor.skip_space();
    match skim.cursor.peek() {
        None => Ok(Outline {
            root: Text(root),
            parts,
            values: skim.values,
        }),
        Some(b'{' | b'[') => Err(Unread::Second(skim.cursor.location())),
        Some(_) => Err(Unread::NotJson),
    }
}

impl<'t> Text<'t> {
    /// Whether it is `null`.
    pub(super) fn is_null(self) -> bool {
        self.0.peek() == Some(b'n')
    }

    /// Whether it is a list.
    pub(super) fn is_list(self) -> bool {
        self.0.peek() == Some(b'[')
    }

    /// The place of the value.
    pub(super) fn location(self) -> Location {
        self.0.location()
    }

    /// Parses the whole value.
    pub(super) fn node(mut self, report: &mut Diagnostics) -> Node<'t> {
        let location = self.location();
        self.0.node(report).unwrap_or(Node {
            location,
            value: Value::Null,
        })
    }

    /// Parses the items of a list one by one.
    pub(super) fn for_each(mut self, report: &mut Diagnostics, mut each: impl FnMut(&Node<'t>, &mut Diagnostics)) {
        self.0.at += 1;
        let mut first = true;
        while let Some(true) = self.0.next_item(&mut first, b']') {
            let Some(node) = self.0.node(report) else { return };
            each(&node, report);
        }
    }
}

/// The first pass over a text, which builds no tree.
struct Skim<'t> {
    cursor: Cursor<'t>,
    values: usize,
    most: usize,
}

impl Skim<'_> {
    /// Counts a value.
    fn begin(&mut self, at: &Cursor<'_>) -> Result<(), Unread> {
        self.values += 1;
        if self.values > self.most {
            let message = String::from("the configuration has more values than taskgate reads");
            let hint = "print less of it: `--filters Name=vpc-id,Values=…`";
            return Err(Unread::Beyond(at.location(), message, hint));
        }
        Ok(())
    }

    /// Skips one value at this depth.
    fn value(&mut self, depth: usize) -> Result<(), Unread> {
        let begin = self.cursor;
        self.begin(&begin)?;
        let open = begin.peek();
        let (Some(b'{' | b'['), at) = (open, &mut self.cursor.at) else {
            return self.cursor.pass_scalar().ok_or(Unread::NotJson);
        };
        if depth >= bounds::DEPTH {
            let message = format!("lists and objects are nested more than {} deep", bounds::DEPTH);
            return Err(Unread::Beyond(begin.location(), message, "no configuration is"));
        }
        *at += 1;
        let close = if open == Some(b'{') { b'}' } else { b']' };
        let mut first = true;
        while self.cursor.next_item(&mut first, close).ok_or(Unread::NotJson)? {
            if close == b'}' {
                self.cursor.pass_key().ok_or(Unread::NotJson)?;
            }
            self.value(depth + 1)?;
        }
        Ok(())
    }
}

/// The current place in the text. `None` from any step: the text is not JSON.
#[derive(Clone, Copy, Debug)]
struct Cursor<'t> {
    text: &'t str,
    file: u32,
    at: usize,
    line: u32,
    /// The start of the current line.
    line_start: usize,
    /// UTF-8 continuation bytes in this line so far.
    continued: usize,
}

impl<'t> Cursor<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn location(&self) -> Location {
        let column = self.at - self.line_start - self.continued + 1;
        Location {
            file: self.file,
            line: self.line,
            column: u32::try_from(column).unwrap_or(u32::MAX),
        }
    }

    fn skip_space(&mut self) {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b' ' | b'\t' | b'\r' => self.at += 1,
                b'\n' => {
                    self.at += 1;
                    self.line = self.line.saturating_add(1);
                    self.line_start = self.at;
                    self.continued = 0;
                }
                _ => break,
            }
        }
    }

    /// Skips this byte and the space after it.
    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek() == Some(byte)).then(|| {
            self.at += 1;
            self.skip_space();
        })
    }

    /// Moves to the next item of a list or object; `false` at its end, which is skipped.
    fn next_item(&mut self, first: &mut bool, close: u8) -> Option<bool> {
        self.skip_space();
        if self.peek()? == close && *first {
            self.at += 1;
            return Some(false);
        }
        if !std::mem::take(first) {
            if self.peek()? == close {
                self.at += 1;
                return Some(false);
            }
            self.expect(b',')?;
        }
        Some(true)
    }

    /// A key, the colon after it, and the space around that.
    fn key(&mut self) -> Option<Cow<'t, str>> {
        let key = self.string()?;
        self.skip_space();
        self.expect(b':')?;
        Some(key)
    }

    fn pass_key(&mut self) -> Option<()> {
        self.pass_string()?;
        self.skip_space();
        self.expect(b':')
    }

    /// Reads a value.
    fn node(&mut self, report: &mut Diagnostics) -> Option<Node<'t>> {
        let location = self.location();
        let value = match self.peek()? {
            b'[' => {
                self.at += 1;
                let (mut items, mut first) = (Vec::new(), true);
                while self.next_item(&mut first, b']')? {
                    items.push(self.node(report)?);
                }
                Value::List(items)
            }
            b'{' => {
                self.at += 1;
                let (mut entries, mut first) = (Vec::new(), true);
                while self.next_item(&mut first, b'}')? {
                    let location = self.location();
                    let key = self.key()?;
                    let value = self.node(report)?;
                    entries.push(Entry { key, location, value });
                }
                node::keys_once(&entries, report);
                Value::Map(entries)
            }
            b'"' => Value::Scalar(self.string()?),
            _ => {
                let begin = self.at;
                self.pass_word()?;
                match &self.text[begin..self.at] {
                    "null" => Value::Null,
                    word => Value::Scalar(Cow::Borrowed(word)),
                }
            }
        };
        Some(Node { location, value })
    }

    fn pass_scalar(&mut self) -> Option<()> {
        if self.peek()? == b'"' {
            self.pass_string()
        } else {
            self.pass_word()
        }
    }

    /// Passes over `null`, `true`, `false` or a number.
    fn pass_word(&mut self) -> Option<()> {
        let rest = &self.text.as_bytes()[self.at..];
        let length = rest
            .iter()
            .position(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'+' | b'-' | b'.'))
            .unwrap_or(rest.len());
        let word = &rest[..length];
        self.at += length;
        (matches!(word, b"null" | b"true" | b"false") || is_number(word)).then_some(())
    }

    /// Passes over a string; whether it has escapes in it.
    fn scan_string(&mut self) -> Option<bool> {
        let bytes = self.text.as_bytes();
        let mut at = self.at;
        if *bytes.get(at)? != b'"' {
            return None;
        }
        let mut escapes = false;
        loop {
            at += 1;
            match *bytes.get(at)? {
                b'"' => break,
                b'\\' => {
                    escapes = true;
                    at += 1;
                    bytes.get(at)?;
                }
                0..0x20 => return None,
                0x80..0xC0 => self.continued += 1,
                _ => {}
            }
        }
        self.at = at + 1;
        Some(escapes)
    }

    fn pass_string(&mut self) -> Option<()> {
        let begin = self.at;
        if self.scan_string()? {
            unescape(&self.text[begin + 1..self.at - 1])?;
        }
        Some(())
    }

    fn string(&mut self) -> Option<Cow<'t, str>> {
        let begin = self.at;
        let escapes = self.scan_string()?;
        let text = &self.text[begin + 1..self.at - 1];
        if escapes {
            unescape(text).map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(text))
        }
    }
}
