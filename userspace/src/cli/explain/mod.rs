//! `taskgate explain`: what the gates on the way from one task to another say of a packet, and which rule decides.
//!
//! The question becomes a real frame ([`frame`]) and is put to the very code that runs in the kernel, over an image that
//! is compiled on the host ([`gates`]). Why a rule did not match is worked out from the model ([`nearest`]).

mod advice;
mod aws_command;
mod frame;
mod gates;
mod names;
mod nearest;
mod question;
mod show;
mod unknown;

use std::path::Path;

pub use frame::Message;
pub use gates::{Explainer, Explanation, GateVerdict, Verdict};
pub use nearest::{Field, Nearest};
pub use question::{End, Question};

use super::{
    args::{Explain, Output},
    error::{Error, Exit},
    lint, output,
};
use crate::sources;

/// Answers a question about the configuration in a folder.
pub(super) fn run(folder: &Path, args: &Explain) -> Result<Exit, Error> {
    let loaded = sources::load(folder)?;
    let model = &loaded.model;
    let question = Question::new(model, args)?;
    let ends = [question.from.eni, question.to.eni];
    let explanation = Explainer::new(model, ends.into_iter().flatten())?.explain(&question);
    // As many as `check` counts.
    let warnings = loaded.warnings.len() + lint::lints(model).len();
    if warnings > 0 {
        output::say(format_args!(
            "note: the configuration has {}, which `taskgate check` shows",
            output::count(warnings, "warning"),
        ));
    }
    for note in question.notes() {
        output::say(format_args!("note: {note}"));
    }
    match args.output {
        Output::Json => output::json(&explanation)?,
        Output::Text => output::styled(&show::text(model, &question, &explanation))?,
    }
    Ok(match explanation.verdict {
        Verdict::Reject | Verdict::Unknown if args.fail_on_deny => Exit::No,
        Verdict::Accept | Verdict::Reject | Verdict::Unknown => Exit::Ok,
    })
}
