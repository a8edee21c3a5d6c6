//! The ENIs that earlier runs of this instance created. ENIs that already match the configuration stay as they are,
//! with everything that runs behind them; the others are deleted once the configuration is in force.

use taskgate_model::{Binding, Eni};
use taskgate_net::eni::{InUse, TaskEni, remove_orphans};
use tracing::{error, info, warn};

use super::{Gates, provisioned::no_eni};
use crate::error::{AttachError, chain};

impl Gates {
    /// Takes over the ENIs of earlier runs that match the configuration, and deletes the rest.
    pub(super) async fn inherit(&mut self, enis: &[(&Eni, u16)], wrong: &mut Vec<AttachError>) {
        let mut in_use = InUse::default();
        let mut taken_over = 0;
        for (eni, _) in enis {
            let Some(Binding::Namespace(namespace)) = &eni.binding else {
                continue;
            };
            in_use.namespaces.insert(namespace);
            let link = self.spec(eni.display_name(), namespace, &eni.addresses).link_name();
            match self.adopt(eni).await {
                Ok(false) => {}
                Ok(true) => {
                    taken_over += 1;
                    in_use.links.insert(link);
                }
                Err(error) => {
                    // A link that cannot be examined stays as it is until the next reload.
                    in_use.links.insert(link);
                    self.note_failure(&eni.id, true, None);
                    wrong.push(error);
                }
            }
        }
        if taken_over != 0 {
            let (noun, verb) = if taken_over == 1 {
                ("ENI", "is")
            } else {
                ("ENIs", "are")
            };
            info!("{taken_over} {noun} of an earlier run {verb} taken over");
        }
        let left = remove_orphans(&self.netlink, &self.instance, &in_use).await;
        if !left.removed.is_empty() {
            warn!(
                "what an earlier run made and no task takes over is taken away: {}",
                left.removed.join(", ")
            );
        }
        for kept in left.kept {
            error!("{kept}");
        }
    }

    /// Takes over and gates the ENI that an earlier run created for a task, if it is still as it was created. Returns
    /// whether it did: an ENI that cannot be gated is to be deleted.
    pub(super) async fn adopt(&mut self, eni: &Eni) -> Result<bool, AttachError> {
        let Some(task) = self.provisioned.get(&eni.id) else {
            return Ok(false);
        };
        let spec = self.spec(&task.name, &task.namespace, &eni.addresses);
        let adopted = TaskEni::adopt(&self.netlink, &spec).await;
        let Some(made) = adopted.map_err(no_eni(&task.name))? else {
            return Ok(false);
        };
        match self.gate_provisioned(&eni.id, task.slot, made.link()) {
            Ok(gate) => {
                self.hold(eni, made, gate, "taken over in");
                Ok(true)
            }
            Err(error) => {
                let task = &task.name;
                warn!(
                    task,
                    "task `{task}`: the ENI of an earlier run is made anew: {}",
                    chain(&error)
                );
                Ok(false)
            }
        }
    }
}
