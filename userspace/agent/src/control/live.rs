//! Read-only calls. The agent only hands out a view of its state; the work is done on other threads, so that it delays
//! neither the agent nor other clients.

use std::{fmt::Display, io, thread, time::Duration};

use axum::{
    Extension, Json,
    body::{Body as Stream, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::{
        StatusCode,
        header::{CONTENT_TYPE, HeaderName},
    },
};
use futures_util::stream;
use taskgate_api::{ConnectionsQuery, DiffRequest, Differences, ProblemDetails, TrackedConnection};
use tokio::{
    sync::{Semaphore, oneshot},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    Call,
    answer::{Body, Calls, Problem, ask, enter, folder},
    credentials::Caller,
};
use crate::live::{ConnectionLines, LiveView, QueryError, differences};

/// How long the agent may take to hand out its view: it may be in the middle of an apply.
const PATIENCE: Duration = Duration::from_secs(30);

/// A comparison compiles a configuration, which takes memory, so comparisons run one at a time.
static TURNS: Semaphore = Semaphore::const_new(1);
/// How long a comparison waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(30);

/// The media type of lines of JSON.
const JSON_LINES: &str = "application/x-ndjson";

/// What a configuration would change, and what would become of tracked connections; nothing is changed
#[utoipa::path(post, path = "/v1/diff", request_body = DiffRequest, responses(
    (status = 200, description = "the differences", body = Differences),
    (status = 422, description = "the configuration would be refused, with all its errors",
     body = ProblemDetails, content_type = "application/problem+json"),
    (status = 500, description = "the tracked connections cannot be read", body = ProblemDetails,
     content_type = "application/problem+json"),
))]
pub(super) async fn diff(
    State(calls): Calls,
    Extension(caller): Extension<Caller>,
    Body(request): Body<DiffRequest>,
) -> Result<Json<Differences>, Problem> {
    let folder = folder(request.config, &caller)?;
    let place = enter(&calls.comparisons, &caller)?;
    let busy = |_elapsed| {
        let detail = "other configurations are compared, one after the other: try again later";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    };
    let turn = timeout(TURN_PATIENCE, TURNS.acquire()).await.map_err(busy)?;
    let view: LiveView = ask(&calls, PATIENCE, Call::Live).await?;
    let (answer, answered) = oneshot::channel();
    let compare = move || {
        // Turn and place are released when the work is done, not when the client disconnects.
        let _turn = (turn, place);
        let compared = differences(&view, &view.source(folder), &|| !answer.is_closed());
        // The client may have disconnected.
        let _told = answer.send(compared);
    };
    let thread = thread::Builder::new().name("diff".to_owned()).spawn(compare);
    thread.map_err(failed)?;
    // The thread ends without an answer only if it panics.
    let compared = answered.await.map_err(failed)??;
    Ok(Json(compared.ok_or_else(|| failed("the comparison was given up"))?))
}

/// Tracked connections, a line of JSON each
#[utoipa::path(get, path = "/v1/connections", params(ConnectionsQuery), responses(
    (status = 200, description = "a line for each connection", body = TrackedConnection, content_type = "application/x-ndjson"),
    (status = 404, description = "there is no such task or rule", body = ProblemDetails, content_type = "application/problem+json"),
))]
pub(super) async fn connections(
    State(calls): Calls,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ConnectionsQuery>, QueryRejection>,
) -> Result<([(HeaderName, &'static str); 1], Stream), Problem> {
    let Query(query) = query.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let place = enter(&calls.listings, &caller)?;
    let view: LiveView = ask(&calls, PATIENCE, Call::Live).await?;
    let lines = ConnectionLines::new(view, &query).map_err(|error| {
        let status = match error {
            QueryError::NotFound(_) => StatusCode::NOT_FOUND,
            QueryError::Senseless(_) => StatusCode::BAD_REQUEST,
        };
        Problem::new(status, error.to_string())
    })?;
    // Each piece is read once the client has taken the one before. If the client disconnects, the stream is dropped,
    // which ends the reading and releases the place.
    let pieces = stream::try_unfold((lines, place), |(mut lines, place)| async move {
        let read = spawn_blocking(move || (lines.piece(), lines)).await;
        let (piece, lines) = read.map_err(io::Error::other)?;
        io::Result::Ok(piece?.map(|piece| (Bytes::from(piece), (lines, place))))
    });
    Ok(([(CONTENT_TYPE, JSON_LINES)], Stream::from_stream(pieces)))
}

fn failed(error: impl Display) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}
