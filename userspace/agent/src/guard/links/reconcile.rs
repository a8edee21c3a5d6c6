//! Reconciles a single task's link: closed first, then bound in the image, then gated.

use std::{mem, time::Instant};

use taskgate_bpf::gate::{Gate, GateError, GateProgram, link_id};
use taskgate_ebpf::abi::LinkId;
use taskgate_net::link::Link;
use tracing::{debug, info, warn};

use super::{BUSY, Carrier, DesiredTask, Held, Links, Notice, State};
use crate::{
    error::{AttachError, LinkLeft, chain},
    guard::retry::Retry,
    image::Binding,
};

impl Links {
    /// Reconciles the next link or task that is due. Returns an error that was not reported before.
    pub(in crate::guard) fn step(&mut self) -> Option<AttachError> {
        // An earlier process's trunk gate keeps judging until the branches are bound in this process's image.
        let goes_on = self.inherited_trunks.is_some() && !self.due.is_empty();
        if !goes_on && mem::take(&mut self.uplink_is_due) {
            return self.reconcile_uplink();
        }
        let eni = self.due.pop_front()?;
        self.reconcile(&eni)
    }

    fn reconcile_uplink(&mut self) -> Option<AttachError> {
        let before = self.uplink();
        let is_task = |ifindex| self.here.contains_key(&ifindex);
        let established = self.uplinks.establish(&self.programs, &self.watch, &is_task);
        if let Some(trunks) = self.inherited_trunks.take() {
            self.uplinks.inherit(&self.programs, &self.watch, trunks);
        }
        let after = self.uplink();
        if after != before {
            self.tell(Notice::Uplink(after));
        }
        match established {
            Ok(()) => {
                self.uplink_retry = None;
                None
            }
            Err(error) => {
                let (retry, is_new) = Retry::after(self.uplink_retry.take(), chain(&error));
                self.uplink_retry = Some(retry);
                is_new.then_some(error)
            }
        }
    }

    fn reconcile(&mut self, eni: &str) -> Option<AttachError> {
        let task = self.tasks.get(eni)?;
        let announced = matches!(task.state, State::Waiting(true));
        let is_bound = matches!(task.state, State::Bound(_));
        let desired = task.desired.clone();
        let reconciled = match &desired.carrier {
            Carrier::Device(device) => self.reconcile_device(eni, &desired, device, announced),
            Carrier::Branch(_) if is_bound => return None,
            Carrier::Branch(vlan) => self.reconcile_branch(&desired, *vlan),
            // The link is handed over with its gate.
            Carrier::Provisioned => return None,
        };
        let task = self.tasks.get_mut(eni)?;
        let (state, failed) = match reconciled {
            Ok(state) => (state, None),
            Err(error) => {
                let before = match mem::replace(&mut task.state, State::Waiting(true)) {
                    State::Failed(retry) => Some(retry),
                    _ => None,
                };
                let (retry, is_new) = Retry::after(before, chain(&error));
                (State::Failed(retry), is_new.then_some(error))
            }
        };
        if matches!(state, State::Closed) {
            self.later = Some(Instant::now() + BUSY);
            self.pending_grace = true;
        }
        task.state = state;
        failed
    }

    fn reconcile_branch(&mut self, task: &DesiredTask, vlan: u16) -> Result<State, AttachError> {
        match self.image.try_bind(LinkId::branch(vlan), task.slot, true) {
            Ok(Binding::Done) => {
                let (trunk, yet) = match self.uplinks.trunk() {
                    Some(trunk) if self.uplinks.has_trunk() => (trunk, "is gated"),
                    trunk => (trunk.unwrap_or_default(), "will be gated"),
                };
                info!(
                    task = task.name,
                    vlan, "task `{}` {yet} on VLAN {vlan} of trunk `{trunk}`", task.name
                );
                Ok(State::Bound(None))
            }
            Ok(Binding::NotYet) => Ok(State::Closed),
            Err(cause) => Err(AttachError::Gate {
                task: task.name.clone(),
                left: LinkLeft::Closed,
                cause: GateError::Prepare(cause.into()),
            }),
        }
    }

