//! ENIs before they are added to the model.

use taskgate_model::Eni;

use super::super::problem::Location;

/// An ENI with its place, before it is added to the model.
pub(super) struct Placed {
    pub(super) eni: Eni,
    pub(super) location: Location,
    /// Whether it is a native `members` entry, with only an address.
    pub(super) member: bool,
}

impl Placed {
    pub(super) fn title(&self) -> String {
        match &self.eni.task {
            Some(task) => format!("task `{task}`"),
            None if self.member => String::from("a member"),
            None => format!("`{}`", self.eni.id),
        }
    }
}

/// The items sorted, without duplicates.
pub(super) fn sorted<T: Clone + Ord>(items: &[T]) -> Vec<T> {
    let mut items = items.to_vec();
    items.sort();
    items.dedup();
    items
}
