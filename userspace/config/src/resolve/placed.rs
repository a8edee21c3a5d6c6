//! An ENI on its way into the model.

use taskgate_model::Eni;

use super::super::problem::Location;

/// An ENI on its way into the model.
pub(super) struct Placed {
    pub(super) eni: Eni,
    pub(super) location: Location,
    /// It is a native `members` entry: nothing but an address.
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

/// The same items in order, each once.
pub(super) fn sorted<T: Clone + Ord>(items: &[T]) -> Vec<T> {
    let mut items = items.to_vec();
    items.sort();
    items.dedup();
    items
}
