//! The calls, by method and path. Each is documented at its handler, from which `docs/openapi.yaml` is generated.

use std::time::Duration;

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{Request, State},
    http::{Method, StatusCode, Uri, header::CONTENT_TYPE},
    middleware::{Next, from_fn},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use taskgate_api::{Applied, ApplyRequest, DaemonStatus, ProblemDetails, TaskStatus};
use tracing::info;

use super::{
    Call, StatusCall,
    answer::{Body, Calls, Desk, Problem, ask, enter, folder, without_body, without_query},
    credentials::Caller,
    live, openapi, task_routes,
};
use crate::metrics::Sample;

/// How long a status may take: the agent may be in the middle of an apply.
const STATUS_PATIENCE: Duration = Duration::from_secs(30);
/// How long an apply may take, including those queued before it.
const APPLY_PATIENCE: Duration = Duration::from_mins(5);

/// The routes of all calls.
pub(super) fn router(desk: Desk) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/tasks", get(tasks))
        .route("/v1/apply", post(apply))
        .route("/v1/diff", post(live::diff))
        .merge(task_routes::router())
        .route("/v1/openapi.json", get(document))
        .route("/metrics", get(metrics))
        .route_layer(from_fn(without_query))
        .route("/v1/connections", get(live::connections))
        .route_layer(from_fn(without_body))
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn(printable))
        .with_state(desk)
}

/// Refuses paths with control characters, which would break the lines of the log.
async fn printable(request: Request, next: Next) -> Response {
    if is_printable(request.uri().path()) {
        next.run(request).await
    } else {
        Problem::new(StatusCode::BAD_REQUEST, "the path has control characters").into_response()
    }
}

/// Whether a path contains no percent-encoded control characters.
fn is_printable(path: &str) -> bool {
    let is_control = |hex: &str| u8::from_str_radix(hex, 16).is_ok_and(|byte| byte.is_ascii_control());
    !path
        .split('%')
        .skip(1)
        .any(|rest| rest.get(..2).is_some_and(is_control))
}

async fn unknown(uri: Uri) -> Problem {
    let detail = format!("there is no `{}`: /v1/openapi.json has all calls", uri.path());
    Problem::new(StatusCode::NOT_FOUND, detail)
}

async fn not_allowed(method: Method, uri: Uri) -> Problem {
    let detail = format!("`{}` does not take {method}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

/// The description of all calls
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "OpenAPI 3.1")))]
pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(openapi::document())
}

/// What the kernel holds, and how the daemon fares
#[utoipa::path(get, path = "/v1/status", responses(
    (status = 200, description = "the status", body = DaemonStatus),
))]
pub(super) async fn status(State(calls): Calls) -> Result<Json<DaemonStatus>, Problem> {
    Ok(Json(status_of(&calls).await?))
}

async fn status_of(calls: &Desk) -> Result<DaemonStatus, Problem> {
    ask(calls, STATUS_PATIENCE, |reply| Call::Status(StatusCall::Status(reply))).await
}

/// What is counted, for Prometheus
#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, description = "the metrics, in Prometheus's text format", body = String,
     content_type = "text/plain; version=0.0.4; charset=utf-8"),
))]
pub(super) async fn metrics(State(calls): Calls) -> Result<Response, Problem> {
    Ok(as_metrics(metrics_text(&calls).await?))
}

/// All metrics as they are now.
pub(super) async fn metrics_text(calls: &Desk) -> Result<Bytes, Problem> {
    let sample = ask(calls, STATUS_PATIENCE, |reply| Call::Status(StatusCall::Metrics(reply))).await?;
    let text = sample.text().map_err(|error| {
        let detail = format!("the metrics cannot be written: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    })?;
    Ok(text.into())
}

/// The answer that has them.
pub(super) fn as_metrics(text: Bytes) -> Response {
    ([(CONTENT_TYPE, Sample::CONTENT_TYPE)], text).into_response()
}

/// The tasks that are to be gated on this host
#[utoipa::path(get, path = "/v1/tasks", responses(
    (status = 200, description = "the tasks, as the status has them", body = Vec<TaskStatus>),
))]
pub(super) async fn tasks(State(calls): Calls) -> Result<Json<Vec<TaskStatus>>, Problem> {
    Ok(Json(status_of(&calls).await?.tasks))
}

/// Switch to the configuration in a folder
#[utoipa::path(post, path = "/v1/apply", request_body = ApplyRequest, responses(
    (status = 200, description = "it is in force", body = Applied),
    (status = 422, description = "the configuration is refused, with all its errors, and nothing is changed",
     body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(super) async fn apply(
    State(calls): Calls,
    Extension(caller): Extension<Caller>,
    Body(request): Body<ApplyRequest>,
) -> Result<Json<Applied>, Problem> {
    let folder = folder(request.config, &caller)?;
    let _place = enter(&calls.applies, &caller)?;
    let what = folder
        .as_ref()
        .map_or_else(String::new, |folder| format!(" of `{}`", folder.path.display()));
    info!("apply{what} is asked for by {caller}");
    let applied = ask(&calls, APPLY_PATIENCE, |reply| Call::Apply(folder, reply)).await?;
    Ok(Json(applied?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths_have_no_control_characters() {
        for path in ["/v1/tasks/web-1", "/v1/tasks/%C3%A4%20b", "/%", "/%zz", "/100%25"] {
            assert!(is_printable(path), "{path}");
        }
        for path in ["/v1/tasks/a%0Ab", "/%00", "/x%1b[31m", "/%7F"] {
            assert!(!is_printable(path), "{path}");
        }
    }
}
