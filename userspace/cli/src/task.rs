//! `taskgate task add`, `remove` and `isolate`.

use std::fmt::Write as _;

use hyper::Method;
use taskgate_api::{AddTask, IsolateTask, Task};

use super::{
    args::{AddTaskArgs, Form, IsolateTaskArgs, Output, RemoveTaskArgs},
    client::ControlClient,
    error::{Error, Exit},
    output,
};

pub(super) fn add(client: &ControlClient, add: AddTaskArgs) -> Result<Exit, Error> {
    let netns = super::control::absolute(add.netns.as_deref())?;
    let request = AddTask {
        name: add.name,
        groups: add.groups,
        addresses: add.addresses,
        namespace: add.namespace,
        device: add.device,
        netns,
        pid: add.pid,
    };
    let task: Task = client.post("/v1/tasks", &request)?;
    show(&task, add.form, "is gated")
}

pub(super) fn remove(client: &ControlClient, remove: &RemoveTaskArgs) -> Result<Exit, Error> {
    let path = format!("/v1/tasks/{}", escaped(&remove.name));
    let task: Task = client.call(Method::DELETE, &path, None::<&()>)?;
    show(&task, remove.form, "is removed")
}

pub(super) fn isolate(client: &ControlClient, isolate: &IsolateTaskArgs) -> Result<Exit, Error> {
    let path = format!("/v1/tasks/{}/isolate", escaped(&isolate.name));
    let task: Task = client.post(&path, &IsolateTask { undo: isolate.undo })?;
    let done = if isolate.undo {
        "is isolated no more"
    } else {
        "is isolated"
    };
    show(&task, isolate.form, done)
}

fn show(task: &Task, form: Form, done: &str) -> Result<Exit, Error> {
    match form.output {
        Output::Json => output::json(task)?,
        Output::Text => {
            let link = task
                .link
                .as_ref()
                .map(|link| format!(", link `{link}`"))
                .unwrap_or_default();
            let addresses = task.addresses.join(", ");
            output::stdout(&format!(
                "task `{}` {done}: {} ({addresses}){link}\n",
                task.task, task.eni
            ))?;
        }
    }
    Ok(Exit::Ok)
}

/// Escapes a name as a segment of a URL's path.
fn escaped(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            write!(text, "%{byte:02X}").ok();
        }
    }
    text
}
