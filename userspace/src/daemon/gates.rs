//! The gates of this host: which task is bound to which link, and what became of it.

mod check;
mod made;
mod namespaces;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use log::{info, warn};
use made::tell;
use taskgate_ebpf::abi::LinkId;

use super::{
    RunError,
    apply::settle,
    error::chain,
    opened,
    records::Writer,
    uplink::{Uplinks, is_gone},
};
use crate::{
    dataplane::{
        eni::{EniSpec, EniWarning, TaskEni},
        gate::{Gate, GateError},
        link::{Link, LinkError, LinkEvent},
        netlink::Netlink,
        netns::NamespaceId,
        object::Object,
    },
    model::{Binding, Eni, Uplink},
};

/// A task's link.
#[derive(Debug)]
struct Task {
    /// What the configuration says.
    name: String,
    binding: Binding,
    slot: u16,
    /// The gate, once its link is there. The trunk's is that of its branches.
    gate: Option<Gate>,
    /// Whether it is bound to its VLAN, if it has one.
    branch: bool,
    /// The ENI, if taskgate made it. Without a gate its link is gone, and only its namespace is left.
    made: Option<TaskEni>,
}

/// The gates of this host, by ENI.
pub(super) struct Gates {
    instance: String,
    object: Object,
    netlink: Netlink,
    tasks: BTreeMap<String, Task>,
    uplinks: Uplinks,
    /// Gates of links that no task has any more: closed until the link goes.
    closed: Vec<Gate>,
    /// What was said about the host.
    said: Vec<EniWarning>,
    /// Tasks, by ENI, whose namespace was said to have lost its name.
    nameless: BTreeSet<String>,
    /// The namespaces, by ENI, in which one could not be made.
    failed: BTreeMap<String, NamespaceId>,
}

