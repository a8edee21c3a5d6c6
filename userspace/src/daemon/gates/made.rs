//! The ENIs that taskgate makes: what a killed run left of them, their addresses, and their end.

use log::{error, warn};

use super::Gates;
use crate::{
    daemon::{RunError, error::chain},
    dataplane::{
        eni::{EniWarning, TaskEni, remove_left_over},
        gate::Gate,
    },
    model::{Binding, Eni},
};

impl Gates {
    /// Takes away the links that a killed run made and left, which have no gate any more; the namespaces that the
    /// configuration names stay, with whoever is in them.
    pub(in crate::daemon) async fn clear<'a>(&self, enis: impl Iterator<Item = &'a Eni>) {
        let namespaces = enis
            .filter_map(|eni| match &eni.binding {
                Some(Binding::Namespace(namespace)) => Some(namespace.as_str()),
                _ => None,
            })
            .collect();
        let left = remove_left_over(&self.netlink, &self.instance, &namespaces).await;
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

    /// Gives ENIs that taskgate made the addresses that they have now. Gives what went wrong.
    pub(super) async fn readdress(&mut self, enis: &[(&Eni, u16)]) -> Vec<RunError> {
        let mut wrong = Vec::new();
        // An address may move from one to another.
        for withdraws in [true, false] {
            for (eni, _) in enis {
                let task = self.tasks.get_mut(&eni.id).filter(|task| task.gate.is_some());
                let Some(task) = task else { continue };
                let Some(made) = &mut task.made else { continue };
                let done = if withdraws {
                    made.withdraw(&self.netlink, &eni.addresses).await.map(|()| Vec::new())
                } else {
                    made.assign(&self.netlink, &eni.addresses).await
                };
                match done {
                    Ok(warnings) => tell(&mut self.said, &task.name, &warnings),
                    Err(cause) => wrong.push(RunError::Addresses {
                        task: task.name.clone(),
                        cause,
                    }),
                }
            }
        }
        wrong
    }

    /// Takes away what taskgate made, and then its gate.
    pub(super) async fn unmake(&self, task: &str, made: TaskEni, gate: Option<Gate>) {
        let link = made.link().name.clone();
        let removed = made.remove(&self.netlink).await;
        drop(gate);
        if let Err(refused) = removed {
            warn!(
                "the ENI of task `{task}` (link `{link}`) is not wholly removed: {}",
                chain(&refused)
            );
        }
    }
}

/// Logs what limits a task's ENI. What the host lacks it lacks for every task: that is said once.
pub(super) fn tell(said: &mut Vec<EniWarning>, task: &str, warnings: &[EniWarning]) {
    for warning in warnings {
        match warning {
            EniWarning::ForwardingOff { .. } if said.contains(warning) => {}
            EniWarning::ForwardingOff { .. } => {
                warn!("{warning}");
                said.push(warning.clone());
            }
            EniWarning::Setting { .. } | EniWarning::Trusting { .. } => warn!("task `{task}`: {warning}"),
        }
    }
}
