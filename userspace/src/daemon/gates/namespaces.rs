//! Names of namespaces that came to stand for other ones: a task's ENI follows the name.

use log::{error, info, warn};
use taskgate_ebpf::abi::LinkId;

use super::{Gates, Task};
use crate::{
    daemon::{error::chain, records::Writer},
    dataplane::{
        netlink::Refused,
        netns::{Namespace, NamespaceId},
    },
    model::{Binding, Eni},
};

/// What has become of the namespace that a task's ENI leads to.
enum Name {
    /// The name leads there, or nobody can tell where.
    Same,
    /// There is no such name any more.
    Gone,
    /// It leads to this one.
    Another(NamespaceId),
}

impl Gates {
    /// Looks where the names of the tasks' namespaces lead, and makes ENIs again in those that came to have one. `enis`: as
    /// in [`Gates::event`].
    pub(in crate::daemon) async fn namespaces_changed(&mut self, enis: &[&Eni], writer: &mut Writer) {
        for eni in enis {
            let Some(id) = self.release_renamed(eni, writer).await else {
                continue;
            };
            match self.bind(eni, writer).await {
                Ok(()) => drop(self.failed.remove(&eni.id)),
                Err(error) => {
                    error!("{}", chain(&error));
                    self.failed.insert(eni.id.clone(), id);
                }
            }
        }
    }

    /// Takes an ENI away whose namespace's name leads to another one by now. Gives that one: there it is to be made.
    pub(super) async fn release_renamed(&mut self, eni: &Eni, writer: &mut Writer) -> Option<NamespaceId> {
        let Some(Binding::Namespace(name)) = &eni.binding else {
            return None;
        };
        let task = self.tasks.get_mut(&eni.id)?;
        let found = look(task, name).unwrap_or_else(|refused| {
            warn!("task `{}`: {}", task.name, chain(&refused));
            Name::Same
        });
        match found {
            Name::Same => {
                self.nameless.remove(&eni.id);
                None
            }
            Name::Gone => {
                if task.gate.is_some() && self.nameless.insert(eni.id.clone()) {
                    warn!(
                        "task `{}`: namespace `{name}` has lost its name: the ENI stays with whoever is in it until there is \
                         another one of that name",
                        task.name
                    );
                }
                None
            }
            // It was tried before.
            Name::Another(id) if self.failed.get(&eni.id) == Some(&id) => None,
            Name::Another(id) => {
                self.nameless.remove(&eni.id);
                let (made, gate, task) = (task.made.take(), task.gate.take(), task.name.clone());
                if let Some(gate) = &gate {
                    writer.remove_link(LinkId::device(gate.link().ifindex));
                }
                if let Some(made) = made {
                    info!("task `{task}`: another namespace is named `{name}` now, and gets the ENI");
                    self.unmake(&task, made, gate).await;
                }
                Some(id)
            }
        }
    }
}

fn look(task: &Task, name: &str) -> Result<Name, Refused> {
    if let Some(made) = &task.made
        && made.namespace().is_named()?
    {
        return Ok(Name::Same);
    }
    Ok(match Namespace::open(name)? {
        Some(namespace) => Name::Another(namespace.id()?),
        None => Name::Gone,
    })
}
