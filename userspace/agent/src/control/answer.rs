//! Reads requests, refuses malformed ones, and passes calls to the agent.

use std::{path::PathBuf, time::Duration};

use axum::{
    body::{HttpBody as _, to_bytes},
    extract::{FromRequest, FromRequestParts, Path, Request, State, rejection::PathRejection},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
        request::Parts,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use taskgate_api::{PROBLEM_JSON, ProblemDetails};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    Call,
    credentials::Caller,
    places::{Bounds, Place, Places},
};
use crate::reading::Folder;

/// The extractor of the [`Desk`].
pub(super) type Calls = State<Desk>;

/// Where handlers submit calls to the agent, with the limits on waiting clients.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    calls: mpsc::Sender<Call>,
    /// Clients that wait for an apply; in the worst case, each names a different folder.
    pub(super) applies: Places,
    /// Clients whose comparison is queued or running.
    pub(super) comparisons: Places,
    /// Clients to which connections are being listed.
    pub(super) listings: Places,
}

impl Desk {
    pub(super) fn new(calls: mpsc::Sender<Call>) -> Self {
        Self {
            calls,
            applies: Places::new(Bounds { all: 32, of_one: 8 }),
            comparisons: Places::new(Bounds { all: 8, of_one: 2 }),
            listings: Places::new(Bounds { all: 16, of_one: 4 }),
        }
    }
}

/// Takes a place among the clients with the same kind of request; refused with 503 if none is left.
pub(super) fn enter(places: &Places, caller: &Caller) -> Result<Place, Problem> {
    places.enter(caller.uid).ok_or_else(|| {
        let detail = "too many clients wait for the same already: try again later";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })
}

/// The longest path that the kernel accepts, including its terminating NUL.
const PATH_MAX: usize = libc::PATH_MAX as usize;
/// Maximum size of a request's body.
const BODY_BYTES: usize = 64 * 1024;
/// How long the body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// The `retry-after` of a 503 answer.
const RETRY_SECONDS: u16 = 1;

/// The problem details with which a refused request is answered.
#[derive(Debug)]
pub(super) struct Problem(ProblemDetails);

impl From<ProblemDetails> for Problem {
    fn from(details: ProblemDetails) -> Self {
        Self(details)
    }
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self(ProblemDetails {
            title: status.canonical_reason().unwrap_or("refused").to_lowercase(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
        })
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self.0)).into_response();
        let kind = HeaderValue::from_static(PROBLEM_JSON);
        response.headers_mut().insert(CONTENT_TYPE, kind);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
        }
        response
    }
}

/// The extractor of a request's body: a JSON object of this type and nothing else. A missing body counts as `{}`.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        check_media_type(request.headers())?;
        let read = timeout(BODY_PATIENCE, to_bytes(request.into_body(), BODY_BYTES)).await;
        let late = |_elapsed| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
        let large = |_error| {
            let detail = format!("the body is cut short, or has more than {BODY_BYTES} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        };
        let bytes = read.map_err(late)?.map_err(large)?;
        let parsed = parse(if bytes.is_empty() { b"{}" } else { &bytes });
        parsed
            .map(Self)
            .map_err(|why| Problem::new(StatusCode::BAD_REQUEST, format!("the body: {why}")))
    }
}

/// Refuses media types other than JSON. A missing `content-type` is accepted, and so is the one that curl sends with
/// `-d` by default.
fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    const TAKEN: [&str; 2] = ["application/json", "application/x-www-form-urlencoded"];
    let is_taken = |value: &HeaderValue| {
        let essence = value.to_str().ok().and_then(|text| text.split(';').next());
        essence.is_some_and(|essence| TAKEN.iter().any(|taken| essence.trim().eq_ignore_ascii_case(taken)))
    };
    if headers.get_all(CONTENT_TYPE).iter().all(is_taken) {
        return Ok(());
    }
    let detail = "the body is to be `application/json`, and its `content-type` says something else";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let value: serde_json::Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    // Deserializing would otherwise also accept an array with the fields in order.
    if !value.is_object() {
        return Err(String::from("it has to be an object"));
    }
    if has_controls(&value) {
        return Err(String::from("a text has control characters"));
    }
    // Parse the text again: the `Value` has already dropped duplicate keys, which have to be refused.
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

/// Whether any text in a value has control characters, which would break a line of the log.
fn has_controls(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => text.chars().any(char::is_control),
        serde_json::Value::Array(values) => values.iter().any(has_controls),
        serde_json::Value::Object(fields) => fields.values().any(has_controls),
        _ => false,
    }
}

/// The extractor of the name in a request's path.
#[derive(Debug)]
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let name = Path::<String>::from_request_parts(parts, state).await;
        let senseless = |error: PathRejection| Problem::new(StatusCode::BAD_REQUEST, error.body_text());
        name.map(|Path(name)| Self(name)).map_err(senseless)
    }
}

