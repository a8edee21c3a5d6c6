//! `taskgate check`: read, validate, compile, lint.

use std::{collections::HashSet, fmt::Write as _, path::Path};

use serde::Serialize;

use super::{
    args::Output,
    error::{Error, Exit},
    host::Host,
    lint::{self, Lint},
    output, words,
};
use crate::{
    compile::CompileError,
    model::{Direction, Location, Model},
    sources::{self, Loaded, Problem, Problems},
};

/// What a configuration amounts to.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Summary {
    groups: usize,
    /// By id: the parts that a list of ports or peers expands to are one.
    rules: usize,
    prefix_lists: usize,
    /// Gated here or not.
    enis: usize,
    gated: usize,
    policies: usize,
    policy_bytes: usize,
    image_bytes: usize,
}

/// The JSON document.
#[derive(Debug, Serialize)]
struct Document {
    valid: bool,
    summary: Option<Summary>,
    errors: Vec<Note>,
    warnings: Vec<Note>,
}

/// A problem, at a place in a file if it has one.
#[derive(Debug, Default, Serialize)]
struct Note {
    file: Option<String>,
    line: Option<u32>,
    column: Option<u32>,
    message: String,
    hint: Option<String>,
}

impl From<Problem> for Note {
    fn from(problem: Problem) -> Self {
        let known = |place: u32| (place != 0).then_some(place);
        Self {
            file: Some(problem.file),
            line: known(problem.line),
            column: known(problem.column),
            message: problem.message,
            hint: Some(problem.hint),
        }
    }
}

impl From<CompileError> for Note {
    fn from(error: CompileError) -> Self {
        Self {
            message: error.to_string(),
            ..Self::default()
        }
    }
}

/// Checks the configuration in a folder.
pub(super) fn run(folder: &Path, form: Output) -> Result<Exit, Error> {
    let checked = check(folder);
    if form == Output::Json {
        return json(checked);
    }
    let Checked { summary, warnings } = checked?;
    output::problems(output::Severity::Warning, &warnings);
    output::data(&text(folder, summary, warnings.len()))?;
    Ok(Exit::Ok)
}

struct Checked {
    summary: Summary,
    /// What the sources warn of, then what the lints found.
    warnings: Vec<Problem>,
}

fn check(folder: &Path) -> Result<Checked, Error> {
    let loaded = sources::load(folder)?;
    let host = Host::new(&loaded.model, &|eni| eni.binding.is_some())?;
    let summary = summary(&loaded.model, &host);
    let found = lint::lints(&loaded.model);
    let Loaded {
        mut warnings, files, ..
    } = loaded;
    warnings.extend(found.into_iter().map(|lint| problem(lint, folder, &files)));
    Ok(Checked { summary, warnings })
}

/// A lint at its place; one that is about no single rule is about the folder.
fn problem(lint: Lint, folder: &Path, files: &[String]) -> Problem {
    let Lint {
        message,
        hint,
        location,
    } = lint;
    let place = location.and_then(|place| Some((place, files.get(place.file as usize)?.clone())));
    let (Location { line, column, .. }, file) =
        place.unwrap_or_else(|| (Location::default(), folder.display().to_string()));
    Problem {
        file,
        line,
        column,
        message,
        hint,
    }
}

fn summary(model: &Model, host: &Host) -> Summary {
    let rules = model
        .groups
        .iter()
        .flat_map(|group| [Direction::Ingress, Direction::Egress].map(|direction| group.rules(direction)))
        .map(|rules| rules.iter().map(|rule| &rule.id).collect::<HashSet<_>>().len())
        .sum();
    Summary {
        groups: model.groups.len(),
        rules,
        prefix_lists: model.prefix_lists.len(),
        enis: model.enis.len(),
        gated: model.gated().count(),
        policies: host.policies,
        policy_bytes: host.policy_bytes,
        image_bytes: host.image_bytes(),
    }
}

fn text(folder: &Path, summary: Summary, warnings: usize) -> String {
    let Summary {
        groups,
        rules,
        prefix_lists,
        enis,
        gated,
        policies,
        policy_bytes,
        image_bytes,
    } = summary;
    let with = match warnings {
        0 => String::new(),
        some => format!(", with {}", output::count(some, "warning")),
    };
    let mut text = format!("the configuration in `{}` is valid{with}\n", folder.display());
    for (name, value) in [
        ("groups", groups.to_string()),
        ("rules", rules.to_string()),
        ("prefix lists", prefix_lists.to_string()),
        ("ENIs", enis.to_string()),
        ("gated tasks", gated.to_string()),
        ("policies", format!("{policies} ({})", words::bytes(policy_bytes))),
        ("image", words::bytes(image_bytes)),
    ] {
        // Writing to a string cannot fail.
        writeln!(text, "  {name:<13} {value}").ok();
    }
    text
}

/// The answer as a document, for a configuration that is refused too.
fn json(checked: Result<Checked, Error>) -> Result<Exit, Error> {
    let (summary, errors, warnings) = match checked {
        Ok(checked) => {
            let warnings = checked.warnings.into_iter().map(Note::from);
            (Some(checked.summary), Vec::new(), warnings.collect())
        }
        Err(Error::Invalid(Problems { errors, warnings })) => {
            let notes = |problems: Vec<Problem>| problems.into_iter().map(Note::from).collect();
            (None, notes(errors), notes(warnings))
        }
        Err(Error::Compile(error)) => (None, vec![Note::from(error)], Vec::new()),
        Err(error) => return Err(error),
    };
    let valid = errors.is_empty();
    output::json(&Document {
        valid,
        summary,
        errors,
        warnings,
    })?;
    Ok(if valid { Exit::Ok } else { Exit::Invalid })
}
