//! The link guard: a thread that monitors links and closes or gates them, and does nothing else. Reading files,
//! creating ENIs and closing capture windows happen on other threads, so none of it delays a gate.
//!
//! It reconciles the links that exist ([`LinkWatch`]) with the desired state ([`Desired`]), at start, at a reload, and
//! whenever a link comes or goes ([`links`]). A link is first closed, then bound to its task in the image, then gated.

mod links;
mod moved;
mod observed;
mod retry;
mod uplinks;

use std::{
    collections::BTreeMap,
    fmt,
    os::fd::AsFd as _,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use taskgate_bpf::{
    gate::{Gate, GatePrograms},
    sys,
};
use taskgate_model::Uplink;
use taskgate_net::{link::Link, netlink::NetlinkError, watch::LinkWatch};
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot,
};
use tracing::{debug, error};

use self::links::Links;
pub(super) use self::observed::ObservedTask;
use super::{
    error::{AttachError, RunError, RunningError, StartError, chain},
    image::SharedImage,
};

/// The desired state: the uplink, and the carrier of each task.
#[derive(Debug, Default)]
pub(super) struct Desired {
    pub(super) uplink: Option<Uplink>,
    /// The tasks to be gated, by ENI.
    pub(super) tasks: BTreeMap<String, DesiredTask>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DesiredTask {
    pub(super) name: String,
    pub(super) slot: u16,
    pub(super) carrier: Carrier,
}

/// The carrier of a task's ENI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// The link of this name.
    Device(String),
    /// A branch of the trunk.
    Branch(u16),
    /// The link that taskgate creates, and hands over with its gate ([`LinkGuard::adopt`]).
    Provisioned,
}

/// The outcome of a reconciliation.
#[derive(Debug)]
pub(super) struct Reconciled {
    /// The errors of links that could not be gated. Gating them is retried.
    pub(super) wrong: Vec<AttachError>,
    /// The uplink's link, if it exists.
    pub(super) uplink: Option<Link>,
}

/// A task's link, as the link guard knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskLink {
    pub(crate) name: String,
    pub(crate) ifindex: u32,
}

/// The numbers of tasks by state.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) gated: usize,
    pub(super) tasks: usize,
    /// The names of tasks that could not be gated.
    pub(super) failed: Vec<String>,
}

/// A notice to the agent.
#[derive(Debug)]
pub(super) enum Notice {
    /// The link of this name, which carries a task, has come up.
    Came(String),
    /// The uplink's link has changed; `None` if there is none now.
    Uplink(Option<Link>),
    /// The link with this ifindex, which taskgate created, is gone.
    ProvisionedLost { eni: String, ifindex: u32, moved: bool },
    /// Links can no longer be monitored.
    Deaf(NetlinkError),
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks = if self.gated == 1 { "task" } else { "tasks" };
        write!(f, "{} {tasks} gated", self.gated)?;
        match self.tasks.saturating_sub(self.gated + self.failed.len()) {
            0 => {}
            waiting => write!(f, ", {waiting} without a link yet")?,
        }
        match self.failed.len() {
            0 => Ok(()),
            failed => write!(f, ", {failed} not gated because of an error"),
        }
    }
}

enum Command {
    Reconcile(Desired, oneshot::Sender<Reconciled>),
    CheckUplink(String, oneshot::Sender<Result<(), AttachError>>),
    Adopt(String, Gate),
    Release(String, u32),
    Count(oneshot::Sender<Counts>),
    Look(String, oneshot::Sender<Option<TaskLink>>),
    Observe(oneshot::Sender<Vec<ObservedTask>>),
    Repair(Vec<u32>),
    End,
}

