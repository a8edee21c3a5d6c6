//! Errors and warnings about a configuration: message, place and remedy.

use std::fmt;

use super::bounds;

pub(super) use taskgate_model::Location;

/// An error or a warning, at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, under the name given to the reader.
    pub file: String,
    /// The line, from 1; 0 if the problem is the whole file.
    pub line: u32,
    /// The column in characters, from 1; 0 if the problem is the whole file.
    pub column: u32,
    /// The problem.
    pub message: String,
    /// The remedy.
    pub hint: String,
    /// The number of problems it represents: 1, or the number of problems that are not shown.
    pub stands_for: usize,
}

/// The number of problems, including those that are not shown.
pub fn count_problems(problems: &[Problem]) -> usize {
    problems.iter().map(|problem| problem.stands_for).sum()
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            message,
            hint,
            ..
        } = self;
        if *line == 0 {
            write!(f, "{file}: {message}; {hint}")
        } else {
            write!(f, "{file}:{line}:{column}: {message}; {hint}")
        }
    }
}

/// All problems of a configuration, in the order of files and lines; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Problems {
    /// Errors: the configuration is refused.
    pub errors: Vec<Problem>,
    /// Warnings: alone they do not refuse a configuration.
    pub warnings: Vec<Problem>,
}

/// A problem of one value; the caller adds the place.
#[derive(Clone, Debug)]
pub(super) struct Diagnostic {
    message: String,
    hint: String,
}

impl Diagnostic {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: printable(message.into()),
            hint: printable(hint.into()),
        }
    }
}

/// The message with long quoted values shortened, and without characters that control a terminal.
fn printable(message: String) -> String {
    /// Messages without long values are shorter than this.
    const LONGEST: usize = 2_000;
    if message.len() <= bounds::EXCERPT && !message.contains(steers) {
        return message;
    }
    let mut shown = String::new();
    for (at, part) in message.split('`').enumerate() {
        if at > 0 {
            shown.push('`');
        }
        let quoted = at % 2 == 1;
        let cut = part.char_indices().nth(bounds::EXCERPT).filter(|_| quoted);
        let (kept, more) = cut.map_or((part, ""), |(end, _)| (&part[..end], "…"));
        shown.push_str(&escaped(kept));
        shown.push_str(more);
        if shown.len() > LONGEST {
            shown.truncate(shown.floor_char_boundary(LONGEST));
            shown.push('…');
            break;
        }
    }
    shown
}

