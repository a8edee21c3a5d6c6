//! Places in configuration files, for messages.

/// A place in one of the configuration's files, by its position in `Loaded::files`.
///
/// All locations compare as equal, so that objects compare by content: the same object in two files is equal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Location {
    /// The position of the file in the order of reading, from 0.
    pub file: u32,
    /// The line, from 1; 0 for the whole file, or where the place is not known.
    pub line: u32,
    /// The column in characters, from 1; 0 where the line is 0.
    pub column: u32,
}

impl PartialEq for Location {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Location {}
