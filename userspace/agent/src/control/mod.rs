//! The control socket: HTTP and JSON for the users with access to it. It is served by a thread with a separate runtime,
//! so that clients cannot delay the agent, nor the agent the clients.
//!
//! The thread accepts connections ([`server`]), reads requests and writes answers ([`routes`]). It passes requests to
//! the agent as [`Call`]s and waits for the answers. The queue between them is bounded.

mod answer;
mod call;
mod credentials;
mod live;
mod openapi;
mod patience;
mod places;
mod routes;
mod scrape;
mod server;
mod socket;
mod task_routes;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::mpsc::sync_channel,
    thread::{self, JoinHandle},
};

use tokio::sync::{mpsc, oneshot, watch};
use tracing::error;

pub(super) use call::{Answer, ApplyAnswer, Call, StatusCall, TaskCall};
pub(super) use socket::{open_folder, remove};

use super::error::StartError;

/// Maximum number of calls that wait for the agent; further clients are answered that it is busy.
const QUEUE: usize = 32;

/// The agent's end of the control socket. Dropping it removes the socket.
#[derive(Debug)]
pub(super) struct Control {
    calls: mpsc::Receiver<Call>,
    /// The TCP address on which metrics are served as well, if any.
    scraped_at: watch::Sender<Option<SocketAddr>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Starts serving an instance's socket, which is up when this returns. A socket that cannot be created is logged as
    /// an error, and retried.
    pub(super) fn start(instance: &str) -> Result<Self, StartError> {
        let (sender, calls) = mpsc::channel(QUEUE);
        let (end, ended) = oneshot::channel();
        let path = path(instance);
        let (beginning, begun) = sync_channel(0);
        let (scraped_at, wanted) = watch::channel(None);
        let serve = move || server::run(path, sender, wanted, ended, beginning);
        let thread = thread::Builder::new().name("control".to_owned()).spawn(serve);
        let thread = thread.map_err(StartError::without("the thread of the control socket"))?;
        // The other end is dropped without sending anything once the socket has been tried.
        let _gone = begun.recv();
        Ok(Self {
            calls,
            scraped_at,
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// Sets the TCP address on which metrics are served as well; `None` turns that off.
    pub(super) fn serve_metrics(&self, at: Option<SocketAddr>) {
        self.scraped_at.send_if_modified(|before| {
            let is_new = *before != at;
            *before = at;
            is_new
        });
    }

    /// The next call. Cancel safe. Stays pending once the thread has ended.
    pub(super) async fn next(&mut self) -> Call {
        match self.calls.recv().await {
            Some(call) => call,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Dropping the queued calls answers their clients that taskgate is ending.
        self.calls.close();
        while self.calls.try_recv().is_ok() {}
        self.end.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the thread of the control socket panicked");
        }
    }
}

/// The path of an instance's socket.
fn path(instance: &str) -> PathBuf {
    taskgate_api::socket_path(instance)
}
