//! The client's end of the control socket: sends a request and reads the answer. Gives up on a daemon that shows no
//! sign of life for some seconds.

use std::{fmt, fs, io, path::PathBuf, pin::pin, time::Duration};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{ACCEPT, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use taskgate_api::{ProblemDetails, socket_path};
use tokio::{
    net::UnixStream,
    runtime,
    time::{Instant, sleep, timeout},
};

/// How long the client waits for data from the daemon before it gives up, or checks whether the daemon is alive.
const PATIENCE: Duration = Duration::from_secs(10);
/// Delay before a retry.
const AGAIN: Duration = Duration::from_millis(50);
/// Maximum number of attempts for a request whose answer breaks off.
const TRIES: u32 = 10;
/// A call that the daemon answers even while the agent is busy.
const ALIVE: &str = "/v1/openapi.json";

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No process serves the socket.
    #[error(
        "taskgate `{instance}` does not run: nobody serves `{path}`. Start it with `taskgate run`, or name another `--instance`"
    )]
    NotRunning {
        /// The instance.
        instance: String,
        /// Its socket.
        path: PathBuf,
    },
    /// This user has no access to the socket.
    #[error(
        "you may not use `{path}`: be root, or a member of the group `taskgate` of a host that had it when taskgate began"
    )]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// A process serves the socket, but does not answer.
    #[error(
        "taskgate `{instance}` did not answer on `{path}` for {} s{}; gates go on judging meanwhile",
        PATIENCE.as_secs(),
        .process.as_ref().map_or_else(String::new, |process| format!(": {process}"))
    )]
    Silent {
        /// The instance.
        instance: String,
        /// Its socket.
        path: PathBuf,
        /// The process that serves it, if it is known.
        process: Option<ServingProcess>,
    },
    /// The daemon refused the call.
    #[error("{}: {}", .0.title, .0.detail)]
    Refused(ProblemDetails),
    /// The connection failed, or the answer cannot be parsed.
    #[error("cannot talk to taskgate on `{path}`: {cause}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The underlying error.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The process that serves a socket, as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingProcess {
    /// Its pid.
    pub pid: u32,
    /// Its state, as in `T (stopped)`.
    pub state: String,
}

impl ServingProcess {
    /// Looks up the process that serves a connection.
    fn of(stream: &UnixStream) -> Option<Self> {
        let pid = stream.peer_cred().ok()?.pid()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let state = status.lines().find_map(|line| line.strip_prefix("State:"))?;
        Some(Self {
            pid: u32::try_from(pid).ok()?,
            state: state.trim().to_owned(),
        })
    }
}

impl fmt::Display for ServingProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its process {} is in state {}", self.pid, self.state)
    }
}

/// A client of a running taskgate.
#[derive(Clone, Debug)]
pub struct ControlClient {
    instance: String,
    path: PathBuf,
}

impl ControlClient {
    /// A client of an instance.
    pub fn new(instance: &str) -> Self {
        Self {
            instance: instance.to_owned(),
            path: socket_path(instance),
        }
    }

