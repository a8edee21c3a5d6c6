//! The fuzzer's bytes as a series of steps: what it changes in one of them leaves the others as they are.

/// One step: what is to be done, and with what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step<'a> {
    /// The action, modulo the number of actions.
    pub(super) what: u8,
    pub(super) with: &'a [u8],
}

/// The steps in an input: a byte that says what, one that says how many bytes go with it, and these. The last one may be
/// short of some.
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
