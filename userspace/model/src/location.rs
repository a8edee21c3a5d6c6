//! Where the parts of a configuration are written, for messages about them.

/// A place in one of the configuration's files, by its position in `Loaded::files`.
///
/// All locations are equal, so that objects can be compared whatever their place: the same object in two files is the same.
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
