//! `taskgate run`: attaches the gates of this host, keeps them current, and writes flow records.
//!
//! Two threads do this. The link guard ([`guard`]) monitors links and closes or gates them, and nothing else delays it.
//! The agent does the rest in a single async task: it applies configurations ([`apply`]), creates ENIs ([`gates`]), and
//! closes capture windows ([`records`]). They share the image's writer ([`image`]). Files are read on a separate
//! thread, so that signals are handled meanwhile. None of this is on a packet's path.

mod apply;
mod cleanup;
mod config_watch;
mod control;
mod counters;
mod counters_base;
mod drift;
mod error;
mod gates;
mod guard;
mod host;
mod image;
mod instance;
mod journal;
mod left;
mod live;
mod metrics;
mod opened;
mod reading;
mod records;
mod refusal;
mod reloads;
mod shares;
mod sizes;
mod state;
mod status;
mod takeover;
mod task_changes;
mod tasks;
mod uplink;

use std::{io::Write, path::PathBuf, time::Duration};

use log::LevelFilter;
use taskgate_bpf::{gate::any_stands, load::LoadOptions, object::BpfObject, pins::Pins, sys, tables::KernelTables};
use taskgate_compiler::ImageSize;
use taskgate_net::{namespace_watch::NamespaceWatch, netlink::Netlink};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};
use tracing::{error, info, warn};

pub use cleanup::cleanup;
pub use counters::CountersForm;
pub use error::{AttachError, ConfigurationError, RunError, RunningError, StartError};
pub use host::{Found, HostFinding, Who, count as count_links, survey};
pub use left::left_standing;
pub use sizes::{room, share, table_bytes};

use apply::Daemon;
use config_watch::ConfigWatch;
use control::{Call, Control, StatusCall};
use drift::Drift;
use guard::Notice;
use host::HostWatch;
use instance::Instance;
use reading::{Again, Reading, Source};
use reloads::{Due, Reloads};
use state::StateFile;
use takeover::Takeover;
use tasks::{Configuration, Tasks};

/// The options of `taskgate run`.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The folder with the configuration.
    pub config: PathBuf,
    /// Whether the folder is read again when its files change.
    pub watch: bool,
    /// The name of the instance: several can run on one host.
    pub instance: String,
    /// Whether tracked connections of an earlier run may be given up where they cannot be taken over.
    pub drop_connections: bool,
    /// The flow logs' interval in seconds, in place of the configured one.
    pub interval: Option<u32>,
    /// How counters are written at the end; `None`: not at all. On SIGUSR1 they always are.
    pub counters: Option<CountersForm>,
    /// The level of the log. The kernel program's messages are logged from `debug` on.
    pub log_level: LevelFilter,
}

/// Runs until SIGINT or SIGTERM. `counters`: where counters are written, with a single call each time, which must not
/// block.
///
/// # Errors
/// Failures that make gating impossible altogether, and the loss of link monitoring. A task that cannot be gated is logged as
/// an error and retried, and is reported as [`RunningError::NotGated`] if it is not gated at the end. A reload that
/// fails is logged and changes nothing.
pub fn run(options: &RunOptions, counters: &mut dyn Write) -> Result<(), RunError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::without("timers and sockets"))?;
    runtime.block_on(start(options, counters))
}

