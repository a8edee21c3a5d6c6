//! The ENIs that taskgate creates: their creation, addresses and removal. None of this delays the link guard, which
//! gets each gate before its link is up.

use std::{mem, net::IpAddr};

use taskgate_bpf::gate::{Gate, GateError, GateProgram, link_id};
use taskgate_model::{Binding, Eni};
use taskgate_net::{
    eni::{EniError, EniSpec, EniWarning, TaskEni},
    link::Link,
    netns::{Namespace, NamespaceId},
};
use tracing::{error, info, warn};

use super::{Gates, by_id};
use crate::error::{AttachError, chain};

/// A task whose ENI taskgate creates.
#[derive(Debug)]
pub(super) struct ProvisionedTask {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) slot: u16,
    /// The ENI, once it is created.
    pub(super) eni: Option<TaskEni>,
    /// The gate of the ENI's link, while the link exists.
    pub(super) gate: Option<Gate>,
    /// Whether creating or addressing the ENI failed, and in which namespace.
    pub(super) failed: Failed,
    /// Whether the loss of the namespace's name was already logged.
    pub(super) nameless: bool,
}

/// Whether an ENI could not be created or addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    No,
    /// In this namespace, if it is known.
    In(Option<NamespaceId>),
}

impl Gates {
    /// Deletes the ENIs that are no longer named, updates the addresses of those that stay, and creates the missing
    /// ones. The first call also takes over those of earlier runs.
    pub(super) async fn reconcile_provisioned(&mut self, enis: &[(&Eni, u16)], wrong: &mut Vec<AttachError>) {
        let named = by_id(enis);
        let stays = |id: &String, task: &ProvisionedTask| {
            named.get(id.as_str()).is_some_and(|(eni, slot)| {
                matches!(&eni.binding, Some(Binding::Namespace(namespace)) if *namespace == task.namespace)
                    && *slot == task.slot
            })
        };
        let gone: Vec<ProvisionedTask> = self
            .provisioned
            .extract_if(.., |id, task| !stays(id, task))
            .map(|(_, task)| task)
            .collect();
        for task in gone {
            let was_made = task.eni.is_some();
            self.unmake(&task.name, task.eni, task.gate).await;
            if was_made {
                info!(task = task.name, "task `{}` is gone, and its ENI with it", task.name);
            }
        }
        for (eni, _) in enis {
            if let Some(task) = self.provisioned.get_mut(&eni.id) {
                task.nameless = false;
                task.failed = Failed::No;
            }
            self.release_renamed(eni).await;
        }
        for (eni, slot) in enis {
            let Some(Binding::Namespace(namespace)) = &eni.binding else {
                continue;
            };
            let task = self
                .provisioned
                .entry(eni.id.clone())
                .or_insert_with(|| ProvisionedTask {
                    name: String::new(),
                    namespace: namespace.clone(),
                    slot: *slot,
                    eni: None,
                    gate: None,
                    failed: Failed::No,
                    nameless: false,
                });
            eni.display_name().clone_into(&mut task.name);
        }
        if mem::take(&mut self.inherits) {
            self.inherit(enis, wrong).await;
        }
        wrong.append(&mut self.readdress(enis).await);
        for (eni, _) in enis {
            let is_missing = |task: &ProvisionedTask| task.gate.is_none() && task.failed == Failed::No;
            if self.provisioned.get(&eni.id).is_some_and(is_missing) {
                wrong.extend(self.make(eni, None).await.err());
            }
        }
    }

    /// Creates an ENI. `id`: the namespace, if it is known. After a failure, creation is not retried in the same
    /// namespace before the next reload.
    pub(super) async fn make(&mut self, eni: &Eni, id: Option<NamespaceId>) -> Result<(), AttachError> {
        let made = self.make_gated(eni).await;
        self.note_failure(&eni.id, made.is_err(), id);
        made
    }

    /// Remembers whether creating an ENI failed, and in which namespace: `id`, or else the one that the name refers to.
    pub(super) fn note_failure(&mut self, eni: &str, failed: bool, id: Option<NamespaceId>) {
        let Some(task) = self.provisioned.get_mut(eni) else {
            return;
        };
        let tried = || {
            let named = Namespace::open(&task.namespace).ok().flatten();
            id.or_else(|| named?.id().ok())
        };
        task.failed = if failed { Failed::In(tried()) } else { Failed::No };
    }

    /// Takes over an ENI or creates it. The link of a created ENI is gated, and its gate handed to the link guard,
    /// before the link is up.
    async fn make_gated(&mut self, eni: &Eni) -> Result<(), AttachError> {
        if self.adopt(eni).await? {
            return Ok(());
        }
        let Some(task) = self.provisioned.get(&eni.id) else {
            return Ok(());
        };
        let spec = self.spec(&task.name, &task.namespace, &eni.addresses);
        let gate = |link: &Link| self.gate_provisioned(&eni.id, task.slot, link);
        let made = TaskEni::make(&self.netlink, &spec, gate).await;
        let (made, gate) = made.map_err(no_eni(&task.name))?;
        self.hold(eni, made, gate, "made for");
        Ok(())
    }

