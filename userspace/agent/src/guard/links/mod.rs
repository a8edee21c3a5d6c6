//! Compares the desired state of links with the links that exist.

mod reconcile;
mod repair;
mod timing;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use taskgate_bpf::gate::{AttachKind, Cover, Gate, GateProgram, GatePrograms, Place};
use taskgate_ebpf::abi::LinkId;
use taskgate_net::{
    link::Link,
    netlink::NetlinkError,
    watch::{LinkEvent, LinkWatch, Moved},
};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{debug, error, info, warn};

use super::{
    Carrier, Counts, Desired, DesiredTask, Notice, TaskLink,
    moved::{self, place},
    retry::Retry,
    uplinks::{Uplinks, sides},
};
use crate::{
    error::{AttachError, chain},
    image::SharedImage,
};

/// Delay before binding a link is retried because the image's writer was busy.
const BUSY: Duration = Duration::from_millis(5);

/// The links of this network namespace.
pub(super) struct Links {
    programs: Arc<GatePrograms>,
    image: Arc<SharedImage>,
    watch: LinkWatch,
    notices: UnboundedSender<Notice>,
    /// The desired tasks and their states, by ENI.
    tasks: BTreeMap<String, Task>,
    /// The ENI of each desired device, by the device's name.
    devices: HashMap<String, String>,
    /// Gates of the links in this namespace except the trunk's, by ifindex.
    here: BTreeMap<u32, Held>,
    /// Gates of links that were moved to another namespace: they drop everything there.
    away: Vec<Gate>,
    /// Links that are closed until their gates are attached, by ifindex.
    covers: HashMap<u32, Cover>,
    uplinks: Uplinks,
    uplink_retry: Option<Retry>,
    uplink_is_due: bool,
    /// The trunks of an earlier process, until its gates are taken over.
    inherited_trunks: Option<Vec<u32>>,
    /// ENIs to be reconciled. Those whose link has just come up are first.
    due: VecDeque<String>,
    /// When the ENIs that wait for the image's writer are reconciled again.
    later: Option<Instant>,
    /// Whether something was removed that packets in flight may still read.
    pending_grace: bool,
    settling: Arc<AtomicBool>,
}

struct Task {
    desired: DesiredTask,
    state: State,
}

enum State {
    /// There is no link yet. `true`: this was already logged.
    Waiting(bool),
    /// It is bound to the link with this ifindex; `None` for a branch of the trunk.
    Bound(Option<u32>),
    /// The task's link passes nothing until it can be bound.
    Closed,
    /// The task's link could not be gated.
    Failed(Retry),
}

/// A gate on a link in this namespace.
struct Held {
    gate: Gate,
    /// The ENI that is bound to the link. Without one, the link passes nothing.
    eni: Option<String>,
}

impl Links {
    pub(super) fn new(
        programs: Arc<GatePrograms>,
        image: Arc<SharedImage>,
        watch: LinkWatch,
        notices: UnboundedSender<Notice>,
        inherited_trunks: Option<Vec<u32>>,
    ) -> Self {
        Self {
            inherited_trunks,
            uplinks: Uplinks::new(image.control()),
            programs,
            image,
            watch,
            notices,
            tasks: BTreeMap::new(),
            devices: HashMap::new(),
            here: BTreeMap::new(),
            away: Vec::new(),
            covers: HashMap::new(),
            uplink_retry: None,
            uplink_is_due: false,
            due: VecDeque::new(),
            later: None,
            pending_grace: false,
            settling: Arc::default(),
        }
    }

    pub(super) fn watch(&self) -> &LinkWatch {
        &self.watch
    }

    /// The uplink's link, if it exists.
    pub(super) fn uplink(&self) -> Option<Link> {
        self.uplinks.link().cloned()
    }

