//! The calls that concern single tasks.

use std::{path::PathBuf, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::State,
    http::StatusCode,
    routing::{delete, post},
};
use taskgate_api::{AddTask, IsolateTask, ProblemDetails, Task};
use tracing::info;

use super::{
    Call, TaskCall,
    answer::{Body, Calls, Desk, Name, Problem, ask},
    credentials::Caller,
};
use crate::tasks::{NewPlace, NewTask};

/// How long a call may take, including those queued before it: gates wait for grace periods of the kernel.
const PATIENCE: Duration = Duration::from_mins(5);

/// The routes of these calls.
pub(super) fn router() -> Router<Desk> {
    Router::new()
        .route("/v1/tasks", post(add))
        .route("/v1/tasks/{task}", delete(remove))
        .route("/v1/tasks/{task}/isolate", post(isolate))
}

/// Add a task, and wait until its gate stands
#[utoipa::path(post, path = "/v1/tasks", request_body = AddTask, responses(
    (status = 200, description = "its gate stands", body = Task),
    (status = 409, description = "another task of that name is there, in the configuration or added before",
     body = ProblemDetails, content_type = "application/problem+json"),
    (status = 422, description = "it does not fit the configuration or the host, and nothing of it is left",
     body = ProblemDetails, content_type = "application/problem+json"),
    (status = 500, description = "it cannot be kept", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(super) async fn add(
    State(calls): Calls,
    Extension(caller): Extension<Caller>,
    Body(request): Body<AddTask>,
) -> Result<Json<Task>, Problem> {
    let new = new_task(request).map_err(|detail| Problem::new(StatusCode::BAD_REQUEST, detail))?;
    info!(task = new.name, "task `{}` is to be added, says {caller}", new.name);
    let call = |reply| Call::Task(TaskCall::Add(new, reply));
    Ok(Json(ask(&calls, PATIENCE, call).await??))
}

fn new_task(request: AddTask) -> Result<NewTask, &'static str> {
    let AddTask {
        name,
        groups,
        addresses,
        namespace,
        device,
        netns,
        pid,
    } = request;
    let place = match (namespace, device, netns, pid) {
        (None, None, None, None) => NewPlace::Namespace(name.clone()),
        (Some(namespace), None, None, None) => NewPlace::Namespace(namespace),
        (None, Some(device), None, None) => NewPlace::Device(device),
        (None, None, Some(netns), None) => {
            let path = PathBuf::from(netns);
            if !path.is_absolute() {
                return Err("`netns` has to be an absolute path");
            }
            NewPlace::Netns(path)
        }
        (None, None, None, Some(pid)) => NewPlace::Netns(format!("/proc/{pid}/ns/net").into()),
        _ => return Err("give one of `namespace`, `device`, `netns` and `pid`"),
    };
    Ok(NewTask {
        name,
        groups,
        addresses,
        place,
    })
}

/// Remove a task that was added: its gate closes, and what taskgate made for it goes
#[utoipa::path(delete, path = "/v1/tasks/{task}", params(("task" = String, Path, description = "its name")), responses(
    (status = 200, description = "it is gone; the answer is what it was", body = Task),
    (status = 404, description = "there is no such task", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 409, description = "a file of the configuration names it", body = ProblemDetails,
     content_type = "application/problem+json"),
    (status = 422, description = "the configuration without it does not fit, and nothing is changed",
     body = ProblemDetails, content_type = "application/problem+json"),
    (status = 500, description = "that cannot be kept", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(super) async fn remove(
    State(calls): Calls,
    Extension(caller): Extension<Caller>,
    Name(task): Name,
) -> Result<Json<Task>, Problem> {
    info!(task, "task `{task}` is to be removed, says {caller}");
    let call = |reply| Call::Task(TaskCall::Remove(task, reply));
    Ok(Json(ask(&calls, PATIENCE, call).await??))
}

/// Isolate a task, added or configured: its connections end, and nothing passes
#[utoipa::path(post, path = "/v1/tasks/{task}/isolate", params(("task" = String, Path, description = "its name")),
 request_body = IsolateTask, responses(
    (status = 200, description = "it is done", body = Task),
    (status = 404, description = "there is no such task", body = ProblemDetails, content_type = "application/problem+json"),
    (status = 422, description = "it cannot be done, and nothing is changed", body = ProblemDetails,
     content_type = "application/problem+json"),
    (status = 500, description = "that cannot be kept", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(super) async fn isolate(
    State(calls): Calls,
    Extension(caller): Extension<Caller>,
    Name(task): Name,
    Body(IsolateTask { undo }): Body<IsolateTask>,
) -> Result<Json<Task>, Problem> {
    let what = if undo { "isolated no more" } else { "isolated" };
    info!(task, "task `{task}` is to be {what}, says {caller}");
    let call = |reply| Call::Task(TaskCall::Isolate(task, undo, reply));
    Ok(Json(ask(&calls, PATIENCE, call).await??))
}