    /// The specification by which taskgate creates a task's ENI.
    pub(super) fn spec<'a>(&'a self, task: &'a str, namespace: &'a str, addresses: &'a [IpAddr]) -> EniSpec<'a> {
        EniSpec {
            instance: &self.instance,
            task,
            namespace,
            addresses,
            fills_checksums: self.object.unseen().is_some(),
        }
    }

    /// Gates the link of an ENI that taskgate created, and hands the gate to the link guard.
    pub(super) fn gate_provisioned(&self, eni: &str, slot: u16, link: &Link) -> Result<Gate, GateError> {
        let (id, programs) = (link_id(link)?, self.object.gate_programs());
        let gated = programs.is_inherited(link)?;
        self.image
            .bind(id, slot, gated)
            .map_err(|cause| GateError::Prepare(cause.into()))?;
        let attached = programs.attach(link, GateProgram::Judge);
        let gate = attached.inspect_err(|_| {
            self.image.unbind(id);
        })?;
        self.guard.adopt(eni, gate.clone());
        Ok(gate)
    }

    /// Stores a gated ENI and logs it. `whence`: how it came to its namespace, for the log.
    pub(super) fn hold(&mut self, eni: &Eni, made: TaskEni, gate: Gate, whence: &str) {
        let Some(task) = self.provisioned.get_mut(&eni.id) else {
            return;
        };
        warn_of(&mut self.warned, &task.name, made.warnings());
        info!(
            task = task.name,
            link = made.link().name,
            "task `{}` is gated on link `{}`, {whence} namespace `{}`",
            task.name,
            made.link().name,
            task.namespace
        );
        task.gate = Some(gate);
        task.eni = Some(made);
    }

    /// Updates the addresses of the ENIs that taskgate created. Returns the errors.
    async fn readdress(&mut self, enis: &[(&Eni, u16)]) -> Vec<AttachError> {
        let mut wrong = Vec::new();
        // An address may move between ENIs: withdraw all old ones before assigning new ones.
        for withdraws in [true, false] {
            for (eni, _) in enis {
                let task = self.provisioned.get_mut(&eni.id).filter(|task| task.gate.is_some());
                let Some(task) = task else { continue };
                let Some(made) = &mut task.eni else { continue };
                let done = if withdraws {
                    made.withdraw(&self.netlink, &eni.addresses).await.map(|()| Vec::new())
                } else {
                    made.assign(&self.netlink, &eni.addresses).await
                };
                if done.is_err() {
                    task.failed = Failed::In(None);
                }
                match done {
                    Ok(warnings) => warn_of(&mut self.warned, &task.name, &warnings),
                    Err(cause) => wrong.push(AttachError::Addresses {
                        task: task.name.clone(),
                        cause,
                    }),
                }
            }
        }
        wrong
    }

    /// Handles the loss of the link of an ENI that taskgate created.
    pub(super) fn link_lost(&mut self, eni: &str, ifindex: u32, moved: bool) {
        let has = |task: &&mut ProvisionedTask| task.gate.as_ref().is_some_and(|gate| gate.link().ifindex == ifindex);
        let Some(task) = self.provisioned.get_mut(eni).filter(has) else {
            return;
        };
        let Some(gate) = task.gate.take() else { return };
        let (name, link) = (&task.name, &gate.link().name);
        if moved {
            error!(
                task = name,
                link, "task `{name}`: link `{link}`, which taskgate made, was moved to another network namespace"
            );
        } else {
            warn!(
                task = name,
                link,
                "task `{name}`: link `{link}`, which taskgate made, was taken away; a reload makes it again, as does another namespace of its name"
            );
        }
    }

    /// Deletes an ENI that taskgate created, and then drops its gate.
    pub(super) async fn unmake(&self, task: &str, made: Option<TaskEni>, gate: Option<Gate>) {
        let Some(made) = made else { return };
        let link = made.link().name.clone();
        let removed = made.remove(&self.netlink).await;
        drop(gate);
        if let Err(refused) = removed {
            warn!(
                task,
                link,
                "the ENI of task `{task}` (link `{link}`) is not wholly removed: {}",
                chain(&refused)
            );
        }
    }

    /// The names of the tasks whose ENIs could not be created or addressed.
    pub(super) fn failed_provisioned(&self) -> impl Iterator<Item = &str> {
        let failed = self.provisioned.values().filter(|task| task.failed != Failed::No);
        failed.map(|task| task.name.as_str())
    }
}

/// Converts the cause why a task has no ENI to an [`AttachError`].
pub(super) fn no_eni(task: &str) -> impl Fn(EniError) -> AttachError {
    let task = task.to_owned();
    move |cause| AttachError::Eni {
        task: task.clone(),
        cause,
    }
}

/// Logs the warnings about a task's ENI. Warnings about the host apply to every task, and are logged once.
fn warn_of(warned: &mut Vec<EniWarning>, task: &str, warnings: &[EniWarning]) {
    for warning in warnings {
        match warning {
            EniWarning::ForwardingOff { .. } if warned.contains(warning) => {}
            EniWarning::ForwardingOff { .. } => {
                warn!("{warning}");
                warned.push(warning.clone());
            }
            EniWarning::Setting { .. } | EniWarning::Trusting { .. } => warn!(task, "task `{task}`: {warning}"),
        }
    }
}