    /// Sets the desired state: tasks that are no longer in it are closed, all others become due.
    pub(super) fn desire(&mut self, desired: Desired) -> Result<(), NetlinkError> {
        // The desired state may name links whose events are still pending.
        self.watch.refresh()?;
        self.process_events()?;
        let stays = |eni: &String, task: &mut Task| {
            desired
                .tasks
                .get(eni)
                .is_some_and(|wanted| (wanted.slot, &wanted.carrier) == (task.desired.slot, &task.desired.carrier))
        };
        let gone: Vec<(String, Task)> = self.tasks.extract_if(.., |eni, task| !stays(eni, task)).collect();
        for (eni, task) in gone {
            self.release_task(&eni, &task);
        }
        // The trunk's branches are closed before they are bound.
        self.uplinks.desire(desired.uplink);
        self.uplink_is_due = true;
        self.devices.clear();
        self.due.clear();
        for (eni, wanted) in desired.tasks {
            if let Carrier::Device(device) = &wanted.carrier {
                self.devices.insert(device.clone(), eni.clone());
            }
            if let Some(task) = self.tasks.get_mut(&eni) {
                task.desired = wanted;
            } else {
                let state = State::Waiting(false);
                self.tasks.insert(eni.clone(), Task { desired: wanted, state });
            }
            self.due.push_back(eni);
        }
        Ok(())
    }

    /// Releases a task that is no longer named: its link stays closed.
    fn release_task(&mut self, eni: &str, task: &Task) {
        let DesiredTask { name, carrier, .. } = &task.desired;
        let held = self.here.iter().find(|(_, held)| held.eni.as_deref() == Some(eni));
        let ifindex = held.map(|(ifindex, _)| *ifindex);
        if let Some(ifindex) = ifindex {
            self.unbind(LinkId::device(ifindex));
        }
        match carrier {
            Carrier::Branch(vlan) => {
                if matches!(task.state, State::Bound(_)) {
                    self.unbind(LinkId::branch(*vlan));
                    warn!(
                        task = name,
                        vlan, "task `{name}` is no longer named: VLAN {vlan} passes nothing"
                    );
                }
            }
            // The agent deletes the link. If it cannot, the link stays closed.
            Carrier::Provisioned => {
                if let Some(held) = ifindex.and_then(|ifindex| self.here.get_mut(&ifindex)) {
                    held.eni = None;
                }
            }
            Carrier::Device(_) => {
                if let Some(held) = ifindex.and_then(|ifindex| self.here.get_mut(&ifindex)) {
                    held.eni = None;
                    warn!(
                        task = name,
                        link = held.gate.link().name,
                        "task `{name}` is no longer named: link `{}` passes nothing until it goes, or another task names it",
                        held.gate.link().name
                    );
                }
            }
        }
    }

    fn unbind(&mut self, link: LinkId) {
        if !self.image.unbind(link) {
            self.later = Some(Instant::now() + BUSY);
        }
        self.pending_grace = true;
    }

    /// Processes the pending link events: closes new links and cleans up after those that are gone.
    pub(super) fn process_events(&mut self) -> Result<(), NetlinkError> {
        while let Some(event) = self.watch.poll()? {
            match event {
                LinkEvent::Present { name, ifindex, unseen } => self.came(&name, ifindex, unseen),
                LinkEvent::Gone {
                    name,
                    ifindex,
                    moved,
                    renamed,
                } => self.went(&name, ifindex, moved, renamed),
                LinkEvent::Attached { ifindex } if self.here.contains_key(&ifindex) => self.follow_segment(ifindex),
                // A bridge may have become another kind of bridge.
                LinkEvent::Attached { .. } => {
                    let here: Vec<u32> = self.here.keys().copied().collect();
                    for ifindex in here {
                        self.follow_segment(ifindex);
                    }
                }
            }
        }
        Ok(())
    }

    fn came(&mut self, name: &str, ifindex: u32, unseen: bool) {
        // If messages were lost, another link may have got this name and number unnoticed.
        self.check(name, ifindex, None, !unseen);
        if self.uplinks.wants(name) {
            self.uplink_is_due = true;
        }
        let Some(eni) = self.devices.get(name).cloned() else {
            return;
        };
        if !self.here.contains_key(&ifindex) && !self.uplinks.holds(ifindex) {
            self.cover(name, ifindex);
        }
        self.due.retain(|due| *due != eni);
        self.due.push_front(eni);
        self.tell(Notice::Came(name.to_owned()));
    }

