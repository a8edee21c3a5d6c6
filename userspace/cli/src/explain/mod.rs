//! `taskgate explain`: passes the question of the command line to [`taskgate_analysis::explain`], and shows the answer.

mod show;

use std::path::Path;

use taskgate_analysis::explain::{Explainer, Question, Verdict};

use taskgate_analysis::lint;

use super::{
    args::{Explain, Output},
    error::{Error, Exit},
    output,
};

/// Answers a question about the configuration in a folder.
pub(super) fn run(folder: &Path, args: &Explain) -> Result<Exit, Error> {
    let loaded = taskgate_config::load(folder)?;
    let model = &loaded.model;
    let question = Question::new(model, &args.asked())?;
    let ends = [question.from.eni, question.to.eni];
    let explanation = Explainer::new(model, ends.into_iter().flatten())?.explain(&question);
    // The same number of warnings as `check` counts.
    let warnings = loaded.warnings.len() + lint::lints(model).len();
    if warnings > 0 {
        output::stderr_line(format_args!(
            "note: the configuration has {}, which `taskgate check` shows",
            output::count(warnings, "warning"),
        ));
    }
    for note in question.notes() {
        output::stderr_line(format_args!("note: {note}"));
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