    /// Requests data that the daemon has at hand.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Silent`] also if the daemon is too busy to begin its answer in time.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.run(async {
            let mut tried = 1;
            loop {
                match self.got(path).await {
                    // A killed daemon may still accept connections for a moment.
                    Err(ClientError::Broken { .. }) if tried < TRIES => {
                        tried += 1;
                        sleep(AGAIN).await;
                    }
                    got => return got,
                }
            }
        })
    }

    async fn got<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        match timeout(PATIENCE, self.ask(Method::GET, path, Vec::new())).await {
            Ok(response) => self.parsed(self.good(response?).await?).await,
            Err(_elapsed) => Err(self.silent().await),
        }
    }

    /// Requests an action, and waits as long as the daemon is alive.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.call(Method::POST, path, Some(body))
    }

    /// Makes any call, with a JSON body or none, and waits as long as the daemon is alive.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|cause| self.broken(cause))?,
            None => Vec::new(),
        };
        self.run(async {
            let response = self.send(method, path, body).await?;
            self.parsed(response).await
        })
    }

    /// Requests lines and passes them on as they arrive, several at a time. `take` returns whether it wants more.
    ///
    /// # Errors
    /// [`ClientError`], or the error of `take`.
    pub fn lines<E: From<ClientError>>(
        &self,
        path: &str,
        take: &mut dyn FnMut(&str) -> Result<bool, E>,
    ) -> Result<(), E> {
        self.run(async {
            let mut body = self.send(Method::GET, path, Vec::new()).await?.into_body();
            let mut held = Vec::new();
            while let Some(frame) = self.while_it_lives(body.frame()).await? {
                let frame = frame.map_err(|cause| self.broken(cause))?;
                held.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                let Some(end) = held.iter().rposition(|byte| *byte == b'\n') else {
                    continue;
                };
                let lines = str::from_utf8(&held[..=end]).map_err(|cause| self.broken(cause))?;
                if !take(lines)? {
                    return Ok(());
                }
                held.drain(..=end);
            }
            Ok(())
        })
    }

    /// Sends a request and returns the response if it is a success. Its body can be read as it arrives.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Response<Incoming>, ClientError> {
        let response = self.while_it_lives(self.ask(method, path, body)).await??;
        self.good(response).await
    }

    async fn good(&self, response: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = self.whole(response).await?;
        Err(ClientError::Refused(problem(status, &bytes)))
    }

    async fn parsed<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, ClientError> {
        let bytes = self.whole(response).await?;
        serde_json::from_slice(&bytes).map_err(|cause| self.broken(cause))
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let collected = self.while_it_lives(response.into_body().collect()).await?;
        Ok(collected.map_err(|cause| self.broken(cause))?.to_bytes())
    }

    /// Sends a request and waits for the response, of any status.
    async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Response<Incoming>, ClientError> {
        let stream = self.connect().await?;
        let shake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shake.map_err(|cause| self.broken(cause))?;
        // The connection's task ends with the sender and the response.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "taskgate")
            .header(ACCEPT, "application/json, application/problem+json")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|cause| self.broken(cause))?;
        sender.send_request(request).await.map_err(|cause| self.broken(cause))
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let begun = Instant::now();
        loop {
            match UnixStream::connect(&self.path).await {
                // The backlog of connections that wait to be accepted is full.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if begun.elapsed() > PATIENCE {
                        return Err(self.silent().await);
                    }
                    sleep(AGAIN).await;
                }
                connected => return connected.map_err(|error| self.unconnected(error)),
            }
        }
    }

    /// Waits for something from the daemon, as long as the daemon proves to be alive.
    async fn while_it_lives<T>(&self, what: impl Future<Output = T>) -> Result<T, ClientError> {
        let mut what = pin!(what);
        loop {
            if let Ok(done) = timeout(PATIENCE, &mut what).await {
                return Ok(done);
            }
            // Any answer will do. If the daemon is gone, `what` ends by itself.
            let alive = timeout(PATIENCE, self.ask(Method::GET, ALIVE, Vec::new())).await;
            if matches!(alive, Err(_) | Ok(Err(ClientError::Silent { .. }))) {
                return Err(self.silent().await);
            }
        }
    }

    fn run<T, E: From<ClientError>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|cause| self.broken(cause))?.block_on(work)
    }

    async fn silent(&self) -> ClientError {
        // This does not block: the connection is made or refused at once.
        let stream = UnixStream::connect(&self.path).await;
        ClientError::Silent {
            instance: self.instance.clone(),
            path: self.path.clone(),
            process: stream.ok().as_ref().and_then(ServingProcess::of),
        }
    }

    fn unconnected(&self, error: io::Error) -> ClientError {
        let path = self.path.clone();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning {
                instance: self.instance.clone(),
                path,
            },
            io::ErrorKind::PermissionDenied => ClientError::Denied { path },
            _ => self.broken(error),
        }
    }

    fn broken(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Broken {
            path: self.path.clone(),
            cause: cause.into(),
        }
    }
}

/// The problem in an answer, also in one that did not come from taskgate.
fn problem(status: StatusCode, body: &[u8]) -> ProblemDetails {
    serde_json::from_slice(body).unwrap_or_else(|_no_problem| ProblemDetails {
        title: status.canonical_reason().unwrap_or("refused").to_owned(),
        status: status.as_u16(),
        detail: String::from_utf8_lossy(body).trim().to_owned(),
        errors: Vec::new(),
    })
}
