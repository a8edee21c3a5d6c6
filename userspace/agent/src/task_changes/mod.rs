//! Tasks that are added, removed and isolated while taskgate runs.
//!
//! Every task that is added passes through here: it is validated by the rules for the configuration's files, saved to a
//! file before it comes into force, and confirmed once its gate is attached. If any of this fails, the change is
//! undone.

mod answer;
mod change;
mod error;

use std::net::IpAddr;

use taskgate_config::derived_id;
use taskgate_model::{Binding, Eni, Model};
use tracing::{error, info, warn};

pub(crate) use answer::answer;

use super::{
    apply::Daemon,
    error::{AttachError, ConfigurationError, RunError, chain},
    guard::TaskLink,
    tasks::{AddedTask, Configuration, Fitted, NewTask, key},
};
use error::TaskError;

/// A task and its gate.
#[derive(Clone, Debug)]
pub(crate) struct GatedTask {
    pub(crate) name: String,
    pub(crate) eni: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// The network namespace in which taskgate creates its ENI.
    pub(crate) namespace: Option<String>,
    pub(crate) added: bool,
    pub(crate) link: Option<TaskLink>,
    pub(crate) isolated: bool,
}

impl Daemon {
    /// Switches to a configuration, with the tasks that were added. An error leaves everything as it was.
    pub(crate) async fn apply(&mut self, configuration: Configuration) -> Result<Vec<AttachError>, RunError> {
        let fitted = self.tasks.fit(&configuration).map_err(ConfigurationError::from)?;
        let Fitted { model, left_out } = fitted;
        self.gates.check(&model).await?;
        let wrong = self.switch(model).await?;
        self.tasks.follow(configuration, left_out);
        Ok(wrong)
    }

    /// Adds a task, and waits until its gate is attached. Adding an identical task again succeeds.
    ///
    /// # Errors
    /// [`TaskError`]: nothing of the task is left.
    pub(crate) async fn add_task(&mut self, new: &NewTask) -> Result<GatedTask, TaskError> {
        self.refuse_configured(&new.name)?;
        let task = self.tasks.entry(new);
        let is_left_out = self.tasks.why_left_out(&new.name).is_some();
        match self.tasks.added(&new.name) {
            Some(before) if before.entry != task.entry => {
                return Err(TaskError::Different {
                    task: before.name.clone(),
                });
            }
            Some(_) if !is_left_out => {
                self.attach(&task)?;
                return self.gated_task(&task.name).await;
            }
            _ => {}
        }
        let model = self.tasks.model(&new.name, Some(&task))?;
        if let Some(device) = task.device() {
            self.gates.check_device(&task.name, device).await?;
        }
        self.attach(&task)?;
        match self.bring_in(&task, model).await {
            Ok(gated) => {
                info!(task = task.name, "task `{}` was added", task.name);
                Ok(gated)
            }
            Err(error) => {
                self.undo_add(&task, is_left_out).await;
                Err(error)
            }
        }
    }

    async fn bring_in(&mut self, task: &AddedTask, model: Model) -> Result<GatedTask, TaskError> {
        self.tasks.change(|list| {
            list.added.insert(key(&task.name), task.clone());
        })?;
        self.tasks.set_left_out(&task.name, None);
        let mut failed = None;
        for error in self.switch(model).await? {
            if error.task() == Some(&task.name) {
                failed = Some(error);
            } else {
                error!(task = error.task(), "{}", chain(&error));
            }
        }
        match failed {
            Some(error) => Err(error.into()),
            None => self.gated_task(&task.name).await,
        }
    }

    fn refuse_configured(&self, name: &str) -> Result<(), TaskError> {
        match self.tasks.place(name) {
            Some(place) => Err(TaskError::Configured {
                task: name.to_owned(),
                place,
            }),
            None => Ok(()),
        }
    }

    /// Names the network namespace of a task that was added by path or process.
    fn attach(&self, task: &AddedTask) -> Result<(), TaskError> {
        self.tasks.attach(task).map_err(|cause| TaskError::Namespace {
            task: task.name.clone(),
            cause,
        })
    }

    /// Undoes the addition of a task. `is_left_out`: the task was in the list before, but not in force.
    async fn undo_add(&mut self, task: &AddedTask, is_left_out: bool) {
        let name = &task.name;
        if is_left_out {
            let why = String::from("it could not be brought into force");
            self.tasks.set_left_out(name, Some(why));
        } else if let Err(error) = self.tasks.change(|list| {
            list.added.remove(&key(name));
        }) {
            error!(task = name, "task `{name}` stays added: {}", chain(&error));
        }
        if let Err(error) = self.take_out(&key(name)).await {
            error!(task = name, "what was made for task `{name}` stays: {}", chain(&error));
        }
        self.tasks.detach(task);
    }

