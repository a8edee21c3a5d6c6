//! The agent's side of the gates: it tells the link guard which links carry what, makes the ENIs that taskgate makes, and
//! has the prefilter follow the uplink.

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
    /// The tasks whose ENIs taskgate makes, by ENI.
    provisioned: BTreeMap<String, ProvisionedTask>,
    /// ENIs of earlier runs may be there that were not looked at.
    inherits: bool,
    /// How many links an earlier process gated, until they are taken over.
    inherited: usize,
    /// The warnings about the host that were given.
    warned: Vec<EniWarning>,
}

impl Gates {
    /// Starts the link guard. `inherited_trunks`: the links that were trunks of an earlier process that is gone on with; where
    /// its tables are given up, its gates themselves tell which ones were.
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

    /// Refuses what could not be done, before anything is changed.
    pub(super) async fn check(&self, model: &Model) -> Result<(), RunError> {
        match &model.uplink {
            Some(Uplink { device, .. }) => self.guard.check_uplink(device).await,
            None => Ok(()),
        }
    }

    /// Closes the branches of a trunk, before a configuration is in force. Gives what went wrong.
    pub(super) async fn close_trunk(&mut self, uplink: Option<&Uplink>) -> Result<Vec<AttachError>, RunningError> {
        self.reconcile_links(uplink, &[]).await
    }

    /// Gates the uplink and the tasks of a configuration that was just switched to, and closes the gates of those that it
    /// no longer names. `enis`: the gated ones with their slots. All are tried; gives what went wrong.
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

    /// Tells the image the hardware addresses that ENIs have and keep: what the configuration says of a branch, and what
    /// taskgate gives. Those of other links are whatever made them says, and may change.
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

    /// Closes the links that an earlier process gated and that nobody names any more.
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

    /// What is held for each task.
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

    /// Has the gates of links put right, the uplink's prefilter, and the names in bpffs of what outlives the process.
    pub(super) fn repair(&mut self, ifindexes: Vec<u32>) -> Result<(), StartError> {
        self.guard.repair(ifindexes);
        self.prefilter.restore(&mut self.object);
        Ok(self.object.restore_names()?)
    }

    /// The names in bpffs that are missing, or lead to something else.
    pub(super) fn lost_names(&self) -> io::Result<Vec<PathBuf>> {
        self.object.lost_names()
    }

    /// The uplink, if its prefilter was taken off.
    pub(super) fn lost_prefilter(&self) -> io::Result<Option<String>> {
        self.prefilter.lost()
    }

    /// How gates hang that are put up now.
    pub(super) fn hook(&self) -> AttachKind {
        self.object.gate_programs().hook()
    }

    /// How many tasks are gated.
    pub(super) async fn counts(&self) -> Result<Counts, RunningError> {
        let mut counts = self.guard.count().await?;
        counts.failed.extend(self.failed_provisioned().map(str::to_owned));
        Ok(counts)
    }

    /// Refuses a device that cannot carry a task's gate, or is not there.
    pub(super) async fn check_device(&self, task: &str, device: &str) -> Result<(), AttachError> {
        let link = self.netlink.link(device).await;
        link.map(drop).map_err(|cause| AttachError::Device {
            task: task.to_owned(),
            left: LinkLeft::NotTouched,
            cause,
        })
    }

    /// The link that an ENI is gated on, if it is.
    pub(super) async fn task_link(&self, eni: &str) -> Result<Option<TaskLink>, RunningError> {
        self.guard.task_link(eni).await
    }

    /// Ends. The gates stay, and so does what taskgate made. Gives the names of the tasks that were not gated then, because of
    /// an error.
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
