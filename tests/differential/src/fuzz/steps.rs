//! The fuzzer's bytes as a series of steps: a mutation of one step leaves the others unchanged.

/// One step: an action and its arguments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step<'a> {
    /// The action, modulo the number of actions.
    pub(super) what: u8,
    pub(super) with: &'a [u8],
}

/// The steps in an input: a byte for the action, a byte for the number of argument bytes, and the arguments. The last
/// step may have fewer arguments than its number says.
#[derive(Clone, Debug)]
pub(super) struct Steps<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Steps<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        let ([what, length], rest) = self.0.split_first_chunk()?;
        let (with, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        self.0 = rest;
        Some(Step { what: *what, with })
    }
}
