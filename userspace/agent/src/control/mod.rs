//! The control socket: HTTP and JSON for whoever may open it, served by a thread with a runtime of its own, so that no client
//! holds the agent up, nor the agent the clients.
//!
//! The thread accepts ([`server`]), reads requests and writes answers ([`routes`]); what a request asks for it hands to the
//! agent as a [`Call`] and waits for its answer. The queue between them is bounded.

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

/// How many calls wait for the agent at most; clients beyond are told that it is busy.
const QUEUE: usize = 32;

/// The agent's end of the control socket. The socket goes when this is dropped.
#[derive(Debug)]
pub(super) struct Control {
    calls: mpsc::Receiver<Call>,
    /// Where metrics are to be served beside.
    scraped_at: watch::Sender<Option<SocketAddr>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Serves an instance's socket, from when this returns. One that cannot be made is an error in the log, and tried again.
    pub(super) fn start(instance: &str) -> Result<Self, StartError> {
        let (sender, calls) = mpsc::channel(QUEUE);
        let (end, ended) = oneshot::channel();
        let path = path(instance);
        let (beginning, begun) = sync_channel(0);
        let (scraped_at, wanted) = watch::channel(None);
        let serve = move || server::run(path, sender, wanted, ended, beginning);
        let thread = thread::Builder::new().name("control".to_owned()).spawn(serve);
        let thread = thread.map_err(StartError::without("the thread of the control socket"))?;
        // The other end goes, and sends nothing.
        let _gone = begun.recv();
        Ok(Self {
            calls,
            scraped_at,
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// Has the metrics served on an address, too, or on none.
    pub(super) fn serve_metrics(&self, at: Option<SocketAddr>) {
        self.scraped_at.send_if_modified(|before| {
            let is_new = *before != at;
            *before = at;
            is_new
        });
    }

    /// The next call. Nothing is lost when the future is dropped before it is ready. A thread that ended has no more calls.
    pub(super) async fn next(&mut self) -> Call {
        match self.calls.recv().await {
            Some(call) => call,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Calls that nobody answers any more are answered with that.
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

/// The socket of an instance.
fn path(instance: &str) -> PathBuf {
    taskgate_api::socket_path(instance)
}