    fn reconcile_device(
        &mut self,
        eni: &str,
        task: &DesiredTask,
        device: &str,
        announced: bool,
    ) -> Result<State, AttachError> {
        let name = || task.name.clone();
        let Some((ifindex, known)) = self.watch.link(device) else {
            if !announced {
                info!(
                    task = task.name,
                    link = device,
                    "task `{}` is gated as soon as link `{device}` is there",
                    task.name
                );
            }
            return Ok(State::Waiting(true));
        };
        let link = match known.task() {
            Ok(link) => link,
            Err(cause) => {
                let link = known.closable();
                let left = link.map_or(LinkLeft::Open, |link| self.close(&link));
                if left == LinkLeft::Gone {
                    return Ok(State::Waiting(true));
                }
                return Err(AttachError::Device {
                    task: name(),
                    left,
                    cause,
                });
            }
        };
        if self.uplinks.holds(ifindex) {
            return Err(AttachError::Gate {
                task: name(),
                left: LinkLeft::NotTouched,
                cause: GateError::Sides {
                    link: link.name,
                    has: "a trunk",
                    wants: "a task",
                },
            });
        }
        self.check(device, ifindex, None, true);
        if let Some(Held { eni: Some(owner), .. }) = self.here.get(&ifindex)
            && owner == eni
            && self
                .tasks
                .get(eni)
                .is_some_and(|task| matches!(task.state, State::Bound(_)))
        {
            return Ok(State::Bound(Some(ifindex)));
        }
        match self.gate(eni, task, &link) {
            Ok(Binding::Done) => {
                info!(
                    task = task.name,
                    link = link.name,
                    "task `{}` is gated on link `{}`",
                    task.name,
                    link.name
                );
                Ok(State::Bound(Some(ifindex)))
            }
            Ok(Binding::NotYet) => Ok(State::Closed),
            Err(cause) => {
                let left = self.close(&link);
                // The link was deleted meanwhile: there is nothing to gate or to warn of, and its event is still to
                // come.
                if left == LinkLeft::Gone {
                    return Ok(State::Waiting(true));
                }
                Err(AttachError::Gate {
                    task: name(),
                    left,
                    cause,
                })
            }
        }
    }

    /// Binds a link to its task's slot, then gates it. If the binding has to wait, the link is closed.
    fn gate(&mut self, eni: &str, task: &DesiredTask, link: &Link) -> Result<Binding, GateError> {
        let id = link_id(link)?;
        // The segment has to be set before any packet passes.
        self.set_segment(task.slot, link.ifindex);
        let gated = self.programs.is_inherited(link)?;
        let binding = self
            .image
            .try_bind(id, task.slot, gated)
            .map_err(|cause| GateError::Prepare(cause.into()))?;
        let program = match binding {
            Binding::Done => GateProgram::Judge,
            // The inherited gate keeps the link from being open meanwhile.
            Binding::NotYet if gated => return Ok(binding),
            Binding::NotYet => GateProgram::DropAll,
        };
        match self.put_up(link, program) {
            Ok(gate) => {
                let eni = Some(eni.to_owned());
                self.here.insert(link.ifindex, Held { gate, eni });
                Ok(binding)
            }
            Err(error) => {
                self.unbind(id);
                Err(error)
            }
        }
    }

    /// Attaches a program to both sides of a link, or repairs the gate that is there, and removes the cover that closed
    /// the link.
    fn put_up(&mut self, link: &Link, program: GateProgram) -> Result<Gate, GateError> {
        let gate = match self.here.get(&link.ifindex) {
            Some(held) => {
                held.gate.repair(program)?;
                held.gate.clone()
            }
            None => self.programs.attach(link, program)?,
        };
        self.covers.remove(&link.ifindex);
        // A link that was moved away and came back still has its old gate behind the new one.
        for behind in self.away.extract_if(.., |gate| gate.is_on(link.ifindex)) {
            if let Err(error) = behind.detach() {
                warn!(
                    link = link.name,
                    "link `{}` passes nothing: {}",
                    link.name,
                    chain(&error)
                );
            }
        }
        Ok(gate)
    }

    /// Closes a link that cannot be gated: by a gate that drops everything or, if that fails, by a cover.
    fn close(&mut self, link: &Link) -> LinkLeft {
        match self.put_up(link, GateProgram::DropAll) {
            Ok(gate) => {
                self.here.insert(link.ifindex, Held { gate, eni: None });
                return LinkLeft::Closed;
            }
            Err(error) => debug!("{}", chain(&error)),
        }
        // A link that already has a cover gets a new one, unless it is gone.
        match self.programs.cover(link.ifindex) {
            Ok(cover) => {
                self.hold_cover(link.ifindex, cover);
                LinkLeft::Closed
            }
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => LinkLeft::Gone,
            Err(_) if self.covers.contains_key(&link.ifindex) => LinkLeft::Closed,
            Err(error) => {
                debug!(link = link.name, "link `{}` cannot be closed: {error}", link.name);
                LinkLeft::Open
            }
        }
    }
}
