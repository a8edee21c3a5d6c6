//! The agent's side of the gates: it tells the link guard which links carry what, makes the ENIs that taskgate makes, and
//! has the prefilter follow the uplink.

mod namespaces;
mod provisioned;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use provisioned::ProvisionedTask;
use taskgate_bpf::object::BpfObject;
use taskgate_model::{Binding, Eni, Model, Uplink, UplinkMode};
use taskgate_net::{
    eni::{EniSpec, EniWarning},
    link::Link,
    netlink::Netlink,
};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    error::{AttachError, RunError, RunningError, StartError},
    guard::{Carrier, Desired, DesiredTask, LinkGuard, Notice},
    image::SharedImage,
    opened,
    uplink::PrefilteredUplink,
};

/// The gates of this host.
pub(super) struct Gates {
    instance: String,
    object: BpfObject,
    netlink: Netlink,
    image: Arc<SharedImage>,
    guard: LinkGuard,
    notices: UnboundedReceiver<Notice>,
    uplink_mode: Option<UplinkMode>,
    prefilter: PrefilteredUplink,
    /// The tasks whose ENIs taskgate makes, by ENI.
    provisioned: BTreeMap<String, ProvisionedTask>,
    /// The warnings about the host that were given.
    warned: Vec<EniWarning>,
}

impl Gates {
    /// Starts the link guard.
    pub(super) fn begin(
        instance: &str,
        object: BpfObject,
        netlink: Netlink,
        image: Arc<SharedImage>,
    ) -> Result<Self, StartError> {
        let (guard, notices) = LinkGuard::start(object.gate_programs(), Arc::clone(&image))?;
        Ok(Self {
            instance: instance.to_owned(),
            object,
            netlink,
            image,
            guard,
            notices,
            uplink_mode: None,
            prefilter: PrefilteredUplink::default(),
            provisioned: BTreeMap::new(),
            warned: Vec::new(),
        })
    }

    /// Refuses what could not be done, before anything is changed.
    pub(super) async fn check(&self, model: &Model) -> Result<(), RunError> {
        match &model.uplink {
            Some(Uplink { device, .. }) => self.guard.check_uplink(device).await,
            None => Ok(()),
        }
    }

    /// Gates the uplink and the tasks of a configuration that was just switched to, and closes the gates of those that it
    /// no longer names. `enis`: the gated ones with their slots. All are tried; gives what went wrong.
    pub(super) async fn reconcile(
        &mut self,
        uplink: Option<&Uplink>,
        enis: &[(&Eni, u16)],
    ) -> Result<Vec<AttachError>, RunningError> {
        self.uplink_mode = uplink.map(|uplink| uplink.mode);
        self.set_macs(enis);
        let reconciled = self.guard.reconcile(desired(uplink, enis)).await?;
        self.reconcile_uplink(reconciled.uplink);
        let mut wrong = reconciled.wrong;
        self.reconcile_provisioned(enis, &mut wrong).await;
        Ok(wrong)
    }

    /// Tells the image the hardware addresses that ENIs have and keep: what the configuration says of a branch, and what
    /// taskgate gives. Those of other links are whatever made them says, and may change.
    fn set_macs(&self, enis: &[(&Eni, u16)]) {
        let mac_of = |eni: &Eni| match eni.binding.as_ref()? {
            Binding::Device(_) => None,
            Binding::Namespace(namespace) => {
                let spec = EniSpec {
                    instance: &self.instance,
                    task: eni.display_name(),
                    namespace,
                    addresses: &eni.addresses,
                    fills_checksums: self.object.unseen().is_some(),
                };
                Some(spec.task_mac())
            }
            Binding::Vlan(vlan) => Some(vlan.mac),
        };
        let writer = self.image.writer();
        for (eni, slot) in enis {
            writer.control().set_mac(*slot, mac_of(eni));
        }
    }

    fn reconcile_uplink(&mut self, link: Option<Link>) {
        let uplink = link.zip(self.uplink_mode);
        self.prefilter.reconcile(&mut self.object, uplink);
    }

    /// The link guard's next notice. Nothing is lost when the future is dropped before it is ready.
    pub(super) async fn notice(&mut self) -> Option<Notice> {
        self.notices.recv().await
    }

    /// Follows what the link guard said.
    pub(super) fn noticed(&mut self, notice: Notice) -> Result<(), RunningError> {
        match notice {
            Notice::Came(_) => {}
            Notice::Uplink(link) => self.reconcile_uplink(link),
            Notice::ProvisionedLost { eni, ifindex, moved } => self.link_lost(&eni, ifindex, moved),
            Notice::Deaf(refused) => return Err(refused.into()),
        }
        Ok(())
    }

    /// How many tasks are gated, in words.
    pub(super) async fn summary(&self) -> Result<String, RunningError> {
        let counts = self.guard.count().await?;
        let tasks = if counts.gated == 1 { "task" } else { "tasks" };
        let failed = counts.failed.len() + self.failed_provisioned().count();
        let waiting = counts.tasks.saturating_sub(counts.gated + failed);
        let mut parts = vec![format!("{} {tasks} gated", counts.gated)];
        if waiting != 0 {
            parts.push(format!("{waiting} without a link yet"));
        }
        if failed != 0 {
            parts.push(format!("{failed} not gated because of an error"));
        }
        Ok(parts.join(", "))
    }

    /// Takes away what taskgate made and takes every gate off. Gives the names of the tasks that were not gated then,
    /// because of an error.
    pub(super) async fn end(&mut self) -> Vec<String> {
        let mut failed: Vec<String> = self.failed_provisioned().map(str::to_owned).collect();
        if let Ok(counts) = self.guard.count().await {
            failed.extend(counts.failed);
        }
        self.prefilter.reconcile(&mut self.object, None);
        for task in std::mem::take(&mut self.provisioned).into_values() {
            self.unmake(&task.name, task.eni, task.gate).await;
        }
        let opened = self.guard.end().await;
        opened::log(&opened);
        failed
    }
}

fn desired(uplink: Option<&Uplink>, enis: &[(&Eni, u16)]) -> Desired {
    let tasks = enis.iter().filter_map(|(eni, slot)| {
        let carrier = match eni.binding.as_ref()? {
            Binding::Device(device) => Carrier::Device(device.clone()),
            // The VLAN id alone names a branch.
            Binding::Vlan(vlan) => Carrier::Branch(vlan.id),
            Binding::Namespace(_) => Carrier::Provisioned,
        };
        let task = DesiredTask {
            name: eni.display_name().to_owned(),
            slot: *slot,
            carrier,
        };
        Some((eni.id.clone(), task))
    });
    Desired {
        uplink: uplink.cloned(),
        tasks: tasks.collect(),
    }
}

/// The ENIs by their ids.
fn by_id<'a>(enis: &[(&'a Eni, u16)]) -> HashMap<&'a str, (&'a Eni, u16)> {
    enis.iter()
        .map(|(eni, slot)| (eni.id.as_str(), (*eni, *slot)))
        .collect()
}
