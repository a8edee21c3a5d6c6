//! Input limits of the reader. An account with 100,000 interfaces and a million members is within them, and no file can make
//! the reader use more memory, or much more time, than that takes.

/// Bytes in one file.
pub(super) const FILE_BYTES: u64 = 256 << 20;
/// Bytes in all files of a folder.
pub(super) const FOLDER_BYTES: u64 = 512 << 20;
/// Files in a folder.
pub(super) const FILES: usize = 10_000;
/// Values in all files of a folder: scalars, lists and objects.
pub(super) const VALUES: usize = 12_000_000;
/// Values in one YAML file, which is held in memory as a whole.
pub(super) const YAML_VALUES: usize = 4_000_000;
/// The nesting depth of lists and objects.
pub(super) const DEPTH: usize = 64;
/// Keys of a file's top object.
pub(super) const TOP_KEYS: usize = 1_000;
/// Values after expanding a file's anchors and aliases.
pub(super) const ALIASED_VALUES: usize = 100_000;
/// Bytes of text after expanding a file's anchors and aliases.
pub(super) const ALIASED_BYTES: usize = 16 << 20;
/// Objects in total: groups, interfaces, prefix lists, tasks and so on.
pub(super) const OBJECTS: usize = 2_000_000;
/// Rules that one entry of a native group expands to, one for each of its ports and peers.
pub(super) const RULES_OF_ENTRY: usize = 10_000;
/// Rules of all groups.
pub(super) const RULES: usize = 500_000;
/// Errors that are kept, and the same number of warnings.
pub(super) const PROBLEMS: usize = 1_000;
/// Characters of a value that are quoted in a message.
pub(super) const EXCERPT: usize = 80;
