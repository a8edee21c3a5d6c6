//! `taskgate run`: the gates of this host, held and kept current, and the records that they leave.
//!
//! Two threads do that. The link guard ([`guard`]) hears of links and closes or gates them, and nothing else delays it. The
//! agent does the rest, as one task: it applies configurations ([`apply`]), makes ENIs ([`gates`]), and closes capture
//! windows ([`records`]). They share the image's writer ([`image`]). Files are read on a thread of their own, so that
//! signals are heard meanwhile. Nothing of it is on a packet's way.

mod apply;
mod counters;
mod counters_base;
mod error;
mod gates;
mod guard;
mod host;
mod image;
mod instance;
mod opened;
mod reading;
mod records;
mod shares;
mod sizes;
mod uplink;

use std::{io::Write, path::PathBuf, time::Duration};

use log::LevelFilter;
use taskgate_bpf::{load::LoadOptions, object::BpfObject, sys, tables::KernelTables};
use taskgate_compiler::policy_banks;
use taskgate_config::Loaded;
use taskgate_net::{namespace_watch::NamespaceWatch, netlink::Netlink};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};
use tracing::{error, info, warn};

pub use counters::CountersForm;
pub use error::{AttachError, ConfigurationError, RunError, RunningError, StartError};
pub use host::{Found, HostFinding, Who, count as count_links, survey};
pub use sizes::{room, share, table_bytes};

use apply::Daemon;
use guard::Notice;
use host::HostWatch;
use instance::Instance;
use reading::{Again, Reading};

/// What `taskgate run` is told.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The folder with the configuration.
    pub config: PathBuf,
    /// Which of several on one host.
    pub instance: String,
    /// The flow logs' interval in seconds, in place of the configured one.
    pub interval: Option<u32>,
    /// How counters are written at the end; `None`: not at all. On SIGUSR1 they always are.
    pub counters: Option<CountersForm>,
    /// How much the log tells; the kernel program's messages are there from `debug` on.
    pub log_level: LevelFilter,
}

/// Holds the gates until SIGINT or SIGTERM. `counters`: where counters are written, each time with one call; it holds
/// nothing up.
///
/// # Errors
/// Whatever makes any gate impossible, and a kernel that no longer tells of links. A task that cannot be gated is an error
/// in the log, tried again, and [`RunningError::NotGated`] if that is so to the end. A reload that fails is logged and changes
/// nothing.
pub fn run(options: &RunOptions, counters: &mut dyn Write) -> Result<(), RunError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::without("timers and sockets"))?;
    runtime.block_on(start(options, counters))
}

async fn start(options: &RunOptions, counters: &mut dyn Write) -> Result<(), RunError> {
    // Before anything takes its time: from here on no signal ends the process but as it says here.
    let mut signals = Signals::register()?;
    // Every socket and file from here on counts.
    sys::lift_open_files_limit();
    let mut reading = Reading::begin(options)?;
    let (loaded, again) = loop {
        tokio::select! {
            loaded = reading.done() => match reading.begin_again(options)? {
                Again::Now => {}
                again => break (loaded?, again),
            },
            request = signals.next() => match request {
                Request::Reload => reading.ask_again(),
                Request::Counters => info!("SIGUSR1: nothing is gated yet"),
                Request::End(name) => {
                    info!("{name}: ending before anything was gated");
                    return Ok(());
                }
            },
        }
    };
    let _instance = Instance::claim(&options.instance)?;
    let reading = match again {
        Again::Afterwards => Some(Reading::begin(options)?),
        Again::No | Again::Now => None,
    };
    Box::pin(run_loop(options, counters, loaded, reading, signals)).await
}