    /// Closes a new link until its gate is attached. Where attaching takes no grace period, the gate itself is as fast.
    fn cover(&mut self, name: &str, ifindex: u32) {
        let is_task = self.watch.link(name).is_some_and(|(_, link)| link.closable().is_some());
        if self.programs.hook() != AttachKind::Tcx || !is_task {
            return;
        }
        match self.programs.cover(ifindex) {
            Ok(cover) => self.hold_cover(ifindex, cover),
            Err(error) => debug!(
                link = name,
                "link `{name}` is not closed before its gate stands: {error}"
            ),
        }
    }

    fn hold_cover(&mut self, ifindex: u32, mut cover: Cover) {
        if let Some(before) = self.covers.remove(&ifindex) {
            cover.take_over(before);
        }
        self.covers.insert(ifindex, cover);
    }

    fn went(&mut self, name: &str, ifindex: u32, moved: Option<Moved>, renamed: bool) {
        self.check("", ifindex, moved, renamed);
        self.uplinks.lost_name(ifindex, name);
        if !self.watch.has(ifindex) {
            self.covers.remove(&ifindex);
        }
        self.away
            .retain(|gate| !matches!(place(gate), Place::Bare | Place::Gone));
    }

    /// Checks whether the link that has this number, and now this name, is the one that was gated. `same`: if a link
    /// has the number, it is the same link; a gate that is missing on it was then detached, and is repaired as such.
    fn check(&mut self, name: &str, ifindex: u32, moved: Option<Moved>, same: bool) {
        let uplink = self.uplink();
        let trunk_has_filters = self.uplinks.trunk_hook() == Some(AttachKind::Clsact);
        for gate in self.uplinks.check(ifindex, self.watch.has(ifindex), same) {
            self.close_moved(gate, "the uplink");
        }
        if let Some(link) = uplink.filter(|_| self.uplink().is_none()) {
            if trunk_has_filters {
                moved::close(&self.programs, &link.name, moved);
            }
            self.uplink_is_due = true;
            self.tell(Notice::Uplink(None));
        }
        let Some(held) = self.here.get_mut(&ifindex) else {
            return;
        };
        let place = place(&held.gate);
        let task = held.eni.as_ref().and_then(|eni| self.tasks.get_mut(eni));
        if moved::stays(place, same) {
            // A link that taskgate created belongs to its task under any name.
            if let Some(task) = task
                && let Carrier::Device(device) = &task.desired.carrier
                && device != name
            {
                warn!(
                    task = task.desired.name,
                    link = device,
                    "task `{}`: link `{device}` has another name now, and passes nothing under it",
                    task.desired.name
                );
                task.state = State::Waiting(true);
                held.eni = None;
                self.unbind(LinkId::device(ifindex));
            }
            return;
        }
        let is_made = task
            .as_ref()
            .is_some_and(|task| task.desired.carrier == Carrier::Provisioned);
        let whose = task.as_ref().map(|task| format!("task `{}`", task.desired.name));
        if let Some(task) = task {
            task.state = State::Waiting(true);
        }
        let Some(Held { gate, eni }) = self.here.remove(&ifindex) else {
            return;
        };
        let link = gate.link().name.clone();
        let has_moved = place == Place::Elsewhere || moved.is_some();
        if place == Place::Elsewhere {
            self.close_moved(gate, whose.as_deref().unwrap_or("no task"));
        } else if gate.hook() == AttachKind::Clsact {
            moved::close(&self.programs, &link, moved);
        }
        self.unbind(LinkId::device(ifindex));
        match (eni, whose) {
            (Some(eni), _) if is_made => self.tell(Notice::ProvisionedLost {
                eni,
                ifindex,
                moved: has_moved,
            }),
            (_, Some(whose)) if !has_moved => info!(link, "{whose}: link `{link}` is gone"),
            _ => {}
        }
    }

