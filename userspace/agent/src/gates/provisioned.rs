//! The ENIs that taskgate makes: leftovers of a killed run, their making, their addresses, and their end. None of it
//! holds up the link guard, which has each gate before its link is up.

use taskgate_bpf::gate::{Gate, GateError, GateProgram, link_id};
use taskgate_model::{Binding, Eni};
use taskgate_net::{
    eni::{EniSpec, EniWarning, TaskEni, remove_orphans},
    link::Link,
    netns::{Namespace, NamespaceId},
};
use tracing::{error, info, warn};

use super::{Gates, by_id};
use crate::error::{AttachError, chain};

/// A task whose ENI taskgate makes.
#[derive(Debug)]
pub(super) struct ProvisionedTask {
    pub(super) name: String,
    namespace: String,
    slot: u16,
    /// The ENI, once it is made.
    pub(super) eni: Option<TaskEni>,
    /// The gate of its link, while that is there.
    pub(super) gate: Option<Gate>,
    /// Whether it could not be made, and in which namespace.
    pub(super) failed: Failed,
    /// Whether it was warned that its namespace has lost its name.
    pub(super) nameless: bool,
}

/// Whether an ENI could not be made or addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    No,
    /// In this namespace, if that is known.
    In(Option<NamespaceId>),
}

impl Gates {
    /// Takes away the links that a killed run made and left, which have no gate any more; the namespaces that the
    /// configuration names stay, with their processes.
    pub(crate) async fn clear<'a>(&self, enis: impl Iterator<Item = &'a Eni>) {
        let namespaces = enis
            .filter_map(|eni| match &eni.binding {
                Some(Binding::Namespace(namespace)) => Some(namespace.as_str()),
                _ => None,
            })
            .collect();
        let left = remove_orphans(&self.netlink, &self.instance, &namespaces).await;
        if !left.removed.is_empty() {
            warn!(
                "an earlier run was killed; what it left ungated is taken away: {}",
                left.removed.join(", ")
            );
        }
        for kept in left.kept {
            error!("{kept}");
        }
    }

    /// Takes away the ENIs that are no longer named, gives those that stay their addresses, and makes those that are not
    /// there.
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
        wrong.append(&mut self.readdress(enis).await);
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
            if task.gate.is_none() {
                wrong.extend(self.make(eni, None).await.err());
            }
        }
    }

    /// Makes an ENI, in the namespace `id` if that is known. Where it cannot be made it is not tried again in the same one
    /// before the next reload.
    pub(super) async fn make(&mut self, eni: &Eni, id: Option<NamespaceId>) -> Result<(), AttachError> {
        let made = self.make_gated(eni).await;
        if let Some(task) = self.provisioned.get_mut(&eni.id) {
            let tried = || {
                let named = Namespace::open(&task.namespace).ok().flatten();
                id.or_else(|| named?.id().ok())
            };
            task.failed = if made.is_ok() { Failed::No } else { Failed::In(tried()) };
        }
        made
    }

    /// Makes an ENI: its link is gated, and the link guard has the gate, before it is up.
    async fn make_gated(&mut self, eni: &Eni) -> Result<(), AttachError> {
        let Some(task) = self.provisioned.get_mut(&eni.id) else {
            return Ok(());
        };
        let spec = EniSpec {
            instance: &self.instance,
            task: &task.name,
            namespace: &task.namespace,
            addresses: &eni.addresses,
            fills_checksums: self.object.unseen().is_some(),
        };
        let programs = self.object.gate_programs();
        let (image, guard, slot) = (&self.image, &self.guard, task.slot);
        let gate = |link: &Link| -> Result<Gate, GateError> {
            let id = link_id(link)?;
            image.bind(id, slot).map_err(|cause| GateError::Prepare(cause.into()))?;
            let attached = programs.attach(link, GateProgram::Judge);
            let gate = attached.inspect_err(|_| {
                image.unbind(id);
            })?;
            guard.adopt(&eni.id, gate.clone());
            Ok(gate)
        };
        let (made, gate) = TaskEni::make(&self.netlink, &spec, gate)
            .await
            .map_err(|cause| AttachError::Eni {
                task: task.name.clone(),
                cause,
            })?;
        warn_of(&mut self.warned, &task.name, made.warnings());
        info!(
            task = task.name,
            link = made.link().name,
            "task `{}` is gated on link `{}`, made for namespace `{}`",
            task.name,
            made.link().name,
            task.namespace
        );
        task.gate = Some(gate);
        task.eni = Some(made);
        Ok(())
    }

    /// Gives ENIs that taskgate made the addresses that they have now. Gives what went wrong.
    async fn readdress(&mut self, enis: &[(&Eni, u16)]) -> Vec<AttachError> {
        let mut wrong = Vec::new();
        // An address may move from one to another.
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

    /// The link of an ENI is gone that taskgate made.
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

    /// Takes away what taskgate made, and then its gate.
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

    /// The names of the tasks whose ENIs could not be made.
    pub(super) fn failed_provisioned(&self) -> impl Iterator<Item = &str> {
        let failed = self.provisioned.values().filter(|task| task.failed != Failed::No);
        failed.map(|task| task.name.as_str())
    }
}

/// Logs the limits of a task's ENI. Those of the host hold for every task: they are logged once.
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
