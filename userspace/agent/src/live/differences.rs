//! The differences between another configuration and the one in force.

use taskgate_analysis::diff::{ConnectionsCompared, InForce, NextGates, compare};
use taskgate_api::{Differences, ProblemDetails};
use taskgate_bpf::reader::ReadPosition;

use super::{LiveView, PIECE};
use crate::{
    error::{ConfigurationError, RunError, chain},
    reading::{self, Source},
    refusal::{problems_at, refusal},
};

/// Reads a configuration and compares it with the one in force. May take seconds, and changes nothing. Takes on the
/// source's rights, so it needs a dedicated thread. Returns `None` if the answer is no longer wanted, as `is_wanted`
/// says.
///
/// # Errors
/// The configuration is refused, or the tables cannot be read.
pub(crate) fn differences(
    view: &LiveView,
    source: &Source,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Option<Differences>, ProblemDetails> {
    let refused = |error: ConfigurationError| refusal(&RunError::from(error));
    let (configuration, warnings) = reading::read(source).map_err(refused)?;
    if !is_wanted() {
        return Ok(None);
    }
    let next = view
        .fitting
        .model(&configuration)
        .map_err(|problems| refused(problems.into()))?;
    if !is_wanted() {
        return Ok(None);
    }
    let gates = NextGates::new(&next).map_err(|error| refused(error.into()))?;
    let slots = |slot: u16| view.slots.get(&slot).map(String::as_str);
    let rules = |number: u32| view.rule(number);
    let now = view.reader.now().map_err(|error| ProblemDetails {
        title: String::from("the tracked connections cannot be read"),
        status: 500,
        detail: chain(&error),
        errors: Vec::new(),
    })?;
    let in_force = InForce {
        model: &view.model,
        slots: &slots,
        rules: &rules,
        image: view.words(),
        timeouts: view.timeouts,
        now,
    };
    let mut compared = ConnectionsCompared::new(in_force, &next, &gates);
    let mut at = Some(ReadPosition::default());
    while let Some(from) = at {
        if !is_wanted() {
            return Ok(None);
        }
        at = view.reader.read(from, PIECE, &mut |conn| {
            compared.add(conn);
        });
    }
    Ok(Some(Differences {
        config: source.config.display().to_string(),
        generation: view.reader.generation(),
        model: compare(&view.model, &next),
        connections: compared.finish(),
        warnings: problems_at(&warnings),
    }))
}