    /// Switches to the configuration without an added task, if the task is in force.
    async fn take_out(&mut self, key: &str) -> Result<(), TaskError> {
        if self.eni_of(key).is_none() {
            return Ok(());
        }
        let model = self.tasks.model(key, None)?;
        for error in self.switch(model).await? {
            error!(task = error.task(), "{}", chain(&error));
        }
        Ok(())
    }

    /// Removes an added task: closes its gate, and deletes everything that taskgate created for it. Its last traffic is
    /// in the records of the current capture window.
    pub(crate) async fn remove_task(&mut self, name: &str) -> Result<GatedTask, TaskError> {
        self.refuse_configured(name)?;
        let key = key(name);
        let Some(task) = self.tasks.added(name).cloned() else {
            return Err(TaskError::Unknown { task: name.to_owned() });
        };
        let was = match self.eni_of(&key).cloned() {
            Some(eni) => self.gated_or_not(&eni).await?,
            None => self.was_left_out(&task),
        };
        self.tasks.change(|list| {
            list.added.remove(&key);
            list.isolated.remove(&key);
        })?;
        self.tasks.set_left_out(&key, None);
        if let Err(error) = self.take_out(&key).await {
            let kept = self.tasks.change(|list| {
                list.added.insert(key, task);
            });
            if let Err(error) = kept {
                error!("what is in force is not what is kept of it: {}", chain(&error));
            }
            return Err(error);
        }
        self.tasks.detach(&task);
        info!(task = task.name, "task `{}` was removed", task.name);
        Ok(was)
    }

    /// Describes an added task that does not fit the configuration, as far as it is known.
    fn was_left_out(&self, task: &AddedTask) -> GatedTask {
        GatedTask {
            name: task.name.clone(),
            eni: derived_id("eni", &task.name),
            addresses: Vec::new(),
            namespace: task.namespace().map(str::to_owned),
            added: true,
            link: None,
            isolated: self.tasks.is_isolated(&task.name),
        }
    }

    /// Isolates a task, or undoes that. An isolated task's tracked connections end at once, and nothing passes.
    pub(crate) async fn isolate_task(&mut self, name: &str, undo: bool) -> Result<GatedTask, TaskError> {
        let key = key(name);
        let unknown = || TaskError::Unknown { task: name.to_owned() };
        let eni = self.eni_of(&key).cloned();
        let is_known = eni.is_some() || self.tasks.list().isolated.contains(&key);
        if !is_known {
            return Err(unknown());
        }
        self.tasks.change(|list| {
            if undo {
                list.isolated.remove(&key);
            } else {
                list.isolated.insert(key.clone());
            }
        })?;
        let eni = eni.ok_or_else(unknown)?;
        {
            let mut writer = self.image.writer();
            if let Some(slot) = writer.slot(&eni.id) {
                let isolated = writer.isolate(slot, !undo).map_err(ConfigurationError::from);
                isolated.map_err(RunError::from)?;
            }
        }
        let name = eni.display_name();
        if undo {
            info!(task = name, "task `{name}` is isolated no more");
        } else {
            warn!(
                task = name,
                "task `{name}` is isolated: its connections are ended, and nothing passes"
            );
        }
        // Wait for packets in flight, so that no connection that they admit outlives the change.
        self.image.synchronize();
        self.gated_or_not(&eni).await
    }

    /// The ENI of a task in force, by the task's name in lower case.
    fn eni_of(&self, task: &str) -> Option<&Eni> {
        self.model().gated().find(|eni| key(eni.display_name()) == task)
    }

    async fn gated_or_not(&self, eni: &Eni) -> Result<GatedTask, TaskError> {
        let link = self.gates.task_link(&eni.id).await.map_err(TaskError::Running)?;
        Ok(GatedTask {
            name: eni.display_name().to_owned(),
            eni: eni.id.clone(),
            addresses: eni.addresses.clone(),
            namespace: match &eni.binding {
                Some(Binding::Namespace(namespace)) => Some(namespace.clone()),
                _ => None,
            },
            added: self.tasks.added(eni.display_name()).is_some(),
            isolated: self.tasks.is_isolated(eni.display_name()),
            link,
        })
    }

    /// Describes a gated task; an error if it is not gated.
    async fn gated_task(&self, name: &str) -> Result<GatedTask, TaskError> {
        let not_gated = || TaskError::NotGated { task: name.to_owned() };
        let eni = self.eni_of(&key(name)).ok_or_else(not_gated)?;
        let gated = self.gated_or_not(eni).await?;
        if gated.link.is_none() && !matches!(eni.binding, Some(Binding::Vlan(_))) {
            return Err(not_gated());
        }
        Ok(gated)
    }
}