async fn start(options: &RunOptions, counters: &mut dyn Write) -> Result<(), RunError> {
    // First of all: from here on, signals end the process only as handled below.
    let mut signals = Signals::register()?;
    if options.watch {
        signals.watch =
            ConfigWatch::over(&options.config).map_err(StartError::without("the watch over the configuration"))?;
    }
    // Raise the limit before the first sockets and files are opened.
    sys::lift_open_files_limit();
    let source = Source {
        config: options.config.clone(),
        interval: options.interval,
        rights: None,
    };
    let mut reading = Reading::begin(source.clone())?;
    let (loaded, again) = loop {
        tokio::select! {
            loaded = reading.done() => match reading.begin_again()? {
                Again::Now => {}
                again => break (loaded?.0, again),
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
    let mut instance = Instance::claim(&options.instance)?;
    let reading = match again {
        Again::Afterwards => Some(Reading::begin(source.clone())?),
        Again::No | Again::Now => None,
    };
    let reloads = Reloads::new(source, reading);
    Box::pin(run_loop(options, counters, loaded, reloads, signals, &mut instance)).await
}

/// Runs the gates of the loaded configuration. `reloads`: the reloads that follow.
async fn run_loop(
    options: &RunOptions,
    counters: &mut dyn Write,
    loaded: Configuration,
    mut reloads: Reloads,
    mut signals: Signals,
    instance: &mut Instance,
) -> Result<(), RunError> {
    let began = Instant::now();
    let (tasks, model) = Tasks::open(&options.instance, loaded)?;
    let compiled = apply::compile_alone(&model)?;
    let image = ImageSize::of(&compiled).map_err(ConfigurationError::from)?;
    drop(compiled);
    let pins = Pins::of(&options.instance).map_err(StartError::from)?;
    let file = StateFile::of(&options.instance).map_err(StartError::from)?;
    let number = instance::number(&options.instance);
    let gates = any_stands(&pins, number).map_err(StartError::from)?;
    let takeover = Takeover::find(&file, &pins, gates, options.drop_connections)?;
    let fresh = LoadOptions {
        conns: model.settings.connections.total,
        denials: model.settings.denials.total,
        member_banks: image.member_banks,
        policy_banks: image.policy_banks,
        log_level: options.log_level,
        instance: number,
        ..LoadOptions::default()
    };
    let (sizes, seed) = if let Some(takeover) = &takeover {
        (takeover.state.sizes(fresh), Some(&takeover.state.seed))
    } else {
        // The state file describes nothing that exists any more.
        file.remove().map_err(StartError::from)?;
        (fresh, None)
    };
    let mut object = BpfObject::load_pinned(&sizes, &pins, seed).map_err(StartError::from)?;
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
    let left = (file, takeover);
    let begun = Daemon::begin(&options.instance, object, tables, netlink, (tasks, model), left).await;
    let (mut daemon, wrong) = match begun {
        // No gates were attached before: remove everything that this start created.
        Err(error) if !gates => {
            cleanup::take_away(&options.instance).await?;
            return Err(error);
        }
        begun => begun?,
    };
    if let Err(error) = pins.release_old_images() {
        warn!("{}", error::chain(&error));
    }
    log_all(&wrong);
    let mut control = Control::start(&options.instance)?;
    control.serve_metrics(daemon.model().metrics);
    info!(
        generation = daemon.generation(),
        "gates are up: {}",
        daemon.counts().await?
    );

    host.tell(daemon.model()).await;

    let mut drift = Drift::new();
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
            () = sleep_until(drift.due()) => {
                instance.hold();
                if let Err(error) = drift.look(&daemon).await {
                    break Err(error.into());
                }
            }
            seen = drift.seen() => match seen {
                Ok(seen) => {
                    drift.note(&seen, &mut daemon);
                    for call in drift.take_waiting() {
                        let status = status::status(options, &mut daemon, &reloads, (&drift, &seen), began);
                        // The client may have disconnected.
                        match call {
                            StatusCall::Status(answer) => drop(answer.send(status)),
                            StatusCall::Metrics(answer) => drop(answer.send(daemon.sample(status, reloads.counts()))),
                        }
                    }
                }
                Err(error) => error!("the kernel was not looked at: {error}"),
            },
            due = reloads.next() => {
                if let Err(error) = reload(due, &mut reloads, &mut daemon).await {
                    break Err(error.into());
                }
                if let Err(error) = signals.watch.follow(reloads.followed()) {
                    warn!("`{}` is not watched: {error}", reloads.followed().display());
                }
                drift.look_soon();
                control.serve_metrics(daemon.model().metrics);
                host.tell(daemon.model()).await;
            }
            call = control.next() => match call {
                Call::Status(call) => drift.ask(call),
                Call::Live(answer) => {
                    // The client may have disconnected.
                    let _told = answer.send(daemon.live(reloads.source().clone()));
                }
                Call::Apply(folder, answer) => reloads.ask(folder, answer),
                Call::Task(call) => {
                    if let Err(error) = task_changes::answer(&mut daemon, call).await {
                        break Err(error.into());
                    }
                }
            },
            request = signals.next() => match request {
                Request::Reload => {
                    // Reopened whether or not the configuration is accepted.
                    daemon.reopen_records();
                    reloads.ask_first();
                }
                Request::Counters => daemon.write_counters(options.counters.unwrap_or_default(), counters),
                Request::End(name) => {
                    info!("{name}: ending");
                    break Ok(());
                }
            },
        }
    };
    let not_gated = daemon.end(options.counters, counters).await;
    info!(
        "gates go on judging and counting: `taskgate run` goes on with them, `taskgate cleanup --yes` takes them off and what \
         was made away"
    );
    match ended {
        Ok(()) if !not_gated.is_empty() => Err(RunningError::NotGated { tasks: not_gated }.into()),
        ended => ended,
    }
}

fn log_all(errors: &[AttachError]) {
    for error in errors {
        error!(task = error.task(), "{}", error::chain(error));
    }
}

/// Applies a configuration that was read, and answers those who wait for it. An error means that the link guard has
/// ended.
async fn reload(due: Due, reloads: &mut Reloads, daemon: &mut Daemon) -> Result<(), RunningError> {
    let Due { loaded, ticket } = due;
    let done = match loaded {
        Ok((loaded, warnings)) => daemon.apply(loaded).await.map(|wrong| (wrong, warnings)),
        Err(error) => Err(error),
    };
    match done {
        Ok((wrong, warnings)) => {
            log_all(&wrong);
            let but = if wrong.is_empty() { "" } else { ", but not wholly" };
            let counts = daemon.counts().await?;
            info!(
                generation = daemon.generation(),
                "reloaded{but}: generation {}, {counts}",
                daemon.generation()
            );
            let applied = status::applied(daemon.generation(), &counts, &wrong, &warnings);
            reloads.done(ticket, Ok(applied));
        }
        Err(error) => {
            error!(
                "reload refused, the configuration in force stays: {}",
                error::chain(&error)
            );
            reloads.done(ticket, Err(&error));
        }
    }
    Ok(())
}

struct Signals {
    reload: Signal,
    counters: Signal,
    interrupt: Signal,
    terminate: Signal,
    /// A settled change requests a reload, as SIGHUP does.
    watch: ConfigWatch,
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
            watch: ConfigWatch::default(),
        })
    }

    async fn next(&mut self) -> Request {
        tokio::select! {
            Some(()) = self.reload.recv() => Request::Reload,
            Some(()) = self.counters.recv() => Request::Counters,
            Some(()) = self.interrupt.recv() => Request::End("SIGINT"),
            Some(()) = self.terminate.recv() => Request::End("SIGTERM"),
            () = self.watch.settled() => Request::Reload,
        }
    }
}

/// The time since the Unix epoch; zero if the clock is set to an earlier time.
fn unix_time() -> Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}
