//! Explores every interleaving of a scenario.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use crate::model::{Broken, Scenario, State};

/// The size of an exploration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Walked {
    pub(crate) states: usize,
    pub(crate) ends: usize,
}

/// A violated invariant, and the steps that led to it.
#[derive(Debug)]
pub(crate) struct Counterexample {
    pub(crate) broken: Broken,
    pub(crate) steps: Vec<String>,
}

/// Explores depth first from the scenario's start. `Err`: the first violation.
pub(crate) fn explore<const WAYS: usize>(scenario: &Scenario) -> Result<Walked, Counterexample> {
    let mut seen: HashSet<u128> = HashSet::new();
    let mut stack = vec![(scenario.start::<WAYS>(), 0_usize, String::from("start"))];
    let mut path: Vec<String> = Vec::new();
    let mut walked = Walked::default();
    while let Some((state, depth, label)) = stack.pop() {
        path.truncate(depth);
        path.push(label);
        if !seen.insert(digest(&state)) {
            continue;
        }
        let mut visit = || {
            state.check()?;
            if state.ended() {
                walked.ends += 1;
                return scenario.check_end(&state);
            }
            let before = stack.len();
            scenario.steps::<WAYS>(&state, |next, label| stack.push((next, depth + 1, label)))?;
            if stack.len() == before {
                return Err(String::from("nobody can go on"));
            }
            Ok(())
        };
        if let Err(broken) = visit() {
            return Err(Counterexample { broken, steps: path });
        }
    }
    walked.states = seen.len();
    Ok(walked)
}

/// A 128-bit digest of a state, since the states themselves would not fit into memory: with 20 million states, the
/// probability of a collision is 10^-24.
fn digest(state: &State) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        state.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(0x5bd1_e995)
}
