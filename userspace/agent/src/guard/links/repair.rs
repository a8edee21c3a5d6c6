//! Observes gates, and repairs those that were changed.

use std::collections::btree_map::Entry;

use taskgate_api::TaskState;
use taskgate_bpf::gate::GateProgram;
use tracing::{debug, error};

use super::{Carrier, Links, State};
use crate::{error::chain, guard::observed::ObservedTask};

impl Links {
    /// The state and gate of each task, and the gates of the trunk, of previous trunks, and of links that belong to no
    /// task any more.
    pub(in crate::guard) fn observe(&self) -> Vec<ObservedTask> {
        let trunk = self.uplinks.trunk_gate();
        let of_task = |(eni, task): (&String, &super::Task)| {
            let gate = match &task.state {
                State::Bound(Some(ifindex)) => self.here.get(ifindex).map(|held| held.gate.clone()),
                State::Bound(None) => trunk.cloned(),
                State::Closed | State::Failed(_) => {
                    let held = self.here.values().find(|held| held.eni.as_deref() == Some(eni));
                    held.map(|held| held.gate.clone())
                }
                State::Waiting(_) => None,
            };
            ObservedTask {
                eni: Some(eni.clone()),
                task: Some(task.desired.name.clone()),
                state: match &task.state {
                    State::Bound(None) if trunk.is_none() => TaskState::Waiting,
                    State::Bound(_) => TaskState::Gated,
                    State::Waiting(_) => TaskState::Waiting,
                    State::Closed => TaskState::Closed,
                    State::Failed(_) => TaskState::Failed,
                },
                vlan: match task.desired.carrier {
                    Carrier::Branch(vlan) => Some(vlan),
                    _ => None,
                },
                gate,
            }
        };
        let nobodys = self
            .here
            .values()
            .filter(|held| held.eni.is_none())
            .map(|held| &held.gate);
        let closed = nobodys.chain(self.uplinks.gates()).map(|gate| ObservedTask {
            eni: None,
            task: None,
            state: TaskState::Closed,
            vlan: None,
            gate: Some(gate.clone()),
        });
        self.tasks.iter().map(of_task).chain(closed).collect()
    }

    /// Repairs the gate of a link. If that fails, the link is closed.
    pub(in crate::guard) fn repair(&mut self, ifindex: u32) {
        let (gate, program) = match self.here.entry(ifindex) {
            Entry::Occupied(held) => {
                let eni = held.get().eni.as_ref();
                let task = eni.and_then(|eni| self.tasks.get(eni));
                let is_bound = task.is_some_and(|task| matches!(task.state, State::Bound(_)));
                let program = if is_bound {
                    GateProgram::Judge
                } else {
                    GateProgram::DropAll
                };
                (held.get().gate.clone(), program)
            }
            Entry::Vacant(_) => match self.uplinks.gates().find(|gate| gate.link().ifindex == ifindex) {
                Some(gate) => (gate.clone(), GateProgram::Judge),
                None => return,
            },
        };
        let link = gate.link().name.clone();
        let Err(error) = gate.repair(program) else {
            // The link may have been closed while it had no gate.
            self.covers.remove(&ifindex);
            return;
        };
        debug!(link, "{}", chain(&error));
        if self.covers.contains_key(&ifindex) {
            return;
        }
        match self.programs.cover(ifindex) {
            Ok(cover) => {
                error!(
                    link,
                    "the gate of link `{link}` cannot be put right, so it passes nothing: {}",
                    chain(&error)
                );
                self.hold_cover(ifindex, cover);
            }
            Err(refused) if refused.raw_os_error() == Some(libc::ENODEV) => {}
            Err(refused) => error!(
                link,
                "the gate of link `{link}` cannot be put right, nor the link be closed ({refused}): {}",
                chain(&error)
            ),
        }
    }
}