/// Whether a character can control a terminal, or the display order of a line.
fn steers(character: char) -> bool {
    const MARKS: [char; 3] = ['\u{61c}', '\u{200e}', '\u{200f}'];
    character.is_control()
        || MARKS.contains(&character)
        || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text from a file, or a file name, with such characters escaped.
fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if steers(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// The problems that are kept, and the total number.
#[derive(Clone, Debug, Default)]
struct Found {
    kept: Vec<(Location, Diagnostic)>,
    count: usize,
}

impl Found {
    fn add(&mut self, location: Location, fault: impl FnOnce() -> Diagnostic) {
        self.count += 1;
        if self.kept.len() < bounds::PROBLEMS {
            self.kept.push((location, fault()));
        }
    }
}

/// Collects problems, so that all of them are shown at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Diagnostics {
    files: Vec<String>,
    /// The number of real files among the names; later names are documents without line numbers.
    on_disk: Option<usize>,
    errors: Found,
    warnings: Found,
    /// An object that others may refer to could not be read: reporting it as unknown would be a follow-up error.
    pub(super) objects_lost: bool,
    /// An AWS rule could not be read: comparing `SecurityGroups` and `SecurityGroupRules` would be a follow-up error.
    pub(super) rules_lost: bool,
    /// The numbers of objects and of group rules so far.
    objects: usize,
    rules: usize,
}

impl Diagnostics {
    /// Adds a file by its name and returns the location of the whole file.
    pub(super) fn file(&mut self, name: impl AsRef<str>) -> Location {
        let file = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        self.files.push(escaped(name.as_ref()));
        Location {
            file,
            line: 0,
            column: 0,
        }
    }

    /// Names that follow are not files: messages have no line numbers for them.
    pub(super) fn end_files(&mut self) {
        self.on_disk.get_or_insert(self.files.len());
    }

    /// Whether `location` lies in a file.
    pub(super) fn is_in_file(&self, location: Location) -> bool {
        self.on_disk.is_none_or(|files| (location.file as usize) < files)
    }

    /// The name of the file that `location` lies in.
    pub(super) fn file_name(&self, location: Location) -> &str {
        self.files.get(location.file as usize).map_or("", String::as_str)
    }

    /// `FILE:LINE:COLUMN`, for a message about another place.
    pub(super) fn place(&self, location: Location) -> String {
        if !self.is_in_file(location) {
            return self.file_name(location).to_owned();
        }
        format!("{}:{}:{}", self.file_name(location), location.line, location.column)
    }

    pub(super) fn error(&mut self, location: Location, message: impl Into<String>, hint: impl Into<String>) {
        self.errors.add(location, || Diagnostic::new(message, hint));
    }

    pub(super) fn warn(&mut self, location: Location, message: impl Into<String>, hint: impl Into<String>) {
        self.warnings.add(location, || Diagnostic::new(message, hint));
    }

    /// Counts an object. `false` if there are too many, after reporting an error.
    pub(super) fn another_object(&mut self, location: Location) -> bool {
        self.objects = self.objects.saturating_add(1);
        let first = self.objects == bounds::OBJECTS + 1;
        self.within(location, "objects", bounds::OBJECTS, self.objects, first)
    }

    /// Counts rules of a group. `false` if there are too many, after reporting an error.
    pub(super) fn more_rules(&mut self, location: Location, rules: usize) -> bool {
        let before = self.rules;
        self.rules = self.rules.saturating_add(rules);
        self.within(location, "rules", bounds::RULES, self.rules, before <= bounds::RULES)
    }

    /// Whether `count` is within `most`; reports an error the first time it is not.
    fn within(&mut self, location: Location, what: &str, most: usize, count: usize, first: bool) -> bool {
        if count > most && first {
            let message = format!("the configuration has more than {most} {what}");
            self.error(location, message, "leave out what no task here needs");
            self.objects_lost = true;
            self.rules_lost = true;
        }
        count <= most
    }

    /// Reports a second document in one file.
    pub(super) fn second_document(&mut self, location: Location) {
        let hint = "put each document into a file of its own";
        self.error(location, "a second document begins here", hint);
        self.objects_lost = true;
    }

    /// The value, or `None` after reporting the error.
    pub(super) fn take<T>(&mut self, location: Location, value: Result<T, Diagnostic>) -> Option<T> {
        value.map_err(|fault| self.errors.add(location, || fault)).ok()
    }

    /// The number of errors so far: if reading an object leaves it unchanged, the object was read completely.
    pub(super) fn errors(&self) -> usize {
        self.errors.count
    }

    /// The warnings and the files' names, or all problems if there is an error.
    pub(super) fn finish(mut self) -> Result<(Vec<Problem>, Vec<String>), Problems> {
        if let Some(files) = self.on_disk {
            let without_lines = |found: &mut Found| {
                let beside = |location: &&mut Location| location.file as usize >= files;
                for location in found.kept.iter_mut().map(|(location, _)| location).filter(beside) {
                    (location.line, location.column) = (0, 0);
                }
            };
            without_lines(&mut self.errors);
            without_lines(&mut self.warnings);
        }
        let errors = in_order(&self.files, self.errors);
        let warnings = in_order(&self.files, self.warnings);
        if errors.is_empty() {
            Ok((warnings, self.files))
        } else {
            Err(Problems { errors, warnings })
        }
    }
}

fn in_order(files: &[String], found: Found) -> Vec<Problem> {
    let Found { mut kept, count } = found;
    let more = count - kept.len();
    kept.sort_by_key(|(location, _)| (location.file, location.line, location.column));
    let mut problems: Vec<Problem> = kept
        .into_iter()
        .map(|(location, fault)| Problem {
            file: files.get(location.file as usize).cloned().unwrap_or_default(),
            line: location.line,
            column: location.column,
            message: fault.message,
            hint: fault.hint,
            stands_for: 1,
        })
        .collect();
    problems.dedup();
    if more > 0 {
        problems.push(Problem {
            file: problems.last().map(|last| last.file.clone()).unwrap_or_default(),
            line: 0,
            column: 0,
            message: format!("{more} more are not shown"),
            hint: String::from("mend these first"),
            stands_for: more,
        });
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn messages_are_short_and_plain() {
        let long = "x".repeat(20_000_000);
        for (message, expected) in [
            (String::from("`a` is no protocol"), String::from("`a` is no protocol")),
            (
                format!("`{long}` is no protocol"),
                format!("`{}…` is no protocol", "x".repeat(80)),
            ),
            (format!("`{}`", "ü".repeat(80)), format!("`{}`", "ü".repeat(80))),
            (
                String::from("`\u{202e}nosj.a` is no name"),
                String::from("`\\u{202e}nosj.a` is no name"),
            ),
            (
                String::from("`\u{1b}]0;x\u{7}\n` is no name"),
                String::from("`\\u{1b}]0;x\\u{7}\\u{a}` is no name"),
            ),
        ] {
            assert_eq!(printable(message), expected);
        }
        // A value with backticks in it.
        let odd = format!("`{}` is no name", "``x".repeat(10_000));
        assert!(printable(odd).len() < 2_100);
    }
}