/// Refuses a body on a call that takes none, since its content would be ignored.
pub(super) async fn without_body(request: Request, next: Next) -> Response {
    let has_none = matches!(*request.method(), Method::GET | Method::HEAD | Method::DELETE);
    if has_none && !request.body().is_end_stream() {
        return Problem::new(StatusCode::BAD_REQUEST, "this call has no body").into_response();
    }
    next.run(request).await
}

/// Refuses a query string on a call that takes none.
pub(super) async fn without_query(request: Request, next: Next) -> Response {
    match request.uri().query() {
        None | Some("") => next.run(request).await,
        Some(_) => Problem::new(StatusCode::BAD_REQUEST, "this call has no parameters behind a `?`").into_response(),
    }
}

/// Passes a call to the agent and waits for the answer.
pub(super) async fn ask<T>(
    desk: &Desk,
    patience: Duration,
    call: impl FnOnce(oneshot::Sender<T>) -> Call,
) -> Result<T, Problem> {
    let (reply, answer) = oneshot::channel();
    desk.calls.try_send(call(reply)).map_err(|error| {
        let detail = match error {
            mpsc::error::TrySendError::Full(_) => "too many calls wait already: try again later",
            mpsc::error::TrySendError::Closed(_) => ENDS,
        };
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    })?;
    let late = |_elapsed| {
        let detail =
            "taskgate is busy and did not answer in time; what was asked for may still be done: see the status";
        Problem::new(StatusCode::GATEWAY_TIMEOUT, detail)
    };
    let ends = |_dropped| Problem::new(StatusCode::SERVICE_UNAVAILABLE, ENDS);
    timeout(patience, answer).await.map_err(late)?.map_err(ends)
}

const ENDS: &str = "taskgate ends";

/// The folder that a request names, to be read with the caller's rights. The path has to be absolute, since the
/// daemon's working folder is not the client's.
pub(super) fn folder(config: Option<String>, caller: &Caller) -> Result<Option<Folder>, Problem> {
    let senseless = |detail: String| Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    let Some(path) = config.map(PathBuf::from) else {
        return Ok(None);
    };
    match path.as_os_str().len() {
        long @ PATH_MAX.. => senseless(format!("`config` has {long} bytes, and no path has")),
        _ if !path.is_absolute() => senseless(format!(
            "`config` has to be an absolute path, and is `{}`",
            path.display()
        )),
        _ => Ok(Some(Folder {
            path,
            rights: caller.rights.clone(),
        })),
    }
}

#[cfg(test)]
mod tests {
    use taskgate_api::{AddTask, ApplyRequest, DiffRequest, IsolateTask};

    use super::*;

    fn is_refused<T: DeserializeOwned>(text: &[u8]) -> bool {
        parse::<T>(text).is_err()
    }

    #[test]
    fn a_body_is_what_its_type_says_and_nothing_else() {
        assert_eq!(parse(b" {} "), Ok(ApplyRequest::default()));
        assert_eq!(parse(b"{\"config\":null}"), Ok(ApplyRequest::default()));
        assert_eq!(parse(b"{\"undo\":true}"), Ok(IsolateTask { undo: true }));
        let deep = [b"{\"config\":".as_slice(), &b"[".repeat(60_000)].concat();
        for text in [
            b"" as &[u8],
            b" ",
            b"[]",
            b"[null]",
            b"null",
            b"\"config\"",
            b"{} {}",
            b"{}x",
            b"{\"konfig\":\"/x\"}",
            b"{\"config\":1}",
            b"{\"config\":[\"/x\"]}",
            b"{\"config\":\"/x\",\"config\":\"/y\"}",
            b"{\"config\":null,\"config\":null}",
            b"{\"config\":\"/\xff\"}",
            b"{\"config\":\"/\\ud800\"}",
            b"{\"undo\":1}",
            b"\xef\xbb\xbf{}",
            &deep,
        ] {
            let shown = String::from_utf8_lossy(&text[..text.len().min(60)]);
            assert!(is_refused::<ApplyRequest>(text), "{shown}");
            assert!(is_refused::<DiffRequest>(text), "{shown}");
            assert!(is_refused::<AddTask>(text), "{shown}");
            assert!(is_refused::<IsolateTask>(text), "{shown}");
        }
    }

    #[test]
    fn a_body_does_not_say_that_it_is_something_else() {
        let of = |values: &[&'static str]| {
            let headers = values
                .iter()
                .map(|value| (CONTENT_TYPE, HeaderValue::from_static(value)));
            check_media_type(&headers.collect()).is_ok()
        };
        assert!(of(&[]) && of(&["application/json; charset=utf-8"]) && of(&["Application/JSON"]));
        assert!(of(&["application/x-www-form-urlencoded"]));
        assert!(!of(&["text/plain"]) && !of(&[""]) && !of(&["application/jsonx"]));
        assert!(!of(&["application/json", "application/xml"]));
    }
}
