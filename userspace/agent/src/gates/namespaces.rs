//! Names of network namespaces that now refer to another namespace: a task's ENI follows the name.

use taskgate_ebpf::abi::LinkId;
use taskgate_model::{Binding, Eni};
use taskgate_net::{
    netlink::NetlinkError,
    netns::{Namespace, NamespaceId},
};
use tracing::{error, info, warn};

use super::{
    Gates,
    provisioned::{Failed, ProvisionedTask},
};
use crate::error::chain;

/// The namespace to which the name of a task's namespace refers now, compared with that of its ENI.
enum Name {
    /// The name still refers to it, or this cannot be determined.
    Same,
    /// The name no longer exists.
    Gone,
    /// The name refers to this namespace.
    Another(NamespaceId),
}

impl Gates {
    /// Checks what the names of the tasks' namespaces refer to, and creates the ENIs again in the namespaces that have
    /// the names now. `enis`: the gated ones.
    pub(crate) async fn namespaces_changed(&mut self, enis: &[&Eni]) {
        for eni in enis {
            if let Some(id) = self.release_renamed(eni).await
                && let Err(error) = self.make(eni, Some(id)).await
            {
                error!(task = error.task(), "{}", chain(&error));
            }
        }
    }

    /// Deletes an ENI if its namespace's name refers to another namespace by now. Returns the other namespace, in which
    /// the ENI is to be created.
    pub(super) async fn release_renamed(&mut self, eni: &Eni) -> Option<NamespaceId> {
        let Some(Binding::Namespace(name)) = &eni.binding else {
            return None;
        };
        let task = self.provisioned.get_mut(&eni.id)?;
        let found = look(task, name).unwrap_or_else(|refused| {
            warn!(task = task.name, "task `{}`: {}", task.name, chain(&refused));
            Name::Same
        });
        match found {
            Name::Same => {
                task.nameless = false;
                None
            }
            Name::Gone => {
                if task.gate.is_some() && !task.nameless {
                    task.nameless = true;
                    warn!(
                        task = task.name,
                        "task `{}`: namespace `{name}` has lost its name: the ENI stays with whoever is in it until there is \
                         another one of that name",
                        task.name
                    );
                }
                None
            }
            // Creating the ENI in this namespace has failed before.
            Name::Another(id) if task.failed == Failed::In(Some(id)) => None,
            Name::Another(id) => {
                task.nameless = false;
                let (made, gate, task) = (task.eni.take(), task.gate.take(), task.name.clone());
                if let Some(gate) = &gate {
                    let ifindex = gate.link().ifindex;
                    self.image.unbind(LinkId::device(ifindex));
                    self.guard.release(&eni.id, ifindex);
                }
                if made.is_some() {
                    info!(
                        task,
                        "task `{task}`: another namespace is named `{name}` now, and gets the ENI"
                    );
                    self.unmake(&task, made, gate).await;
                }
                Some(id)
            }
        }
    }
}

fn look(task: &ProvisionedTask, name: &str) -> Result<Name, NetlinkError> {
    if let Some(made) = &task.eni
        && made.namespace().is_named()?
    {
        return Ok(Name::Same);
    }
    Ok(match Namespace::open(name)? {
        Some(namespace) => Name::Another(namespace.id()?),
        None => Name::Gone,
    })
}