    /// Closes a link in the namespace that it was moved to.
    fn close_moved(&mut self, gate: Gate, whose: &str) {
        let link = gate.link().name.clone();
        match gate.set(GateProgram::DropAll) {
            Ok(()) => {
                error!(
                    link,
                    "{whose}: link `{link}` was moved to another network namespace: it passes nothing there"
                );
                self.away.push(gate);
            }
            // The link has gone meanwhile.
            Err(_) if matches!(place(&gate), Place::Bare | Place::Gone) => {}
            Err(error) => {
                error!(
                    link,
                    "{whose}: link `{link}` was moved to another network namespace, and cannot be closed there: {}",
                    chain(&error)
                );
                self.away.push(gate);
            }
        }
    }

    /// Writes to the image which bridge a task's link is a port of.
    fn follow_segment(&self, ifindex: u32) {
        let eni = self.here.get(&ifindex).and_then(|held| held.eni.as_ref());
        if let Some(task) = eni.and_then(|eni| self.tasks.get(eni)) {
            self.set_segment(task.desired.slot, ifindex);
        }
    }

    fn set_segment(&self, slot: u16, ifindex: u32) {
        let bridge = self.watch.segment(ifindex).unwrap_or(0);
        self.image.control().set_segment(slot, bridge);
    }

    fn tell(&self, notice: Notice) {
        // If the agent is gone, everything has ended.
        let _told = self.notices.send(notice);
    }

    /// Takes over the gate of a link that taskgate created.
    pub(super) fn adopt(&mut self, eni: &str, gate: Gate) {
        let (ifindex, name) = (gate.link().ifindex, gate.link().name.clone());
        if let Some(task) = self.tasks.get_mut(eni) {
            task.state = State::Bound(Some(ifindex));
        }
        let eni = Some(eni.to_owned());
        self.here.insert(ifindex, Held { gate, eni });
        self.follow_segment(ifindex);
        // The link may have gone before its gate was handed over.
        self.check(&name, ifindex, None, true);
    }

    /// Closes a link that taskgate created and is about to delete.
    pub(super) fn release(&mut self, eni: &str, ifindex: u32) {
        let is_its = |held: &&mut Held| held.eni.as_deref() == Some(eni);
        let Some(held) = self.here.get_mut(&ifindex).filter(is_its) else {
            return;
        };
        held.eni = None;
        self.unbind(LinkId::device(ifindex));
        if let Some(task) = self.tasks.get_mut(eni) {
            task.state = State::Waiting(true);
        }
    }

    /// Refuses a device that cannot be the uplink, if its link exists.
    pub(super) fn check_uplink(&mut self, device: &str) -> Result<Result<(), AttachError>, NetlinkError> {
        self.watch.refresh()?;
        self.process_events()?;
        let Some((ifindex, known)) = self.watch.link(device) else {
            return Ok(Ok(()));
        };
        Ok(match known.uplink() {
            Ok(link) if self.here.contains_key(&ifindex) => Err(sides(link)),
            Ok(_) => Ok(()),
            Err(cause) => Err(AttachError::Uplink {
                device: device.to_owned(),
                cause,
            }),
        })
    }

    /// The link on which an ENI is gated, if it is and is no branch.
    pub(super) fn task_link(&self, eni: &str) -> Option<TaskLink> {
        let State::Bound(Some(ifindex)) = self.tasks.get(eni)?.state else {
            return None;
        };
        let name = self.here.get(&ifindex)?.gate.link().name.clone();
        Some(TaskLink { name, ifindex })
    }

    pub(super) fn count(&self) -> Counts {
        let is_gated = |task: &&Task| match task.state {
            State::Bound(Some(_)) => true,
            State::Bound(None) => self.uplinks.has_trunk(),
            _ => false,
        };
        // If the trunk cannot be gated, its branches count as failed.
        let has_failed = |task: &&Task| match task.state {
            State::Failed(_) => true,
            State::Bound(None) => self.uplink_retry.is_some() && !self.uplinks.has_trunk(),
            _ => false,
        };
        let failed = self.tasks.values().filter(has_failed);
        Counts {
            gated: self.tasks.values().filter(is_gated).count(),
            tasks: self.tasks.len(),
            failed: failed.map(|task| task.desired.name.clone()).collect(),
        }
    }
}