/// Holds the gates of what was loaded. `reading`: the configuration that comes after it, if one was asked for.
async fn run_loop(
    options: &RunOptions,
    counters: &mut dyn Write,
    loaded: Loaded,
    mut reading: Option<Reading>,
    mut signals: Signals,
) -> Result<(), RunError> {
    let compiled = apply::compile_alone(&loaded.model)?;
    let mut object = BpfObject::load(&LoadOptions {
        conns: loaded.model.settings.connections.total,
        denials: loaded.model.settings.denials.total,
        policy_banks: policy_banks(compiled.policy_bytes()),
        log_level: options.log_level,
        instance: instance::number(&options.instance),
        ..LoadOptions::default()
    })
    .map_err(StartError::from)?;
    if let Some(unseen) = object.unseen() {
        warn!(
            "gates do not see what is left to be done to a packet once it passed ({}): a task with CAP_NET_RAW can have its \
             packets' ports and addresses written over. The links that taskgate makes fill in checksums and cut segments \
             before the gate, which costs processor time for each packet, until a task with CAP_NET_ADMIN turns that off. Do \
             the same at the tasks' ends of other links: `ethtool -K eth0 tx off`",
            error::chain(unseen)
        );
    }
    if let Some(drain) = object.log_drain().map_err(StartError::from)? {
        tokio::spawn(drain);
    }
    let tables = KernelTables::new(&object).map_err(StartError::from)?;
    let netlink = Netlink::open().map_err(StartError::from)?;
    let mut host = HostWatch::new(netlink.clone());
    let mut names = NamespaceWatch::new();
    let begun = Daemon::begin(&options.instance, object, tables, netlink, loaded.model).await?;
    let (mut daemon, wrong) = begun;
    log_all(&wrong);
    info!(
        generation = daemon.generation(),
        "gates are up: {}",
        daemon.gates_summary().await?
    );
    warn!("when this taskgate ends its gates come off: what it gates is then open, what it made is taken away");

    host.tell(daemon.model()).await;

    let mut room = Instant::now() + sizes::ROOM_EVERY;
    let ended = loop {
        let window_ends = Instant::now() + daemon.window_left();
        tokio::select! {
            notice = daemon.notice() => {
                let followed = match notice {
                    Some(Notice::Came(link)) => {
                        host.link_came(&link, daemon.model());
                        Ok(())
                    }
                    Some(notice) => daemon.noticed(notice),
                    None => Err(RunningError::Guard),
                };
                if let Err(error) = followed {
                    break Err(error.into());
                }
            }
            () = names.changed() => daemon.namespaces_changed().await,
            () = sleep_until(host.due()) => host.tell(daemon.model()).await,
            () = sleep_until(window_ends) => daemon.close_window(),
            () = sleep_until(room) => {
                daemon.gc_if_full();
                room = Instant::now() + sizes::ROOM_EVERY;
            }
            loaded = pending(&mut reading) => {
                let again = reading.as_mut().map_or(Ok(Again::No), |reading| reading.begin_again(options));
                if matches!(again, Ok(Again::Now)) {
                    continue;
                }
                reading = None;
                if let Err(error) = reload(loaded, &mut daemon).await {
                    break Err(error.into());
                }
                host.tell(daemon.model()).await;
                if !matches!(again, Ok(Again::No)) {
                    log_refused(ask_to_read(&mut reading, options));
                }
            }
            request = signals.next() => match request {
                Request::Reload => log_refused(ask_to_read(&mut reading, options)),
                Request::Counters => daemon.write_counters(options.counters.unwrap_or_default(), counters),
                Request::End(name) => {
                    info!("{name}: ending");
                    break Ok(());
                }
            },
        }
    };
    let not_gated = daemon.end(options.counters, counters).await;
    match ended {
        Ok(()) if !not_gated.is_empty() => Err(RunningError::NotGated { tasks: not_gated }.into()),
        ended => ended,
    }
}

/// What is read, if something is.
async fn pending(reading: &mut Option<Reading>) -> Result<Loaded, RunError> {
    match reading {
        Some(reading) => reading.done().await,
        None => std::future::pending().await,
    }
}

/// Has the files read; what is being read may be older than that.
fn ask_to_read(reading: &mut Option<Reading>, options: &RunOptions) -> Result<(), StartError> {
    match reading {
        Some(reading) => reading.ask_again(),
        None => *reading = Some(Reading::begin(options)?),
    }
    Ok(())
}

fn log_refused(asked: Result<(), StartError>) {
    if let Err(error) = asked {
        error!("reload refused: {}", error::chain(&error));
    }
}

fn log_all(errors: &[AttachError]) {
    for error in errors {
        error!(task = error.task(), "{}", error::chain(error));
    }
}

/// Applies what was read. An error here is the link guard's end.
async fn reload(loaded: Result<Loaded, RunError>, daemon: &mut Daemon) -> Result<(), RunningError> {
    let done = match loaded {
        Ok(loaded) => daemon.apply(loaded.model).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(wrong) => {
            log_all(&wrong);
            let but = if wrong.is_empty() { "" } else { ", but not wholly" };
            info!(
                generation = daemon.generation(),
                "reloaded{but}: generation {}, {}",
                daemon.generation(),
                daemon.gates_summary().await?
            );
        }
        Err(error) => error!(
            "reload refused, the configuration in force stays: {}",
            error::chain(&error)
        ),
    }
    Ok(())
}

struct Signals {
    reload: Signal,
    counters: Signal,
    interrupt: Signal,
    terminate: Signal,
}

enum Request {
    Reload,
    Counters,
    End(&'static str),
}

impl Signals {
    fn register() -> Result<Self, StartError> {
        let on = |kind| signal(kind).map_err(StartError::without("signals"));
        Ok(Self {
            reload: on(SignalKind::hangup())?,
            counters: on(SignalKind::user_defined1())?,
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Request {
        tokio::select! {
            Some(()) = self.reload.recv() => Request::Reload,
            Some(()) = self.counters.recv() => Request::Counters,
            Some(()) = self.interrupt.recv() => Request::End("SIGINT"),
            Some(()) = self.terminate.recv() => Request::End("SIGTERM"),
        }
    }
}

/// The time since the Unix epoch; zero for a clock that is set before it.
fn unix_time() -> Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}
