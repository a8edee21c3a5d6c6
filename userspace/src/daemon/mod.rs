//! `taskgate run`: the gates of this host, held and kept current, and the records that they leave.
//!
//! One task on one thread does everything: it applies configurations ([`apply`]), follows links as they come and go
//! ([`gates`]), and closes capture windows ([`records`]). Nothing of it is on a packet's way.

mod apply;
mod error;
mod gates;
mod host;
mod instance;
mod opened;
mod records;
mod sizes;
mod uplink;

use std::{path::PathBuf, time::Duration};

use log::{LevelFilter, error, info, warn};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};

pub use error::RunError;
pub(crate) use host::{Found, HostFinding, Who, count as count_links, survey};
pub(crate) use sizes::policy_banks;

use crate::{
    dataplane::{
        link::LinkWatch, load::LoadOptions, namespace_watch::NamespaceWatch, netlink::Netlink, object::Object, raw,
        tables::KernelTables,
    },
    sources::{self, Loaded},
};
use apply::Daemon;
use host::HostWatch;
use instance::Instance;

/// What `taskgate run` is told.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The folder with the configuration.
    pub config: PathBuf,
    /// Which of several on one host.
    pub instance: String,
    /// The flow logs' interval in seconds, in place of the configured one.
    pub interval: Option<u32>,
    /// How much the log tells; the kernel program's messages are there from `debug` on.
    pub log_level: LevelFilter,
}

/// Holds the gates until SIGINT or SIGTERM.
///
/// # Errors
/// Whatever keeps the gates from standing at the start, and a kernel that no longer tells of links. A reload that fails
/// is logged and changes nothing.
pub fn run(options: &RunOptions) -> Result<(), RunError> {
    let loaded = load(options)?;
    let _instance = Instance::claim(&options.instance)?;
    raw::lift_open_files_limit();
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    runtime.block_on(hold(options, loaded))
}

/// Reads the configuration and logs what deserves a look.
fn load(options: &RunOptions) -> Result<Loaded, RunError> {
    let mut loaded = sources::load(&options.config)?;
    if let Some(interval) = options.interval {
        for log in &mut loaded.model.flow_logs {
            log.interval = interval;
        }
    }
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    Ok(loaded)
}

async fn hold(options: &RunOptions, loaded: Loaded) -> Result<(), RunError> {
    let on = |kind| signal(kind).map_err(RunError::Runtime);
    let mut signals = Signals {
        reload: on(SignalKind::hangup())?,
        interrupt: on(SignalKind::interrupt())?,
        terminate: on(SignalKind::terminate())?,
    };
    let compiled = apply::compile_alone(&loaded.model)?;
    let mut object = Object::load(&LoadOptions {
        conns: loaded.model.settings.connections.total,
        policy_banks: policy_banks(compiled.policy_bytes()),
        log_level: options.log_level,
        ..LoadOptions::default()
    })?;
    if let Some(drain) = object.log_drain()? {
        tokio::spawn(drain);
    }
    let tables = KernelTables::new(&object)?;
    let netlink = Netlink::open()?;
    let mut host = HostWatch::new(netlink.clone());
    let mut watch = LinkWatch::new()?;
    let mut names = NamespaceWatch::new();
    let mut daemon = Daemon::begin(&options.instance, object, tables, netlink, loaded.model).await?;
    info!("gates are up: {}", daemon.gates_summary());
    warn!("when this taskgate ends its gates come off: what it gates is then open, what it made is taken away");

    host.tell(daemon.model()).await;

    let mut room = Instant::now() + sizes::ROOM_EVERY;
    let ended = loop {
        let window_ends = Instant::now() + daemon.window_left();
        tokio::select! {
            event = watch.next() => match event {
                Ok(event) => {
                    daemon.link_event(&event).await;
                    host.link_event(&event, daemon.model());
                }
                Err(refused) => break Err(RunError::from(refused)),
            },
            () = names.changed() => daemon.namespaces_changed().await,
            () = sleep_until(host.due()) => host.tell(daemon.model()).await,
            () = sleep_until(window_ends) => daemon.close_window(),
            () = sleep_until(room) => {
                room = Instant::now() + sizes::ROOM_EVERY;
                daemon.make_room();
            }
            asked = signals.next() => match asked {
                Asked::Reload => {
                    reload(options, &mut daemon).await;
                    host.tell(daemon.model()).await;
                }
                Asked::End(name) => {
                    info!("{name}: ending");
                    break Ok(());
                }
            },
        }
    };
    daemon.end().await;
    ended
}

async fn reload(options: &RunOptions, daemon: &mut Daemon) {
    let done = match load(options) {
        Ok(loaded) => daemon.apply(loaded.model).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(wrong) => {
            for error in &wrong {
                error!("{}", error::chain(error));
            }
            let but = if wrong.is_empty() { "" } else { ", but not wholly" };
            info!(
                "reloaded{but}: generation {}, {}",
                daemon.generation(),
                daemon.gates_summary()
            );
        }
        Err(error) => error!(
            "reload refused, the configuration in force stays: {}",
            error::chain(&error)
        ),
    }
}

struct Signals {
    reload: Signal,
    interrupt: Signal,
    terminate: Signal,
}

enum Asked {
    Reload,
    End(&'static str),
}

impl Signals {
    async fn next(&mut self) -> Asked {
        tokio::select! {
            Some(()) = self.reload.recv() => Asked::Reload,
            Some(()) = self.interrupt.recv() => Asked::End("SIGINT"),
            Some(()) = self.terminate.recv() => Asked::End("SIGTERM"),
        }
    }
}

/// The time since the Unix epoch; zero for a clock that is set before it.
fn unix_time() -> Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}
