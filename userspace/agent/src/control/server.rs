//! Accepts connections, limits their number, and serves each within bounds of time and size.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    runtime,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{debug, error, info, warn};

use super::{
    Call,
    answer::Desk,
    credentials::Caller,
    patience::{HangUp, Patient},
    places::{Bounds, Places},
    routes, scrape,
    socket::Socket,
};

/// Maximum number of connections; further ones are answered with 503. Root has a separate allowance.
const CONNECTIONS: Bounds = Bounds { all: 64, of_one: 16 };
/// Maximum number of 503 answers at a time; further clients are disconnected without an answer.
const REFUSALS: usize = 64;
/// How long a request's head may take, and how long a connection may be idle.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a client may read nothing of its answer.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// Maximum size of a request's head.
const HEAD_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;
/// Interval of the check that the socket's path leads to it, with the right owner and mode.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after the kernel refused a connection: no file descriptor is left for another one.
const REFUSED: Duration = Duration::from_millis(100);
/// How long answers that are still being written may take at shutdown, and how long a 503 answer may take.
const END: Duration = Duration::from_millis(500);

const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 89\r\n\r\n\
    {\"title\":\"too many connections\",\"status\":503,\"detail\":\"close some, or try again later\"}\r\n";

/// Serves the socket until `ended`, and the metrics on the address in `wanted`. Creating the socket is retried until it
/// succeeds; `begun` is dropped after the first attempt.
pub(super) fn run(
    path: PathBuf,
    calls: mpsc::Sender<Call>,
    wanted: watch::Receiver<Option<SocketAddr>>,
    ended: oneshot::Receiver<()>,
    begun: SyncSender<()>,
) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return error!("nobody serves `{}`: {error}", path.display()),
    };
    let desk = Desk::new(calls);
    runtime.spawn(scrape::serve(desk.clone(), wanted));
    let server = Server {
        path,
        router: routes::router(desk),
        connections: Places::new(CONNECTIONS),
        refusals: Arc::new(Semaphore::new(REFUSALS)),
        socket: None,
        complaint: String::new(),
    };
    runtime.block_on(server.serve(ended, begun));
    // Bounds the wait for clients that are still connected.
    runtime.shutdown_timeout(END);
}

struct Server {
    path: PathBuf,
    router: Router,
    connections: Places,
    refusals: Arc<Semaphore>,
    socket: Option<Socket>,
    /// The problem with the socket that was logged last.
    complaint: String,
}

impl Server {
    async fn serve(mut self, mut ended: oneshot::Receiver<()>, begun: SyncSender<()>) {
        self.bind();
        drop(begun);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let accepted = async {
                match &self.socket {
                    Some(socket) => socket.listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ended = &mut ended => break,
                accepted = accepted => match accepted {
                    Ok((stream, _address)) => self.accept(stream),
                    Err(error) => {
                        debug!("no connection is accepted on `{}`: {error}", self.path.display());
                        sleep(REFUSED).await;
                    }
                },
                _now = look.tick() => self.look(),
            }
        }
    }

    /// Checks that the socket exists, with an owner and mode that admit the permitted users and nobody else, and
    /// corrects both.
    fn look(&mut self) {
        let Some(socket) = self.socket.as_ref().filter(|socket| socket.is_there()) else {
            return self.bind();
        };
        match socket.put_right() {
            Ok(put_right) => {
                for path in put_right {
                    error!(
                        "`{}` had another owner or mode than it should, and was put right: who changed that let others use it, \
                         or kept out those who may",
                        path.display()
                    );
                }
                self.complaint.clear();
            }
            Err(error) => self.complain(&format!(
                "`{}` and its folder cannot be given the owner and mode that they should have: {error}",
                self.path.display()
            )),
        }
    }

    /// Creates the socket, replacing any file that has its name.
    fn bind(&mut self) {
        let had_one = self.socket.is_some();
        match Socket::bind(&self.path) {
            Ok(socket) => {
                if had_one {
                    warn!("`{}` was taken away or replaced: it is made again", self.path.display());
                } else {
                    info!("commands are taken on `{}`", self.path.display());
                }
                self.socket = Some(socket);
                self.complaint.clear();
            }
            Err(error) => self.complain(&format!(
                "`{}` cannot be made, and no command is taken until it can: {error}",
                self.path.display()
            )),
        }
    }

    /// Logs a problem with the socket, once.
    fn complain(&mut self, complaint: &str) {
        if complaint != self.complaint {
            error!("{complaint}");
            complaint.clone_into(&mut self.complaint);
        }
    }

    fn accept(&self, stream: UnixStream) {
        let caller = match Caller::of(&stream) {
            Ok(caller) => caller,
            Err(error) => return debug!("a client that nobody knows is not served: {error}"),
        };
        let Some(place) = self.connections.enter(caller.uid) else {
            debug!("a client has to wait ({caller}): there are too many");
            if let Ok(turn) = Arc::clone(&self.refusals).try_acquire_owned() {
                tokio::spawn(refuse(stream, turn));
            }
            return;
        };
        let hang_up = match HangUp::of(&stream) {
            Ok(hang_up) => hang_up,
            Err(error) => return debug!("a client is not served ({caller}): {error}"),
        };
        let service = TowerToHyperService::new(self.router.clone().layer(Extension(caller.clone())));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_PATIENCE)
            .max_headers(HEADERS)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(Patient::new(stream, WRITE_PATIENCE)), service);
        tokio::spawn(async move {
            let ended = tokio::select! {
                // Unread data from a client must not hide that it disconnected, so hang-ups are watched separately.
                () = hang_up.heard() => return debug!("a client hung up ({caller})"),
                ended = connection => ended,
            };
            if let Err(error) = ended {
                debug!("a client's connection ended ({caller}): {error}");
            }
            drop(place);
        });
    }
}

/// Answers any request with 503. Reads from the client for a moment: if the connection were closed at once, sending the
/// request would fail, and the client would not look for an answer.
async fn refuse(mut stream: UnixStream, _turn: OwnedSemaphorePermit) {
    let answer = async {
        stream.write_all(BUSY).await?;
        stream.shutdown().await?;
        let mut some = [0; 1024];
        while stream.read(&mut some).await? != 0 {}
        Ok::<(), std::io::Error>(())
    };
    if let Ok(Err(error)) = timeout(END, answer).await {
        debug!("a client is not told that there are too many: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_http() {
        let text = str::from_utf8(BUSY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
        let problem: taskgate_api::ProblemDetails = serde_json::from_str(body).unwrap();
        assert_eq!(problem.status, 503);
    }
}