/// The agent's end of the link guard. The gates stay attached when the thread ends.
#[derive(Debug)]
pub(super) struct LinkGuard {
    commands: mpsc::Sender<Command>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl LinkGuard {
    /// Starts the thread, in the network namespace of the caller, and returns the receiver of its notices.
    /// `inherited_trunks`: the trunks, current and previous, of an earlier process whose gates are attached.
    pub(super) fn start(
        programs: Arc<GatePrograms>,
        image: Arc<SharedImage>,
        inherited_trunks: Option<Vec<u32>>,
    ) -> Result<(Self, UnboundedReceiver<Notice>), StartError> {
        let without = StartError::without("the thread that guards links");
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_flags(flags).map_err(|errno| without(errno.into()))?;
        let wake = Arc::new(wake);
        let (commands, receiver) = mpsc::channel();
        let (notices, notified) = unbounded_channel();
        programs.reserve().map_err(&without)?;
        let links = Links::new(programs, image, LinkWatch::new()?, notices.clone(), inherited_trunks);
        let guard = Guard {
            links,
            commands: receiver,
            wake: Arc::clone(&wake),
            asked: None,
        };
        let run = move || guard.run(&notices);
        let thread = thread::Builder::new().name("link-guard".to_owned()).spawn(run);
        Ok((
            Self {
                commands,
                wake,
                thread: Some(thread.map_err(without)?),
            },
            notified,
        ))
    }

    /// Reconciles links with the desired state. Returns once each existing link is gated, or gating it has failed.
    pub(super) async fn reconcile(&self, desired: Desired) -> Result<Reconciled, RunningError> {
        self.ask(|reply| Command::Reconcile(desired, reply)).await
    }

    /// Refuses a device that cannot be the uplink, if its link exists.
    pub(super) async fn check_uplink(&self, device: &str) -> Result<(), RunError> {
        Ok(self
            .ask(|reply| Command::CheckUplink(device.to_owned(), reply))
            .await??)
    }

    /// Hands over the gate of a link that taskgate created for an ENI.
    pub(super) fn adopt(&self, eni: &str, gate: Gate) {
        self.tell(Command::Adopt(eni.to_owned(), gate));
    }

    /// Closes a link that the agent is about to delete.
    pub(super) fn release(&self, eni: &str, ifindex: u32) {
        self.tell(Command::Release(eni.to_owned(), ifindex));
    }

    pub(super) async fn count(&self) -> Result<Counts, RunningError> {
        self.ask(Command::Count).await
    }

    /// The link on which an ENI is gated, if it is.
    pub(super) async fn task_link(&self, eni: &str) -> Result<Option<TaskLink>, RunningError> {
        self.ask(|reply| Command::Look(eni.to_owned(), reply)).await
    }

    /// The state and gate of each task, and the gates of links that belong to no task any more.
    pub(super) async fn observe(&self) -> Result<Vec<ObservedTask>, RunningError> {
        self.ask(Command::Observe).await
    }

    /// Repairs the gates of these links.
    pub(super) fn repair(&self, ifindexes: Vec<u32>) {
        self.tell(Command::Repair(ifindexes));
    }

    /// Ends the thread. Links that it closed until their gates are attached stay closed until the next run.
    pub(super) fn end(&mut self) {
        self.tell(Command::End);
        self.join();
    }

    fn tell(&self, command: Command) {
        // A guard that ended has already reported why.
        if self.commands.send(command).is_ok()
            && let Err(error) = self.wake.write(1)
        {
            error!("the link guard cannot be woken: {error}");
        }
    }

    async fn ask<R>(&self, command: impl FnOnce(oneshot::Sender<R>) -> Command) -> Result<R, RunningError> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply));
        answer.await.map_err(|_dropped| RunningError::Guard)
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the link guard panicked");
        }
    }
}

/// The state of the thread.
struct Guard {
    links: Links,
    commands: mpsc::Receiver<Command>,
    wake: Arc<EventFd>,
    /// The pending reply to [`Command::Reconcile`], and the errors so far.
    asked: Option<(oneshot::Sender<Reconciled>, Vec<AttachError>)>,
}

impl Guard {
    fn run(mut self, notices: &UnboundedSender<Notice>) {
        // A task that keeps the CPUs busy must not delay the gating of another task's link.
        if let Err(error) = sys::prefer_thread() {
            debug!("the link guard is scheduled as any other thread: {error}");
        }
        if let Err(refused) = self.run_loop() {
            // If the agent is gone, there is no receiver for the notice.
            let _told = notices.send(Notice::Deaf(refused));
        }
    }

    /// Runs until [`Command::End`], or until the agent is gone.
    fn run_loop(&mut self) -> Result<(), NetlinkError> {
        loop {
            self.links.process_events()?;
            match self.commands.try_recv() {
                Ok(Command::End) | Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
                Ok(command) => {
                    self.command(command)?;
                    continue;
                }
                Err(mpsc::TryRecvError::Empty) => {}
            }
            // One step at a time: a link that comes up meanwhile is closed before the next link's gate is waited for.
            if self.links.is_due() {
                match (self.links.step(), &mut self.asked) {
                    (Some(error), Some((_, wrong))) => wrong.push(error),
                    (Some(error), None) => error!(task = error.task(), "{}", chain(&error)),
                    (None, _) => {}
                }
                continue;
            }
            self.links.wake_up();
            if self.links.is_due() {
                continue;
            }
            if self.links.is_settled()
                && let Some((reply, wrong)) = self.asked.take()
            {
                let uplink = self.links.uplink();
                let _told = reply.send(Reconciled { wrong, uplink });
            }
            self.wait()?;
        }
    }

    fn command(&mut self, command: Command) -> Result<(), NetlinkError> {
        match command {
            Command::Reconcile(desired, reply) => {
                self.links.desire(desired)?;
                self.asked = Some((reply, Vec::new()));
            }
            Command::CheckUplink(device, reply) => {
                let _told = reply.send(self.links.check_uplink(&device)?);
            }
            Command::Adopt(eni, gate) => self.links.adopt(&eni, gate),
            Command::Release(eni, ifindex) => self.links.release(&eni, ifindex),
            Command::Count(reply) => {
                let _told = reply.send(self.links.count());
            }
            Command::Look(eni, reply) => {
                let _told = reply.send(self.links.task_link(&eni));
            }
            Command::Observe(reply) => {
                let _told = reply.send(self.links.observe());
            }
            Command::Repair(ifindexes) => {
                for ifindex in ifindexes {
                    self.links.repair(ifindex);
                }
            }
            // Handled in the loop.
            Command::End => {}
        }
        Ok(())
    }

    /// Waits for a link event, a command, or the time of the next retry.
    fn wait(&mut self) -> Result<(), NetlinkError> {
        let patience = self.links.time_left();
        self.links.watch().wait(Some(self.wake.as_fd()), patience)?;
        // The read fails if only a link event or the timeout ended the wait.
        let _woken = self.wake.read();
        Ok(())
    }
}
