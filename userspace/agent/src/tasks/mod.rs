//! The desired state in addition to the configuration: the tasks that were added while taskgate runs, to which the
//! rules for the files apply, and the isolated tasks.

mod fit;
mod list;
mod new;

use std::{collections::BTreeMap, path::Path};

use taskgate_config::Problems;
use taskgate_model::Model;
use taskgate_net::eni::{EniError, attach_namespace, detach_namespace};
use tracing::{error, info, warn};

pub(crate) use fit::{Configuration, Fitted, Fitting};
pub(crate) use list::{AddedTask, TaskList, forget, key};
pub(crate) use new::{NewPlace, NewTask};

use super::{
    error::{ConfigurationError, RunError, chain},
    state::StateError,
};
use list::KeptList;

/// The configuration, with the added and the isolated tasks.
#[derive(Debug)]
pub(crate) struct Tasks {
    instance: String,
    configuration: Configuration,
    kept: KeptList,
    /// Added tasks that do not fit the configuration, with the reasons.
    left_out: BTreeMap<String, String>,
}

impl Tasks {
    /// Reads an instance's list of tasks, and combines it with a configuration. An added task that does not fit is left
    /// out: its gate is closed.
    pub(crate) fn open(instance: &str, configuration: Configuration) -> Result<(Self, Model), RunError> {
        let kept = KeptList::open(instance).map_err(ConfigurationError::from)?;
        let mut tasks = Self {
            instance: instance.to_owned(),
            configuration,
            kept,
            left_out: BTreeMap::new(),
        };
        let fitted = fit::fit(&tasks.configuration, &tasks.kept.list().added, |_| true);
        let Fitted { model, left_out } = fitted.map_err(ConfigurationError::from)?;
        tasks.leave_out(left_out);
        Ok((tasks, model))
    }

    /// Combines another configuration with the added tasks. A task that was left out of the last one stays out if it
    /// does not fit.
    ///
    /// # Errors
    /// The problems of the configuration, or of its combination with an added task that is in force.
    pub(crate) fn fit(&self, configuration: &Configuration) -> Result<Fitted, Problems> {
        let left_out = |key: &str| self.left_out.contains_key(key);
        fit::fit(configuration, &self.kept.list().added, left_out)
    }

    /// Makes another configuration the current one, after it has come into force. `left_out`: the added tasks that do
    /// not fit, with the reasons.
    pub(crate) fn follow(&mut self, configuration: Configuration, left_out: BTreeMap<String, String>) {
        self.configuration = configuration;
        self.leave_out(left_out);
        self.hand_over();
    }

    fn leave_out(&mut self, left_out: BTreeMap<String, String>) {
        for (key, why) in &left_out {
            if self.left_out.get(key) != Some(why)
                && let Some(task) = self.kept.list().added.get(key)
            {
                let name = &task.name;
                error!(
                    task = name,
                    "added task `{name}` does not fit the configuration, and passes nothing: {why}"
                );
            }
        }
        self.left_out = left_out;
    }

    /// The added tasks, to be combined with any configuration.
    pub(crate) fn fitting(&self) -> Fitting {
        Fitting {
            added: self.kept.list().added.clone(),
            left_out: self.left_out.keys().cloned().collect(),
        }
    }

    /// Whether a task is isolated.
    pub(crate) fn is_isolated(&self, name: &str) -> bool {
        self.kept.list().isolated.contains(&key(name))
    }

    /// The added tasks that are left out, and why.
    pub(crate) fn left_out(&self) -> impl Iterator<Item = (&str, &str)> {
        let added = &self.kept.list().added;
        let left_out = self.left_out.iter();
        left_out.filter_map(|(key, why)| Some((added.get(key)?.name.as_str(), why.as_str())))
    }

    /// Looks up an added task.
    pub(crate) fn added(&self, name: &str) -> Option<&AddedTask> {
        self.list().added.get(&key(name))
    }

    /// Why an added task is not in force.
    pub(crate) fn why_left_out(&self, name: &str) -> Option<&str> {
        self.left_out.get(&key(name)).map(String::as_str)
    }

    /// Sets whether an added task is left out, and why.
    pub(crate) fn set_left_out(&mut self, name: &str, why: Option<String>) {
        match why {
            Some(why) => self.left_out.insert(key(name), why),
            None => self.left_out.remove(&key(name)),
        };
    }

    /// The place at which the configuration's files name a task.
    pub(crate) fn place(&self, name: &str) -> Option<String> {
        self.configuration.place(name)
    }

    /// The list of added and isolated tasks.
    pub(crate) fn list(&self) -> &TaskList {
        self.kept.list()
    }

    /// Changes the list of tasks. If that fails, nothing is changed.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut TaskList)) -> Result<(), StateError> {
        self.kept.change(change)
    }

    /// The list entry of a new task.
    pub(crate) fn entry(&self, new: &NewTask) -> AddedTask {
        new.added(&self.instance)
    }

    /// The model in force without one of the added tasks, or with `with` in its place.
    pub(crate) fn model(&self, name: &str, with: Option<&AddedTask>) -> Result<Model, Problems> {
        let without = key(name);
        let in_force = |key: &str| key != without && !self.left_out.contains_key(key);
        let added = self.kept.list().added.iter().filter(|(key, _)| in_force(key));
        self.configuration.with(added.map(|(_, task)| task).chain(with))
    }

    /// Drops added tasks from the list that the configuration's files name by now.
    fn hand_over(&mut self) {
        let configuration = &self.configuration;
        let is_configured = |task: &AddedTask| configuration.place(&task.name).is_some();
        let added = &self.kept.list().added;
        let configured: Vec<String> = added
            .values()
            .filter(|task| is_configured(task))
            .map(|task| task.name.clone())
            .collect();
        let changed = self
            .kept
            .change(|list| list.added.retain(|_, task| !is_configured(task)));
        for name in configured {
            match &changed {
                Ok(()) => info!(task = name, "added task `{name}` stands in the configuration now"),
                Err(error) => warn!(task = name, "added task `{name}`: {}", chain(error)),
            }
        }
    }

    /// Names the network namespace of a task that was added by path or process.
    pub(crate) fn attach(&self, task: &AddedTask) -> Result<(), EniError> {
        if let (Some(path), Some(name)) = (&task.attached, task.namespace()) {
            attach_namespace(&self.instance, name, Path::new(path))?;
        }
        Ok(())
    }

    /// Removes that name, unless it went with the ENI.
    pub(crate) fn detach(&self, task: &AddedTask) {
        if let (Some(_), Some(name)) = (&task.attached, task.namespace())
            && let Err(error) = detach_namespace(&self.instance, name)
        {
            warn!(task = task.name, "namespace `{name}` keeps its name: {}", chain(&error));
        }
    }
}
