//! What could not be gated is refused before anything is changed.

use super::Gates;
use crate::{
    daemon::RunError,
    dataplane::{
        gate::Gate,
        link::{Link, LinkError},
    },
    model::{Binding, Model, Uplink},
};

impl Gates {
    /// Refuses what could not be gated, before anything is changed: links of a kind that no gate works on, and those that
    /// have a gate the other way round.
    pub(in crate::daemon) async fn check(&self, model: &Model) -> Result<(), RunError> {
        const TRUNK: &str = "a trunk";
        const TASK: &str = "a task";
        for eni in model.gated() {
            let Some(Binding::Device(device)) = &eni.binding else {
                continue;
            };
            match self.netlink.link(device).await {
                Ok(link) if self.uplinks.holds(link.ifindex) => return Err(sides(link, TRUNK, TASK)),
                Ok(_) | Err(LinkError::Missing { .. }) => {}
                Err(cause) => {
                    return Err(RunError::Device {
                        task: eni.display_name().to_owned(),
                        cause,
                    });
                }
            }
        }
        let Some(Uplink { device, .. }) = &model.uplink else {
            return Ok(());
        };
        match self.netlink.uplink(device).await {
            Ok(link) if self.gates().any(|gate| gate.link().ifindex == link.ifindex) => {
                Err(sides(link, TASK, "the uplink"))
            }
            Ok(_) | Err(LinkError::Missing { .. }) => Ok(()),
            Err(cause) => Err(RunError::Uplink {
                device: device.clone(),
                cause,
            }),
        }
    }

    /// The gates of tasks that are or were.
    fn gates(&self) -> impl Iterator<Item = &Gate> {
        self.tasks
            .values()
            .filter_map(|task| task.gate.as_ref())
            .chain(&self.closed)
    }
}

fn sides(link: Link, has: &'static str, wants: &'static str) -> RunError {
    RunError::Sides {
        link: link.name,
        has,
        wants,
    }
}
