//! The agent's side of the gates: passes the desired state of links to the link guard, creates the ENIs that taskgate
//! provisions, and keeps the prefilter on the uplink.

mod hook;
mod inherited;
mod namespaces;
mod provisioned;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::PathBuf,
    sync::Arc,
};

use provisioned::ProvisionedTask;
use taskgate_api::TaskState;
use taskgate_bpf::{gate::AttachKind, object::BpfObject};
use taskgate_model::{Binding, Eni, Model, Uplink, UplinkMode};
use taskgate_net::{eni::EniWarning, link::Link, netlink::Netlink};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{error, info, warn};

use super::{
    error::{AttachError, LinkLeft, RunError, RunningError, StartError},
    guard::{Carrier, Counts, Desired, DesiredTask, LinkGuard, Notice, ObservedTask, TaskLink},
    image::SharedImage,
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
    /// The tasks whose ENIs taskgate creates, by ENI.
    provisioned: BTreeMap<String, ProvisionedTask>,
    /// Whether ENIs of earlier runs may exist that were not examined yet.
    inherits: bool,
    /// Number of links that an earlier process gated, until they are taken over.
    inherited: usize,
    /// The warnings about the host that were already given.
    warned: Vec<EniWarning>,
}

impl Gates {
    /// Starts the link guard. `inherited_trunks`: the trunks, current and previous, of an earlier process that is taken
    /// over. Where its tables are given up, the trunks are found by its gates instead.
    pub(super) fn begin(
        instance: &str,
        object: BpfObject,
        netlink: Netlink,
        image: Arc<SharedImage>,
        inherited_trunks: Option<Vec<u32>>,
    ) -> Result<Self, StartError> {
        let programs = object.gate_programs();
        let inherited = programs.inherit()?;
        if inherited != 0 && inherited_trunks.is_some() {
            info!("{inherited} links that an earlier run gated are taken over, with their connections");
        } else if inherited != 0 {
            info!("{inherited} links that an earlier run gated stay gated; nothing is known of their connections");
        }
        let inherited_trunks = match inherited_trunks {
            None => Some(programs.inherited_trunks()?),
            trunks => trunks,
        };
        let (guard, notices) = LinkGuard::start(programs, Arc::clone(&image), inherited_trunks)?;
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
            inherits: true,
            inherited,
            warned: Vec::new(),
        })
    }

    /// Refuses an uplink that cannot be used, before anything is changed.
    pub(super) async fn check(&self, model: &Model) -> Result<(), RunError> {
        match &model.uplink {
            Some(Uplink { device, .. }) => self.guard.check_uplink(device).await,
            None => Ok(()),
        }
    }

    /// Closes the branches of a trunk before a configuration is in force. Returns the errors.
    pub(super) async fn close_trunk(&mut self, uplink: Option<&Uplink>) -> Result<Vec<AttachError>, RunningError> {
        self.reconcile_links(uplink, &[]).await
    }

    /// Gates the uplink and the tasks of a configuration that was just switched to, and closes the gates of the tasks
    /// that it no longer names. `enis`: the gated ones with their slots. All are tried; returns the errors.
    pub(super) async fn reconcile(
        &mut self,
        model: &Model,
        enis: &[(&Eni, u16)],
    ) -> Result<Vec<AttachError>, RunningError> {
        let (uplink, attach) = (model.uplink.as_ref(), model.settings.attach);
        self.prefer_for_all(attach, enis).await?;
        let reconciled = self.reconcile_all(uplink, enis).await;
        self.prefer(attach, 1);
        reconciled
    }

    async fn reconcile_all(
        &mut self,
        uplink: Option<&Uplink>,
        enis: &[(&Eni, u16)],
    ) -> Result<Vec<AttachError>, RunningError> {
        self.set_macs(enis);
        let mut wrong = self.reconcile_links(uplink, enis).await?;
        self.reconcile_provisioned(enis, &mut wrong).await;
        Ok(wrong)
    }

    async fn reconcile_links(
        &mut self,
        uplink: Option<&Uplink>,
        enis: &[(&Eni, u16)],
    ) -> Result<Vec<AttachError>, RunningError> {
        self.uplink_mode = uplink.map(|uplink| uplink.mode);
        let reconciled = self.guard.reconcile(desired(uplink, enis)).await?;
        self.reconcile_uplink(reconciled.uplink);
        Ok(reconciled.wrong)
    }

    /// Writes the fixed MAC addresses of ENIs to the image: the configured one of a branch, and the one that taskgate
    /// assigns to an ENI that it creates. The MAC address of any other link is set by its creator and may change, so
    /// the image has none.
    fn set_macs(&self, enis: &[(&Eni, u16)]) {
        let mac_of = |eni: &Eni| match eni.binding.as_ref()? {
            Binding::Device(_) => None,
            Binding::Namespace(namespace) => {
                let spec = self.spec(eni.display_name(), namespace, &eni.addresses);
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

    /// The link guard's next notice. Cancel safe.
    pub(super) async fn notice(&mut self) -> Option<Notice> {
        self.notices.recv().await
    }

    /// Acts on a notice of the link guard.
    pub(super) fn noticed(&mut self, notice: Notice) -> Result<(), RunningError> {
        match notice {
            Notice::Came(_) => {}
            Notice::Uplink(link) => self.reconcile_uplink(link),
            Notice::ProvisionedLost { eni, ifindex, moved } => self.link_lost(&eni, ifindex, moved),
            Notice::Deaf(refused) => return Err(refused.into()),
        }
        Ok(())
    }

    /// Closes the links that an earlier process gated and that no task of the configuration uses any more.
    pub(super) fn close_inherited(&self) {
        match self.object.gate_programs().close_inherited() {
            Ok(0) => {}
            Ok(1) => warn!("a link that an earlier run gated is no task's any more: it passes nothing until it goes"),
            Ok(more) => {
                warn!("{more} links that an earlier run gated are no task's any more: they pass nothing until they go");
            }
            Err(error) => {
                error!("links that an earlier run gated judge by the configuration that was in force then: {error}");
            }
        }
    }

    /// The state and the gate of each task, as the link guard and the provisioning have them.
    pub(super) async fn observe(&self) -> Result<Vec<ObservedTask>, RunningError> {
        let mut observed = self.guard.observe().await?;
        let failed: Vec<&str> = self.failed_provisioned().collect();
        for task in &mut observed {
            if task.task.as_deref().is_some_and(|task| failed.contains(&task)) {
                task.state = TaskState::Failed;
            }
        }
        Ok(observed)
    }

    /// Repairs the gates of these links, the uplink's prefilter, and the pins in bpffs.
    pub(super) fn repair(&mut self, ifindexes: Vec<u32>) -> Result<(), StartError> {
        self.guard.repair(ifindexes);
        self.prefilter.restore(&mut self.object);
        Ok(self.object.restore_names()?)
    }

    /// The pins in bpffs that are missing or replaced.
    pub(super) fn lost_names(&self) -> io::Result<Vec<PathBuf>> {
        self.object.lost_names()
    }

    /// The uplink's name, if its prefilter was detached.
    pub(super) fn lost_prefilter(&self) -> io::Result<Option<String>> {
        self.prefilter.lost()
    }

    /// The kind of attachment for new gates.
    pub(super) fn hook(&self) -> AttachKind {
        self.object.gate_programs().hook()
    }

    /// The numbers of gated tasks and of all tasks, and the names of the failed ones.
    pub(super) async fn counts(&self) -> Result<Counts, RunningError> {
        let mut counts = self.guard.count().await?;
        counts.failed.extend(self.failed_provisioned().map(str::to_owned));
        Ok(counts)
    }

    /// Refuses a device that cannot carry a task's gate, or does not exist.
    pub(super) async fn check_device(&self, task: &str, device: &str) -> Result<(), AttachError> {
        let link = self.netlink.link(device).await;
        link.map(drop).map_err(|cause| AttachError::Device {
            task: task.to_owned(),
            left: LinkLeft::NotTouched,
            cause,
        })
    }

    /// The link on which an ENI is gated, if it is.
    pub(super) async fn task_link(&self, eni: &str) -> Result<Option<TaskLink>, RunningError> {
        self.guard.task_link(eni).await
    }

    /// Shuts down. The gates stay attached, and the ENIs that taskgate created stay. Returns the names of the tasks
    /// that were not gated at that time because of an error.
    pub(super) async fn end(&mut self) -> Vec<String> {
        let failed = self.counts().await.map_or_else(
            |_| self.failed_provisioned().map(str::to_owned).collect(),
            |counts| counts.failed,
        );
        self.prefilter.reconcile(&mut self.object, None);
        self.guard.end();
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
