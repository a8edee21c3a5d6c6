//! Serves the metrics over TCP on the loopback interface, for Prometheus, which cannot scrape a Unix socket. Every user
//! on the host can read them, so scrapes share one sample a second: clients cannot keep the agent busy.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Bytes, extract::State, response::Response, routing::get};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore, watch},
    time::{Instant, sleep, timeout},
};
use tracing::{debug, error, info};

use super::{
    answer::{Desk, Problem},
    routes,
};

/// Maximum number of connections; further ones are closed at once.
const CONNECTIONS: usize = 8;
/// How long a request's head may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may last, including its only request.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a sample is served to further scrapes.
const FRESH: Duration = Duration::from_secs(1);
/// Delay before an address is retried that could not be served.
const AGAIN: Duration = Duration::from_secs(5);

/// The last sample, and the way to the agent for the next one.
#[derive(Clone)]
struct Shared {
    desk: Desk,
    last: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

async fn metrics(State(shared): State<Shared>) -> Result<Response, Problem> {
    let mut last = shared.last.lock().await;
    let text = match &*last {
        Some((taken, text)) if taken.elapsed() < FRESH => text.clone(),
        _ => {
            let text = routes::metrics_text(&shared.desk).await?;
            *last = Some((Instant::now(), text.clone()));
            text
        }
    };
    Ok(routes::as_metrics(text))
}

/// Serves the metrics on the address in `wanted`, if there is one, until the sender is dropped.
pub(super) async fn serve(desk: Desk, mut wanted: watch::Receiver<Option<SocketAddr>>) {
    let shared = Shared {
        desk,
        last: Arc::default(),
    };
    let router = Router::new().route("/metrics", get(metrics)).with_state(shared);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut complaint = String::new();
    loop {
        let address = *wanted.borrow_and_update();
        let until_changed = match address {
            None => wanted.changed().await,
            Some(address) => match TcpListener::bind(address).await {
                Ok(listener) => {
                    info!("metrics are served on http://{address}/metrics");
                    complaint.clear();
                    tokio::select! {
                        changed = wanted.changed() => changed,
                        error = accept(&listener, &router, &places) => {
                            error!("metrics are no longer served on {address}: {error}");
                            sleep(AGAIN).await;
                            continue;
                        }
                    }
                }
                Err(error) => {
                    let words = format!("metrics cannot be served on {address}, which is tried again: {error}");
                    if words != complaint {
                        error!("{words}");
                        complaint = words;
                    }
                    tokio::select! {
                        changed = wanted.changed() => changed,
                        () = sleep(AGAIN) => continue,
                    }
                }
            },
        };
        if until_changed.is_err() {
            return;
        }
    }
}

/// Accepts connections until accepting fails permanently. Returns the error.
async fn accept(listener: &TcpListener, router: &Router, places: &Arc<Semaphore>) -> io::Error {
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                let Ok(place) = Arc::clone(places).try_acquire_owned() else {
                    debug!("a scrape is refused: there are {CONNECTIONS} already");
                    continue;
                };
                let router = router.clone();
                tokio::spawn(async move {
                    answer(stream, router).await;
                    drop(place);
                });
            }
            // Every other error is transient: no file descriptor is left for the connection, or the client is gone.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return error,
            Err(error) => {
                debug!("a scrape is not accepted: {error}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Ok(Err(error)) = timeout(PATIENCE, connection).await {
        debug!("a scrape ended: {error}");
    }
}
