//! Problems of a configuration, in the form for clients of the socket.

use taskgate_api::{ProblemAt, ProblemDetails};

use super::error::{ConfigurationError, RunError, chain};

/// Why a configuration was refused, for clients.
pub(super) fn refusal(error: &RunError) -> ProblemDetails {
    let errors = match error {
        RunError::Configuration(ConfigurationError::Invalid(problems)) => problems_at(&problems.errors),
        _ => Vec::new(),
    };
    let detail = match errors.len() {
        0 => chain(error),
        1 => String::from("1 error"),
        many => format!("{many} errors"),
    };
    ProblemDetails {
        title: String::from("the configuration is refused, the one in force stays"),
        status: 422,
        detail,
        errors,
    }
}

/// Problems of a configuration, for clients.
pub(super) fn problems_at(problems: &[taskgate_config::Problem]) -> Vec<ProblemAt> {
    let at = |problem: &taskgate_config::Problem| ProblemAt {
        file: problem.file.clone(),
        line: problem.line,
        column: problem.column,
        message: problem.message.clone(),
        hint: problem.hint.clone(),
    };
    problems.iter().map(at).collect()
}
