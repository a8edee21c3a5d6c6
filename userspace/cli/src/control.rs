//! Commands that a running taskgate carries out: `apply`, `reload`.

use std::{io, path::Path};

use taskgate_api::{Applied, ApplyRequest};

use super::{
    args::Output,
    client::ControlClient,
    error::{Error, Exit},
    output,
};

/// `taskgate apply`: applies the configuration in a folder, which is followed from then on, or in the folder that is
/// followed already. `taskgate reload` gives no folder.
pub(super) fn apply(client: &ControlClient, folder: Option<&Path>, form: Output) -> Result<Exit, Error> {
    let config = absolute(folder)?;
    let applied: Applied = client.post("/v1/apply", &ApplyRequest { config })?;
    match form {
        Output::Json => output::json(&applied)?,
        Output::Text => {
            for warning in &applied.warnings {
                output::problem(output::Severity::Warning, warning);
            }
            for not_gated in &applied.not_gated {
                output::stderr_line(format_args!("error: {}", not_gated.message));
            }
            output::stdout(&format!(
                "generation {} of `{}` is in force, {} of {} gated\n",
                applied.generation,
                applied.config,
                applied.gated,
                output::count(applied.tasks, "task"),
            ))?;
        }
    }
    Ok(if applied.not_gated.is_empty() {
        Exit::Ok
    } else {
        Exit::Unhealthy
    })
}

/// The absolute path of a folder, as calls need it: the daemon has another working folder.
pub(super) fn absolute(folder: Option<&Path>) -> Result<Option<String>, io::Error> {
    let folder = folder.map(std::path::absolute).transpose()?;
    folder.map(|folder| text(&folder)).transpose()
}

fn text(path: &Path) -> Result<String, io::Error> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| io::Error::other(format!("the name of `{}` is no text", path.display())))
}
