//! The OpenAPI description of the calls, generated from their types.

use axum::http::StatusCode;
use taskgate_api::{PROBLEM_JSON, ProblemDetails};
use utoipa::{
    OpenApi,
    openapi::{ContentBuilder, PathItem, Ref, Response, ResponseBuilder, path::Operation},
};

use super::{live, routes, task_routes};

/// All calls of [`routes::router`].
#[derive(OpenApi)]
#[openapi(
    info(
        title = "taskgate",
        description = "The control socket of a running taskgate: HTTP/1.1 and JSON on /run/taskgate/NAME.sock. \
                       `curl --unix-socket /run/taskgate/default.sock http://t/v1/status`",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
        version = "1",
        contact(),
    ),
    paths(
        routes::document,
        routes::status,
        routes::tasks,
        routes::apply,
        routes::metrics,
        live::diff,
        live::connections,
        task_routes::add,
        task_routes::remove,
        task_routes::isolate
    ),
    components(schemas(ProblemDetails))
)]
struct Document;

/// The refusals that any call may be answered with.
const REFUSALS: [(StatusCode, &str); 3] = [
    (StatusCode::BAD_REQUEST, "the request makes no sense"),
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "taskgate is busy, or ends: try again after `retry-after` seconds",
    ),
    (
        StatusCode::GATEWAY_TIMEOUT,
        "taskgate did not answer in time, and may still do what was asked for",
    ),
];
/// The further refusals of calls with a body.
const BODY_REFUSALS: [(StatusCode, &str); 3] = [
    (StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
    (StatusCode::PAYLOAD_TOO_LARGE, "the body is cut short, or too large"),
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body is said to be no JSON"),
];

pub(super) fn document() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    for path in document.paths.paths.values_mut() {
        let PathItem { get, post, delete, .. } = path;
        for call in [get, post, delete].into_iter().flatten() {
            complete(call);
        }
    }
    document
}

/// Adds the responses that all calls have in common.
fn complete(call: &mut Operation) {
    let body: &[(StatusCode, &str)] = if call.request_body.is_some() {
        &BODY_REFUSALS
    } else {
        &[]
    };
    if let Some(body) = call.request_body.as_mut()
        && call.operation_id.as_deref() != Some("add")
    {
        // A missing body counts as `{}`.
        body.required = None;
    }
    for (status, description) in REFUSALS.iter().chain(body) {
        let key = status.as_str().to_owned();
        call.responses.responses.insert(key, refusal(description).into());
    }
}

fn refusal(description: &str) -> Response {
    let schema = Ref::from_schema_name("ProblemDetails");
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new()
        .description(description)
        .content(PROBLEM_JSON, content)
        .build()
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::*;

    /// `UPDATE_OPENAPI=1 cargo test -p taskgate-agent openapi` writes it.
    #[test]
    fn the_file_in_docs_is_of_these_types() {
        let made = format!(
            "# Made from the types of the socket: `UPDATE_OPENAPI=1 cargo test -p taskgate-agent openapi`.\n{}",
            document().to_yaml().unwrap()
        );
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.yaml");
        if env::var_os("UPDATE_OPENAPI").is_some() {
            fs::write(&path, &made).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap();
        assert!(
            kept == made,
            "docs/openapi.yaml is out of date: UPDATE_OPENAPI=1 makes it anew"
        );
    }
}