impl Gates {
    pub(super) fn new(instance: &str, object: Object, netlink: Netlink) -> Self {
        Self {
            instance: instance.to_owned(),
            object,
            netlink,
            tasks: BTreeMap::new(),
            uplinks: Uplinks::default(),
            closed: Vec::new(),
            said: Vec::new(),
            nameless: BTreeSet::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Gates the uplink that a configuration names.
    pub(super) async fn uplink(&mut self, uplink: Option<&Uplink>, writer: &mut Writer) -> Result<(), RunError> {
        self.uplinks
            .follow(uplink, &mut self.object, &self.netlink, writer)
            .await
    }

    /// Gates the uplink and the tasks of a configuration that was just switched to, and closes the gates of those that it
    /// no longer names. `enis`: the gated ones with their slots. All are tried; gives what went wrong.
    pub(super) async fn follow(
        &mut self,
        uplink: Option<&Uplink>,
        enis: &[(&Eni, u16)],
        writer: &mut Writer,
    ) -> Vec<RunError> {
        // What the trunk carries is closed before it is bound.
        let followed = self.uplink(uplink, writer).await;
        let named: HashMap<&str, (&Eni, u16)> = enis
            .iter()
            .map(|(eni, slot)| (eni.id.as_str(), (*eni, *slot)))
            .collect();
        let stays = |id: &str, task: &Task| {
            named.get(id).is_some_and(|(eni, slot)| {
                eni.binding
                    .as_ref()
                    .is_some_and(|binding| is_same(binding, &task.binding))
                    && *slot == task.slot
            })
        };
        let gone: Vec<String> = self
            .tasks
            .iter()
            .filter(|(id, task)| !stays(id, task))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            if let Some(task) = self.tasks.remove(&id) {
                self.dismiss(task, writer).await;
            }
        }
        self.failed.clear();
        self.nameless.clear();
        for (eni, _) in enis {
            self.release_renamed(eni, writer).await;
        }
        let mut wrong: Vec<RunError> = followed.err().into_iter().collect();
        wrong.append(&mut self.readdress(enis).await);
        for (eni, slot) in enis {
            let Some(binding) = &eni.binding else { continue };
            writer.set_mac(*slot, self.mac_of(eni, binding));
            if !self.tasks.contains_key(&eni.id) {
                let name = eni.display_name().to_owned();
                let task = Task {
                    name,
                    binding: binding.clone(),
                    slot: *slot,
                    gate: None,
                    branch: false,
                    made: None,
                };
                self.tasks.insert(eni.id.clone(), task);
            }
            wrong.extend(self.bind(eni, writer).await.err());
        }
        wrong
    }

    /// The hardware address that an ENI has and keeps: what the configuration says of a branch, and what taskgate gives.
    /// Those of other links are whatever made them says, and may change.
    fn mac_of(&self, eni: &Eni, binding: &Binding) -> Option<[u8; 6]> {
        match binding {
            Binding::Device(_) => None,
            Binding::Namespace(namespace) => {
                let spec = EniSpec {
                    instance: &self.instance,
                    task: eni.display_name(),
                    namespace,
                    addresses: &eni.addresses,
                };
                Some(spec.task_mac())
            }
            Binding::Vlan(vlan) => Some(vlan.mac),
        }
    }

    /// Brings a task's gate up, if its link is there.
    async fn bind(&mut self, eni: &Eni, writer: &mut Writer) -> Result<(), RunError> {
        let Some(task) = self.tasks.get_mut(&eni.id).filter(|task| task.gate.is_none()) else {
            return Ok(());
        };
        match &task.binding {
            Binding::Device(device) => {
                let link = match self.netlink.link(device).await {
                    Ok(link) => link,
                    Err(LinkError::Missing { name }) => {
                        info!("task `{}` is gated as soon as link `{name}` is there", task.name);
                        return Ok(());
                    }
                    Err(cause) => {
                        return Err(RunError::Device {
                            task: task.name.clone(),
                            cause,
                        });
                    }
                };
                let gate = attach(&mut self.object, writer, &link, task.slot).map_err(|cause| RunError::Gate {
                    task: task.name.clone(),
                    cause,
                })?;
                // A gate that was closed for want of a task goes only now that the new one stands.
                self.closed.retain(|gate| gate.link().ifindex != link.ifindex);
                info!("task `{}` is gated on link `{}`", task.name, link.name);
                task.gate = Some(gate);
            }
            Binding::Namespace(namespace) => {
                let spec = EniSpec {
                    instance: &self.instance,
                    task: &task.name,
                    namespace,
                    addresses: &eni.addresses,
                };
                let object = &mut self.object;
                let slot = task.slot;
                let made = TaskEni::make(&self.netlink, &spec, |link| attach(object, writer, link, slot)).await;
                let (made, gate) = made.map_err(|cause| RunError::Eni {
                    task: task.name.clone(),
                    cause,
                })?;
                tell(&mut self.said, &task.name, made.warnings());
                info!(
                    "task `{}` is gated on link `{}`, made for namespace `{namespace}`",
                    task.name,
                    made.link().name
                );
                task.gate = Some(gate);
                task.made = Some(made);
            }
            Binding::Vlan(_) if task.branch => {}
            Binding::Vlan(vlan) => {
                let bound = add_link(writer, LinkId::branch(vlan.id), task.slot);
                bound.map_err(|cause| RunError::Gate {
                    task: task.name.clone(),
                    cause,
                })?;
                task.branch = true;
                let (trunk, yet) = match self.uplinks.trunk() {
                    Some(trunk) if self.uplinks.has_trunk() => (trunk, "is gated"),
                    trunk => (trunk.unwrap_or_default(), "will be gated"),
                };
                info!("task `{}` {yet} on VLAN {} of trunk `{trunk}`", task.name, vlan.id);
            }
        }
        Ok(())
    }

    /// A task that is no longer named: what taskgate made goes, what it did not make stays closed.
    async fn dismiss(&mut self, task: Task, writer: &mut Writer) {
        if let Some(gate) = &task.gate {
            writer.remove_link(LinkId::device(gate.link().ifindex));
        }
        if let (true, Binding::Vlan(vlan)) = (task.branch, &task.binding) {
            writer.remove_link(LinkId::branch(vlan.id));
            warn!(
                "task `{}` is no longer named: VLAN {} passes nothing",
                task.name, vlan.id
            );
        }
        match task.made {
            Some(made) => {
                self.unmake(&task.name, made, task.gate).await;
                info!("task `{}` is gone, and its ENI with it", task.name);
            }
            None => {
                if let Some(gate) = task.gate {
                    warn!(
                        "task `{}` is no longer named: link `{}` passes nothing until it goes",
                        task.name,
                        gate.link().name
                    );
                    self.closed.push(gate);
                }
            }
        }
    }

    /// Follows a link that came or went. `enis`: as in [`Gates::follow`].
    pub(super) async fn event(&mut self, event: &LinkEvent, enis: &[&Eni], writer: &mut Writer) {
        let followed = self.uplinks.event(event, &mut self.object, &self.netlink, writer).await;
        if let Err(error) = followed {
            log::error!("{}", chain(&error));
        }
        match event {
            LinkEvent::Present { name, ifindex } => {
                // Where messages were lost another link may have come to its name and number unseen.
                self.lose(*ifindex, name, true, writer);
                let waits = |eni: &&&Eni| matches!(&eni.binding, Some(Binding::Device(device)) if device == name);
                if let Some(eni) = enis.iter().find(waits)
                    && let Err(error) = self.bind(eni, writer).await
                {
                    log::error!("{}", chain(&error));
                }
            }
            LinkEvent::Gone { name, ifindex } => {
                self.closed
                    .retain(|gate| gate.link().ifindex != *ifindex || !is_gone(gate));
                self.lose(*ifindex, name, false, writer);
            }
        }
    }

    /// Closes the gate of a link that went, or that another name has; `if_gone`: only of one that went.
    fn lose(&mut self, ifindex: u32, name: &str, if_gone: bool, writer: &mut Writer) {
        let has = |task: &&mut Task| task.gate.as_ref().is_some_and(|gate| gate.link().ifindex == ifindex);
        let Some(task) = self.tasks.values_mut().find(has) else {
            return;
        };
        let Some(gate) = task.gate.take() else { return };
        let gone = is_gone(&gate);
        // What taskgate made is its task's under any name.
        if !gone && (if_gone || task.made.is_some()) {
            task.gate = Some(gate);
            return;
        }
        writer.remove_link(LinkId::device(ifindex));
        if !gone {
            warn!(
                "task `{}`: link `{name}` has another name now, and passes nothing under it",
                task.name
            );
            self.closed.push(gate);
        } else if task.made.is_some() {
            warn!(
                "task `{}`: link `{name}`, which taskgate made, was taken away; a reload makes it again, as does \
                 another namespace of its name",
                task.name
            );
        } else {
            info!("task `{}`: link `{name}` is gone", task.name);
        }
    }

    /// How many tasks have a gate, and how many wait for their link.
    pub(super) fn counts(&self) -> (usize, usize) {
        let is_gated = |task: &&Task| task.gate.is_some() || task.branch && self.uplinks.has_trunk();
        let gated = self.tasks.values().filter(is_gated).count();
        (gated, self.tasks.len() - gated)
    }

    /// Takes away what taskgate made and takes every gate off.
    pub(super) async fn end(&mut self) {
        let mut opened = Vec::new();
        for (_, task) in std::mem::take(&mut self.tasks) {
            match (task.made, task.gate) {
                (Some(made), gate) => self.unmake(&task.name, made, gate).await,
                (None, Some(gate)) => opened.push(gate),
                (None, None) => {}
            }
        }
        opened.append(&mut self.closed);
        opened.append(&mut self.uplinks.end());
        let mut off = Vec::new();
        for gate in opened {
            let link = gate.link().name.clone();
            match gate.detach() {
                Ok(()) => off.push(link),
                Err(error) => warn!("the gate of link `{link}` may still stand: {}", chain(&error)),
            }
        }
        opened::tell(&off);
    }
}

/// The link's row first, so that no packet meets a gate that does not know it; then the gate. Where the row has to wait the
/// gate is closed until then.
fn attach(object: &mut Object, writer: &mut Writer, link: &Link, slot: u16) -> Result<Gate, GateError> {
    let id = link.id()?;
    if writer.is_raised(slot) {
        let gate = object.attach(link)?;
        add_link(writer, id, slot)?;
        return Ok(gate);
    }
    add_link(writer, id, slot)?;
    object.attach(link).inspect_err(|_| writer.remove_link(id))
}

/// Binds a link to a slot. If the slot has just lost another one, what that one's last packets admit is made old first:
/// later it would be done to the connections of the new link.
fn add_link(writer: &mut Writer, link: LinkId, slot: u16) -> Result<(), GateError> {
    if writer.is_raised(slot) {
        settle(writer);
    }
    writer.add_link(link, slot).map_err(GateError::Image)
}

/// Whether two bindings are the same place. The VLAN id alone names a branch.
fn is_same(one: &Binding, other: &Binding) -> bool {
    match (one, other) {
        (Binding::Vlan(one), Binding::Vlan(other)) => one.id == other.id,
        _ => one == other,
    }
}
